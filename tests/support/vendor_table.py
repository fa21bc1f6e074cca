"""The tables of docs/vendors.md, from the adapter's own.

python -m tests.support.vendor_table renews them.
"""

from __future__ import annotations

import re
from pathlib import Path

from luigi_spendguard.money import plain_usd
from luigi_spendguard.vendors.model import Row
from luigi_spendguard.vendors.registry import flows
from luigi_spendguard.vendors.resend import operations as resend_operations
from luigi_spendguard.vendors.stripe.operations import LISTED as STRIPE_LISTED
from luigi_spendguard.vendors.stripe.operations import RULE_OF
from luigi_spendguard.vendors.stripe.rules import RULES
from luigi_spendguard.vendors.twilio import operations as twilio_operations
from luigi_spendguard.vendors.twilio.prices import DEFAULTS
from tests.support import marking

DATA = Path(__file__).resolve().parents[1] / "unit" / "data"
PAPER = Path(__file__).resolve().parents[2] / "docs" / "vendors.md"


def _priced() -> str:
    rows = ["| operation | how it is quoted | how it is settled | denied |", "| --- | --- | --- | --- |"]
    order = list(RULES)
    priced = [(operation, name) for operation, name in RULE_OF.items() if name not in ("free", "unpriced")]
    for operation, name in sorted(priced, key=lambda one: (order.index(one[1]), one[0])):
        rule = RULES[name]
        cells = (f"`{operation}`", rule.quoted, rule.settled, rule.denied or "-")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _listed(rule: str) -> str:
    return ", ".join(sorted(f"`{operation}`" for operation, name in RULE_OF.items() if name == rule)) + "."


def _flows() -> str:
    """Return which operations of all vendors move money with a counterparty; * where they need a price."""
    lines = ["| counted as | operations |", "| --- | --- |"]
    for flow, operations in vars(flows()).items():
        named = [one.rpartition(" ")[2] for one in operations]
        shown = (f"`{one}`{'*' if RULE_OF.get(one) == 'unpriced' else ''}" for one in named)
        lines.append(f"| {flow} | {', '.join(shown)} |")
    return "\n".join(lines)


def _table(rows: tuple[Row, ...]) -> str:
    lines = ["| operation | how it is quoted | how it is settled | denied |", "| --- | --- | --- | --- |"]
    lines += [f"| `{row.operation}` | {row.quoted} | {row.settled} | {row.denied} |" for row in rows]
    return "\n".join(lines)


def _defaults() -> str:
    lines = ["| key | default in USD | where it comes from |", "| --- | --- | --- |"]
    for key, default in DEFAULTS.items():
        table = default.value if isinstance(default.value, dict) else {"": default.value}
        said = ", ".join(f"{name}: {plain_usd(price)}".removeprefix(": ") for name, price in table.items())
        lines.append(f"| `{key}` | {said or 'none'} {default.per} | {default.source or '-'} |")
    return "\n".join(lines)


def operations(vendor: str) -> list[tuple[str, str, str, str]]:
    """Return every operation of a vendor's SDK: class, method, host ("" for Resend), path with ids."""
    found = []
    for line in (DATA / f"{vendor}-operations.txt").read_text("utf-8").splitlines():
        kind, method, *host, path = line.split(" ")
        one = re.sub(r"\{[^}]*\}", "XX" + "1" * 32, path)
        found.append((kind, method, "".join(host), one))
    return found


def _of_kind(vendor: str, kind: str) -> str:
    names = set()
    for _, method, host, path in operations(vendor):
        if vendor == "twilio" and twilio_operations.kind_of(method, host, path) == kind:
            names.add(twilio_operations.operation_of(method, host, path))
        elif vendor == "resend" and resend_operations.kind_of(method, path) == kind:
            names.add(resend_operations.operation_of(method, path))
    return ", ".join(f"`{name}`" for name in sorted(names)) + "."


def renewed(text: str) -> str:
    """Return the paper with every part between its marks made anew."""
    for name, part in (
        ("priced", _priced()),
        ("flows", _flows()),
        ("free", _listed("free")),
        ("unpriced", _listed("unpriced")),
        ("parameters", marking.figures(STRIPE_LISTED)),
        ("twilio priced", _table(twilio_operations.TABLE)),
        ("twilio defaults", _defaults()),
        ("twilio parameters", marking.figures(twilio_operations.LISTED)),
        ("resend parameters", marking.figures(resend_operations.LISTED)),
        ("twilio free", _of_kind("twilio", "free")),
        ("twilio credential", _of_kind("twilio", "credential")),
        ("resend priced", _table(resend_operations.TABLE)),
        ("resend free", _of_kind("resend", "free")),
        ("resend credential", _of_kind("resend", "credential")),
    ):
        before, begin, rest = text.partition(f"<!-- {name}: by tests/support/vendor_table.py -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert (begin, end) != ("", ""), name
        text = f"{before}{begin}{part}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAPER.write_text(renewed(PAPER.read_text("utf-8")), "utf-8")
