"""Which calls the processes of an attempt have under way, and what one of them leaves that is killed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from functools import partial

import pytest

from luigi_spendguard.errors import LedgerUnavailable, denial
from luigi_spendguard.http.shared import CallsUnderWay, SharedTexts
from luigi_spendguard.protocol import EndRequest


def forked(under_way: CallsUnderWay, *calls: str, ended: str = "") -> int:
    """Return a child that has these calls under way."""
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        for number, call_id in enumerate(calls, 1):
            under_way.begin(call_id, number)
        if ended:
            under_way.end(ended)
        os.write(there, b".")
        signal.pause()
    assert os.read(here, 1) == b"."
    os.close(here)
    os.close(there)
    return pid


def test_what_a_killed_process_had_under_way_is_left_once() -> None:
    under_way = CallsUnderWay()
    with under_way.attempt():
        under_way.begin("own", 1)
        killed, other = forked(under_way, "one", "two", "three", ended="two"), forked(under_way, "four")
        assert under_way.left() == []
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)  # Nobody has waited for it.
        assert under_way.left() == [("one", 1, ""), ("three", 3, "")]
        assert under_way.left() == []
        os.waitpid(killed, 0)
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        assert under_way.left() == [("four", 1, "")]


def test_a_call_that_was_left_is_lost_until_it_is_made_again() -> None:
    under_way = CallsUnderWay()
    with under_way.attempt():
        killed = forked(under_way, "one", "two")
        assert under_way.lost() == []
        os.kill(killed, signal.SIGKILL)
        os.waitpid(killed, 0)
        under_way.left()
        assert under_way.lost() == ["one", "two"]
        under_way.begin("one", 2)
        assert under_way.lost() == ["two"]
    assert under_way.lost() == []


def test_what_a_killed_process_has_heard_no_answer_to_is_left_as_that_and_not_lost() -> None:
    under_way = CallsUnderWay()
    with under_way.attempt():
        with under_way.asking("own", 1, "own"):
            pid = os.fork() if (here := os.pipe()) else 0
            if not pid:
                with under_way.asking("theirs", 2, "other"), under_way.asking("own", 3, "own"):
                    os.write(here[1], b".")
                    signal.pause()
            assert os.read(here[0], 1) == b"."
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert under_way.left() == [("theirs", 2, "other")]
            assert under_way.lost() == []
        with under_way._held() as texts:
            assert texts == {}


def test_what_is_read_stays_until_its_task_has_it_or_that_it_has_not_was_said() -> None:
    """Given up as the vendor did not answer, it stays, though its caller gets an answer (429)."""
    under_way = CallsUnderWay()
    for call_id in ("had", "given up"):
        with under_way.asking(call_id, 1, "own"):
            under_way.reads(call_id)
    under_way.give_up(EndRequest("void", "given up", 1))
    for call_id in ("had", "given up", "never read"):
        under_way.has_read(call_id)
    with under_way._held() as texts:
        assert list(texts) == ["given up"]


def test_what_another_process_has_given_up_is_lost_until_that_is_said() -> None:
    under_way = CallsUnderWay()
    with under_way.attempt():
        under_way.begin("own", 1)
        under_way.give_up(EndRequest("void", "own", 1))
        under_way.give_up(EndRequest("void", "unknown", 1))
        assert under_way.lost() == [], "a process waits for its own ends"
        here, there = os.pipe()
        pid = os.fork()
        if not pid:
            for call_id in ("theirs", "said"):
                under_way.begin(call_id, 1)
                under_way.give_up(EndRequest("void", call_id, 1, sender="other"))
            under_way.end("said")
            os.write(there, b".")
            signal.pause()
        assert os.read(here, 1) == b"."
        assert (under_way.lost(), under_way.left()) == (["theirs"], [])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert under_way.left() == [("theirs", 1, "other")]
        assert under_way.lost() == []


@pytest.mark.parametrize(("error", "stays"), [(denial("cap", ""), False), (LedgerUnavailable(""), True)])
def test_what_is_denied_is_over_and_what_gets_no_answer_stays_until_it_is_ended(
    error: Exception, stays: bool
) -> None:
    under_way = CallsUnderWay()
    with pytest.raises(type(error)), under_way.asking("one", 1, "one"):
        raise error
    with under_way._held() as texts:
        assert ("one" in texts) is stays
    under_way.end("one")
    with under_way._held() as texts:
        assert texts == {}


def test_what_a_spawned_process_had_under_way_is_left_too() -> None:
    under_way = CallsUnderWay()
    with under_way.attempt():
        sent = pickle.dumps(under_way)
        begin = f"import pickle; pickle.loads({sent!r}).begin('one', 1)"
        subprocess.run([sys.executable, "-c", begin], check=True)
        assert under_way.left() == [("one", 1, "")]
        assert under_way.left() == []


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="every file here is on a disk")
def test_no_disk_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with SharedTexts({"one": ["1"]}).held() as texts:
        assert texts == {"one": ["1"]}


def test_a_disk_that_has_no_room_is_an_error_and_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written there by memory alone is a SIGBUS."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with SharedTexts({"one": ["1"]}).held() as texts:
        assert texts == {"one": ["1"]}
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "r+b"))
    with pytest.raises(OSError, match="No space left"):
        SharedTexts({})


def test_what_is_sent_outside_an_attempt_shares_nothing() -> None:
    assert pickle.loads(pickle.dumps(CallsUnderWay())).left() == []


def test_what_is_forked_outside_an_attempt_shares_nothing() -> None:
    under_way = CallsUnderWay()
    with under_way.attempt():
        pass
    pid = forked(under_way, "one")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert under_way.left() == []


def test_what_a_handler_changes_within_another_block_stays_and_so_does_that_ones() -> None:
    texts = SharedTexts({"ended": ["0"]})
    with texts.held() as outer:
        outer["outer"] = ["1"]
        with texts.held() as inner:
            inner["inner"] = ["2"]
            del inner["ended"]
        with texts.held() as again:
            assert again == {"inner": ["2"]}
    with texts.held() as after:
        assert after == {"inner": ["2"], "outer": ["1"]}


def test_who_looks_again_for_what_a_process_has_lets_go_of_no_lock() -> None:
    texts = SharedTexts({})
    begin = "from luigi_spendguard.http.shared import SharedTexts as S\nprint(flush=True)\n"
    read = f"{begin}with S.at({texts.path!r}).held() as seen: print(seen)"
    with texts.held() as outer:
        assert SharedTexts.concerns(texts.path)
        assert SharedTexts.at(texts.path) is texts
        other = subprocess.Popen([sys.executable, "-c", read], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "\n"
        outer["outer"] = ["1"]
    assert other.communicate(timeout=60)[0] == "{'outer': ['1']}\n"


def test_the_others_wait_until_the_block_that_a_handler_has_interrupted_ends() -> None:
    texts = SharedTexts({})
    here, there = os.pipe()
    with texts.held() as outer:
        with texts.held() as inner:
            inner["inner"] = ["1"]
        pid = os.fork()
        if not pid:
            os.write(there, b".")
            with texts.held() as seen:
                os.write(there, json.dumps(seen).encode())
            os._exit(0)
        assert os.read(here, 1) == b"."
        outer["outer"] = ["2"]
    os.waitpid(pid, 0)
    assert json.loads(os.read(here, 100)) == {"inner": ["1"], "outer": ["2"]}
