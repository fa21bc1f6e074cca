"""P6: no secret and no vault key in a log, traceback, e-mail, output, pickle, history, ledger or page."""

from __future__ import annotations

import base64
import email
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import urllib3

from tests.acceptance.test_spool import in_mid_call, kill_luigid, waits
from tests.support.processes import Process, environment, free_port, listening, wait_until
from tests.support.site import SECRET, Site

ADMIN, WORKER = "admin-canary-token-0123456789", "worker-canary-token-0123456789"
#: An operator's in luigi.cfg, and one in the environment.
ALICE, BOB = "alice-canary-token-0123456789", "bob-canary-token-0123456789"
_http = urllib3.PoolManager(timeout=30, retries=False)

LOGGING = """
[loggers]
keys=root
[handlers]
keys=all
[formatters]
keys=plain
[logger_root]
level=DEBUG
handlers=all
[handler_all]
class=StreamHandler
level=DEBUG
formatter=plain
args=(sys.stderr,)
[formatter_plain]
format=%(name)s %(levelname)s %(message)s
"""


ANOTHER = "sk_test_another/canary+4eC39=HqLy&jWDa"
PAGES = [
    "/runs",
    "/runs/canary",
    "/runs/canary/calls",
    "/calls",
    "/history",
    "/history/by_name/Charge",
    "/tasklist",
    "/tasklist/Charge",
    "/static/visualiser/index.html",
    "/metrics",
]
RPCS: list[tuple[str, dict[str, object]]] = [
    ("worker_list", {}),
    ("task_list", {}),
    ("graph", {}),
    ("resource_list", {}),
    *(("task_list", {"status": status, "upstream_status": ""}) for status in ("FAILED", "PENDING", "DONE")),
]
#: A luigi.cfg that cannot be used, with a secret or token where it is wrong.
BROKEN = [
    f"[spendguard]\nadmin_token = {ADMIN} {ADMIN}\n",
    f"[spendguard]\nworker_token = {WORKER} # mine\n",
    f"[spendguard_stripe]\nsecret = {SECRET}\nsecret = {ANOTHER}\n",
    f"[spendguard_stripe]\nsecret = {SECRET}\n  {SECRET}\n",
    f"[spendguard_stripe]\nsecret = {SECRET}\nsecret_file = /dev/null\n",
    f"[spendguard]\nadmin_token = {ADMIN}\nadmin_token_file = {{file}}\n",
    f"[spendguard_operators]\nalice = {ALICE}\nbob = {ALICE}\n",
    f"[spendguard_operators]\nalice = {ALICE} {BOB}\n[spendguard_roles]\nalice = boss\n",
    f"[spendguard_operators]\n{ALICE} = alice\n",
    f"[spendguard_operators]\nalice = {ADMIN}\n[spendguard]\nadmin_token = {ADMIN}\n",
    f"[spendguard_stripe]\n{SECRET}\n",
    f"{SECRET}\n[spendguard]\n",
]


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All that a pipeline with successes, crashes, denials and indiscretions leaves behind, by name."""
    folder = tmp_path_factory.mktemp("secrets")
    port, mail = free_port(), folder / "mail"
    post = Process(
        ["-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}", "-c", "aiosmtpd.handlers.Mailbox", str(mail)],
        folder / "post.log",
        folder,
        environment(),
        lambda: listening(port),
    )
    site = Site(folder / "site", start=False)
    (site.folder / "logging.ini").write_text(LOGGING)
    site.configure(
        scheduler={"record_task_history": "true"},
        task_history={"db_connection": f"sqlite:///{site.folder}/history.db"},
        email={"receiver": "operator@example.com", "force_send": "true", "method": "smtp"},
        smtp={"host": "127.0.0.1", "port": port, "no_tls": "true"},
        spendguard={"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 50},
        spendguard_operators={"alice": ALICE},
    )
    found: dict[str, bytes] = {}
    try:
        site.start()
        site.stripe.fault("echo_secret", match="POST /v1/customers", times=2)
        logging = ("--logging-conf-file", str(site.folder / "logging.ini"))
        secrets = {"STRIPE_SECRET_KEY": SECRET, "STRIPE_API_KEY": ANOTHER, "SPENDGUARD_TOKEN": BOB}
        more = {"module": "tests.support.indiscreet", "STRIPE_LOG": "debug", **secrets}
        said = site.luigi("Root", "--turn", "1", "--workers", "2", *logging, **more)[1]
        found["worker's log"] = said.encode()
        said = site.luigi("Root", "--turn", "2", **more)[1]
        found["worker's log, in one process"] = said.encode()
        _look_around(site, found)
    finally:
        site.end()
        post.end()
    for path in [*site.folder.rglob("*"), *mail.rglob("*")]:
        if path.is_file() and path != site.config and "vendor" not in path.parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    for name in [name for name in found if name.startswith("mail")]:
        parts = email.message_from_bytes(found[name]).walk()
        found[name] += b"".join(part.get_payload(decode=True) or b"" for part in parts)
    return found


def _look_around(site: Site, found: dict[str, bytes]) -> None:
    """Ask every page, RPC and command while luigid runs."""
    for path in PAGES:
        found[f"GET {path}"] = _http.request("GET", site.url + path).data
    for name, arguments in RPCS:
        found[f"GET /api/{name} {arguments}"] = json.dumps(site.rpc(name, **arguments)).encode()
    for task_id in site.rpc("task_list"):
        for name in ("fetch_error", "dep_graph", "inverse_dep_graph"):
            found[f"GET /api/{name} {task_id}"] = json.dumps(site.rpc(name, task_id=task_id)).encode()
        if not task_id.startswith("Unready"):  # Luigi's page fails for what never ran.
            page = f"/history/by_task_id/{task_id}"
            found[f"GET {page}"] = _http.request("GET", site.url + page).data
    # Wrong in every way: the answers, and luigid's log of them.
    # (The secret in a path is for a luigid that knows it: `test_gateway.py`.)
    for token in (ADMIN + "x", ALICE + "x", WORKER[:-1], "vault_key_" + "wrong-key-" * 4):
        for path in (
            "/runs/canary/top_up",
            "/api/spend_reserve",
            "/api/spend_claim",
            f"/runs/{token}/approve",
        ):
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            reply = _http.request("POST", site.url + path, headers=headers, body=json.dumps({"usd": "x"}))
            found[f"POST {path} {token[:12]}"] = reply.data
    for args in (
        ("runs",),
        ("run", "canary"),
        ("calls", "--format", "json"),
        ("check",),
        ("top-up", "canary", "1"),
        ("revoke", "canary"),
        ("approve", "nobody", "--forecast", "1"),
        ("resolve", "nothing", "--not-sent"),
    ):
        found[f"spendguard {args[0]}"] = "".join(map(str, site.cli(*args))).encode()
    for path in site.ledger.parent.iterdir():  # With its -wal, which the end of luigid takes away.
        found[f"ledger in use: {path.name}"] = path.read_bytes()


def where(artefacts: dict[str, bytes], canary: str) -> list[str]:
    pattern = re.compile(canary.encode())
    return [name for name, content in artefacts.items() if pattern.search(content)]


def base64_of(text: str) -> str:
    """Return a pattern of `text` in base64, wherever it stands in what was encoded."""
    whole = [base64.b64encode(b"x" * before + text.encode()).decode() for before in range(3)]
    return "|".join(re.escape(one[4:].rstrip("=")[:-2]) for one in whole)


@pytest.mark.parametrize(
    "canary",
    [
        *(re.escape(one) for one in (SECRET, ANOTHER, ADMIN, WORKER, ALICE, BOB, "sk_test_other_canary")),
        *(re.escape(quote(ANOTHER, safe=safe)) for safe in ("", "/")),
        *(base64_of(one) for one in (SECRET, ANOTHER, ADMIN, WORKER, ALICE, BOB, "vault_key_")),
        r"vault_key_[A-Za-z0-9_-]{8}",
    ],
)
def test_the_canary_is_nowhere(artefacts: dict[str, bytes], canary: str) -> None:
    assert where(artefacts, canary) == []


@pytest.mark.parametrize(
    "name",
    [
        "worker's log",
        "worker's log, in one process",
        "GET /runs/canary/calls",
        "GET /api/task_list",
        "GET /api/fetch_error",
        "GET /api/dep_graph",
        "GET /history",
        "spendguard calls",
        "mail",
        "site/history.db",
        "site/state",
        "site/ledger/spendguard.db",
        "ledger in use: spendguard.db-wal",
        "site/luigid.log",
    ],
)
def test_the_search_looks_into_everything_that_names_the_tasks(
    artefacts: dict[str, bytes], name: str
) -> None:
    assert [found for found in where(artefacts, "Charge|/api/spend_") if found.startswith(name)], sorted(
        artefacts
    )


@pytest.mark.parametrize("log", ["worker's log", "worker's log, in one process"])
def test_everything_happened_that_could_have_leaked(artefacts: dict[str, bytes], log: str) -> None:
    """Each indiscretion got as far as where a secret was taken out of it."""
    text = artefacts[log].decode()
    gone = r"\[redacted\]"
    for said in (
        rf"environment: .*'STRIPE_SECRET_KEY': '{gone}'",
        rf"configuration: {gone}\n{gone}\nBasic {gone}",
        rf"printed {gone} {gone}",
        rf"written {gone}",
        rf"logged {gone} and {{'key': '{gone}'}}",
        rf"logged {gone}\n{gone}\nBasic {gone}",
        rf"locals of \({gone}, '{gone}'\)",
        rf"plain .*'STRIPE_API_KEY': '{gone}'",
        rf"plain: .*'STRIPE_API_KEY': '{gone}'",
        rf"unready: {gone}\n{gone}\nBasic {gone}",
    ):
        assert re.search(said, text), said


def test_every_kind_of_end_was_seen(artefacts: dict[str, bytes]) -> None:
    log = artefacts["worker's log"].decode()
    for said in ("crashed after it had charged", "contained the vendor's secret", "has no room for"):
        assert said in log, said
    for verdict in (b"allowed", b"denied:scope", b"denied:cap"):
        assert verdict in artefacts["spendguard calls"]
    assert b"Traceback" not in artefacts["site/luigid.log"]
    mails = b"".join(content for name, content in artefacts.items() if name.startswith("mail"))
    errors = b"".join(content for name, content in artefacts.items() if "fetch_error" in name)
    for said in (
        b"crashed after it had charged",
        b"environment: ",
        b"configuration: ",
        b"plain: ",
        b"its own",
    ):
        assert said in mails, said
        assert said in errors, said
    assert b"unready: [redacted]" in mails
    assert b"status [redacted] [redacted]" in b"".join(
        content for name, content in artefacts.items() if "/api/task_list" in name
    )
    assert len(where(artefacts, re.escape("[redacted]"))) > 10


def test_what_the_search_would_find_it_finds() -> None:
    basic = base64.b64encode(f"user:{SECRET}\n".encode())
    planted = {
        "plain": SECRET.encode(),
        "key": b"Bearer vault_key_abcdefgh1",
        "basic": basic,
        "url": quote(ANOTHER, safe="").encode(),
    }
    assert where(planted, re.escape(SECRET)) == ["plain"]
    assert where(planted, r"vault_key_[A-Za-z0-9_-]{8}") == ["key"]
    assert where(planted, base64_of(SECRET)) == ["basic"]
    assert where(planted, re.escape(quote(ANOTHER, safe=""))) == ["url"]


_TOLD_LATER = """
import stripe
from luigi_spendguard import VendorTask
from tests.support.pipelines import Output, charge

