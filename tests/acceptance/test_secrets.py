"""P6: no secret and no vault key in a log, traceback, e-mail, output, pickle, history, ledger or page."""

from __future__ import annotations

import email
import re
from pathlib import Path

import pytest
import urllib3

from tests.support.processes import Process, environment, free_port, listening
from tests.support.site import SECRET, Site

ADMIN, WORKER = "admin-canary-token-0123456789", "worker-canary-token-0123456789"
_http = urllib3.PoolManager(timeout=30, retries=False)

PIPELINE = """
import os, luigi, stripe
from pathlib import Path
from luigi_spendguard import VendorTask
OUT = Path(os.environ["OUT_DIR"])

class Charge(VendorTask, luigi.Task):
    customer = luigi.Parameter()
    amount = luigi.IntParameter(default=100)
    retry_count = 1
    def output(self):
        return luigi.LocalTarget(str(OUT / self.task_id))
    def run(self):
        more = {"api_key": "sk_test_other_canary"} if self.customer == "cus_scope" else {}
        stripe.PaymentIntent.create(amount=self.amount, currency="usd", customer=self.customer, confirm=True,
                                    payment_method="pm_card_visa", **more)
        if self.customer == "cus_crash":
            raise RuntimeError("crashed after it had charged")
        with self.output().open("w") as file:
            file.write("done")

class Root(luigi.WrapperTask):
    run_id, budget_usd = "canary", "5"
    def requires(self):
        names = ("cus_good", "cus_crash", "cus_scope", "cus_leak")
        return [*(Charge(customer=name) for name in names), Charge(customer="cus_rich", amount=99_900)]
"""

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


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All that a pipeline with successes, a crash, denials and a leak leaves behind, by name."""
    folder = tmp_path_factory.mktemp("secrets")
    port, mail = free_port(), folder / "mail"
    post = Process(
        ["-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}", "-c", "aiosmtpd.handlers.Mailbox", str(mail)],
        folder / "post.log", folder, environment(), lambda: listening(port),
    )  # fmt: skip
    site = Site(folder / "site", start=False)
    (site.folder / "canary.py").write_text(PIPELINE)
    (site.folder / "logging.ini").write_text(LOGGING)
    site.configure(
        scheduler={"record_task_history": "true"},
        task_history={"db_connection": f"sqlite:///{site.folder}/history.db"},
        email={"receiver": "operator@example.com", "force_send": "true", "method": "smtp"},
        smtp={"host": "127.0.0.1", "port": port, "no_tls": "true"},
        spendguard={"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 50},
    )
    found: dict[str, bytes] = {}
    try:
        site.start()
        site.stripe.fault("echo_secret", match="POST /v1/payment_intents", times=1)
        said = site.luigi("Root", "--workers", "2", "--logging-conf-file", str(site.folder / "logging.ini"),
                          module="canary", STRIPE_LOG="debug")[1]  # fmt: skip
        found["worker's log"] = said.encode()
        for path in ("/runs", "/runs/canary", "/runs/canary/calls", "/calls", "/history", "/api/worker_list",
                     "/api/task_list?data=%7B%7D", "/api/graph?data=%7B%7D"):  # fmt: skip
            found[f"GET {path}"] = _http.request("GET", site.url + path).data
        for args in (("runs",), ("run", "canary"), ("calls", "--format", "json"), ("check",),
                     ("top-up", "canary", "1"), ("revoke", "canary")):  # fmt: skip
            found[f"spendguard {args[0]}"] = "".join(map(str, site.cli(*args))).encode()
    finally:
        site.end()
        post.end()
    for path in [*site.folder.rglob("*"), *mail.rglob("*")]:
        if path.is_file() and path != site.config and path.suffix != ".py" and "vendor" not in path.parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    for name in [name for name in found if name.startswith("mail")]:
        parts = email.message_from_bytes(found[name]).walk()
        found[name] += b"".join(part.get_payload(decode=True) or b"" for part in parts)
    return found


def where(artefacts: dict[str, bytes], canary: str) -> list[str]:
    pattern = re.compile(canary.encode())
    return [name for name, content in artefacts.items() if pattern.search(content)]


@pytest.mark.parametrize(
    "canary", [re.escape(SECRET), ADMIN, WORKER, r"vault_key_[A-Za-z0-9_-]{8}", "sk_test_other_canary"]
)
def test_the_canary_is_nowhere(artefacts: dict[str, bytes], canary: str) -> None:
    assert where(artefacts, canary) == []


@pytest.mark.parametrize(
    "name",
    ["worker's log", "GET /runs/canary/calls", "GET /api/task_list", "GET /history", "spendguard calls",
     "mail", "site/history.db", "site/state", "site/ledger/spendguard.db", "site/luigid.log"],
)  # fmt: skip
def test_the_search_looks_into_everything_that_names_the_tasks(
    artefacts: dict[str, bytes], name: str
) -> None:
    assert [found for found in where(artefacts, "Charge|/api/spend_") if found.startswith(name)], sorted(
        artefacts
    )


def test_everything_happened_that_could_have_leaked(artefacts: dict[str, bytes]) -> None:
    log = artefacts["worker's log"].decode()
    for said in ("crashed after it had charged", "contained the vendor's secret", "has no room for"):
        assert said in log, said
    for verdict in (b"allowed", b"denied:scope", b"denied:cap"):
        assert verdict in artefacts["spendguard calls"]
    assert b"Traceback" not in artefacts["site/luigid.log"]
    mails = [content for name, content in artefacts.items() if name.startswith("mail")]
    assert any(b"crashed after it had charged" in content for content in mails)


def test_what_the_search_would_find_it_finds(artefacts: dict[str, bytes], tmp_path: Path) -> None:
    assert where({"planted": b"x" + SECRET.encode()}, re.escape(SECRET)) == ["planted"]
    assert where({"planted": b"Bearer vault_key_abcdefgh1"}, r"vault_key_[A-Za-z0-9_-]{8}") == ["planted"]
