"""What a worker says in its log: what it waits for, why it refuses; once, and in Luigi's own format."""

from __future__ import annotations

import os
import re
import signal
import time

from tests.acceptance.test_shapes import SHAPES
from tests.support.processes import wait_until
from tests.support.site import Site

#: The format of Luigi's own lines when nothing else is configured.
LINE = re.compile(r"^(DEBUG|INFO|WARNING|ERROR): ")


def test_a_waiting_worker_says_for_what_and_what_frees_it(site: Site) -> None:
    site.configure(spendguard={"on_blocked": "wait"})
    worker = site.worker("List", "--n", "3", "--budget-usd", "2", "--run-id", "r", module=SHAPES)
    wait_until(lambda: site.stripe.moved() == 200, what="the cap")
    site.until_answered("spend_blocked", 3)  # It goes on asking, and says nothing new.
    site.call("POST", "/runs/r/top_up", {"usd": "1"})
    out, _ = worker.communicate(timeout=60)
    said = [line for line in out.splitlines() if "Waiting: " in line]
    assert said == [
        "WARNING: Waiting: 1 task blocked: cap of $2.00 reached, $2.00 spent (run r; "
        "`spendguard top-up r 1.00` frees it)"
    ], out


def test_a_run_with_nothing_blocked_does_not_wait(site: Site) -> None:
    site.luigi("List", "--n", "1", module=SHAPES)
    assert site.luigid is not None
    times: list[float] = []

    def took() -> float:
        begun = time.monotonic()
        assert site.luigi("List", "--n", "1", "--first", str(len(times) + 5), module=SHAPES)[0] == 0
        times.append(time.monotonic() - begun)
        return times[-1]

    limit = took() + 2.5
    site.configure(spendguard={"on_blocked": "wait"})
    assert any(took() < limit for _ in range(3)), "each would wait for 4 s"


def test_an_interrupted_wait_ends_without_a_traceback(site: Site) -> None:
    site.configure(spendguard={"on_blocked": "wait"})
    worker = site.worker("List", "--n", "3", "--budget-usd", "2", "--run-id", "r", module=SHAPES)
    wait_until(lambda: site.stripe.moved() == 200, what="the cap")
    site.until_answered("spend_blocked")
    os.kill(worker.pid, signal.SIGINT)
    out, _ = worker.communicate(timeout=60)
    assert worker.returncode == 130
    assert "Traceback" not in out
    assert "WARNING: Interrupted while waiting" in out


def test_so_does_one_that_is_interrupted_between_two_questions(site: Site) -> None:
    site.configure(spendguard={"on_blocked": "wait"})
    submit = ("List", "--n", "3", "--budget-usd", "2", "--run-id", "r")
    code, out = site.luigi(*submit, module="tests.support.interrupted_pipeline")
    assert (code, site.stripe.moved()) == (130, 200), out
    assert "Interrupted while waiting: submit the same root again" in out
    assert "Traceback" not in out


def test_our_lines_have_luigis_format(site: Site) -> None:
    code, out = site.luigi("Billing", "--n", "3", "--budget-usd", "2", "--run-id", "r")
    assert code == 0
    ours = [line for line in out.splitlines() if "Vendor task " in line]
    assert len(ours) == 2
    assert all(LINE.match(line) for line in ours), ours


def test_the_note_of_a_local_run_is_said_once(site: Site) -> None:
    _, out = site.luigi("Billing", "--n", "1", "--budget-usd", "500", "--local-scheduler")
    said = [line for line in out.splitlines() if "was asked" in line]
    assert len(said) == 1, out
    assert LINE.match(said[0])


def test_a_misconfigured_worker_says_why_once_and_shows_no_traceback(site: Site) -> None:
    site.configure(spendguard={"defualt_cap_usd": 5})
    for workers in ("1", "2"):
        _, out = site.luigi("Billing", "--n", "3", "--workers", workers)
        assert "Traceback" not in out, out
        seen = [line for line in out.splitlines() if not line.startswith("DEBUG")]
        logged, _, summary = "\n".join(seen).partition("===== Luigi Execution Summary =====")
        for text in (logged, summary):
            assert text.count("did you mean default_cap_usd?") == 1, out
        assert len(re.findall(r"Vendor task \S+ was refused before run\(\)$", out, re.M)) >= 3, out
        assert site.stripe.moved() == 0
