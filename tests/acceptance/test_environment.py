"""What the programs and children of a pipeline find in their environment: nothing that spends by itself."""

from __future__ import annotations

import base64
import multiprocessing
from pathlib import Path

import pytest

from tests.integration.test_install import HEAD, python
from tests.support.site import RESEND_SECRET, SECRET, TWILIO_ACCOUNT, TWILIO_SECRET, Site
from tests.support.vendors import FakeResend, FakeTwilio

METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture
def here(here: Site) -> Site:
    (here.folder / "charges.py").write_text(CHARGES)
    (here.folder / "calls.py").write_text(CALLS)
    return here


#: A program that knows nothing of this package: the stripe SDK, and HTTP as curl does it.
CHARGES = """
import os, sys, urllib.request, urllib.parse, stripe
base, where = os.environ["STRIPE_BASE"], sys.argv[1]
form = {"amount": 100, "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
for name in ("STRIPE_SECRET_KEY", "STRIPE_API_KEY", "MY_NAME_FOR_IT"):
    try:
        client = stripe.StripeClient(os.environ[name], base_addresses={"api": base}, max_network_retries=0)
        client.v1.payment_intents.create(params={**form, "customer": f"{where}_sdk"})
    except Exception as error:
        print("REFUSED", where, type(error).__name__, flush=True)
    try:
        data = urllib.parse.urlencode({**form, "customer": f"{where}_raw"}).encode()
        headers = {"Authorization": f"Bearer {os.environ[name]}"}
        urllib.request.urlopen(urllib.request.Request(f"{base}/v1/payment_intents", data, headers))
    except Exception as error:
        print("REFUSED", where, type(error).__name__, flush=True)
"""
#: A pipeline that starts it wherever a worker calls its code.
STARTS = """
import subprocess, sys
def start(where):
    subprocess.run([sys.executable, "charges.py", str(where)], check=True)
class Starts(Output):
    def requires(self):
        start("requires")
        return []
    def complete(self):
        if len(os.listdir(OUT)) < 3: start("complete")
        return super().complete()
    def run(self):
        start("run")
        self.write()
    def on_success(self):
        start("on_success")
@Starts.event_handler(luigi.Event.START)
def started(task):
    start("event")
"""
BUILD = """
from luigi_spendguard import VendorTask
luigi.build([Starts()], workers={workers}, local_scheduler=True)
assert os.environ["STRIPE_SECRET_KEY"] == os.environ["STRIPE_API_KEY"] == os.environ["MY_NAME_FOR_IT"]
start("afterwards")
"""
NAMES = {"STRIPE_API_KEY": SECRET, "MY_NAME_FOR_IT": SECRET}


def charged(site: Site) -> set[str]:
    """Return who has paid, by the vendor's own books."""
    return {entry["customer"] for entry in site.stripe.books()["moved"]}


def run(site: Site, code: str, **env: str) -> tuple[int, str]:
    return python(site, code, STRIPE_BASE=site.stripe.url, **NAMES, **env)


def refused(said: str) -> set[str]:
    return {line.split()[1] for line in said.splitlines() if line.startswith("REFUSED")}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_program_that_no_vendor_task_starts_spends_nothing(here: Site, workers: int) -> None:
    code, said = run(here, STARTS + BUILD.format(workers=workers))
    assert code == 0, said
    assert {"requires", "complete", "run", "event", "on_success"} <= refused(said), said
    assert charged(here) == {"afterwards_sdk", "afterwards_raw"}


def test_nor_does_one_of_luigis_command(here: Site) -> None:
    """Its process is a pipeline's from the first line after the import of this package."""
    (here.folder / "early_program.py").write_text(
        HEAD + STARTS + "from luigi_spendguard import VendorTask\nstart('module')\n"
    )
    code, said = here.luigi("Starts", module="early_program", STRIPE_BASE=here.stripe.url, **NAMES)
    assert code == 0, said
    assert {"module", "requires", "run", "on_success"} <= refused(said), said
    assert charged(here) == set()


