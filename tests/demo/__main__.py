"""`python -m tests.demo [--keep | --picture FILE]`: an accident, and what a cap makes of it."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

import requests

from tests.demo import steps
from tests.demo.books import Books
from tests.demo.operator import Operator
from tests.demo.screen import Screen
from tests.demo.servers import DemoFailed, Process, Processes
from tests.demo.site import CAP_USD, Site, python

_INTRO = f"""\
A customer list should hold {steps.CUSTOMERS} rows. A join went wrong and it holds \
{steps.CUSTOMERS * steps.COPIES:,}:
  each customer ten times, under ten different row ids. A Luigi pipeline with 16 workers charges $1.00
  for each row. Stripe is localstripe, a stateful stand-in that runs on this machine alone."""

#: Where luigid shows the run that was topped up.
_PAGE = "/static/visualiser/index.html#tab=budgets&run=march"


def main() -> int:
    """Tell the story; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the servers up until Ctrl-C")
    parser.add_argument("--picture", metavar="FILE", help="keep a picture of the run's page at the end")
    said = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    screen, site, failed = Screen(), Site(), False
    try:
        with Processes(site) as processes:
            _story(screen, site, processes, said)
    except DemoFailed as error:
        failed = True
        screen.failed(error, site.folder)
    except requests.RequestException as error:
        failed = True
        screen.failed(DemoFailed(f"a server of the demo does not answer: {error}"), site.folder)
    except KeyboardInterrupt:
        screen.say("Stopped; everything that was started has ended.")
        return 130
    finally:
        if not failed:
            shutil.rmtree(site.folder, ignore_errors=True)
    return 1 if failed else 0


def _story(screen: Screen, site: Site, processes: Processes, said: argparse.Namespace) -> None:
    screen.say(_INTRO)
    with screen.step("1 stock Luigi", "1. Plain Luigi"):
        steps.stock(site, processes, screen)
        processes.end()
    with screen.step("2 capped", f"2. The whole list, with a cap of ${CAP_USD}"):
        stripe = processes.localstripe("localstripe")
        luigid = processes.luigid(stripe)
        books = Books(stripe, site.secret)
        operator = Operator(site, luigid)
        customers = books.new_customers(steps.CUSTOMERS)
        demo = steps.Demo(site, processes, screen, books, operator, customers)
        steps.capped(demo)
    with screen.step("3 topped up", f"3. A top-up of ${steps.TOP_UP_USD}"):
        waiting = steps.topped_up(demo)
        if not said.keep and said.picture is None:
            waiting.stop()
    with screen.step("4 revoked", "4. Another run, revoked in the middle"):
        steps.revoked(demo)
    with screen.step("5 repeated", "5. Submitted again"):
        steps.repeated(demo)
    screen.table()
    if said.picture is not None:
        _draw(f"{luigid}{_PAGE}", said.picture)
    if said.keep:
        _stay(screen, site, luigid, waiting)


def _draw(page: str, file: str) -> None:
    """Keep the picture of docs/budgets-tab.md."""
    from tests.support.browser import browsing  # Only this needs one.

    with browsing() as browser:
        context = browser.new_context(
            viewport={"width": 1280, "height": 1060}, locale="en-US", timezone_id="UTC"
        )
        tab = context.new_page()
        tab.goto(page)
        tab.locator(".spendguard-mark").first.wait_for()
        tab.screenshot(path=file)
        context.close()


def _stay(screen: Screen, site: Site, luigid: str, waiting: Process) -> None:
    """Leave the servers up and say how to use them."""
    spendguard = f"{python().rpartition('/')[0]}/spendguard"
    screen.say(f"\n  The scheduler is up:  {luigid}/")
    screen.say(f"Its Budgets tab:      {luigid}{_PAGE}")
    screen.say(f"Its admin token:      {site.admin_token}")
    screen.say(f"All files and logs:   {site.folder}")
    screen.say("A worker waits at the cap of run march: top it up, and it charges on. In another terminal:")
    screen.code(
        [
            f"export LUIGI_CONFIG_PATH={site.config()}",
            f"{spendguard} runs",
            f"{spendguard} top-up march 25",
            f"{spendguard} calls --run march",
            f"{spendguard} revoke march",
        ]
    )
    screen.say("Ctrl-C ends everything and removes the files.")
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)  # Until Ctrl-C.


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
