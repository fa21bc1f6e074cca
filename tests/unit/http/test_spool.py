"""What waits on disk: whole, in order, its owner's alone, and taken over by one process once."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard import backoff
from luigi_spendguard.errors import LedgerUnavailable, PluginError, SpendguardError, denial
from luigi_spendguard.http.outbox import Outbox
from luigi_spendguard.http.spool import Kept, Spool, backlog
from luigi_spendguard.http.spool_file import REFUSED, SpoolFile
from luigi_spendguard.protocol import EndRequest, rpcs
from luigi_spendguard.protocol.rpcs import EndedCall, EndedReply, FinishReply, FinishRequest
from tests.support.processes import wait_until
from tests.support.programs import lacking

TO = "http://luigid:8082"
KEY = "vault_key_canary_of_the_spool"


def kept(number: int) -> Kept:
    what = f"message {number}"
    return Kept.of(what, rpcs.FINISH, FinishRequest(what, "returned"))


def left_by(folder: Path, *numbers: int, to: str = TO) -> Path:
    """Let a process that is gone have left these; return its file."""
    own = Spool(to, folder)
    before = files(folder)
    own.keep([kept(number) for number in numbers])
    own._renew()  # As when it is gone: nobody has the file.
    [file] = set(files(folder)) - set(before)
    return file


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def taken(folder: Path, *, most: int = 99, to: str = TO) -> list[str]:
    """Take over what was left; return it."""
    found = []
    with contextlib.closing(Spool(to, folder).left()) as left:
        for waiting in left:
            if len(found) == most:
                break
            found.append(waiting.kept.what)
            waiting.heard(FinishReply(True))
    return found


def test_it_is_taken_over_in_its_order_and_once(tmp_path: Path) -> None:
    left_by(tmp_path, 1, 2)
    left_by(tmp_path, 3)
    left_by(tmp_path, 9, to="http://another:8082")
    assert taken(tmp_path) == ["message 1", "message 2", "message 3"]
    assert taken(tmp_path) == []
    assert backlog(tmp_path).waiting.keys() == {"http://another:8082"}
    assert len(files(tmp_path)) == 1


def test_what_is_for_another_ledger_is_left_to_that(tmp_path: Path) -> None:
    file = left_by(tmp_path, 1, to="http://another:8082")
    assert SpoolFile.taken(file, TO) is None
    mine = SpoolFile.taken(file, "http://another:8082")
    assert mine is not None
    assert len(mine.waiting) == 1
    assert taken(tmp_path) == []
    mine.end()
    assert taken(tmp_path, to="http://another:8082") == ["message 1"]


def test_what_was_said_is_not_said_again_by_who_goes_on(tmp_path: Path) -> None:
    left_by(tmp_path, 1, 2, 3)
    assert taken(tmp_path, most=2) == ["message 1", "message 2"]
    assert backlog(tmp_path).waiting[TO][0] == 1
    assert taken(tmp_path) == ["message 3"]


def test_what_can_be_said_later_only_holds_up_nothing_and_stays(tmp_path: Path) -> None:
    left_by(tmp_path, 1, 2)
    left_by(tmp_path, 3)
    with contextlib.closing(Spool(TO, tmp_path).left()) as left:
        for waiting in left:
            if waiting.kept.what != "message 1":
                waiting.heard(FinishReply(True))
    assert taken(tmp_path) == ["message 1"]


def test_it_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "spool"
    before = os.umask(0)
    try:
        file = left_by(folder, 1)
        with contextlib.closing(Spool(TO, folder).left()) as left:
            next(left).refused("no")
    finally:
        os.umask(before)
    refused = folder / "refused"
    left_by(folder, 2)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, refused, files(folder)[0])]
    assert modes == [0o700, 0o700, 0o600]
    assert stat.S_IMODE((refused / file.name).stat().st_mode) == 0o600
    folder.chmod(0o755)
    left_by(folder, 3)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_is_durable_when_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's content, and, where that is new, that there is such a file."""
    done, write, fsync = list[tuple[str, str]](), os.write, os.fsync

    def name(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix or "folder"

    def written(descriptor: int, data: bytes) -> int:
        done.append(("write", name(descriptor)))
        return write(descriptor, data)

    def synced(descriptor: int) -> None:
        done.append(("sync", name(descriptor)))
        fsync(descriptor)

    own = Spool(TO, tmp_path)
    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(os, "fsync", synced)
    own.keep([kept(1)])
    assert done == [("write", ".jsonl"), ("write", ".jsonl"), ("sync", ".jsonl"), ("sync", "folder")]
    done.clear()
    own.keep([kept(2), kept(3)])
    assert done == [("write", ".jsonl"), ("sync", ".jsonl")]


def test_a_line_that_was_cut_off_is_passed_over_and_what_is_noted_behind_it_is_read(tmp_path: Path) -> None:
    file = left_by(tmp_path, 1, 2)
    with file.open("ab") as torn:
        torn.write(b'{"n":3,"what":"mess')
    assert taken(tmp_path, most=1) == ["message 1"]
    assert taken(tmp_path) == ["message 2"]
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        "[" * 200_000,
        "[]",
        '{"n":{},"what":"w","rpc":"spend_finish","request":{}}',
        '{"n":9,"what":"w","rpc":{},"request":{}}',
        '{"n":9,"what":"w","rpc":"spend_finish","request":{},"more":1}',
        '{"said":[1]}',
    ],
)
def test_a_line_of_somebody_elses_making_stops_nothing(tmp_path: Path, line: str) -> None:
    file = left_by(tmp_path, 1)
    file.write_text(f"{file.read_text()}{line}\n")
    left_by(tmp_path, 2)
    assert sum(count for count, _ in backlog(tmp_path).waiting.values()) == 2
    assert taken(tmp_path) == ["message 1", "message 2"]


