"""What all callers have in common: threads that call until they are refused. Standard library alone.

The arguments: the vendor's port, the cap in dollars, how many callers, how many calls each makes at the most,
and what the peer needs besides.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable

PORT, CAP, CALLERS, CALLS = map(int, sys.argv[1:5])
MORE = sys.argv[5:]
FORM = "amount=100&currency=usd&customer=cus_{}&payment_method=pm_card_visa&confirm=true"

_own = threading.local()


def post(port: int, path: str, body: str, headers: dict[str, str]) -> int:
    """Send a request by this thread's connection; return the status."""
    connections = vars(_own).setdefault("connections", {})
    if port not in connections:
        connections[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connections[port].request("POST", path, body, headers)
    reply = connections[port].getresponse()
    reply.read()
    return reply.status


def charge(port: int = PORT, prefix: str = "", key: str = "sk_test_none") -> int:
    """Charge a customer nobody else charges; return the status."""
    vars(_own)["serial"] = number = vars(_own).get("serial", 0) + 1
    customer = f"{threading.get_ident()}_{number}"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-www-form-urlencoded"}
    return post(port, f"{prefix}/v1/payment_intents", FORM.format(customer), headers)


def run(attempt: Callable[[], bool]) -> None:
    """Let all callers `attempt` calls until one is refused (False); print how many, and how fast."""
    made: list[int] = []
    start = threading.Barrier(CALLERS + 1)

    def work() -> None:
        start.wait()
        for _ in range(CALLS):
            if not attempt():
                return
            made.append(1)

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    print(json.dumps({"made": len(made), "seconds": time.perf_counter() - begun}))
