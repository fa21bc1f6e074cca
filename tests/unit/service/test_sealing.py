"""luigid seals the audit by the clock and at its end, and tells its blocks elsewhere."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import runs
from luigi_spendguard.ledger.audit import blocks
from luigi_spendguard.ledger.audit.blocks import Block, last_block
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.money import Micros
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService, anchors, sealing
from scheduler_patch.service.anchors import Anchors
from scheduler_patch.service.sealing import Sealing
from tests.support.processes import free_port, wait_until


def settings_in(folder: Path, **more: object) -> Settings:
    return Settings(folder / "books.db", Caps(default=Micros(1000)), **more)  # type: ignore[arg-type]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LedgerService]:
    service = LedgerService(settings_in(tmp_path), BudgetScheduler())
    yield service
    service.close()


def open_run(service: LedgerService, run_id: str) -> None:
    request = runs.RunRequest(run_id, False, "Root", "Root_1", Micros(1000))
    asyncio.run(service.record(runs.open_run, request))


def last(service: LedgerService) -> Block | None:
    ledger = service.opened
    return None if ledger is None else ledger.read(last_block).result(20)


def test_without_a_ledger_there_is_no_key_and_no_file(tmp_path: Path, service: LedgerService) -> None:
    sealing = Sealing(service)
    assert not sealing.seal()
    sealing.finish()
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_sealed_by_the_clock(
    service: LedgerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "EVERY_S", 0.01)
    sealed = threading.Event()
    made = Sealing(service)
    monkeypatch.setattr(made, "_tell", lambda block: sealed.set())
    made.start()
    open_run(service, "run")
    assert sealed.wait(20)
    made.finish()
    head = KeyFiles(service.settings.audit_key).head()
    block = last(service)
    assert head is not None
    assert block is not None
    assert head.hash == block.hash


def test_what_was_written_last_is_sealed_at_the_end(service: LedgerService) -> None:
    made = Sealing(service)
    open_run(service, "run")
    made.finish()
    assert last(service) is not None


def test_why_it_is_not_sealed_is_told_until_it_is(service: LedgerService) -> None:
    made = Sealing(service)
    open_run(service, "run")
    key = service.settings.audit_key
    key.write_text("no key")
    key.chmod(0o600)
    made.seal()
    assert "is no Ed25519 key" in service.audit_stopped
    key.unlink()
    made.seal()
    assert service.audit_stopped == ""


def test_another_key_file_is_gone_on_with_after_a_reload(service: LedgerService, tmp_path: Path) -> None:
    made = Sealing(service)
    open_run(service, "run")
    made.seal()
    service.settings = settings_in(tmp_path, audit_key_file=tmp_path / "elsewhere")
    open_run(service, "other")
    made.seal()
    assert "not signed by a key in" in service.audit_stopped
    assert str(tmp_path / "elsewhere.public") in service.audit_stopped


def test_who_has_much_to_seal_leaves_room_until_luigid_ends(
    service: LedgerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST", 1)
    made, rests = Sealing(service), list[float]()
    monkeypatch.setattr(made._ended, "wait", rests.append)
    for name in ("one", "two"):
        open_run(service, name)
    made.seal()
    assert len(rests) == 1


def test_a_look_that_hangs_holds_nobody_up_at_the_end(
    service: LedgerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "EVERY_S", 0.001)
    monkeypatch.setattr(sealing, "_END_S", 0.001)
    made, hangs, over = Sealing(service), threading.Event(), threading.Event()
    looks: list[bool] = []

    def hang(*args: object, last: bool = False) -> bool:
        looks.append(last)
        hangs.set()
        over.wait(20)
        return False

    monkeypatch.setattr(made, "seal", hang)
    made.start()
    assert hangs.wait(20)
    made.finish()
    assert looks == [False]
    over.set()


def test_a_program_that_has_ended_and_begins_no_thread_seals_what_there_is(
    service: LedgerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(act: object, name: str) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(anchors, "begin_thread", refuse)
    monkeypatch.setattr(blocks, "MOST", 1)
    service.settings = settings_in(tmp_path, audit_anchor=("https://127.0.0.1:1/",))
    for name in ("one", "two"):
        open_run(service, name)
    Sealing(service).finish()
    block, head = last(service), KeyFiles(service.settings.audit_key).head()
    assert block is not None
    assert head is not None
    assert (block.number, head.hash) == (2, block.hash)
    assert "cannot be sealed" not in caplog.text


def test_who_is_a_guest_leaves_it_to_who_has_the_key(service: LedgerService, tmp_path: Path) -> None:
    open_run(service, "run")
    Sealing(service).seal()
    open_run(service, "other")
    service.settings = settings_in(tmp_path, audit_key_file=tmp_path / "elsewhere")
    Sealing(service, guest=True).seal()
    block = last(service)
    assert block is not None
    assert (block.number, service.audit_stopped) == (1, "")
    assert not (tmp_path / "elsewhere").exists()
    service.settings = settings_in(tmp_path)
    Sealing(service, guest=True).seal()
    block = last(service)
    assert block is not None
    assert block.number == 2


@pytest.fixture
def block(service: LedgerService) -> Block:
    open_run(service, "run")
    Sealing(service).seal()
    found = last(service)
    assert found is not None
    return found


def test_blocks_are_appended_to_a_file(service: LedgerService, block: Block, tmp_path: Path) -> None:
    told = tmp_path / "told.jsonl"
    service.settings = settings_in(tmp_path, audit_anchor=(str(told),))
    made = Sealing(service)
    for name in ("a", "b"):
        open_run(service, name)
        made.seal()
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    assert [line["number"] for line in lines] == [2, 3]
    assert Block.of(lines[1]) == last(service)


def test_a_file_that_cannot_be_written_is_said_once(
    block: Block, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Anchors()
    for _ in range(2):
        told.tell(block, (str(tmp_path / "nowhere" / "a.jsonl"),))
    assert caplog.text.count("are not told to") == 1
    told.close()


def test_nobody_waits_for_a_pipe_that_is_not_read(
    block: Block, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    told = Anchors()
    told.tell(block, (str(pipe),))
    assert f"{pipe} for now: {os.strerror(errno.ENXIO)}" in caplog.text
    told.close()


def test_of_a_block_that_a_full_disk_has_cut_off_nothing_stays(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told, write = tmp_path / "told.jsonl", os.write
    monkeypatch.setattr(anchors.os, "write", lambda file, text: write(file, text[:50]))
    Anchors().tell(block, (str(told),))
    assert os.strerror(errno.ENOSPC) in caplog.text
    monkeypatch.undo()
    Anchors().tell(block, (str(told),))
    assert [Block.of(json.loads(line)) for line in told.read_text().splitlines()] == [block]


def test_of_an_address_that_cannot_be_reached_the_host_alone_is_said(
    block: Block, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(anchors, "_LAST_S", 0.0)
    told = Anchors()
    told.tell(block, (f"http://127.0.0.1:{free_port()}/secret-path",))
    wait_until(lambda: "are not told to 127.0.0.1" in caplog.text, what="the warning")
    told.close()
    assert "secret-path" not in caplog.text


class Listener(BaseHTTPRequestHandler):
    """Takes what is told but the first `failing` times."""

    failing = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Listener.failing -= 1
        heard.append((body["number"], Listener.failing < 0))
        self.send_response(503 if Listener.failing >= 0 else 204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


heard: list[tuple[int, bool]] = []


def test_an_address_is_told_again_until_it_has_taken_it(
    block: Block, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(anchors.backoff, "growing", lambda first, longest: iter([0.001] * 99))
    heard.clear()
    Listener.failing = 2
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/secret-path"
        told = Anchors()
        told.tell(block, (url,))
        told.close()
        assert heard == [(1, False), (1, False), (1, True)]
        assert "503" in caplog.text
        assert "secret-path" not in caplog.text
        for one in threading.enumerate():  # It tells no more, and ends.
            if one.name == "spendguard-anchor":
                one.join(20)
                assert not one.is_alive()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
