"""One history: the machine with its ledger, luigids, workers, programs, operators and vendors, by a plan."""

from __future__ import annotations

import logging
import random
import secrets
import types
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from luigi_spendguard import backoff
from luigi_spendguard.config import Settings
from luigi_spendguard.errors import SpendguardError
from luigi_spendguard.guard.effects import Late, NotSent, Send
from luigi_spendguard.http import shared
from luigi_spendguard.ledger.database.sqlite import FileTx
from luigi_spendguard.money import Micros, format_usd, plain_usd
from luigi_spendguard.protocol.operators import ResolveRequest
from luigi_spendguard.proxy import attempts
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors import Reply
from scheduler_patch import service
from scheduler_patch.service import bookings, operators
from scheduler_patch.service import ledger as books
from tests.simulation.disk import Disk, File
from tests.simulation.judge import Judge
from tests.simulation.luigid import Luigid
from tests.simulation.vendors import ACCOUNT, JSON, Vendors, whom_of
from tests.simulation.worker import KeyHolder, Worker
from tests.simulation.world import Pending, Process, World, patiently

Plan = dict[str, Any]
SECRET = "sk_test_of_the_simulation_0123456789"
#: How long a sender waits for its vendor, in seconds; how much longer than the last act of the plan a worker
#: with only blocked tasks stays; after how long an operator looks again.
TIMEOUT_S, STAYS_S, LOOKS_S = 20.0, 8.0, 1.0
_OPEN = "SELECT (SELECT count(*) FROM call WHERE state = 'pending'), (SELECT count(*) FROM price_due)"
_RESOLVED = (
    "SELECT DISTINCT call.id, call.target FROM call JOIN journal ON call_id = call.id AND kind = 'operator'"
)


@cache
def _settings(day: int | None, family: int | None, at_gateway: bool) -> Settings:
    micros = {one: Micros(one * 1_000_000) for one in (day, family, 1000, 20) if one is not None}
    families = {} if family is None else {"Charge": micros[family]}
    caps = Caps(limit=micros[1000], default=micros[20], day=micros.get(day), task_families=families)
    own = {"stripe": {}, "twilio": {"account_sid": ACCOUNT}}
    secret = SECRET if at_gateway else None
    vendors = {
        name: VendorSettings(name, secret, timeout_s=TIMEOUT_S, own=each) for name, each in own.items()
    }
    return Settings(Path("/nowhere/of-a-simulation.db"), caps, vendors=vendors)


