"""What a receipt proves: read without a ledger, a setting or a network; nothing is believed unproved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from luigi_spendguard import strict_json
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import LedgerError
from luigi_spendguard.ledger.audit.merkle import leaf_hash, root_of_path
from luigi_spendguard.ledger.audit.receipts import FORMAT, head_of, statement_of
from luigi_spendguard.ledger.audit.rows import AFTER
from luigi_spendguard.ledger.audit.signing import is_signed, public_keys_of
from luigi_spendguard.money import BadAmount, parse_usd

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Row = dict[str, Any]
_AMOUNTS = ("cap", "spent", "reserved", "overrun")


class NotProved(LedgerError):
    """A receipt proves nothing; the message says the first thing that is wrong with it."""


@dataclass
class Proved:
    """What a receipt proves.

    Attributes:
        keys: the ids of the keys that have signed its blocks, and the receipt itself.
        sealed: when its first and its last block were sealed, in milliseconds since the epoch.
        entries, calls: its rows, oldest first; of a call that is sealed several times all states.
        first_block, last_block: from which to which the audit was looked through for rows of the run.
        last_sealed: when the last one of them was sealed, `made_at` when the receipt was made, as above.
        unsealed: how many entries of the run were not sealed yet then.
        lacks: what is missing, in words; "": nothing is.

    """

    run_id: str
    ledger: str
    keys: list[str] = field(default_factory=list)
    blocks: int = 0
    sealed: tuple[int, int] = (0, 0)
    entries: list[Row] = field(default_factory=list)
    calls: list[Row] = field(default_factory=list)
    first_block: int = 0
    last_block: int = 0
    last_sealed: int = 0
    made_at: int = 0
    unsealed: int = 0
    lacks: str = ""

    @property
    def last_calls(self) -> list[Row]:
        """Each call as it was sealed last."""
        return list({row["id"]: row for row in self.calls}.values())

    @property
    def is_from_the_beginning(self) -> bool:
        """Whether nothing that was sealed of the run before can be pruned."""
        return self.first_block == 1 or (bool(self.entries) and self.entries[0]["kind"] == "open")

    @property
    def totals(self) -> Row | None:
        """The last entry that has the run's totals."""
        return next((row for row in reversed(self.entries) if row[AFTER[0]] is not None), None)


def check(data: bytes, trusted: Mapping[str, Ed25519PublicKey] | None = None) -> Proved:
    """Return what a receipt proves by these public keys; None: by those that it brings along itself.

    Raises NotProved.
    """
    receipt = _read(data)
    own = public_keys_of("".join(_texts(receipt, "public_keys")), "the receipt")
    keys = own if trusted is None else trusted
    proved = Proved(_text(receipt, "run_id"), _text(receipt, "ledger"))
    before: tuple[int, int, int] = (0, 0, 0)
    times = []
    for part in _list(receipt, "blocks"):
        before = _check_block(part, proved, keys, before)
        times.append(int(part["sealed_at"]))
    if not times:
        raise NotProved("it has no block: nothing of the run was sealed when it was made")
    proved.blocks, proved.sealed = len(times), (min(times), max(times))
    _check_statement(receipt, proved, keys)
    return proved


def _read(data: bytes) -> Row:
    try:
        receipt = strict_json.read(data)
    except (ValueError, RecursionError):
        raise NotProved("it is no JSON, or was cut off: have it sent again") from None
    if not isinstance(receipt, dict) or receipt.get("format") != FORMAT:
        raise NotProved(f"it is no receipt that this version reads (format {FORMAT})")
    return receipt


def _check_statement(receipt: Row, proved: Proved, keys: Mapping[str, Ed25519PublicKey]) -> None:
    """Take it for proved which rows of the run there are, or say what is missing of them."""
    names = ("first_block", "last_block", "sealed_at", "made_at", "unsealed", "rows")
    first, last, sealed_at, made_at, unsealed, rows = (_whole(receipt, name) for name in names)
    hashed = _text(receipt, "hash")
    _check_signature(statement_of, receipt, keys, "the receipt itself")
    texts = [row["text"] for part in receipt["blocks"] for row in part["rows"]]
    if len(texts) < rows:
        proved.lacks = f"{rows - len(texts)} of its {counted(rows, 'row')} were left away"
    elif sha256(b"".join(map(leaf_hash, texts))).hexdigest() != hashed:
        raise NotProved("its rows are not those that it was signed for: it was put together of several")
    elif (gap := _gap(proved)) is not None:
        proved.lacks = f"behind row {gap} the run's totals change without an entry: it was made without that"
    proved.first_block, proved.last_block, proved.last_sealed = first, last, sealed_at
    proved.made_at, proved.unsealed = made_at, unsealed
    if receipt["key_id"] not in proved.keys:
        proved.keys.append(receipt["key_id"])


