"""The ledger beside the vendors' own books: what is on one side only, why, and what to do about it.

`reading` reads a vendor's lists page by page, `work_file` keeps them on disk, so that memory stays small and
what was read is not read again.
"""

from __future__ import annotations

from luigi_spendguard.errors import SpendguardError


class BooksUnread(SpendguardError):
    """A vendor's books cannot be read to their end now; the message says why, and how to go on."""
