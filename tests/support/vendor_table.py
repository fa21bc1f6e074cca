"""The tables of docs/vendors.md, from the adapter's own.

python -m tests.support.vendor_table renews them.
"""

from __future__ import annotations

from pathlib import Path

from luigi_spendguard.vendors.stripe_routes import RULE_OF
from luigi_spendguard.vendors.stripe_rules import RULES

PAPER = Path(__file__).resolve().parents[2] / "docs" / "vendors.md"


def _priced() -> str:
    rows = ["| operation | how it is quoted | how it is settled | denied |", "| --- | --- | --- | --- |"]
    for operation, name in RULE_OF.items():
        if name in ("free", "unpriced"):
            continue
        rule = RULES[name]
        cells = (f"`{operation}`", rule.quoted, rule.settled, rule.denied or "-")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _listed(rule: str) -> str:
    return ", ".join(sorted(f"`{operation}`" for operation, name in RULE_OF.items() if name == rule)) + "."


def renewed(text: str) -> str:
    """Return the paper with every part between its marks made anew."""
    for name, part in (
        ("priced", _priced()),
        ("free", _listed("free")),
        ("unpriced", _listed("unpriced")),
    ):
        before, begin, rest = text.partition(f"<!-- {name}: by tests/support/vendor_table.py -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert (begin, end) != ("", ""), name
        text = f"{before}{begin}{part}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAPER.write_text(renewed(PAPER.read_text("utf-8")), "utf-8")