class Site:
    """What a history is made of. `run` lives it, and judges it. Raises Broken."""

    secret = SECRET

    def __init__(self, plan: Plan, trace: list[str] | None = None) -> None:
        self.plan, self.world = plan, World(plan["seed"], plan["faults"], trace)
        self.settings = _settings(plan["day"], plan["family"], plan["gateway"])
        self.disk = (File if plan["file"] else Disk)(self.world)
        self.vendors, self.judge = Vendors(), Judge(self)
        self.processes: list[Process] = []
        self.workers: dict[str, Worker] = {}
        #: Whom processes are paying right now; whom a request is on its way about.
        self.busy: dict[tuple[Process, str], bool] = {}
        self.on_their_way: list[str] = []
        #: What operators have said wrongly: whom it concerns may be paid again, or be said to be.
        self.misjudged: set[str] = set()
        #: Tasks whose output is there; why a task's last attempt has not returned; programs' keys, by name.
        self.outputs: set[str] = set()
        self.why: dict[str, Exception] = {}
        self.keys: dict[str, str] = {}
        self.is_disturbed = True
        self._open = (-1, (0, 0))
        acts = [*plan["acts"], *(fault for fault in plan["faults"] if "at" in fault)]
        self.over_s = max([act["at"] for act in acts], default=0.0) + STAYS_S
        self.acts_left = len(plan["acts"])

    def run(self) -> None:
        with _determined(self.world):
            try:
                self.luigids = [Luigid(self, f"luigid{n}") for n in range(self.plan["luigids"])]
                for worker in self.plan["workers"]:
                    Worker(self, worker)
                for holder in self.plan["holders"]:
                    KeyHolder(self, holder)
                for act in self.plan["acts"]:
                    self._plan(act)
                for fault in self.plan["faults"]:
                    if fault["fault"] in ("power", "disk full", "clock", "presumed dead"):
                        self.world.later(fault["at"], lambda fault=fault: self._trouble(fault))
                self.world.run(self.goes_on)
                self._go_on_undisturbed()
                self.judge.at_the_end()
            finally:
                self.world.close()
                self.disk.close()

    def _go_on_undisturbed(self) -> None:
        """Submit the roots once more, with all faults behind: what can be done at all is done now."""
        self.is_disturbed, self.disk.trouble = False, None
        for left in (self.world.faults, self.world.held, self.world.kills):
            left.clear()
        for plan in self.plan["workers"][:1]:
            if any(task not in self.outputs for task in plan["tasks"]):
                self.why.clear()
                Worker(self, {**plan, "name": "undisturbed"})
                self.world.run(self.goes_on)

    def goes_on(self) -> bool:
        return bool(self.world.actors or self.acts_left or any(self.open_calls()))

    def open_calls(self) -> tuple[int, int]:
        """Return how many calls have not ended, and how many wait for their price."""
        if self._open[0] != self.disk.commits:
            pending, due = self.tx().values(_OPEN) or (0, 0)
            self._open = self.disk.commits, (pending, due)
        return self._open[1]

    def look(self, sql: str, *values: Any) -> Any:
        """Look into the ledger, past everything."""
        return self.tx().value(sql, *values)

    def tx(self) -> FileTx:
        return FileTx(self.disk.reader())

    def is_alive(self, worker: str) -> bool:
        return self.workers[worker].process.alive

    def committed(self) -> None:
        if self.disk.is_lost:
            self.disk.is_lost = False
            self._lose_all()
        self.judge.after_commit()

    # Trouble.

    def _trouble(self, fault: Plan) -> None:
        if not self.is_disturbed:
            return
        self.world.say(f"fault: {fault}")
        if fault["fault"] == "clock":
            self.world.step_ms += int(fault["by"] * 1000)
        elif fault["fault"] == "presumed dead":
            for luigid in self.luigids:
                luigid.presume_dead(fault["who"])
        elif fault["fault"] == "disk full":
            trouble = self.disk.trouble = self.disk.full_for_now(fault["at"])
            self.world.later(fault["for"], lambda: self._room_again(trouble))
        elif fault["within"]:
            self.disk.trouble = self.disk.lost_within(fault["at"])
        else:
            self.disk.lose_power()
            self._lose_all()

    def _room_again(self, trouble: Any) -> None:
        if self.disk.trouble is trouble:
            self.disk.trouble = None

    def _lose_all(self) -> None:
        """Kill everything; what was on its way to a vendor arrives all the same."""
        self.world.say("the power fails")
        for process in (*(luigid.process for luigid in self.luigids), *self.processes):
            process.kill()

    # Vendors.

    async def send(self, process: Process, vendor: str, effect: Send, call_id: str) -> Reply:
        """Send a request to a vendor, as `http/transport.py` does. Raises NotSent, OSError."""
        world, request, whom = self.world, effect.request, whom_of(effect.request)
        label = (process.name, process.steps)
        fault = world.fault("vendor", process.name) if whom else None
        how = fault["how"] if fault else ""
        await world.sleep(3.0 if how == "late" else 0.002 + 0.03 * world.chance(*label, "connect"))
        if how == "refused":
            raise NotSent("it refuses connections")
        if world.now >= effect.deadline:
            raise Late("the grant was too old when the connection was ready")
        if whom:
            self.judge.first_byte(call_id, whom)
            self.on_their_way.append(whom)
        world.say(f"{process.name} sends {request.method} {whom} for {call_id} {how}")
        answered = Pending(world)

        def arrived() -> None:
            if how in ("503 before", "reset before", "429"):
                self._answer(answered, whom, how, None)
            elif (reply := self.vendors.begin(vendor, request, world.now)) is not None:
                self._answer(answered, whom, how, reply)
            else:
                world.later(6.0 if how == "slow" else 0.05 + 0.5 * world.chance(*label, "lasts"), executed)

        def executed() -> None:
            real_ms = world.wall_ms() - world.step_ms
            reply, made = self.vendors.execute(vendor, request, call_id, world.now, how, real_ms)
            if made is not None:
                world.say(f"{vendor} has moved {format_usd(Micros(made.micros))} for {whom}: {call_id}")
                self.judge.moved(made)
            self._answer(answered, whom, how, reply)

        world.later(14.0 if how == "arrives late" else 0.01 + 0.1 * world.chance(*label, "there"), arrived)
        return await world.within(TIMEOUT_S, answered)

    def _answer(self, answered: Pending, whom: str, how: str, reply: Reply | None) -> None:
        if whom:
            self.on_their_way.remove(whom)
        if how.startswith("reset"):
            self.world.later(0.01, lambda: answered.set_exception(ConnectionError("reset")))
        elif how != "no answer":
            refusal = Reply(int(how[:3]), JSON, b"{}") if how.startswith(("503", "429")) else None
            self.world.later(0.01, lambda: answered.set_result(refusal or reply))

    # Operators.

    def _plan(self, act: Plan) -> None:
        process = Process(self.world, f"operator {act['at']}")

        async def work() -> None:
            await self.world.sleep(act["at"])
            for _ in range(act.get("looks", 1)):  # Who looks at what is in doubt comes back to it.
                self.world.say(f"operator: {act}")
                await getattr(self, f"_{act['act']}")(process, act)
                await self.world.sleep(LOOKS_S)
            self.acts_left -= 1

        self.world.actor(process.name, process, work())

    async def _asked(self, process: Process, act: Plan, *message: Any) -> None:
        """Ask a luigid until it answers, as a person would: half an hour."""
        luigid, waits = self.luigids[act["luigid"]], backoff.growing(0.5, 5.0)
        try:
            await patiently(
                self.world, lambda: self.world.ask(process, luigid, *message, timeout_s=6.0), waits, 1800
            )
        except SpendguardError as error:
            self.world.say(f"operator is refused: {error}")

    async def _revoke(self, process: Process, act: Plan) -> None:
        await self._asked(process, act, "revoke", act["run"])

    async def _revoke_key(self, process: Process, act: Plan) -> None:
        if act["holder"] in self.keys:
            await self._asked(process, act, "revoke_key", self.keys[act["holder"]])

    async def _top_up(self, process: Process, act: Plan) -> None:
        await self._asked(process, act, "top_up", act["run"], act["usd"], f"top-up {act['at']}")

    async def _resolve(self, process: Process, act: Plan) -> None:
        """Resolve what is in doubt by the vendor's books; the hasty look while something is on its way."""
        for row in self.tx().all("SELECT id, target, vendor FROM call WHERE state = 'in_doubt'"):
            whom = row["target"]
            in_use = any(one == whom and process.alive for process, one in self.busy)
            if in_use or whom in self.on_their_way:
                if not act["hasty"]:
                    continue
                self.misjudged.add(whom)
            others = self.tx().all("SELECT object_id FROM call WHERE id <> ?", row["id"])
            known = {one["object_id"] for one in others}
            made = [one for one in self.vendors.moved if one.whom == whom and one.object_id not in known]
            said: dict[str, Any] = {"not_sent": True}
            if made:
                said = {"spent_usd": plain_usd(Micros(made[0].micros)), "object_id": made[0].object_id}
                said["overrun"] = True
            elif self.vendors.cancel_open(whom):  # The reply that named it may still come.
                self.misjudged.add(whom)
            request_id = f"resolve {self.world.now} {row['id']}"
            await self._asked(
                process, act, "resolve", ResolveRequest(row["id"], **said, request_id=request_id)
            )

    async def _correct(self, process: Process, act: Plan) -> None:
        """Correct what was said wrongly, by the vendor's books."""
        for row in self.tx().all(_RESOLVED):
            mine = row["target"] in self.misjudged
            for made in [one for one in self.vendors.moved if mine and one.call_id == row["id"]][:1]:
                said = {"spent_usd": plain_usd(Micros(made.micros)), "object_id": made.object_id}
                said |= {"request_id": f"correct {self.world.now} {row['id']}"}
                request = ResolveRequest(row["id"], **said, overrun=True, correct=True)
                await self._asked(process, act, "resolve", request)