def _check_signature(
    text_of: Callable[[Row], str], signed: Row, keys: Mapping[str, Ed25519PublicKey], what: str
) -> None:
    """Look whether a part of the receipt is signed by the key that it names."""
    signature, name = _text(signed, "signature"), _text(signed, "key_id")
    key = keys.get(name)
    if key is None:
        known = ", ".join(sorted(keys)) or "none"
        raise NotProved(f"{what} is signed by key {name[:64]}, and the public keys given are {known}")
    if not is_signed(text_of(signed), signature, key):
        raise NotProved(
            f"{what} does not have the signature of key {name}: something of it, or the signature, was "
            "changed"
        )


def _check_block(
    part: Any, proved: Proved, keys: Mapping[str, Ed25519PublicKey], before: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Take a block with its rows for proved; return its number, its last row's and its last entry's."""
    if not isinstance(part, dict):
        raise NotProved("one of its blocks is none")
    number, first, last, entry = (_whole(part, name) for name in ("number", "first_seq", "last_seq", "entry"))
    _whole(part, "sealed_at")
    for name in ("root", "previous"):
        _text(part, name)
    where = f"block {number}"
    _check_signature(lambda head: head_of(head, proved.ledger), part, keys, where)
    if number <= before[0] or first <= before[1] or last < first or entry < before[2]:
        raise NotProved(f"{where} does not come behind the one before it")
    hashes = [_bytes(one, where) for one in _texts(part, "hashes")]
    seq = 0
    for row in _list(part, "rows"):
        seq = _check_row(row, part, proved, hashes, seq)
    if not seq:
        raise NotProved(f"{where} has no row")
    if part["key_id"] not in proved.keys:
        proved.keys.append(part["key_id"])
    return number, last, entry


def _check_row(row: Any, part: Row, proved: Proved, hashes: list[bytes], before: int) -> int:
    """Take a row for proved; return its number."""
    if not isinstance(row, dict):
        raise NotProved(f"a row of block {part['number']} is none")
    seq, text = _whole(row, "seq"), _text(row, "text")
    where = f"row {seq} of block {part['number']}"
    steps = _list(row, "path")
    if not all(type(step) is int and 0 <= step < len(hashes) for step in steps):
        raise NotProved(f"{where} has a proof that names a hash which is not there")
    count, place = part["last_seq"] - part["first_seq"] + 1, seq - part["first_seq"]
    root = root_of_path(leaf_hash(text), place, count, [hashes[step] for step in steps])
    if root is None or root.hex() != part["root"]:
        raise NotProved(
            f"{where} is not what was sealed there: it was changed, or its proof is another row's"
        )
    sealed = strict_json.read(text.encode())
    if sealed["seq"] != seq or seq <= before:
        raise NotProved(f"{where} does not stand in its place")
    if sealed["run_id"] != proved.run_id:
        raise NotProved(f"{where} is of another run, {sealed['run_id'][:200]}")
    (proved.calls if sealed["row"] == "call" else proved.entries).append(sealed)
    return seq


def _gap(proved: Proved) -> int | None:
    """Return the row behind which the run's totals have changed without an entry that is there.

    After each entry the run's totals are sealed, too: whoever leaves one away leaves that to be seen.
    """
    before: Row | None = None
    for row in proved.entries:
        if row[AFTER[0]] is None:
            continue
        counts = row["kind"] != "prune" and (_is_own(row) if row["budget"] else row["call_id"] is not None)
        if before is not None:
            for name in _AMOUNTS:
                change = _micros(row[f"{name}_usd"]) if counts else 0
                if _micros(before[f"run_{name}_usd"]) + change != _micros(row[f"run_{name}_usd"]):
                    return int(before["seq"])
        before = row
    return None


def _is_own(row: Row) -> bool:
    return bool(row["budget"] == {"scope": "run", "subject": row["run_id"], "part": ""})


def _micros(usd: str) -> int:
    try:
        return -parse_usd(usd[1:]) if usd.startswith("-") else parse_usd(usd)
    except BadAmount as error:  # A larger one than any cap: nothing that was sealed.
        raise NotProved(str(error)) from None


def _text(value: Row, name: str) -> str:
    if not isinstance(found := value.get(name), str):
        raise NotProved(f"its field {name} is missing, or no text")
    return found


def _whole(value: Row, name: str) -> int:
    if type(found := value.get(name)) is not int:
        raise NotProved(f"its field {name} is missing, or no whole number")
    return found


def _list(value: Row, name: str) -> list[Any]:
    if not isinstance(found := value.get(name), list):
        raise NotProved(f"its field {name} is missing, or no list")
    return found


def _texts(value: Row, name: str) -> list[str]:
    found = _list(value, name)
    if not all(isinstance(one, str) for one in found):
        raise NotProved(f"its field {name} has something else in it than texts")
    return found


def _bytes(text: str, where: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise NotProved(f"a hash of {where} is none") from None
