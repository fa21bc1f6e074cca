"""What an operator may raise alone, what waits for a second one, and who that may be."""

from __future__ import annotations

from dataclasses import dataclass

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import NotAllowed
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.top_ups import TopUp, raised_alone, raised_by, request_row
from luigi_spendguard.money import Micros, format_usd
from luigi_spendguard.protocol import command
from luigi_spendguard.settings.operators import may
from scheduler_patch.service.callers import UNNAMED, Caller, who_can, who_could


@dataclass(frozen=True)
class Rights:
    """What a caller may raise of one run, by luigi.cfg."""

    caller: Caller
    settings: Settings

    @property
    def limit(self) -> Micros | None:
        """By how much in all, in micro-dollars; None: without limit."""
        return None if self.caller.may("admin") else self.settings.operator_top_up_usd

    def check(self, tx: Tx, run_id: str, amount: Micros) -> None:
        """Raise NotAllowed for a top-up that comes to more than one may, with those that were made before."""
        who = self.caller.shown
        if self.limit is None or (done := raised_by(tx, run_id, who)) + amount <= self.limit:
            return
        raise NotAllowed(
            f"you are {who}, of role {self.caller.role}: you may raise the budgets of one run by "
            f"{format_usd(self.limit)} in all ([spendguard] operator_top_up_usd), and have raised those of "
            f"this one, or asked to, by {format_usd(done)} ({command('top-ups', '--run', run_id)} shows what "
            f"waits); more needs role admin, which {who_could(self.settings, 'admin')}",
        )

    def must_wait(self, tx: Tx, asked: TopUp) -> bool:
        """Return whether a second operator has to confirm a top-up. Raises NotAllowed where none could.

        The admin token names nobody: who has it may be any operator, and so is half of nothing.
        """
        alone, name = self.settings.two_operators_above_usd, self.caller.name
        if alone is None:
            return False
        others = [UNNAMED] if name else [""]
        done = raised_alone(tx, asked.run_id, self.caller.shown, others)
        if done + asked.amount <= alone:
            return False
        if name and self.seconds(name):
            return True
        before = f", and {format_usd(done)} was raised so before" if done else ""
        why = (
            "nobody else in [spendguard_operators] may confirm it"
            if name
            else "the admin token names nobody: say who you are (--as NAME)"
        )
        raise NotAllowed(
            f"more than {format_usd(alone)} of one run needs two operators ([spendguard] "
            f"two_operators_above_usd){before}: {why}",
        )

    def seconds(self, asker: str) -> list[str]:
        """Return who may confirm what an operator has asked for, by name."""
        return [name for name in who_can(self.settings, "operate") if name != asker]

    def check_second(self, tx: Tx, name: str, amount: Micros) -> Row:
        """Return a top-up that waits. Raises NotAllowed where the caller cannot confirm it; NotFound."""
        row, who = request_row(tx, name), self.caller.name
        if not who or who == row["asked_by"]:
            seconds = self.seconds(row["asked_by"])
            others = " or ".join(seconds) if seconds else "nobody in [spendguard_operators]"
            why = (
                f"you are {who}, who has asked for it" if who else "the admin token names nobody (--as NAME)"
            )
            raise NotAllowed(f"a second operator has to confirm {name}: {why}; {others} can")
        asker = self.settings.operators.get(row["asked_by"])
        if asker is None or not may(asker.role, "operate"):
            text = f"{row['asked_by']} has asked for {name} and may top up nothing any more: withdraw it"
            raise NotAllowed(text)
        self.check(tx, row["run_id"], amount)
        return row
