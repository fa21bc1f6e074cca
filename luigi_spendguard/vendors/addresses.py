"""The one form of a path at a vendor's: what two servers could read differently is refused."""

from __future__ import annotations

import re

from luigi_spendguard.errors import denial

#: Parts that are not empty and do not begin with a dot, of characters that mean themselves. Escaped are those
#: alone that would mean the same unescaped, and signs beyond ASCII: no `%2F`, `%2E`, `%5C`, `%00` or `%41`,
#: and no `;`, `\` or blank either.
_PATH = re.compile(
    r"(?:/(?!\.)(?:[A-Za-z0-9_.~:@!$&'()*+,=-]|%(?:2[046BCbc]|3[ADad]|40|[89A-Fa-f][0-9A-Fa-f]))+)+"
)
#: Printable ASCII, whole escapes, and no fragment.
_QUERY = re.compile(r"(?:[\x21\x22\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")


def plain(rest: str) -> tuple[str, str]:
    """Return path and query of what stands behind a vendor's address. Raises SpendDenied (`endpoint`)."""
    path, _, query = rest.partition("?")
    if not _PATH.fullmatch(path):
        raise denial(
            "endpoint",
            "the path can be read in two ways: it may have no empty part and none that begins with a dot, no "
            "escaped letter, dot or slash, no `;`, no backslash and no other character that no path has",
        )
    if not _QUERY.fullmatch(query):
        raise denial(
            "endpoint", "the query string has characters that stand in none: send it percent-encoded"
        )
    return path, query
