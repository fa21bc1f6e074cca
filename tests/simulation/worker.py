"""Workers and what they run: attempts, forked processes of them, programs that hold a vault key."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlencode

from luigi_spendguard.errors import (
    BudgetExceeded,
    KeyRevoked,
    LedgerUnavailable,
    OutcomeUnknown,
    SpendDenied,
    SpendguardError,
)
from luigi_spendguard.guard import Guard
from luigi_spendguard.guard.effects import Call, Effect, Finish, NotSent, Reserve, Send
from luigi_spendguard.http.relay import ClientCall
from luigi_spendguard.protocol.rpcs import ClaimRequest, CloseRunRequest, FinishRequest, OpenRunRequest
from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.registry import VENDORS
from tests.simulation.clients import RELAYED_S, Client, driven, not_denied
from tests.simulation.vendors import ACCOUNT
from tests.simulation.world import Pending, Process

#: How often the Stripe SDK sends a call; the longest it waits before, as a vendor may ask it to, and how long
#: its task does before it makes one again that has failed; how long its process waits to say its last.
SENDS, SENT_AGAIN_S, MADE_AGAIN_S, FLUSH_S = 3, 5.0, 6.0, 30.0
#: Denials after which a task makes a call again at once, as after a lost answer.
PASSING = ("ledger_unavailable", "in_doubt")
FORM = {"content-type": "application/x-www-form-urlencoded"}


class Failed(Exception):
    """A task's own failure: the vendor has refused, or does not answer."""


def request_of(payment: dict[str, Any], key: str) -> Request:
    """Return what a payment asks of its vendor; `key`: as the SDK makes one up, or the caller's own."""
    if payment["vendor"] == "twilio":
        form = {"To": payment["whom"], "From": "+15550000000", "Body": "your order"}
        url = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
        return Request("POST", url, FORM, urlencode(form).encode())
    form = {"amount": payment["cents"], "currency": "usd", "customer": payment["whom"], "confirm": "true"}
    headers = {**FORM, "idempotency-key": key}
    return Request("POST", "https://api.stripe.com/v1/payment_intents", headers, urlencode(form).encode())


class Attempt:
    """One process of an attempt."""

    def __init__(self, site: Any, process: Process, luigid: Any, task: dict[str, Any]) -> None:
        self.site, self.process, self.task, self._calls = site, process, task, 0
        self.client = Client(site, process, luigid)
        site.processes.append(process)

    async def run(self) -> None:
        """Be a task's `run()`. Raises Failed, SpendDenied."""
        made: set[int] = set()
        mine, other = range(len(self.task["payments"])), None
        if self.task["fork"] and len(mine) > 1:
            other = self._fork(made, mine[1::2])
        await self._pay_all(mine[::2] if other else mine, made)
        if other is not None:
            await other
            await self._pay_all([number for number in mine if number not in made], made)
        if self.site.is_disturbed and int(self.process.name.rpartition("#")[2]) <= self.task["fails"]:
            raise Failed("of its own, with all paid")
        self.site.outputs.add(self.task["id"])

    def _fork(self, made: set[int], mine: range) -> Pending:
        """Let a forked process make some of the calls; return what is over when it has, or has ended."""
        process = Process(self.site.world, f"{self.process.name}/fork")
        child, over = Attempt(self.site, process, self.client.luigid, self.task), Pending(self.site.world)
        for one in ("key", "under_way", "unanswered"):
            setattr(child.client, one, getattr(self.client, one))
        child.client.above, child.client.shared, self.client.shared = (self.client,), True, True
        in_pool = self.site.world.chance(process.name, "in a pool") < 0.5

        async def work() -> None:
            with suppress(Failed, SpendDenied):
                await child._pay_all(mine, made)
            if in_pool:  # What it has returned is known before what it has said.
                over.set_result()
            await child.flush()
            process.kill()

        process.gone.then(over.set_result)
        self.site.world.actor(process.name, process, work())
        return over

    async def flush(self) -> None:
        """Say what is left, as long as a process that ends waits for that."""
        with suppress(LedgerUnavailable):
            await self.client.delivered(FLUSH_S)

    async def _pay_all(self, numbers: Any, made: set[int]) -> None:
        for number in numbers:
            await self._pay(self.task["payments"][number], lambda n=number: made.add(n))

    async def _pay(self, payment: dict[str, Any], is_made: Callable[[], Any]) -> None:
        """Make a call, and again where it fails, as often as the task does. Raises Failed, SpendDenied."""
        chance, label = self.site.world.chance, self.process.name
        for left in range(self.task["again"], -1, -1):
            try:
                return await self._call(payment, is_made)
            except (Failed, SpendDenied) as error:
                lasts = isinstance(error, SpendDenied) and error.reason not in PASSING
                if lasts or not left:
                    raise
            await self.site.world.sleep(MADE_AGAIN_S * chance(label, self._calls, "made again") ** 2)

    async def _call(self, payment: dict[str, Any], is_made: Callable[[], Any]) -> None:
        """Make one call, as its SDK sends it. Raises Failed, SpendDenied."""
        site, vendor, why = self.site, payment["vendor"], None
        self._calls += 1
        call = Call(f"{zlib.crc32(self.process.name.encode()):08x}-{self._calls:04}")
        number = zlib.crc32(call.call_id.encode())
        request = request_of(payment, f"{number:08x}-0000-4000-8000-{number:012x}")
        guard = Guard(VENDORS[vendor], site.settings.vendor(vendor), site.secret, {}, site.world.clock)
        site.busy[self.process, payment["whom"]] = True

        async def act(effect: Effect) -> Any:
            if isinstance(effect, Reserve):
                return await self.client.reserve(effect.ask)
            if isinstance(effect, Send):
                return await site.send(self.process, vendor, effect, call.call_id)
            if isinstance(effect, Finish):
                if effect.end.is_made and effect.end.call_id == call.call_id:
                    is_made()
                return await self.client.end(effect.end)
            return await site.world.sleep(effect.seconds)

        try:
            for number in range(SENDS if vendor == "stripe" else 1):
                try:
                    if site.plan["gateway"]:
                        reply = await self.client.forward(vendor, request, call)
                    else:
                        reply = await driven(guard.guarded(request, call), act)
                        self.client.under_way.has_read(call.call_id)
                    if reply.status < 300:
                        is_made()
                        return
                    why = reply.status
                    if why != 409 and why < 500:
                        break
                except (OutcomeUnknown, NotSent, OSError) as error:
                    why = error
                    if isinstance(error, OutcomeUnknown) and not error.again:
                        break
                await site.world.sleep(0.5 + SENT_AGAIN_S * site.world.chance(call.call_id, number) ** 2)
        finally:
            site.busy.pop((self.process, payment["whom"]), None)
        raise Failed(f"{payment['whom']}: {why!r}")