#: A module of the pipeline's that imports nothing of this package.
CALLS = """
import os, stripe
def read(key=""):
    key, base = key or os.environ["STRIPE_SECRET_KEY"], os.environ["STRIPE_BASE"]
    client = stripe.StripeClient(key, base_addresses={"api": base}, max_network_retries=0)
    client.v1.payment_intents.list()
    try:
        client.v1.payment_intents.create(params={"amount": 100, "currency": "usd", "customer": "cus_pool",
                                                 "payment_method": "pm_card_visa", "confirm": True})
    except Exception as error:
        return str(error)
"""
READS = """
import multiprocessing, threading, luigi_spendguard.tasks
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from calls import read
before = os.environ["STRIPE_SECRET_KEY"]
class Reads(Output):
    def requires(self):
        print("SAID", read(), read(before))
        return []
    def run(self):
        keys = [before, os.environ["STRIPE_SECRET_KEY"], ""]
        print("SAID", *map(read, keys))
        with ThreadPoolExecutor(2) as pool:
            print("SAID", *pool.map(read, keys))
        for method in METHODS:
            context = multiprocessing.get_context(method)
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                print("SAID", *pool.map(read, keys), flush=True)
        self.write()
if __name__ == "__main__":
    assert luigi.build([Reads()], workers=2, local_scheduler=True)
    assert os.environ["STRIPE_SECRET_KEY"] == before
    read(before)
"""


def test_what_only_reads_goes_on_outside_vendor_tasks(here: Site) -> None:
    """By code that has had the secret before, or finds its stand-in; in threads, and pools of any kind."""
    code, said = run(here, f"METHODS = {METHODS!r}\n{READS}")
    assert code == 0, said
    calls = said.count("outside any vendor task")
    assert calls >= 2 + 3 + 3 + 3 * len(METHODS), said
    assert charged(here) == {"cus_pool"}, "the web application's own, afterwards"
    reads = [one for one in here.stripe.books()["requests"] if one["method"] == "GET"]
    assert [one["authorization"] for one in reads] == [f"Bearer {SECRET}"] * (calls + 1)
    assert len(here.stripe.posts()) == 1


OVERLAP = """
import threading
from luigi_spendguard import VendorTask
stripe.api_base = os.environ["STRIPE_BASE"]
secret, seen = os.environ["STRIPE_SECRET_KEY"], {}
inside, over, read = threading.Event(), threading.Event(), threading.Event()
def look(where):
    held = os.environ["STRIPE_SECRET_KEY"]
    seen[where] = "secret" if held == secret else "key" if held.startswith("vault_key_") else held
class Long(Output):
    def run(self):
        inside.set()
        over.wait(60)
        look("still")
        self.write()
class Inner(VendorTask, Output):
    def run(self):
        stripe.api_key = kept
        charge("cus_inner")
        self.write()
class Outer(VendorTask, Output):
    run_id = "environment"
    def run(self):
        global kept
        look("outer")
        assert luigi.build([Inner()])
        look("outer_again")
        stripe.api_key = secret
        charge("cus_outer")
        self.write()
class Plain(Output):
    def requires(self):
        global kept
        kept = os.environ["STRIPE_SECRET_KEY"]
        look("requires")
        return Outer()
    def run(self):
        look("plain")
        raise RuntimeError("as it should")
first = threading.Thread(target=lambda: luigi.build([Long()]))
first.start()
inside.wait(60)
luigi.build([Plain()])
look("between")
over.set()
first.join()
look("afterwards")
class Broken(luigi.Task):
    def __init__(self):
        raise KeyboardInterrupt
try: luigi.build([Broken], no_lock=True)
except BaseException: pass
look("raised")
for where, what in seen.items():
    print("SEEN", where, what)
"""


def test_builds_that_overlap_or_end_with_an_error_leave_what_was_there(here: Site) -> None:
    """A stand-in that code has kept is good for the calls of a vendor task."""
    here.configure(worker={"no_install_shutdown_handler": "true"})  # Luigi's signals are the main thread's.
    _, said = run(here, OVERLAP)
    seen = dict(line.split()[1:] for line in said.splitlines() if line.startswith("SEEN"))
    hidden = "no-secret-outside-vendor-tasks"
    assert seen == {
        "requires": hidden,
        "outer": "key",
        "outer_again": "key",
        "plain": hidden,
        "between": hidden,
        "still": hidden,
        "afterwards": "secret",
        "raised": "secret",
    }, said
    assert charged(here) == {"cus_inner", "cus_outer"}


