"""A call through the gateway beside the same call to the vendor itself: interleaved, 1, 16 and 64 clients."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp

from bench.calls import quantile
from tests.support.site import SECRET, Site

#: Clients at once, and how long each side has its turn, in seconds.
CLIENTS = (1, 16, 64)
TURN_S = 1.0


class _Side:
    """One way to the vendor: how long each call took, in milliseconds, and for how long it was used."""

    def __init__(self, url: str, credential: str) -> None:
        self.url = f"{url}/v1/payment_intents"
        self.headers = {
            "Authorization": f"Bearer {credential}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        self.took: list[float] = []
        self.used_s = 0.0


async def _turn(session: aiohttp.ClientSession, side: _Side, clients: int, serial: list[int]) -> None:
    """Let `clients` charge one customer after the other for a while."""
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
            side.took.append((time.perf_counter() - sent) * 1000)

    await asyncio.gather(*(client() for _ in range(clients)))
    side.used_s += time.perf_counter() - begun


async def _measure(site: Site, key: str, clients: int, turns: int, serial: list[int]) -> dict[str, float]:
    direct, through = _Side(site.stripe.url, SECRET), _Side(f"{site.url}/stripe", key)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for side in (direct, through):  # Connections are made before anything counts.
            await _turn(session, side, clients, serial)
            side.took.clear()
            side.used_s = 0.0
        for _ in range(turns):
            for side in (direct, through):
                await _turn(session, side, clients, serial)
    found: dict[str, float] = {}
    for part, name in ((0.5, "p50"), (0.99, "p99")):
        at = {side: quantile(side.took, part) for side in (direct, through)}
        found[f"gateway_{clients}_direct_{name}_ms"] = round(at[direct], 2)
        found[f"gateway_{clients}_added_{name}_ms"] = round(at[through] - at[direct], 2)
    for side, name in ((direct, "direct"), (through, "through")):
        found[f"gateway_{clients}_{name}_per_s"] = round(len(side.took) / side.used_s)
    return found


def measure_gateway(folder: Path, turns: int) -> dict[str, float]:
    """Return what the gateway adds to a durable, guarded call, and calls/s; judged by the vendor's books."""
    found: dict[str, float] = {}
    settings = {"default_cap_usd": 100_000, "max_cap_usd": 100_000}
    with Site(folder, gateway=True, spendguard=settings) as site:
        status, key = site.call("POST", "/vault/keys", {"vendor": "stripe", "agent_run_label": "bench"}, None)
        assert status == 201, key
        serial = [0]
        for clients in CLIENTS:
            found |= asyncio.run(_measure(site, key["vault_key"], clients, turns, serial))
        assert site.stripe.moved() == serial[0], "the vendor counted other calls than were made"
    return found
