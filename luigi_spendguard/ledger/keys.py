"""Vault keys that are asked for over HTTP: issued for a run, listed, revoked; and what they may do.

A key is a claim without a task, so that whatever ends claims ends keys; its terms are a row beside it.
Each function is one operation inside a transaction.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.errors import Conflict, NotFound
from luigi_spendguard.ledger.budgets import WITH_REMAINING, JournalEntry, journal, key_budgets, run_budget
from luigi_spendguard.ledger.calls import ReservationDenied, Scope
from luigi_spendguard.ledger.database import NOW, SKEW_MS, TODAY, Row, Tx, is_over
from luigi_spendguard.ledger.following import keep_budgets
from luigi_spendguard.ledger.objects import object_of
from luigi_spendguard.ledger.runs import SENDABLE, RunRequest, has_ended, open_run, revoked
from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.protocol import KEY_PREFIX, ReserveRequest, command, key_hash
from luigi_spendguard.protocol.commands import USD
from luigi_spendguard.settings.policy import Caps, is_allowed, moment

_NO_TAGS: Mapping[str, Mapping[str, str]] = {}
#: What Luigi's task_ids end with (Luigi 3.8, `task.task_id_str`).
_TASK_ID = re.compile(r".+_[0-9a-f]{10}")


@dataclass(frozen=True)
class Terms:
    """What a key may do.

    Attributes:
        label: the run it is bound to, as `luigi/<run_id>` or `<run_id>`; "": a run of its own.
        run_cap, daily_cap: its own caps in micro-dollars, beside the run's.
        endpoints, customers, accounts: what it may call and for whom; empty: whatever the operator allows.
        ttl_ms: for how long, in milliseconds, unless `expires_at` (milliseconds since the epoch) is given.

    """

    vendor: str
    label: str = ""
    run_cap: Micros | None = None
    daily_cap: Micros | None = None
    endpoints: tuple[str, ...] = ()
    customers: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    ttl_ms: int = 0
    expires_at: int | None = None

    @property
    def budget(self) -> str:
        """What the key's own budgets are called: equal for a key that is reissued on the same terms."""
        terms: list[Any] = [self.vendor, self.run_cap, self.daily_cap]
        terms += [sorted(part) for part in (self.endpoints, self.customers, self.accounts)]
        return hashlib.sha256(json.dumps(terms).encode()).hexdigest()[:16]


def issue(
    tx: Tx, terms: Terms, caps: Caps, tags: Mapping[str, Mapping[str, str]] = _NO_TAGS
) -> tuple[Row, str]:
    """Issue a key for the run that its label names, opened now if need be; return (its row, the key).

    `tags` are those of root families.

    The row's `note` says why the run that was opened for it has the cap that it has.
    Raises KeyRevoked when that run is revoked.
    """
    key_id = f"key_{uuid.uuid4().hex}"
    run = _run_of(tx, terms, caps, tags, key_id)
    if run["state"] == "revoked":
        raise revoked(run["run_id"], bool(run["by_task_id"]))
    now = tx.now()
    expires_at = now + terms.ttl_ms if terms.expires_at is None else terms.expires_at
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    tx.run(
        "INSERT INTO claim (id, run_id, task_id, family, params, worker, also, members, mixed, held_scope,"
        " held_part, held_micros, key_hash, state, claimed_at)"
        " VALUES (?,?,'','','{}','','[]','[]','','','',0,?,'open',?)",
        key_id,
        run["run_id"],
        key_hash(key),
        now,
    )
    tx.insert(
        "key_terms",
        id=key_id,
        vendor=terms.vendor,
        label=terms.label,
        allowed_endpoints=json.dumps(terms.endpoints),
        allowed_customers=json.dumps(terms.customers),
        allowed_accounts=json.dumps(terms.accounts),
        budget=terms.budget,
        run_cap_micros=terms.run_cap,
        daily_cap_micros=terms.daily_cap,
        expires_at=expires_at,
    )
    row = key_row(tx, key_id)
    keep_budgets(tx, key_budgets(run["run_id"], row, str(tx.value(f"SELECT {TODAY}"))))
    journal(tx, JournalEntry("issue", run_id=run["run_id"], note=key_id))
    journal(
        tx, JournalEntry("terms", run_id=run["run_id"], note=terms_note({**row, "key_hash": key_hash(key)}))
    )
    return {**row, "note": run["note"]}, key


#: What the journal has of a key's terms.
_TERMS = (
    *("vendor", "label", "allowed_endpoints", "allowed_customers", "allowed_accounts", "budget"),
    *("run_cap_micros", "daily_cap_micros", "expires_at"),
)


def terms_note(row: Row) -> str:
    """Return what the journal says of a key's terms (a row of `key_terms`, with `key_hash`): they are sealed
    by that, and so is which key it is.
    """
    said = {name: row[name] for name in _TERMS} | {"key": row["key_hash"][:16]}
    return f"{row['id']} {json.dumps(said, ensure_ascii=False, sort_keys=True)}"


