"""CONTRIBUTING's walks are true: what is really done enters their stops, in their order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.support.processes import REPOSITORY
from tests.support.site import Site
from tests.support.tracing import entries

CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
ADMIN = "admin_canary_token_of_walks"
STOP = re.compile(r"^\d+\. `([\w/]+\.py)`:? `([\w.]+)`", re.MULTILINE)
MEANWHILE = re.compile(r"^Meanwhile, after stop (\d+),.*:$", re.MULTILINE)


def walks(title: str) -> list[list[tuple[str, str]]]:
    """Return the stops of a walk, file and function of each; then those to what goes on meanwhile."""
    _, _, after = CONTRIBUTING.partition(f"### {title}\n")
    main, *aside = MEANWHILE.split(after.partition("\n#")[0])
    walk = STOP.findall(main)
    after_stops = zip(aside[::2], aside[1::2], strict=True)
    return [walk, *(walk[: int(stop)] + STOP.findall(text) for stop, text in after_stops)]


def missing(walk: list[tuple[str, str]], entered: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the stops from the first one on that are not entered after those before it."""
    here = iter(entered)
    for at, stop in enumerate(walk):
        if not any(entry == stop for entry in here):
            return walk[at:]
    return []


class Traced:
    """A site whose luigid and workers write down what they enter."""

    def __init__(self, folder: Path, *, gateway: bool) -> None:
        self.site, self.file = Site(folder, start=False, gateway=gateway), folder / "entries"
        self.site.configure(spendguard={"admin_token": ADMIN})
        self.site.start("tests.support.tracing", str(self.file), "scheduler_patch")

    def entered(self) -> list[tuple[str, str]]:
        return [(entry.path, entry.name) for entry in entries(self.file)]


def charged(site: Site, key: str) -> tuple[int, Any]:
    """Charge a customer $1 by the gateway, as any client would."""
    form = {
        "amount": "100",
        "currency": "usd",
        "customer": "c",
        "payment_method": "pm_card_visa",
        "confirm": "true",
    }
    reply = urllib3.PoolManager(retries=False).request(
        "POST",
        f"{site.url}/stripe/v1/payment_intents",
        fields=form,
        encode_multipart=False,
        headers={"Authorization": f"Bearer {key}"},
    )
    return reply.status, reply.json()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What is entered while `luigi` charges a customer once, by a worker that has the secret."""
    traced = Traced(tmp_path_factory.mktemp("traced"), gateway=False)
    with traced.site as site:
        worker = "luigi --module tests.support.pipelines Charge --customer c"
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.tracing", str(traced.file), *worker.split()],
            cwd=site.folder,
            env=site.environment(UNHURRIED="1"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, site.stripe.moved()) == (0, 100), done.stderr[-3000:]
    return traced.entered()


@pytest.mark.parametrize("title", ["Follow one call", "Follow a dispatch"])
def test_a_pipeline_takes_these_stops(title: str, pipeline: list[tuple[str, str]]) -> None:
    for walk in walks(title):
        assert len(walk) > 10
        assert missing(walk, pipeline) == []
        assert missing(walk[::-1], pipeline) != [], "whatever is listed would be found"


def test_a_vault_key_takes_these_stops(tmp_path: Path) -> None:
    traced = Traced(tmp_path, gateway=True)
    with traced.site as site:
        status, made = site.call("POST", "/vault/keys", {"vendor": "stripe", "run_usd_cap": "1"}, ADMIN)
        assert status == 201
        status, intent = charged(site, made["vault_key"])
        assert (status, intent["status"]) == (200, "succeeded")
        assert site.call("DELETE", f"/vault/keys/{made['id']}", token=ADMIN)[0] == 200
        assert charged(site, made["vault_key"])[0] == 401
        assert site.stripe.moved() == 100
    walk, booked = walks("Follow a vault key")
    assert len(walk) > len(booked) > 10
    assert missing(walk, traced.entered()) == []
    assert missing(booked, traced.entered()) == []
