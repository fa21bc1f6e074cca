"""Histories: made from a seed, lived, and made shorter where they have failed."""

from __future__ import annotations

import copy
import gc
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from tests.simulation.site import Plan, Site

#: Seeds that a process takes at a time.
SLICE = 25
#: What of a plan may be taken away.
PARTS = ("faults", "acts", "holders", "workers", "tasks")
#: What may go wrong, and how often where all of it may; with a message, and with a request to a vendor.
_FAULTS = {"kill": 25, "presumed dead": 4, "message": 26, "vendor": 30}
_FAULTS |= {"cut off": 20, "power": 5, "disk full": 5, "clock": 5}
_MESSAGES = ("lose request", "lose answer", "double", "delay", "hold up")
_VENDORS = ("503 before", "503 after", "reset before", "reset after", "no answer", "arrives late")
_VENDORS += ("429", "slow", "refused", "late")
_OF_VENDOR = {"stripe": ("decline", "decline"), "twilio": ("dear", "dear", "named")}
_ACTS = ("revoke", "top_up", "top_up", "resolve", "resolve", "correct", "revoke_key")


class Kinds(NamedTuple):
    """What a plan may have. One of few kinds has the more of each, so that they meet."""

    are_few: bool
    faults: dict[str, int]
    messages: tuple[str, ...]
    vendors: tuple[str, ...]
    acts: tuple[str, ...]

    @classmethod
    def drawn(cls, by: random.Random, are_few: bool, vendors: tuple[str, ...]) -> Kinds:
        if not are_few:
            return cls(False, _FAULTS, _MESSAGES, vendors, _ACTS)
        faults = by.choices([*_FAULTS], [*_FAULTS.values()], k=by.choice((1, 2, 2, 3)))
        of = (tuple(by.sample(every, by.choice((1, 1, 2)))) for every in (_MESSAGES, vendors, _ACTS))
        return cls(True, {kind: _FAULTS[kind] for kind in faults}, *of)


def planned(seed: int) -> Plan:
    """Return what happens, but for what follows from it."""
    by = random.Random(seed)
    are_few, luigids = by.random() < 0.5, 1 + (by.random() < 0.3)
    forks = are_few and by.random() < 0.6  # Nothing but a task that makes equal calls in two processes.
    tasks = [_task(by, n, forks) for n in range(1 if forks else by.choice((1, 1, 1, 1, 2, 2, 3)))]
    names = [task["id"] for task in tasks]
    root = {"root": "R", "by_task_id": by.random() < 0.5, "usd": str(by.choice((3, 5, 8, 12, 30)))}
    workers = [
        {"name": f"worker{number}", "luigid": by.randrange(luigids), "tasks": names, **root}
        for number in range(1 if forks else by.choice((1, 1, 1, 2)))
    ]
    holders = [
        {
            "name": "holder",
            "luigid": by.randrange(luigids),
            "label": by.choice(("R", "", "other")),
            "ttl_ms": by.choice((1500, 4000, 600_000)),
            "payments": [_payment(by, f"cus_h{n}", "stripe") for n in range(by.choice((1, 2)))],
        }
        for _ in range(not forks and by.random() < 0.3)
    ]
    plan: Plan = {"seed": seed, "file": by.random() < 0.02, "luigids": luigids}
    plan["gateway"] = by.random() < 0.4
    plan["day"], plan["family"] = by.choice((None, None, 10, 40)), by.choice((None, None, None, 6))
    plan |= {"tasks": tasks, "workers": workers, "holders": holders}
    paid = sorted({payment["vendor"] for who in (*tasks, *holders) for payment in who["payments"]})
    every = (*_VENDORS, *(how for vendor in paid for how in _OF_VENDOR[vendor]))
    kinds, whom, lives, times = Kinds.drawn(by, are_few, every), _processes(plan), (1, 1, 2), (1,)
    acts = (_act(by, plan, kinds) for _ in range(by.choice((0, 0, 1, 1, 2, 3))))
    plan["acts"] = sorted(acts, key=lambda one: one["at"])
    if are_few:
        names = [one for one in whom if not forks or "/" in one]
        whom, lives, times = by.sample(names, by.choice((1, 2)[: len(names)])), (1, 2), (1, 1, 1, 2, 3)
    faults = range(by.choice((2, 3, 4, 5, 6) if are_few else (0, 1, 2, 3, 4, 5, 6)))
    who = (by.choice(whom).format(by.choice(lives)) for _ in faults)
    each = [_fault(by, plan, kinds, one) * by.choice(times) for one in who]
    plan["faults"] = [fault for those in each for fault in those]
    if plan["file"]:
        plan["faults"].append({"fault": "power", "at": _soon(by), "within": by.random() < 0.3})
    return plan