def _run_of(tx: Tx, terms: Terms, caps: Caps, tags: Mapping[str, Mapping[str, str]], key_id: str) -> Row:
    """Return the run of a label. Who opens a run pins its cap: the key's own, within luigi.cfg's limits."""
    name = terms.label.removeprefix("luigi/") or key_id
    known = tx.one("SELECT * FROM run WHERE run_id = ? AND state <> 'ended'", name)
    if known is not None and not (known["name"] == name and has_ended(tx, known)):
        return {**known, "note": _left(tx, name)}  # What was said when it was opened is no answer to this.
    families = [f for f in caps.families if _TASK_ID.fullmatch(name) and name.startswith(f"{f}_")]
    family = max(families, key=len, default="")
    asked = terms.run_cap if terms.run_cap is not None else terms.daily_cap
    cap, note = caps.grant(family, asked)
    if note and not cap and not caps.shadow:
        raise Conflict(f"no key was issued, as run {name} would be opened without money: {note}")
    by_task_id = bool(_TASK_ID.fullmatch(name))
    about = (name, by_task_id, family, name, cap, asked, note, terms.label)
    return open_run(tx, RunRequest(*about, tags=tags.get(family, {})))


def _left(tx: Tx, run_id: str) -> str:
    """Return what is to be said of a run that has nothing left for its new key."""
    if run_budget(tx, run_id)["remaining_micros"]:
        return ""
    return f"run {run_id} has $0.00 left: {command('top-up', run_id, USD)}"


#: Of `key_terms` and its `claim`: the key has expired, or was issued in the future, so nobody knows when.
EXPIRED = f"key_terms.expires_at <= {NOW} OR claim.claimed_at > {NOW} + {SKEW_MS}"
_KEYS = (
    # The claim's columns stand last: a running task's key has no terms, and keeps its own id.
    f"SELECT key_terms.*, CASE WHEN {EXPIRED} THEN 1 ELSE 0 END AS expired, claim.id, claim.run_id,"
    " claim.task_id, claim.state, claim.claimed_at, claim.ended_at FROM claim"
    " LEFT JOIN key_terms ON key_terms.id = claim.id"
)


def key_row(tx: Tx, key_id: str) -> Row:
    """Return a key by its id. Raises NotFound."""
    row = tx.one(f"{_KEYS} WHERE claim.id = ?", key_id)
    if row is None:
        raise _no_key()
    return row


def _no_key() -> NotFound:
    return NotFound("there is no such vault key: `spendguard keys` lists them")


def keys(
    tx: Tx, run_id: str | None = None, limit: int = 1000, before: str | None = None
) -> list[dict[str, Any]]:
    """Return keys that were asked for, and those of tasks that run now, newest first, for people.

    So many, of those that are older than key `before`. Raises NotFound.
    """
    if before is not None:
        key_row(tx, before)
    rows = tx.all(
        f"{_KEYS} WHERE (key_terms.id IS NOT NULL OR claim.state = 'open')"
        " AND coalesce(CAST(?1 AS TEXT), claim.run_id) = claim.run_id"
        " AND (CAST(?3 AS TEXT) IS NULL OR (claim.claimed_at, claim.rowid) <"
        " (SELECT claimed_at, rowid FROM claim WHERE id = ?3))"
        " ORDER BY claim.claimed_at DESC, claim.rowid DESC LIMIT ?2",
        run_id,
        limit,
        before,
    )
    return [show_key(tx, row) for row in rows]


def show_key(tx: Tx, row: Row) -> dict[str, Any]:
    """Return a key for people and scripts; the key itself is in no row."""
    state = "active" if row["state"] == "open" else row["state"]
    if state != "revoked" and row["expired"] and row["vendor"]:
        state = "expired"
    shown = {name: row[name] for name in ("id", "run_id", "task_id")}
    shown |= {"vendor": row["vendor"], "label": row["label"] or "", "state": state}
    for name in ("allowed_endpoints", "allowed_customers", "allowed_accounts"):
        shown[name] = json.loads(row[name] or "[]")
    for name, scope in (("run_cap", "key"), ("daily_cap", "key_day")):
        cap = row[f"{name}_micros"]
        budget = _budget(tx, row, scope) if cap is not None else None
        shown[name.replace("_cap", "_usd_cap")] = None if cap is None else plain_usd(cap)
        if budget is not None:
            shown[f"{scope}_spent_usd"] = plain_usd(budget["spent_micros"])
            shown[f"{scope}_remaining_usd"] = plain_usd(budget["remaining_micros"])
    shown["run_remaining_usd"] = plain_usd(run_budget(tx, row["run_id"])["remaining_micros"])
    for name, ms in (
        ("issued", row["claimed_at"]),
        ("expires", row["expires_at"]),
        ("ended", row["ended_at"]),
    ):
        shown[f"{name}_at"] = moment(ms)
    return shown


def _budget(tx: Tx, row: Row, scope: str) -> Row | None:
    return tx.one(
        f"{WITH_REMAINING} WHERE scope = ? AND subject = ? AND part LIKE ? ORDER BY id DESC LIMIT 1",
        scope,
        row["run_id"],
        f"{row['budget']}%",
    )


