"""What goes wrong in a round: by a seed, or so that four rounds pass every step once."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

from tests.faults.points import CHILD, GATEWAY, LOCAL, LUIGID, POINTS, WORKER, Point, steps

ENGINES = ("sqlite", "postgres")
#: Engine, and whether the secret is at a gateway apart from luigid; else it is at the workers.
COMBINATIONS = tuple(product(ENGINES, (False, True)))
#: What is asked for at a step where the ledger is at a server: see `round.Keeper`.
KILLED, CRASHED = "ask-kill-database", "ask-crash-database"
#: The disks of the ledger, and of what waits for it, are full for a while.
FULL = "ask-fill-disks"
#: What is special to a round: nothing, or only connections are harmed, or texts are sent as well, or a worker
#: with a scheduler of its own pays from the same run, or one of another luigid on the same ledger.
PLAIN, UNSTEADY, TEXTS, OWN, TWO = "plain", "unsteady", "texts", "local scheduler", "two luigids"
KINDS = (PLAIN, UNSTEADY, TEXTS, OWN, TWO)


@dataclass(frozen=True)
class Fault:
    """At a step of somebody's, when it is passed the n-th time, this is done: see `hooks`."""

    who: str
    point: Point
    times: int
    action: str

    def __str__(self) -> str:
        return f"{self.who} at {self.point.step!r}, time {self.times}: {self.action}"


@dataclass(frozen=True)
class Plan:
    """One round.

    Attributes:
        share: of the connections that are harmed between any two.
        customers: how many are to pay.

    """

    seed: int
    engine: str
    gateway: bool
    faults: tuple[Fault, ...]
    share: float = 0.0
    customers: int = 36
    kind: str = PLAIN

    def __str__(self) -> str:
        where = "at a gateway" if self.gateway else "at the workers"
        return (
            f"seed {self.seed}, {self.kind}: {self.engine}, secret {where}, {len(self.faults)} faults,"
            f" {self.share:.0%}"
        )


def by_seed(seed: int) -> Plan:
    """Return the round of a seed; four in a row are each engine with each place of the secret.

    Twenty in a row are also of each kind. (Who has a scheduler of its own has the secret, too.)
    """
    chance = random.Random(seed)
    engine, gateway = COMBINATIONS[seed % len(COMBINATIONS)]
    kind = KINDS[seed // len(COMBINATIONS) % len(KINDS)]
    if kind == UNSTEADY:
        return Plan(seed, engine, gateway, (), chance.choice((0.1, 0.2, 0.3)), 80, kind)
    faults: list[Fault] = []
    gateway = gateway and kind != OWN
    counts = ((CHILD, 12), (LUIGID, 5), (GATEWAY, 5), (WORKER, 3), (LOCAL, 6 * (kind == OWN)))
    for who, count in counts:
        there = steps(who, gateway=gateway, rare=True)
        for point in chance.sample(there, min(count, len(there))):
            action = chance.choice(("kill", "kill", "kill", "cut", "still"))
            if engine == "postgres" and chance.random() < 0.15:
                action = chance.choice((KILLED, CRASHED))
            times = 1 if who == WORKER or point.rare else chance.randrange(1, 6)
            faults.append(Fault(who, point, times, _possible(point, action)))
    if chance.random() < 0.5:
        faults.append(_at_books(chance.choice(("decided", "ended")), chance.randrange(1, 20), FULL, gateway))
    return Plan(seed, engine, gateway, tuple(faults), chance.choice((0.0, 0.05, 0.15)), 80, kind)


def in_all() -> list[Plan]:
    """Return a round for each combination; together they kill each process at each of its steps."""
    faults: list[list[Fault]] = [[] for _ in COMBINATIONS]
    for who in (CHILD, LUIGID, GATEWAY, WORKER):
        for number, point in enumerate(one for one in POINTS if who in one.who and not one.rare):
            # Each once: in one of the combinations in which it is passed.
            where = [apart for apart in (False, True) if point in steps(who, gateway=apart)]
            place = 2 * (number // 2 % 2) + where[number % len(where)]
            faults[place].append(Fault(who, point, 1 + number % 3 * (who != WORKER), "kill"))
    for number, (engine, gateway) in enumerate(COMBINATIONS):
        faults[number].append(_at_books("ending" if gateway else "deciding", 15, FULL, gateway))
        if engine == "postgres":
            faults[number] += [
                _at_books("decided", 8, KILLED, gateway),
                _at_books("ended", 8, CRASHED, gateway),
            ]
    return [
        # Of two of them some connections break, too: those of each kind.
        Plan(number, engine, gateway, tuple(faults[number]), share=0.08 * (gateway == (engine == "sqlite")))
        for number, (engine, gateway) in enumerate(COMBINATIONS)
    ]


def _at_books(step: str, times: int, action: str, gateway: bool) -> Fault:
    """Let something happen in a transaction of who asks the ledger for money."""
    who = GATEWAY if gateway else LUIGID
    [point] = [one for one in steps(who, gateway=gateway) if one.step == step]
    return Fault(who, point, times, action)


def _possible(point: Point, action: str) -> str:
    """Who stands still in the midst of a write would write it twice."""
    return "kill" if point.half and action == "still" else action