@contextmanager
def _determined(world: World) -> Iterator[None]:
    """Let nothing be by chance or by the real clock."""
    numbers = random.Random(world.seed)

    def made_up() -> uuid.UUID:
        return uuid.UUID(int=numbers.getrandbits(128), version=4)

    async def at_once(answer: Pending, _: float) -> Any:
        return await answer

    def is_gone(pid: int) -> bool:
        return not world.processes[pid].alive

    def token(*_: object) -> str:
        return f"{numbers.getrandbits(250):043x}"[:43]

    clock = types.SimpleNamespace(monotonic=world.clock, time=lambda: world.wall_ms() / 1000)
    system = types.SimpleNamespace(getpid=lambda: world.current and world.current.pid)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            mock.patch.object(operators, "asyncio", types.SimpleNamespace(sleep=world.sleep)),
            mock.patch.object(operators, "time", clock),
            mock.patch.object(service, "time", clock),
            mock.patch.object(bookings, "time", clock),
            mock.patch.object(
                books, "asyncio", types.SimpleNamespace(wait_for=at_once, TimeoutError=OSError)
            ),
            mock.patch.object(shared, "os", system),
            mock.patch.object(attempts, "os", system),
            mock.patch.object(shared, "is_gone", is_gone),
            mock.patch.object(attempts, "is_gone", is_gone),
            mock.patch.object(uuid, "uuid4", made_up),
            mock.patch.object(secrets, "token_urlsafe", token),
        ):
            yield
    finally:
        logging.disable(level)