@pytest.mark.parametrize("content", [b"", b'{"version":1,"to":"htt', b"\n\n", b"[1]\n5\n"])
def test_a_file_whose_process_was_killed_before_it_had_kept_anything_goes(
    tmp_path: Path, content: bytes
) -> None:
    left_by(tmp_path, 1).write_bytes(content)
    assert taken(tmp_path) == []
    assert files(tmp_path) == []


def test_what_says_not_whom_it_is_for_is_said_to_nobody(tmp_path: Path) -> None:
    file = left_by(tmp_path, 1)
    file.write_bytes(file.read_bytes().replace(b'{"version"', b'{version"'))
    assert taken(tmp_path) == []
    assert files(tmp_path) == [file]


def test_a_file_of_a_later_version_is_left_to_that(tmp_path: Path) -> None:
    file = left_by(tmp_path, 1)
    file.write_bytes(file.read_bytes().replace(b'"version":1', b'"version":2'))
    assert taken(tmp_path) == []
    assert files(tmp_path) == [file]


def test_no_vault_key_stands_there(tmp_path: Path) -> None:
    end = EndRequest("settle", "call", answer_body=json.dumps({"id": "pi_1"}))
    Spool(TO, tmp_path).keep([Kept.ended(KEY, [end])])
    [file] = files(tmp_path)
    assert b"pi_1" in file.read_bytes()
    assert b"canary" not in file.read_bytes()


def test_nobody_takes_what_a_living_process_has_to_say(tmp_path: Path) -> None:
    own = Spool(TO, tmp_path)
    numbers = own.keep([kept(1), kept(2)])
    assert taken(tmp_path) == []
    own.said(numbers[:1])
    assert backlog(tmp_path).waiting[TO][0] == 1
    own.said(numbers[1:])
    assert files(tmp_path) == []


