"""Requests to luigid-spendguard's routes, exactly as written; no reply may hold a secret or a token."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from luigi_spendguard.guard.effects import new_call_id
from tests.support.attempts import Pretender
from tests.support.site import SECRET, FakeStripe, Site

ADMIN, WORKER, WRONG = "admin-" + "a1" * 16, "worker-" + "b2" * 16, "wrong-" + "c3" * 16
ASK = {
    "vendor": "stripe",
    "account": "stripe:test",
    "operation": "payment_intents.create",
    "method": "POST",
    "path": "/v1/payment_intents",
    "target": "cus_1",
    "total_micros": 2_000_000,
}


class Reply(NamedTuple):
    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    def is_error(self, status: int, code: str, *facts: str) -> bool:
        """Return whether this is the one JSON shape of errors, with a message for people and `facts`."""
        assert self.status == status, self
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        assert set(self.json) == {"error", "message", *facts}
        return self.json["error"] == code and bool(self.json["message"])


def send(
    site: Site, method: str, path: str, body: Any = None, token: str | None = None, **headers: str
) -> Reply:
    """Send exactly this (bytes, or what becomes JSON); no reply but a claim's may hold a key."""
    if body is not None:
        headers = {"Content-Type": "application/json"} | headers
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        got = connection.getresponse()
        said = {name.lower(): value for name, value in got.getheaders()}
        reply = Reply(got.status, got.read().decode(), said)
    finally:
        connection.close()
    hidden = {SECRET, ADMIN, WORKER, WRONG, "vault_key_"}
    hidden |= {path.read_text().strip() for path in site.ledger.parent.glob("*.admin-token")}
    if path in ("/api/spend_claim", "/vault/keys", "/api/issue_vault_key") and got.status in (200, 201):
        hidden.remove("vault_key_")
    assert not [one for one in hidden if one in f"{reply.text}{said}"], reply
    return reply


def admin(site: Site) -> str:
    return str(site.settings["spendguard"].get("admin_token") or site.token())


def books(site: Site) -> Any:
    """Return everything the API shows of the ledger."""
    return [send(site, "GET", path, token=admin(site)).json for path in ("/runs", "/calls?limit=10000")]


class Case:
    """A fresh run of a site with a claimed task."""

    def __init__(self, site: Site, run_id: str | None = None) -> None:
        unique = uuid.uuid4().hex[:10]
        self.site = site
        self.pretender = Pretender(site, run_id or f"run-{unique}", f"Charge_{unique}")
        self.run_id = self.pretender.run_id
        self.attempt = self.pretender.claimed()
        self.key = self.attempt.key

    def reserved(self, **more: Any) -> str:
        """Reserve $2 for a call and leave it pending; return its id."""
        call_id = new_call_id()
        answer = send(self.site, "POST", "/api/spend_reserve", ASK | {"call_id": call_id} | more, self.key)
        assert answer.json["response"]["verdict"] == "allowed", answer
        return call_id

    def doubted(self, **more: Any) -> str:
        """Leave a call of $2 in doubt; return its id."""
        call_id = self.reserved(**more)
        send(self.site, "POST", "/api/spend_doubt", {"call_id": call_id}, self.key)
        return call_id

    def top_up(self, body: Any, token: str | None = None, **headers: str) -> Reply:
        path = f"/runs/{quote(self.run_id, safe='')}/top_up"
        return send(self.site, "POST", path, body, token or admin(self.site), **headers)

    def request(self, route: str) -> tuple[str, str, Any]:
        """Return method, path and a good body for a route of `ROUTES`."""
        method, path, _, body = ROUTES[route]
        ids = {
            "run": self.run_id,
            "claim": self.attempt.claim_id,
            "task": self.pretender.task_id,
            "worker": self.pretender.worker,
        }
        wants = path + json.dumps(body)
        ids |= {"pending": self.reserved()} if "{pending}" in wants else {}
        ids |= {"doubt": self.doubted()} if "{doubt}" in wants else {}
        ids |= {"new": str(uuid.uuid4())}

        def fill(value: Any) -> Any:
            return value.format(**ids) if isinstance(value, str) else value

        return method, fill(path), body and {name: fill(value) for name, value in body.items()}


