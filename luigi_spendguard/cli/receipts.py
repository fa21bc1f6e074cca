"""`spendguard audit receipt` and `check-receipt`: what is sealed of a run, for somebody who has no ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from luigi_spendguard.cli.books import refusals
from luigi_spendguard.cli.context import Stop, settings_of
from luigi_spendguard.cli.run_names import RunName, run_in
from luigi_spendguard.cli.tables import plain, time_of
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import LedgerError
from luigi_spendguard.money import format_usd, parse_usd

if TYPE_CHECKING:
    from luigi_spendguard.ledger.audit.checking import Proved, Row

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog="Example:  spendguard audit receipt nightly-42 --out nightly-42.json")
@click.argument("run", metavar="RUN", type=RunName())
@click.option("--out", type=_FILE, help="A new file; RUN.receipt.json here, if not named.")
def receipt(run: str, out: Path | None) -> None:
    """Write what is sealed of a run to a file that anybody can check, without this ledger.

    The whole audit is looked through before, as `audit verify` does it: the file is signed for all rows of
    the run.
    """
    from luigi_spendguard.ledger.audit.receipts import receipt as parts
    from luigi_spendguard.ledger.audit.receipts import sealed_of
    from luigi_spendguard.ledger.audit.signing import KeyFiles
    from luigi_spendguard.ledger.audit.tampering import Tampered
    from luigi_spendguard.ledger.audit.verifying import verify
    from luigi_spendguard.ledger.database import copies
    from luigi_spendguard.ledger.database.engines import opened
    from luigi_spendguard.ledger.migrations import check_format

    place, files = settings_of().ledger, KeyFiles(settings_of().audit_key)
    if not files.key.exists():
        raise Stop(
            f"a receipt is signed, and the audit's key {files.key} is not here: make it where luigid has "
            "that, as luigid's user",
            1,
        )
    with refusals():
        signer, head = files.signer(), files.head()
    with refusals(), opened(place, read_only=True) as books, books.reading(slow=True) as tx:
        check_format(tx, place, is_now=True)
        run_id = run_in(tx, run)
        found = sealed_of(tx, run_id)
        if not found.rows:
            raise Stop(
                f"nothing of run {run_id} is sealed yet, or all of it was pruned: luigid seals within "
                "seconds of a call",
                1,
            )
        try:
            chain = verify(tx, files.trusted(), head=head).chain
        except Tampered as error:
            raise Stop(f"Not as it was sealed: {error}. No receipt is made of such a ledger.", 1) from None
        path = out if out is not None else Path(f"{_file_name(run_id)}.receipt.json")
        if path.exists():
            raise Stop(f"{path} is there already: name a file that is not with --out", 1)
        pem = files.trusted_file.read_text("ascii")
        with copies.new_file(path, path) as made:
            with made.open("w", encoding="utf-8") as file:
                file.writelines(parts(tx, run_id, chain, [pem], signer))
            copies.name_new(made, path)
    click.echo(
        f"{path}: {counted(found.rows, 'row')} of run {run_id}, for whoever has the public key: `spendguard "
        f"audit check-receipt {path}` needs nothing else."
    )
    if found.unsealed:
        click.echo(
            f"Not in it: {counted(found.unsealed, 'entry', 'entries')} that luigid has not sealed yet, which "
            "it does within seconds; make another one then."
        )


def _file_name(run_id: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_.~" else "_" for sign in run_id)[:150].lstrip(".")


@click.command(
    name="check-receipt", epilog="Example:  spendguard audit check-receipt nightly-42.receipt.json"
)
@click.argument("file", type=_FILE)
@click.option(
    "--public-key", "key", type=_FILE, help="The public keys that you trust (PEM), not those in the receipt."
)
def check_receipt(file: Path, key: Path | None) -> None:
    """Check a receipt: neither luigi.cfg nor a ledger nor a network is needed.

    Says what it proves, or the first thing that is wrong, or that rows were left away (exit code 1).
    """
    from luigi_spendguard.ledger.audit.checking import NotProved, check
    from luigi_spendguard.ledger.audit.signing import public_keys

    try:
        data = file.read_bytes()
    except OSError as error:
        raise Stop(f"{file} cannot be read: {error.strerror}", 2) from None
    with refusals():
        trusted = None if key is None else public_keys(key)
        try:
            proved = check(data, trusted)
        except LedgerError as error:
            raise NotProved(f"{file}: {error}") from None
    for line in _said(proved, is_key_given=key is not None):
        click.echo(plain(line))
    if proved.lacks:
        raise SystemExit(1)


def _said(proved: Proved, *, is_key_given: bool) -> Iterator[str]:
    """Yield what a receipt proves, in words."""
    first, last = (time_of("at")({"at": one}) for one in proved.sealed)
    rows = counted(len(proved.entries) + len(proved.calls), "row")
    signed = f"signed by key {', '.join(proved.keys)}"
    there = f"run {proved.run_id}: {rows} in {counted(proved.blocks, 'block')}, {signed}."
    if proved.lacks:
        yield f"NOT WHOLE: {proved.lacks}. Ask for the receipt again."
        yield f"What is there was sealed so: {there}"
    else:
        yield f"PROVED: {there}"
        yield from _extent(proved)
    yield f"Sealed from {first} to {last}, in ledger {proved.ledger}; nothing in them was changed since."
    if not is_key_given:
        yield (
            "The public key came with the receipt itself: compare its id with the one that the ledger's "
            "operator has told you by another way, or say --public-key FILE."
        )
    if (totals := proved.totals) is not None:
        yield (
            f"After its last entry here ({totals['kind']}, {time_of('at')(totals)}): spent "
            f"{_usd(totals['run_spent_usd'])} of a cap of {_usd(totals['run_cap_usd'])}, reserved "
            f"{_usd(totals['run_reserved_usd'])}, overrun {_usd(totals['run_overrun_usd'])}."
        )
    calls = proved.last_calls
    states = Counter(row["state"] or row["verdict"] for row in calls)
    if calls:
        each = ", ".join(f"{number} {name}" for name, number in sorted(states.items()))
        yield f"{counted(len(calls), 'call')}: {each}."
    for row in calls:
        yield f"  {_call(row)}"


def _extent(proved: Proved) -> Iterator[str]:
    """Yield of what time the rows are all that there are, in words."""
    last, made = (time_of("at")({"at": one}) for one in (proved.last_sealed, proved.made_at))
    yield (
        f"Whole: these are all rows of the run up to block {proved.last_block} of the audit (sealed {last}), "
        f"the last one when the receipt was made ({made})."
    )
    if not proved.is_from_the_beginning:
        yield f"What was sealed of it before block {proved.first_block} was pruned, and is not in it."
    if proved.unsealed:
        what = counted(proved.unsealed, "entry that was", "entries that were")
        yield f"Not in it: {what} not sealed yet then."


def _usd(text: str) -> str:
    return format_usd(-parse_usd(text[1:]) if text.startswith("-") else parse_usd(text))


def _call(row: Row) -> str:
    spent = [row[f"{name}_usd"] for name in ("settled", "corrected", "overrun")]
    cost = sum(-parse_usd(one[1:]) if one.startswith("-") else parse_usd(one) for one in spent)
    about = [f"{row['vendor']} {row['operation']}".strip()]
    about += [f"object {row['object']}"] if row["object"] else []
    about += [f"for {row['target']}"] if row["target"] else []
    why = f" ({row['reason']})" if row["reason"] else ""
    said = f"{row['verdict']}{why}, {row['state'] or 'nothing reserved'}, {format_usd(cost)}"
    return f"{row['id']} {time_of('created_at')(row)} {said}: {', '.join(about)}"