def test_a_file_that_another_one_took_for_empty_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made, and not yet locked."""
    flock, looks = fcntl.flock, [taken]

    def lock(descriptor: int, how: int) -> None:
        if looks:
            assert looks.pop()(tmp_path) == []
            assert files(tmp_path) == []
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    Spool(TO, tmp_path).keep([kept(1)])
    assert not looks
    assert waits(tmp_path) == 1


def test_a_forked_child_neither_frees_its_parents_lock_nor_keeps_it(tmp_path: Path) -> None:
    own = Spool(TO, tmp_path)
    own.keep([kept(1)])
    here, there = multiprocessing.Pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            there.send(taken(tmp_path))
            there.recv()
            there.send(taken(tmp_path))
        os._exit(0)
    assert here.recv() == []
    assert taken(tmp_path) == []
    own._renew()  # Now it is nobody's, though the child lives.
    here.send(None)
    assert here.recv() == ["message 1"]
    os.waitpid(pid, 0)


def test_those_who_take_over_at_once_say_each_message_once(tmp_path: Path) -> None:
    for number in range(0, 40, 2):
        left_by(tmp_path, number, number + 1)
    children, go = [], tmp_path / "go"
    for number in range(4):
        if not (pid := os.fork()):
            with contextlib.suppress(BaseException):
                wait_until(go.exists)
                (tmp_path / f"heard-{number}").write_text("\n".join(taken(tmp_path)) + "\n")
                os._exit(0)
            os._exit(1)
        children.append(pid)
    go.touch()
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    heard = [line for path in tmp_path.glob("heard-*") for line in path.read_text().splitlines() if line]
    assert sorted(heard) == sorted(f"message {number}" for number in range(40))


def test_what_is_refused_for_good_is_put_aside_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = left_by(tmp_path, 1, 2)
    with contextlib.closing(Spool(TO, tmp_path).left()) as left:
        next(left).refused("there is no such claim")
        next(left).heard(EndedReply((EndedCall("a", "settled"), EndedCall("b", refused="it is another's"))))
    assert files(tmp_path) == []
    first, second = map(json.loads, (tmp_path / "refused" / file.name).read_text().splitlines())
    assert (first["refused"], first["what"], first["to"]) == ("there is no such claim", "message 1", TO)
    assert second["refused"] == "b: it is another's"
    assert backlog(tmp_path).refused == 2
    assert "message 1 was refused, and is put aside" in caplog.text


def test_what_another_user_has_put_there_is_said_by_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    left_by(folder, 1)
    aside = tmp_path / "aside"
    folder.rename(aside)
    folder.symlink_to(aside)
    assert taken(folder) == []
    with pytest.raises(PermissionError, match="another user's"):
        Spool(TO, folder).keep([kept(1)])
    with pytest.raises(PermissionError, match="another user's"):
        backlog(folder)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A small disk, or a limit as small."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, is_small = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], False
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(mount, check=True, capture_output=True)
        is_small = True
    if is_small:
        yield disk
        subprocess.run(["umount", "-l", disk], check=True)  # A test that fails has it open still.
        return
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    if handler is not signal.SIG_IGN:
        lacking("needs a small disk")
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, before[1]))
    yield disk
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_what_was_kept_stays_whole(full: Path) -> None:
    own = Spool(TO, full / "spool")
    own.keep([kept(1)])
    long = Kept.of("a long one", rpcs.FINISH, FinishRequest("x" * 40_000, "returned"))
    with pytest.raises(OSError, match=r"No space left|File too large"):
        own.keep([kept(2), long])
    own.keep([kept(3)])
    own._renew()
    assert taken(full / "spool") == ["message 1", "message 3"]


def test_on_a_disk_that_is_full_from_the_beginning_nothing_is_left_behind(full: Path) -> None:
    own = Spool(TO, full / "spool")
    long = Kept.of("a long one", rpcs.FINISH, FinishRequest("x" * 40_000, "returned"))
    with pytest.raises(OSError, match=r"No space left|File too large"):
        own.keep([long])
    assert files(full / "spool") == []
    own.keep([kept(1)])
    assert len(files(full / "spool")) == 1


# An outbox with a spool.


class Ledger:
    """One that is away until `error` is None."""

    def __init__(self) -> None:
        self.error: SpendguardError | None = LedgerUnavailable("it is away")
        self.heard: list[int] = []

    def tell(self, outbox: Outbox, number: int, *, may_stay: bool = True) -> None:
        def hear() -> None:
            if self.error is not None:
                raise self.error
            self.heard.append(number)

        outbox.tell(f"message {number}", hear, (lambda: kept(number)) if may_stay else None)


def waits(folder: Path) -> int:
    return sum(count for count, _ in backlog(folder).waiting.values())


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "LATER", (0.02, 0.02))


def test_what_could_not_be_said_is_on_disk_until_it_is(tmp_path: Path) -> None:
    ledger, outbox = Ledger(), Outbox(Spool(TO, tmp_path))
    for number in range(3):
        ledger.tell(outbox, number)
    wait_until(lambda: waits(tmp_path) == 3)
    assert taken(tmp_path) == [], "its process says it itself"
    ledger.error = None
    assert outbox.flush(20)
    assert ledger.heard == [0, 1, 2]
    wait_until(lambda: not files(tmp_path))


def test_what_is_heard_at_once_is_on_no_disk(tmp_path: Path) -> None:
    ledger, outbox = Ledger(), Outbox(Spool(TO, tmp_path / "spool"))
    ledger.error = None
    ledger.tell(outbox, 1)
    outbox.tell_later("message 2", lambda: ledger.heard.append(2), lambda: kept(2))
    assert outbox.flush(20)
    assert not (tmp_path / "spool").exists()


def test_it_says_what_waits_and_what_will_be_in_doubt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, outbox = Ledger(), Outbox(Spool(TO, tmp_path))
    ledger.tell(outbox, 1)
    ledger.tell(outbox, 2, may_stay=False)
    assert not outbox.flush(0)
    mine = f"of process {os.getpid()}"
    assert f"What waits for the ledger in {tmp_path}: 1 message {mine}. " in caplog.text
    assert f"1 message {mine} to the ledger could not be delivered, and calls will be in doubt" in caplog.text
    ledger.error = None
    assert outbox.flush(20)


def test_who_leaves_all_of_it_on_disk_need_not_wait_for_long(tmp_path: Path) -> None:
    ledger, outbox = Ledger(), Outbox(Spool(TO, tmp_path))
    ledger.tell(outbox, 1)
    begun = time.monotonic()
    assert not outbox.flush(60, 0.1)
    assert 0.1 < time.monotonic() - begun < 30
    assert waits(tmp_path) == 1
    ledger.tell(outbox, 2, may_stay=False)  # It would be lost.
    begun = time.monotonic()
    assert not outbox.flush(1, 0.1)
    assert time.monotonic() - begun > 1
    ledger.error = None
    assert outbox.flush(20, 0)
    assert ledger.heard == [1, 2]


def test_where_nothing_can_be_written_all_goes_on_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    ledger, outbox = Ledger(), Outbox(Spool(TO, tmp_path / "file" / "spool"))
    for number in range(3):
        ledger.tell(outbox, number)
    wait_until(lambda: "is not put on disk" in caplog.text)
    assert not outbox.flush(0.1)
    assert f"3 messages of process {os.getpid()} to the ledger could not be delivered" in caplog.text
    ledger.error = None
    assert outbox.flush(20)
    assert ledger.heard == [0, 1, 2]
    assert caplog.text.count("is not put on disk") == 1


def test_a_disk_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luigi_spendguard.http.outbox._WRITE_S", 0.05)
    may_end, begun = threading.Event(), threading.Event()

    def hang(*_: object) -> list[int]:
        begun.set()
        may_end.wait(60)
        raise OSError("it hangs")

    monkeypatch.setattr(Spool, "keep", hang)
    ledger, outbox = Ledger(), Outbox(Spool(TO, tmp_path))
    ledger.tell(outbox, 1)
    assert begun.wait(60)
    ledger.tell(outbox, 2)
    assert not outbox.flush(0.1)
    ledger.error = None
    assert outbox.flush(20)
    assert ledger.heard == [1, 2]
    may_end.set()


@pytest.mark.parametrize(("status", "left", "aside"), [(409, 0, 1), (404, 0, 1), (401, 1, 0), (403, 1, 0)])
def test_only_what_is_refused_for_good_is_put_aside(
    tmp_path: Path, status: int, left: int, aside: int
) -> None:
    """A worker with another token may say it."""
    ledger, outbox = Ledger(), Outbox(Spool(TO, tmp_path))
    ledger.tell(outbox, 1)
    wait_until(lambda: waits(tmp_path) == 1)
    ledger.error = denial("scope", "no", {"http_status": status})
    assert outbox.flush(20)
    wait_until(lambda: (waits(tmp_path), backlog(tmp_path).refused) == (left, aside))


def test_what_is_tried_for_long_is_on_disk_meanwhile(tmp_path: Path) -> None:
    """Its process may be killed before it is given up for now."""
    outbox, seen = Outbox(Spool(TO, tmp_path)), list[bool]()

    def say() -> None:
        outbox.keep_now()
        wait_until(lambda: waits(tmp_path) == 1)
        seen.append(True)

    for number in range(2):
        outbox.tell(f"message {number}", say, lambda number=number: kept(number))
        assert outbox.flush(20)
        wait_until(lambda: not files(tmp_path))
    outbox.keep_now()
    assert seen == [True] * 2, "each was said once"


def test_so_is_what_is_said_with_something_else(tmp_path: Path) -> None:
    outbox, heard = Outbox(Spool(TO, tmp_path)), list[int]()
    for number, is_heard in enumerate((True, False)):
        told = outbox.begin("an end", lambda number=number: heard.append(number), lambda: kept(1))
        outbox.keep_now()
        wait_until(lambda: waits(tmp_path) == 1)
        if is_heard:
            outbox.forget(told)
        else:
            outbox.say_later(told, is_away=True)
        assert outbox.flush(20)
        wait_until(lambda: not files(tmp_path))
    assert heard == [1]


def test_a_thread_keeps_what_is_told_while_another_one_waits_for_luigid(tmp_path: Path) -> None:
    outbox, may_end = Outbox(Spool(TO, tmp_path)), threading.Event()

    def say() -> None:
        if threading.current_thread() is threading.main_thread():
            raise PluginError("it does not answer")
        assert may_end.wait(60)

    outbox.tell("message 1", say, lambda: kept(1))
    outbox.tell("message 2", lambda: None, lambda: kept(2))
    wait_until(lambda: waits(tmp_path) == 2)
    may_end.set()
    assert outbox.flush(20)


def test_what_is_no_file_of_that_name_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A FIFO is opened when somebody is at its other end, which may be never."""
    file, heard = left_by(tmp_path, 1), list[str]()
    for folder in (tmp_path, tmp_path / REFUSED):
        folder.mkdir(exist_ok=True, mode=0o700)
        os.mkfifo(folder / "000.jsonl")
        (folder / "001.jsonl").symlink_to(folder / "000.jsonl")
        (folder / "002.jsonl").mkdir()
    os.mkfifo(tmp_path / REFUSED / file.name)

    def looks() -> None:
        assert (backlog(tmp_path).waiting[TO][0], backlog(tmp_path).refused) == (1, 0)
        for waiting in Spool(TO, tmp_path).left():
            waiting.refused("where it would be put aside is no file")
            heard.append(waiting.kept.what)

    looking = threading.Thread(target=looks, daemon=True)
    looking.start()
    looking.join(10)
    assert heard == ["message 1"]
    assert taken(tmp_path) == ["message 1"]