class Worker:
    """A worker's main process: opens its run, announces tasks, runs what it is given, says how that ended."""

    def __init__(self, site: Any, plan: dict[str, Any], lives: int = 1) -> None:
        self.site, self.plan, self.name = site, plan, f"{plan['name']}#{lives}"
        self.process, self.luigid = Process(site.world, self.name), site.luigids[plan["luigid"]]
        self.client, self._attempts, self.is_over = Client(site, self.process, self.luigid), 0, False
        site.workers[self.name] = self
        site.processes.append(self.process)
        site.world.actor(self.name, self.process, self._main())

        def begin_again() -> None:
            if lives < 4 and not self.is_over:
                Worker(site, plan, lives + 1)

        again_s = 1 + site.world.chance(self.name, "again") * 4
        self.process.gone.then(lambda: site.world.later(again_s, begin_again))

    @property
    def _left(self) -> list[dict[str, Any]]:
        mine = [one for one in self.site.plan["tasks"] if one["id"] in self.plan["tasks"]]
        return [one for one in mine if one["id"] not in self.site.outputs]

    async def _main(self) -> None:
        world = self.site.world
        run_id = await self._until(self._opened)
        known_to, idle_s = None, 1.0
        while run_id is not None and self._left:
            if known_to is not self.luigid.process:  # One that was started anew knows nothing.
                await self._until(partial(self._announced, run_id, known_to is None))
                known_to = self.luigid.process
            task_id, due = await self._until(lambda: self.client.ask("get_work", self.name)) or (None, 0)
            idle_s = min(8.0, 2 * idle_s)
            if task_id is not None:
                idle_s = 1.0
                await self._run(task_id, run_id)
            elif not due and world.now > self.site.over_s:
                break
            else:
                await world.sleep(0.3 if due else idle_s)
        if run_id is not None and not self._left:
            over = CloseRunRequest(self.plan["root"], run_id, f"close {self.name}")
            await self.client.tell("close_run", over)
        await self.client.delivered(10 * FLUSH_S)
        self.is_over = True
        self.process.kill()

    async def _until(self, ask: Callable[[], Any]) -> Any:
        """Ask again and again: Luigi's worker does, for a minute each time."""
        limit = self.site.world.now + 60
        while self.site.world.now < limit:
            with suppress(LedgerUnavailable):
                return await ask()
            await self.site.world.sleep(0.5)
        return None

    async def _opened(self) -> str:
        root = self.plan["root"]
        asked = OpenRunRequest(root, self.plan["by_task_id"], "Billing", f"{root}_task", self.plan["usd"])
        return (await self.client.ask("open_run", asked)).run_id

    async def _announced(self, run_id: str, is_new: bool) -> None:
        said = {
            one["id"]: {"cost": one["cost"], "vendors": sorted({p["vendor"] for p in one["payments"]})}
            for one in self._left
        }
        await self.client.ask("announce", self.name, said, run_id, is_new)

    async def _run(self, task_id: str, run_id: str) -> None:
        """Run one attempt of a task in a process of its own."""
        self._attempts += 1
        claim_id, why = f"{self.name}/{task_id}#{self._attempts}", self.site.why
        task = next(one for one in self.site.plan["tasks"] if one["id"] == task_id)
        process = Process(self.site.world, claim_id)
        attempt = Attempt(self.site, process, self.luigid, task)
        outcome = "died"

        async def work() -> None:
            nonlocal outcome
            ended = "failed"
            try:
                usd = None if task["max"] is None else f"{task['max']:.2f}"
                claim = ClaimRequest(claim_id, task_id, "Charge", self.name, run_id, {}, usd)
                attempt.client.key = (await attempt.client.ask("claim", claim)).vault_key
                await attempt.run()
                ended = "returned"
            except (BudgetExceeded, KeyRevoked) as error:
                ended, why[task_id] = "blocked", error
            except (Failed, SpendDenied, LedgerUnavailable) as error:
                why[task_id] = error
            await attempt.flush()
            outcome = ended
            process.kill()

        self.site.world.actor(claim_id, process, work())
        await process.gone
        for one in self.site.processes:  # What it has forked may be killed with it, or go on.
            if one.name.startswith(f"{claim_id}/") and self.site.world.chance(one.name, "with it") < 0.7:
                one.kill()
        said = {"returned": "completed"}.get(outcome, outcome)
        await self.client.tell("finish", FinishRequest(claim_id, said, tuple(attempt.client.gathered)))
        status = {"returned": "done", "blocked": "blocked"}.get(outcome, "failed")
        await self._until(lambda: self.client.ask("status", self.name, task_id, status))