def revoke_key(tx: Tx, id_or_key: str) -> Row:
    """Revoke one key, named by its id or by itself; repeating it changes nothing. Raises NotFound."""
    row = tx.one(
        "SELECT id, run_id, state FROM claim WHERE id = ? OR key_hash = ?", id_or_key, key_hash(id_or_key)
    )
    if row is None:
        raise _no_key()
    if row["state"] == "open":
        tx.run(f"UPDATE claim SET state = 'revoked', ended_at = {NOW} WHERE id = ?", row["id"])
        journal(tx, JournalEntry("revoke", run_id=row["run_id"], note=row["id"]))
    return key_row(tx, row["id"])


def pending_calls(tx: Tx, key_id: str) -> int:
    """Return how many calls may still be sent under a key."""
    return int(tx.value(f"SELECT count(*) FROM call WHERE claim_id = ? AND id IN ({SENDABLE})", key_id))


def ended(scope: Scope, now: int) -> ReservationDenied | None:
    """Return why a key spends nothing any more: its run or itself is revoked, its attempt or its time over.

    None while it is worth something; `now` in milliseconds, as `Tx.now`.
    """
    run, claim, terms = scope.run, scope.claim, scope.terms
    if run["state"] == "revoked":
        error = revoked(run["run_id"], bool(run["by_task_id"]))
        return ReservationDenied("revoked", error.message, run_id=run["run_id"])
    if claim["state"] == "revoked":
        return ReservationDenied("revoked", "the vault key is revoked", run_id=run["run_id"])
    if claim["state"] == "ended":
        why = "the vault key has expired, or its run has ended: ask for another one"
        if terms is None:
            why = (
                "the attempt this vault key was made for is over: a later attempt "
                "has the task, or the task has ended"
            )
        return ReservationDenied("expired", why, run_id=run["run_id"])
    if terms is not None and is_over(claim["claimed_at"], terms["expires_at"] - claim["claimed_at"], now):
        return ReservationDenied(
            "expired", "the vault key has expired: ask for another one", run_id=run["run_id"]
        )
    return None


def check_terms(tx: Tx, scope: Scope, ask: ReserveRequest) -> None:
    """Refuse what the key's terms do not allow. Raises ReservationDenied (`scope`, `endpoint`)."""
    check_operation(tx, scope, ask)
    if scope.terms is not None and not ask.look_up:
        _check_accounts(json.loads(scope.terms["allowed_accounts"]), ask)
        _check_customers(tx, json.loads(scope.terms["allowed_customers"]), ask)


def check_operation(tx: Tx, scope: Scope, ask: ReserveRequest) -> None:
    """Refuse what the key's terms allow for nobody; of a look-up, where they do not allow what it is for.

    Raises ReservationDenied (`scope`, `endpoint`).
    """
    terms = scope.terms
    if terms is None:
        return
    if ask.vendor != terms["vendor"]:
        raise ReservationDenied("scope", f"the vault key is for {terms['vendor']}, not for {ask.vendor}")
    method, path, operation = ask.method, ask.path, ask.operation
    if ask.look_up:  # The guard's own, for a call that is checked itself.
        method, path, operation = [*ask.look_up_for.split(" ", 2), "", "", ""][:3]
    endpoints = json.loads(terms["allowed_endpoints"])
    if method and not is_allowed(endpoints, f"{method} {path}", operation):
        raise ReservationDenied(
            "endpoint", f"{method} {path} is not in the key's allowed_endpoints ({', '.join(endpoints)})"
        )


def _check_accounts(allowed: list[str], ask: ReserveRequest) -> None:
    if not allowed:
        return
    named = ask.accounts
    if not named or not set(named) <= set(allowed):
        shown = ", ".join(named) or "no connected account that it goes to"
        raise ReservationDenied(
            "scope", f"the call names {shown}; the key's allowed_accounts are {', '.join(allowed)}"
        )


def must_look_up(tx: Tx, scope: Scope, ask: ReserveRequest) -> bool:
    """Return whether only the object at the vendor tells which customer a call concerns."""
    if scope.terms is None or ask.read or ask.look_up or not (ask.owner_unknown or ask.object_id is not None):
        return False
    return scope.terms["allowed_customers"] != "[]" and not _customers(tx, ask)[1]


def _customers(tx: Tx, ask: ReserveRequest) -> tuple[set[str], bool]:
    """Return whom a call concerns, and whether that is all.

    What the request says of an object never takes the place of the object's own customer.
    """
    known = object_of(tx, ask)
    own = set() if known is None else set(known["customer"].split())
    customers = {*ask.customer, *own}
    return customers, bool(own or (customers and not ask.owner_unknown))


def _check_customers(tx: Tx, allowed: list[str], ask: ReserveRequest) -> None:
    if not allowed:
        return
    customers, all_known = _customers(tx, ask)
    if not all_known or not customers <= set(allowed):
        # Whose object it is, who holds the key need not learn from its denial.
        whom = "no customer that is known here" if not customers else "another customer, or not these alone"
        raise ReservationDenied(
            "scope", f"the call concerns {whom}; the key's allowed_customers are {', '.join(allowed)}"
        )
