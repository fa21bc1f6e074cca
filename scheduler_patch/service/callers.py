"""Who asks our routes for something, by the token or key that was shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from luigi_spendguard.config import Settings
from luigi_spendguard.settings.operators import NamedOperator, may, who_may

#: Who has the admin token, which names nobody: no operator's name has a blank in it.
UNNAMED = "an operator"


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        role: an operator's (`settings.operators.ROLES`); "" of whoever is none.
        name: a named operator's; "" of who has the admin token, and of whoever is none.
        key: the vault key that was shown where one may do.
        address: where they ask from.

    """

    role: str = ""
    name: str = ""
    is_worker: bool = False
    key: str = field(default="", repr=False)
    address: str = ""

    @classmethod
    def of(cls, operator: NamedOperator) -> Caller:
        """Return a named operator as a caller."""
        return cls(operator.role, operator.name)

    def may(self, needed: str) -> bool:
        """Return whether this is an operator whose role is enough."""
        return may(self.role, needed)

    @property
    def shown(self) -> str:
        """An operator's name, or what is said of who has the admin token."""
        return self.name or UNNAMED

    @property
    def actor(self) -> str:
        """Who this is in the journal: `NAME at ADDRESS`; "" of a worker, and of anybody."""
        who = self.shown if self.role else "the holder" if self.key else ""
        return f"{who} at {self.address}" if who else ""


def who_can(settings: Settings, needed: str) -> list[str]:
    """Return the names of the operators whose role is enough, and whose token luigid has: others are passed
    over.
    """
    return [*who_may(settings.operators, needed, with_token=True)]


def who_could(settings: Settings, needed: str) -> str:
    """Return who could do what needs a role, for a sentence: "alice and whoever has the admin token have"."""
    *others, last = [*who_can(settings, needed), "whoever has the admin token"]
    return f"{', '.join(others)} and {last} have" if others else f"{last} has"


#: The admin token's.
ADMIN = Caller("admin")