class Told(VendorTask, Output):
    def run(self):
        try:
            stripe.Customer.create(email="leak@example.com")
        finally:
            charge("cus_canary")
"""


@pytest.mark.parametrize("fault", ["", "echo_secret"])
def test_nor_is_it_in_what_waits_on_disk_for_luigid(tmp_path: Path, fault: str) -> None:
    """Whatever the vendor's answer holds: the end of its call stands there."""
    tokens = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 50}
    with Site(tmp_path / "site", spendguard=tokens) as site:
        (site.folder / "told.py").write_text(_TOLD_LATER)
        if fault:
            site.stripe.fault(fault)
        killed = in_mid_call(site, lambda: kill_luigid(site))
        worker = site.worker("Told", "--workers", "1", module="told", IMPATIENT="1")
        try:
            killed()
            wait_until(lambda: waits(site) > 0, what="the end on disk")
        finally:
            worker.kill()
            worker.communicate()
        found = {path.name: path.read_bytes() for path in site.state_home.rglob("*") if path.is_file()}
    assert where(found, "spend_ended"), "the search looks there"
    assert bool(where(found, "leak@example.com")) is not bool(fault), "what a replay needs is there"
    for canary in (SECRET, ADMIN, WORKER):
        assert where(found, re.escape(canary)) == where(found, base64_of(canary)) == []
    assert where(found, r"vault_key_[A-Za-z0-9_-]{8}") == where(found, base64_of("vault_key_")) == []


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_no_command_shows_a_secret_of_a_broken_configuration(tmp_path: Path, number: int) -> None:
    kept = tmp_path / "kept.token"
    kept.write_text(WORKER + "\n")
    kept.chmod(0o600)
    config = tmp_path / "luigi.cfg"
    config.write_text(BROKEN[number].replace("{file}", str(kept)))
    env = environment(LUIGI_CONFIG_PATH=str(config), SPENDGUARD_URL="http://127.0.0.1:9")
    asking = ("check", "runs")[number % 2]  # One reader serves both.
    for module, *args in (("luigi_spendguard", asking), ("scheduler_patch", "--port", str(free_port()))):
        command = [sys.executable, "-m", module, *args]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, timeout=60, stdin=subprocess.DEVNULL
        )
        said = done.stdout + done.stderr
        assert done.returncode == 2, said
        assert b"luigi.cfg" in said
        assert b"Traceback" not in said
        for canary in (SECRET, ANOTHER, ADMIN, WORKER, ALICE, BOB):
            assert canary.encode() not in said