def _task(by: random.Random, number: int, forks: bool) -> Plan:
    vendor = by.choice(("stripe", "stripe", "twilio"))
    payments = []
    for n in range(by.choice((2, 2, 3) if forks else (1, 1, 1, 2, 2, 3))):
        # Some are equal: each of them is meant.
        whom = f"cus_{number}" if vendor == "stripe" else f"+1555{number:07}"
        payments.append(_payment(by, whom if by.random() < (0.7 if forks else 0.5) else f"{whom}{n}", vendor))
    for one in payments:
        one["cents"] = next(each["cents"] for each in payments if each["whom"] == one["whom"])
    total = sum(one["cents"] for one in payments) / 100
    cost = by.choice((None, None, int(total * 1_000_000)))
    most = by.choice((None, None, None, total))
    fork = forks or by.random() < 0.4
    task = {"id": f"T{number}", "fork": fork and len(payments) > 1, "again": by.choice((0, 0, 1, 1, 2))}
    task["fails"] = by.choice((0, 0, 0, 1))
    return {**task, "payments": payments, "cost": cost, "max": most}


def _payment(by: random.Random, whom: str, vendor: str) -> Plan:
    return {"vendor": vendor, "whom": whom, "cents": by.choice((100, 150, 200, 400))}


def _soon(by: random.Random) -> float:
    """Return a moment: most of a history is in its first seconds."""
    return round(by.random() * (1.2 if by.random() < 0.7 else 8), 3)


def _act(by: random.Random, plan: Plan, kinds: Kinds) -> Plan:
    act: Plan = {"at": _soon(by), "luigid": by.randrange(plan["luigids"])}
    kind = by.choice(kinds.acts)
    if kind in ("revoke", "top_up"):
        act["run"] = "R"
    if kind == "top_up":
        act["usd"] = by.choice(("1", "2.50", "10"))
    if kind in ("resolve", "correct"):
        act |= {"hasty": by.random() < 0.3, "at": round(by.random() ** 2 * 40, 3)}
        act["looks"] = by.choice((1, 1, 5, 20))
    return act | {"act": kind, "holder": "holder"}


def _processes(plan: Plan) -> list[str]:
    """Return whom something may happen to; {}: in which of its lives."""
    names = [*(one["name"] for one in plan["holders"]), *(f"luigid{n}#{{}}" for n in range(plan["luigids"]))]
    for worker in (one["name"] for one in plan["workers"]):
        names.append(f"{worker}#{{}}")
        for task in plan["tasks"]:
            attempt = f"{worker}#1/{task['id']}#{{}}"
            names += [attempt, f"{attempt}/fork"] if task["fork"] else [attempt]
    return names


def _fault(by: random.Random, plan: Plan, kinds: Kinds, who: str) -> list[Plan]:
    kind, at = by.choices([*kinds.faults], [*kinds.faults.values()])[0], _soon(by)
    if kind == "kill":
        steps = 200 if who.startswith("luigid") else 10 if "fork" in who else 30 if "/" in who else 60
        return [{"fault": kind, "who": who, "step": 1 + int(by.random() ** 2 * steps)}]
    if kind in ("message", "cut off") and who.startswith("luigid"):  # It says nothing of its own.
        who = by.choice([*(one["name"] for one in plan["workers"]), *(["operator"] if plan["acts"] else [])])
    often = {"after": by.choice((0, 1, 1, 1, 2, 3)), "times": by.choice((1, 3, 4, 6, 9))}
    fault: Plan = {"fault": kind, "who": who, "at": at}
    if kind == "cut off":  # Its network fails: neither luigid nor its vendor can be spoken to.
        loses = {**fault, "fault": by.choice(_MESSAGES[:2]), "at": 0.0, **often}
        return [loses, {**fault, "fault": "vendor", "at": 0.0, "how": by.choice(_VENDORS[2:4])}]
    if kind == "message":
        kind = fault["fault"] = by.choice(kinds.messages)
        lasts = {"hold up": round(by.random() * 12, 3), "delay": round(by.random() ** 2 * 8, 3)}
        fault |= {"for": lasts[kind]} if kind in lasts else {}
        return [fault if kind == "hold up" or by.random() < 0.5 else {**fault, "at": 0.0, **often}]
    if kind == "vendor":
        fault["how"] = by.choice(kinds.vendors)
        if by.random() < (0.4 if kinds.are_few else 0.7):
            del fault["who"]
        return [fault]
    more = {
        "presumed dead": {"who": by.choice(plan["workers"])["name"]},
        "power": {"within": by.random() < 0.7},
        "disk full": {"for": round(by.random() * 6, 3)},
        "clock": {"by": by.choice((-86_400, -3600, -30, -1, 1, 30, 3600, 200_000))},
    }
    return [{"fault": kind, "at": at, **more[kind]}]