class KeyHolder:
    """A program that holds a vault key, and calls through the gateway under idempotency keys of its own."""

    def __init__(self, site: Any, plan: dict[str, Any]) -> None:
        self.site, self.plan, self._calls = site, plan, 0
        self.process = Process(site.world, plan["name"])
        self.client = Client(site, self.process, site.luigids[plan["luigid"]])
        site.processes.append(self.process)
        site.world.actor(plan["name"], self.process, self._main())

    async def _main(self) -> None:
        for number, payment in enumerate(self.plan["payments"]):
            for _ in range(6):
                if await self._is_paid(payment, f"{self.plan['name']}-order-{number}"):
                    break
                await self.site.world.sleep(1.0)
        self.process.kill()

    async def _is_paid(self, payment: dict[str, Any], key: str) -> bool:
        site, client = self.site, self.client
        site.busy[self.process, payment["whom"]] = True
        self._calls += 1
        try:
            if not client.key:
                issued = await client.ask("issue", self.plan["label"], self.plan["ttl_ms"], None)
                site.keys[self.plan["name"]], client.key = issued[0]["id"], issued[1]
            asked = ClientCall(VENDORS["stripe"], request_of(payment, key))
            to = (client.luigid, "relay", client.key, asked)
            reply = await site.world.ask(self.process, *to, timeout_s=RELAYED_S)
            return not_denied(reply).status < 300
        except KeyRevoked:
            if self.plan["label"] and site.world.chance(self.plan["name"], self._calls, "again") < 0.5:
                client.key = ""
            return False
        except OSError:  # It may be under way there: another gateway is asked.
            here = site.luigids.index(client.luigid)
            client.luigid = site.luigids[(here + 1) % len(site.luigids)]
            return False
        except SpendguardError as error:
            # A key without a label is a run of its own, and what was paid in one is not known in another.
            if self.plan["label"] and isinstance(error, SpendDenied) and error.reason == "expired":
                client.key = ""
            return False
        finally:
            site.busy.pop((self.process, payment["whom"]), None)
