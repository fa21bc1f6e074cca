"""A stock luigid switched on from luigi.cfg alone behaves as luigid-spendguard, its own collector too."""

from __future__ import annotations

from pathlib import Path

import pytest
import urllib3

from tests.support.asking import send
from tests.support.site import FakeStripe, Site


@pytest.fixture
def switched(tmp_path: Path) -> Site:
    site = Site(tmp_path / "site", start=False)
    site.configure(
        scheduler={
            "metrics_collector": "custom",
            "metrics_custom_import": "scheduler_patch.metrics.SpendguardMetrics",
        },
        spendguard={"metrics_collector": "prometheus"},
    )
    site.start("tests.support.stock_luigid")
    yield site
    site.end()


def test_exactly_the_cap_is_spent(switched: Site) -> None:
    code, out = switched.luigi("Billing", "--n", "5", "--budget-usd", "3", "--workers", "2")
    assert (code, switched.stripe.moved()) == (0, 300), out
    assert "2 tasks blocked: cap of $3.00 reached" in out
    assert switched.cli("runs")[0] == 0


def test_its_page_has_the_budgets_tab(switched: Site) -> None:
    assert "spendguard/budgets.js" in send(switched, "GET", "/static/visualiser/index.html").text
    assert send(switched, "GET", "/spendguard/budgets.js").status == 200


def test_the_collector_it_had_still_works(switched: Site) -> None:
    switched.luigi("Billing", "--n", "2")
    reply = urllib3.PoolManager().request("GET", f"{switched.url}/metrics")
    assert b"luigi_task_started_total" in reply.data
    assert b'family="Charge"' in reply.data


def test_its_state_is_pruned_dumped_and_loaded_as_ours(switched: Site) -> None:
    switched.luigi("Billing", "--n", "3", "--budget-usd", "2", "--run-id", "r")
    assert switched.luigid is not None
    switched.luigid.end()
    switched.start("tests.support.stock_luigid")
    switched.call("POST", "/runs/r/top_up", {"usd": "9"})
    listed = switched.rpc("task_list", status="PENDING", upstream_status="")
    assert {task["name"] for task in listed.values()} == {"Charge", "Billing"}


def test_a_bad_setting_ends_luigid_with_one_line(tmp_path: Path) -> None:
    vendor = FakeStripe(tmp_path / "vendor")
    try:
        site = Site(tmp_path / "site", stripe=vendor, start=False)
        site.configure(
            scheduler={
                "metrics_collector": "custom",
                "metrics_custom_import": "scheduler_patch.metrics.SpendguardMetrics",
            },
            spendguard={"defualt_cap_usd": "1"},
        )
        with pytest.raises(AssertionError, match="did you mean default_cap_usd"):
            site.start("tests.support.stock_luigid")
    finally:
        vendor.process.end()


@pytest.mark.parametrize(
    ("setting", "named"),
    [({"defualt_cap_usd": "1"}, "did you mean default_cap_usd"), ({"metrics_collector": "datadog"}, "")],
)
def test_it_ends_no_worker_that_has_a_scheduler_of_its_own(
    tmp_path: Path, setting: dict[str, str], named: str
) -> None:
    vendor = FakeStripe(tmp_path / "vendor")
    try:
        site = Site(tmp_path / "site", stripe=vendor, start=False)
        site.configure(
            scheduler={
                "metrics_collector": "custom",
                "metrics_custom_import": "scheduler_patch.metrics.SpendguardMetrics",
            },
            spendguard=setting,
        )
        code, out = site.luigi("Report", "--local-scheduler")
        assert (code, (site.folder / "out" / "Report__99914b932b").exists()) == (0, True), out
        _, out = site.luigi("Charge", "--customer", "c", "--local-scheduler")
        assert (vendor.moved() == 0) is bool(named), out
        assert named in out
    finally:
        vendor.process.end()