AWARE = """
import luigi_spendguard.tasks, os, stripe
stripe.api_base, stripe.api_key = os.environ["STRIPE_BASE"], os.environ["STRIPE_SECRET_KEY"]
try: stripe.Balance.retrieve()
except stripe.PermissionError as error: print("DENIED", error)
"""


def test_a_program_that_has_the_guard_says_what_it_has_found(here: Site) -> None:
    (here.folder / "charges.py").write_text(AWARE)
    code, said = run(here, STARTS + BUILD.format(workers=1))
    assert code == 0, said
    assert "finds no-secret-outside-vendor-tasks in place of stripe's secret" in said
    assert [one["authorization"] for one in here.stripe.books()["requests"]] == [f"Bearer {SECRET}"], (
        "the one afterwards"
    )


OTHERS = """
import httpx, requests, resend, luigi_spendguard.tasks
from twilio.rest import Client
from luigi_spendguard.proxy.httpx import SpendTransport
from luigi_spendguard.proxy.requests import SpendAdapter
class Redirect(requests.adapters.HTTPAdapter):
    def __init__(self, base, left):
        super().__init__()
        self.base, self.left = base, left
    def send(self, request, *args, **more):
        request.url = self.base + request.url[self.left:]
        return super().send(request, *args, **more)
class RedirectX(httpx.HTTPTransport):
    def handle_request(self, request):
        request.url = httpx.URL(os.environ["STRIPE_BASE"] + request.url.path)
        return super().handle_request(request)
class Reads(Output):
    def run(self):
        resend.api_key, resend.api_url = os.environ["RESEND_API_KEY"], os.environ["RESEND_BASE"]
        assert resend.api_key.startswith("no-secret-outside-vendor-tasks-")
        resend.Emails.list()
        client = Client(os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"])
        client.http_client.session.mount("https://", Redirect(os.environ["TWILIO_BASE"], 7))
        client.messages.list(limit=1)
        key = {"Authorization": f"Bearer {os.environ['STRIPE_SECRET_KEY']}"}
        stripe = "https://api.stripe.com"
        with requests.Session() as session:
            session.mount("https://", SpendAdapter(Redirect(os.environ["STRIPE_BASE"], len(stripe))))
            session.get(f"{stripe}/v1/payment_intents", headers=key).raise_for_status()
            session.mount("http://", SpendAdapter())
            session.get(os.environ["RESEND_BASE"] + "/emails", headers=key)
        with httpx.Client(transport=SpendTransport(RedirectX())) as plain:
            plain.get(f"{stripe}/v1/payment_intents", headers=key).raise_for_status()
        self.write()
assert luigi.build([Reads()], local_scheduler=True)
"""


def test_other_vendors_and_clients_read_on(here: Site, tmp_path: Path) -> None:
    """To whom a stand-in is not, it says nothing."""
    twilio, resend = FakeTwilio(tmp_path / "twilio"), FakeResend(tmp_path / "resend")
    try:
        here.configure(spendguard_twilio={"base_url": twilio.url}, spendguard_resend={"base_url": resend.url})
        code, said = run(
            here,
            OTHERS,
            TWILIO_BASE=twilio.url,
            RESEND_BASE=resend.url,
            TWILIO_ACCOUNT_SID=TWILIO_ACCOUNT,
            TWILIO_AUTH_TOKEN=TWILIO_SECRET,
            RESEND_API_KEY=RESEND_SECRET,
        )
        assert code == 0, said
        basic = base64.b64encode(f"{TWILIO_ACCOUNT}:{TWILIO_SECRET}".encode()).decode()
        shown = [
            [one["authorization"] for one in vendor.books()["requests"]]
            for vendor in (twilio, here.stripe, resend)
        ]
        assert shown == [
            [f"Basic {basic}"],
            [f"Bearer {SECRET}"] * 2,
            [f"Bearer {RESEND_SECRET}", "Bearer no-secret-outside-vendor-tasks"],
        ]
    finally:
        for vendor in (twilio, resend):
            vendor.process.end()
        for name in ("spendguard_twilio", "spendguard_resend"):
            here.configure(**{name: {"base_url": None}})
