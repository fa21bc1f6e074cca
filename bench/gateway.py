"""A call through the gateway beside the same call to the vendor itself: in turns, 1, 16 and 64 clients."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from bench.figures import quantile, spread
from bench.processes import cpu_s
from tests.support.processes import REPOSITORY
from tests.support.site import SECRET, Site
from tests.support.vendors import FakeStripe

#: Clients at once, and how long each side has its turn, in seconds.
CLIENTS = (1, 16, 64)
TURN_S = 1.0


class _Side:
    """One way to the vendor; of each turn: milliseconds of its calls, and how many there were a second.

    `site`: whose luigid relays them; None: they go to the vendor itself.
    """

    def __init__(self, name: str, url: str, credential: str, site: Site | None = None) -> None:
        self.name, self.site = name, site
        #: How many calls were made in all turns.
        self.made = 0
        self.url = f"{url}/v1/payment_intents"
        self.headers = {
            "Authorization": f"Bearer {credential}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.took: list[list[float]] = []
        self.per_s: list[float] = []
        self.cpu_ms: list[float] = []

    def cpu_s(self) -> float:
        """Return what its luigid has used so far."""
        return 0.0 if self.site is None or self.site.luigid is None else cpu_s(self.site.luigid.popen.pid)


async def _turn(side: _Side, clients: int, serial: list[int]) -> None:
    """Let `clients` charge one customer after the other for a while."""
    took: list[float] = []
    used = side.cpu_s()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begun = time.perf_counter()

        async def client() -> None:
            while time.perf_counter() - begun < TURN_S:
                serial[0] += 1
                body = f"amount=1&currency=usd&customer=cus_{serial[0]}&payment_method=pm_x&confirm=true"
                sent = time.perf_counter()
                headers = {**side.headers, "Idempotency-Key": f"bench-{serial[0]}"}
                async with session.post(side.url, data=body, headers=headers) as reply:
                    assert reply.status == 200, await reply.text()
                    await reply.read()
                took.append((time.perf_counter() - sent) * 1000)

        await asyncio.gather(*(client() for _ in range(clients)))
        side.per_s.append(len(took) / (time.perf_counter() - begun))
    side.cpu_ms.append((side.cpu_s() - used) * 1000 / len(took))
    side.took.append(took)
    side.made += len(took)


def _measure(sides: Sequence[_Side], clients: int, turns: int, serial: list[int]) -> dict[str, Any]:
    """Let the sides have `turns` turns each; return what the gateways add to a call, and calls a second."""
    for side in sides:  # Connections are made, and code is warm, before anything counts.
        asyncio.run(_turn(side, clients, serial))
        side.forget()
    for _ in range(turns):
        for side in sides:
            asyncio.run(_turn(side, clients, serial))
    direct, *gateways = sides
    found: dict[str, Any] = {"direct": _figures(direct)}
    for side in gateways:
        found[side.name] = {
            **_figures(side),
            "cpu_ms": spread(side.cpu_ms),
            **{f"added_p{part}_ms": spread(_added(side, direct, part / 100)) for part in (50, 99)},
        }
        reference = gateways[-1]
        if side is not reference:
            ratio = [ours / old for ours, old in zip(side.per_s, reference.per_s, strict=True)]
            found[side.name]["per_s_ratio_to_old"] = spread(ratio)
            found[side.name]["cpu_ratio_to_old"] = spread(
                [ours / old for ours, old in zip(side.cpu_ms, reference.cpu_ms, strict=True)]
            )
    return found


def _figures(side: _Side) -> dict[str, Any]:
    p50 = [median(took) for took in side.took]
    return {"p50_ms": spread(p50), "per_s": spread(side.per_s)}


def _added(side: _Side, direct: _Side, part: float) -> list[float]:
    pairs = zip(side.took, direct.took, strict=True)
    return [quantile(ours, part) - quantile(theirs, part) for ours, theirs in pairs]


def measure_gateway(
    folder: Path, turns: int, old: Path | None = None, clients: Sequence[int] = CLIENTS
) -> dict[str, Any]:
    """Return what the gateway adds to a durable, guarded call, and calls/s; judged by the vendor's books.

    `old`: a checkout of other code, whose gateway has its turns, too.
    """
    vendor = FakeStripe(folder / "vendor")
    checkouts = {"gateway": REPOSITORY, **({"old_gateway": old} if old else {})}
    sides = [_Side("direct", vendor.url, SECRET)]
    serial = [0]
    found: dict[str, Any] = {}
    try:
        for name, checkout in checkouts.items():
            settings = {"default_cap_usd": 100_000, "max_cap_usd": 100_000}
            site = Site(folder / name, stripe=vendor, gateway=True, start=False, spendguard=settings)
            site.start(PYTHONPATH=os.fspath(checkout))
            asked = {"vendor": "stripe", "agent_run_label": "bench"}
            status, key = site.call("POST", "/vault/keys", asked, None)
            sides.append(_Side(name, f"{site.url}/stripe", key["vault_key"], site))
            assert status == 201, key
        for number in clients:
            found[str(number)] = _measure(sides, number, turns, serial)
        assert vendor.moved() == serial[0], "the vendor counted other calls than were made"
        for side in sides:
            if side.site is not None:
                spent = float(side.site.run("bench")["spent_usd"]) * 100
                assert round(spent) == side.made, f"the ledger has {spent} cents of {side.made} calls of one"
        found["calls"] = {"made": serial[0], "through_gateways": serial[0] - sides[0].made}
    finally:
        for side in sides:
            if side.site is not None:
                side.site.end()
        vendor.process.end()
    return found