#: name: (method, path, who may, a good body)
ROUTES: dict[str, tuple[str, str, str, Any]] = {
    "runs": ("GET", "/runs", "read", None),
    "run": ("GET", "/runs/{run}", "read", None),
    "calls of a run": ("GET", "/runs/{run}/calls", "read", None),
    "calls": ("GET", "/calls", "read", None),
    "day": ("GET", "/day", "read", None),
    "spending": ("GET", "/runs/{run}/spending", "read", None),
    "task_costs": ("POST", "/api/task_costs", "read", {"task_ids": []}),
    "list_runs": ("POST", "/api/list_runs", "read", {}),
    "run_budget": ("POST", "/api/run_budget", "read", {"run_id": "{run}"}),
    "revoke": ("DELETE", "/runs/{run}", "admin", None),
    "top_up": ("POST", "/runs/{run}/top_up", "admin", {"usd": "5"}),
    "resolve": ("POST", "/calls/{doubt}/resolve", "admin", {"spent_usd": "2"}),
    "forget": ("POST", "/forget", "admin", {"customer": "cus_of_nobody"}),
    "prune": ("POST", "/prune", "admin", {"before": "2026-01-01T00:00:00Z"}),
    "revoke_run": ("POST", "/api/revoke_run", "admin", {"run_id": "{run}"}),
    "top_up_run": ("POST", "/api/top_up_run", "admin", {"run_id": "{run}", "usd": "5"}),
    "open_run": (
        "POST",
        "/api/spend_open_run",
        "worker",
        {"name": "{new}", "by_task_id": False, "root_family": "R", "root_task_id": "R_1"},
    ),
    "claim": (
        "POST",
        "/api/spend_claim",
        "worker",
        {
            "claim_id": "{claim}",
            "run_id": "{run}",
            "task_id": "{task}",
            "family": "Charge",
            "params": {},
            "worker": "{worker}",
        },
    ),
    "finish": ("POST", "/api/spend_finish", "worker", {"claim_id": "{claim}", "outcome": "failed"}),
    "close_run": ("POST", "/api/spend_close_run", "worker", {"name": "{run}"}),
    "ended": (
        "POST",
        "/api/spend_ended",
        "worker",
        {"key_hash": "0" * 64, "ends": [{"kind": "void", "call_id": str(uuid.uuid4())}]},
    ),
    "blocked": ("POST", "/api/spend_blocked", "worker", {"worker": "{worker}"}),
    "settings": ("GET", "/settings", "read", None),
    "status": ("GET", "/status", "read", None),
    "issue a key": ("POST", "/vault/keys", "worker", {"vendor": "stripe", "run_usd_cap": "5"}),
    "keys": ("GET", "/vault/keys", "admin", None),
    "issue_vault_key": ("POST", "/api/issue_vault_key", "worker", {"vendor": "stripe"}),
    "list_vault_keys": ("POST", "/api/list_vault_keys", "admin", {}),
    "reserve": ("POST", "/api/spend_reserve", "key", ASK | {"call_id": "{new}"}),
    "settle": ("POST", "/api/spend_settle", "key", {"call_id": "{pending}", "total_micros": 2_000_000}),
    "void": ("POST", "/api/spend_void", "key", {"call_id": "{pending}"}),
    "doubt": ("POST", "/api/spend_doubt", "key", {"call_id": "{pending}"}),
    "attempt": (
        "POST",
        "/api/spend_attempt",
        "key",
        {"ends": [{"kind": "void", "call_id": str(uuid.uuid4())}]},
    ),
}


@contextmanager
def guarded_site(folder: Path, stripe: FakeStripe) -> Iterator[Site]:
    """Run a site with both tokens that shows nothing to anybody else."""
    said = {"admin_token": ADMIN, "worker_token": WORKER, "anonymous_read": "false", "daily_cap_usd": 10000}
    # Keys are issued for a gateway apart, which nobody asks.
    said["gateway_url"] = "http://127.0.0.1:9"
    with Site(folder, stripe=stripe, spendguard=said) as site:
        yield site
