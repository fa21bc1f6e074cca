"""Which requests come too late: their call was made again meanwhile, whichever process knows of that.

A client that had no answer makes its call again: under the same key, when its SDK does, as a later try; under
another, when its task does, naming the keys that were not answered. What was lost may stand in a proxy, or in
the network, and arrive after all. Each call's row so has the number of its try, and keeps what it has given
up: for each key a word, `DIGEST.NUMBER.PROCESS`. What comes under such a key is late, unless it is a later
try of that process than the one with that number: then its caller goes on with it. What comes behind a later
try of its own key, or twice, gets that one's answer, and is late where that was an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from luigi_spendguard.ledger.database import Row
from luigi_spendguard.protocol import ReserveRequest, process_of

#: So much of a key's digest tells it from others of one attempt.
_DIGITS = 16
_PROCESS = re.compile(r"[0-9a-f]{8}")


def given_up(keys: Iterable[str], sender: str, number: int) -> list[str]:
    """Return what a row keeps of keys, by their digests: try `number` of `sender` comes behind all."""
    return [f"{key[:_DIGITS]}.{number}.{_process(sender)}" for key in keys]


def latest(words: Iterable[str]) -> str:
    """Return what a row keeps of all these: what is behind a later try is behind an earlier one, too."""
    numbers: dict[tuple[str, str], int] = {}
    for digest, number, process in (word.split(".") for word in words):
        numbers[digest, process] = max(int(number), numbers.get((digest, process), 0))
    return " ".join(f"{digest}.{number}.{process}" for (digest, process), number in numbers.items())


def is_overtaken(rows: Iterable[Row], ask: ReserveRequest, key: str) -> bool:
    """Return whether `ask`, under a key of that digest, comes behind one of `rows`, calls equal to it."""
    return any(_by_its_own(row, ask, key) or _is_given_up(row["given_up"], ask, key) for row in rows)


def _process(sender: str) -> str:
    """Return which process a sender is of, "" where its id does not say it as ours do."""
    process = process_of(sender)
    return process if _PROCESS.fullmatch(process) else ""


def _by_its_own(row: Row, ask: ReserveRequest, key: str) -> bool:
    """Return whether `ask` is behind a try of its own key that has no answer for it.

    What has one answers all tries, and what is under way may have one: of several threads that make a call
    under one key any may come first.
    """
    if row["key_id"] != key or not ask.number or row["holds"]:
        return False
    return bool(ask.number < row["number"] or (ask.number == row["number"] and _comes_twice(row, ask)))


def _comes_twice(row: Row, ask: ReserveRequest) -> bool:
    """Return whether a try comes once more that has failed: its caller was told so, or says it once more."""
    failed = row["state"] in ("voided", "in_doubt") or row["declined"]
    return bool(failed and row["sender"] != ask.sender_id)


def _is_given_up(words: str, ask: ReserveRequest, key: str) -> bool:
    for word in words.split():
        digest, number, process = word.split(".")
        is_later = process == _process(ask.sender_id) != "" and ask.number > int(number)
        if digest == key[:_DIGITS] and not is_later:
            return True
    return False