def failure(plan: Plan, trace: list[str] | None = None) -> str:
    """Live a history; return what it has broken, "" for nothing."""
    try:
        Site(plan, trace).run()
    except Exception as error:
        if trace is not None:
            trace.append(f"! {error!r}")
        return f"{type(error).__name__}: {error}"
    return ""


def lived(seeds: range, words: tuple[str, ...] = ()) -> tuple[int, int | None, str]:
    """Live the histories of these seeds; return how many, and the first that has failed and why.

    `words`: only those in whose plan all of them stand.
    """
    gc.freeze()
    gc.disable()  # What a history leaves is little, and is collected at the end.
    number = 0
    try:
        for seed in seeds:
            plan = planned(seed)
            text = json.dumps(plan) if words else ""
            if not all(word in text for word in words):
                continue
            number += 1
            if why := failure(plan):
                return number, seed, why
        return number, None, ""
    finally:
        gc.enable()
        if number:
            gc.collect()


def many(
    first: int, count: int, seconds: float, jobs: int, words: tuple[str, ...] = ()
) -> tuple[int, int | None, str]:
    """Live so many histories, or as many as there is time for; stop at the first that fails."""
    until, last, total = time.monotonic() + seconds, first + count, 0
    slices = (range(one, min(one + SLICE, last)) for one in range(first, last, SLICE))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for number, seed, why in (map if jobs == 1 else pool.map)(partial(lived, words=words), slices):
            total += number
            if seed is not None or time.monotonic() >= until:
                pool.shutdown(cancel_futures=True)
                return total, seed, why
    return total, None, ""


def kind_of(text: str) -> str:
    """Return what a failure is about, so that a shorter history fails for the same reason."""
    return ":".join(text.split(":")[:2])


def shrunk(plan: Plan, is_live: Callable[[], bool] = lambda: True) -> Plan:
    """Return the shortest history found that fails as this one does: what it can do without is left away."""
    kind, best = kind_of(failure(plan)), copy.deepcopy(plan)
    again = True
    while again and is_live():
        again = False
        for shorter in _shorter(best):
            if is_live() and kind_of(failure(shorter)) == kind:
                best, again = shorter, True
                break
    return best


def _shorter(plan: Plan) -> Iterator[Plan]:
    """Yield histories of which a part is left away, the larger parts first."""
    for part in PARTS:
        yield from ({**plan, part: less} for less in _lists_less(plan[part]))
    for part in ("tasks", "holders"):
        for place, item in enumerate(plan[part]):
            for less in _lists_less(item["payments"]) if len(item["payments"]) > 1 else ():
                before, after = plan[part][:place], plan[part][place + 1 :]
                yield {**plan, part: [*before, *([{**item, "payments": less}] if less else []), *after]}
    if plan["luigids"] > 1:
        parts = ("workers", "holders", "acts")
        one = {part: [{**item, "luigid": 0} for item in plan[part]] for part in parts}
        yield {**plan, **one, "luigids": 1}


def _lists_less(items: list[Any]) -> Iterator[list[Any]]:
    size = len(items)
    while size:
        for first in range(0, len(items), size):
            yield items[:first] + items[first + size :]
        size //= 2
