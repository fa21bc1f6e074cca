"""The same charges as vendor tasks."""

from __future__ import annotations

import luigi
from charges import Root, Work

from luigi_spendguard import VendorTask


class Charge(VendorTask, Work):
    """A vendor task."""


class Charges(Root):
    """All of them."""

    def requires(self) -> list[luigi.Task]:
        """Return the charges."""
        return [Charge(number) for number in range(self.first, self.first + self.n)]
