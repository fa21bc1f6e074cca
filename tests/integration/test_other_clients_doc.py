"""docs/other-clients.md as it is written: its module, its script, the real `luigi`, curl and node."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import pytest

from tests.support.clients import PROXIES
from tests.support.processes import REPOSITORY, free_port
from tests.support.programs import program
from tests.support.site import Site

TEXT = (REPOSITORY / "docs" / "other-clients.md").read_text("utf-8")


def blocks(language: str) -> str:
    return "\n\n".join(re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL))


@pytest.mark.parametrize("gateway", [False, True])
def test_every_example_charges_once(request: pytest.FixtureRequest, gateway: bool) -> None:
    site: Site = request.getfixturevalue("gateway_site" if gateway else "shared_site")
    site.stripe.forget()
    for name in ("curl", "node"):
        program(name)
    for output in site.folder.glob("By*.txt"):
        output.unlink()
    (site.folder / "other_clients.py").write_text(blocks("python"))
    (site.folder / "charge.mjs").write_text(blocks("js"))
    path = f"{site.folder}:{REPOSITORY}"
    proxies = dict.fromkeys(PROXIES, f"http://127.0.0.1:{free_port()}") | {"NO_PROXY": "127.0.0.1"}
    code, out = site.luigi("All", module="other_clients", PYTHONPATH=path, **proxies)
    assert code == 0, out
    charged = sorted(dict(parse_qsl(post["body"]))["customer"] for post in site.stripe.posts())
    assert charged == ["cus_curl", "cus_httpx", "cus_node", "cus_requests"]
    assert site.stripe.moved() == 400
