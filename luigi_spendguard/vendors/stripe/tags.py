"""Stripe: the tag of a call, in the metadata of what it makes; by it that is found again.

`tag_of` makes a tag, `tag_in` reads one. It is made of the key on the wire alone: Stripe compares a request
with what it knows under its key, and answers one that differs with an error
(https://docs.stripe.com/api/idempotent_requests); so all that is ever sent under one key has one tag. Two
calls of the ledger have the same where they had the same key, as a caller's own in two runs, and a call whose
key was used up by a decline has another one then. Whether a call goes out with its tag at all says the ledger
(`call.tagged`), by what went out under its key before.

Objects of their own have metadata of their own. Of what a call sets off only a few get its tag: the charge
has what its PaymentIntent had when that was confirmed, an invoice's lines for a subscription have the
subscription's; a balance transaction has none, nor have the PaymentIntents of checkout sessions and invoices
(https://support.stripe.com/questions/how-metadata-works-with-related-objects). Whoever changes metadata later
may change or remove a tag, and who copies it makes two objects of one tag: it names a call, and proves
nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace

from luigi_spendguard.vendors.bodies import MOST_PARAMETERS
from luigi_spendguard.vendors.model import Request
from luigi_spendguard.vendors.stripe.operations import LISTED, Operation
from luigi_spendguard.vendors.stripe.request import Body

#: The key of the metadata.
TAG = "spendguard_call"
#: As many keys has an object's metadata at the most (https://docs.stripe.com/metadata).
MOST_KEYS = 50
_FORM = re.compile(r"[0-9a-f]{32}")


def tag_of(wire_key: str) -> str:
    """Return the tag of what is sent under a key on the wire (`call.wire_key`): 32 hexadecimal digits."""
    return hashlib.sha256(f"{TAG} {wire_key}".encode()).hexdigest()[:32]


def tag_in(body: Body) -> str:
    """Return the tag that an object's metadata has, "" for none, or what is no tag of ours."""
    metadata = body.get("metadata")
    named = metadata.get(TAG) if isinstance(metadata, dict) else None
    return named if isinstance(named, str) and _FORM.fullmatch(named) else ""


def takes_tag(operation: Operation, params: Mapping[str, str]) -> bool:
    """Return whether a request makes an object whose metadata has room for a tag, and says none there itself.

    What changes an object leaves it the tag of the call that has made it.
    """
    if operation.parts[0] != "v1" or not operation.name.endswith(".create"):
        return False
    if LISTED.line_of(operation.address, ("metadata", TAG)) is None:
        return False
    named = [name for name in params if name.split("[", 1)[0] == "metadata"]
    is_open = "metadata" not in named and f"metadata[{TAG}]" not in named
    return is_open and len(named) < MOST_KEYS and len(params) < MOST_PARAMETERS


def tagged(request: Request, key: str) -> Request:
    """Return a request that `takes_tag` with its tag, behind what its caller has said."""
    form = f"{'&' if request.body else ''}metadata[{TAG}]={tag_of(key)}".encode("ascii")
    headers = {"content-type": "application/x-www-form-urlencoded", **request.headers}
    return replace(request, headers=headers, body=request.body + form)
