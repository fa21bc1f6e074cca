"""Switches a stock `luigid` on from luigi.cfg alone:

    [scheduler]
    metrics_collector = custom
    metrics_custom_import = scheduler_patch.metrics.SpendguardMetrics

Luigi 3.8 imports that class when it makes its scheduler, before it asks for its application (`metrics.py`,
`server.py`). The slot it takes is given back: `[spendguard] metrics_collector` names Luigi's own collector.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import luigi.server
from luigi.metrics import MetricsCollector, MetricsCollectors, NoMetricsCollector

from luigi_spendguard import config
from luigi_spendguard.errors import LedgerError, LedgerUnreached, PluginError
from luigi_spendguard.settings.files import ConfigError
from scheduler_patch import server


class SpendguardMetrics(MetricsCollector):
    """Hands everything to the collector that is configured; making it switches budgets on.

    A worker with a scheduler of its own makes one, too. Only luigid ends over a setting that is wrong, when
    it asks for its application; a worker refuses its vendor tasks, and runs all others.
    """

    def __init__(self) -> None:
        wrong = ""
        try:
            settings = config.load(as_luigid=True)
            self._luigis: Any = MetricsCollectors.get(MetricsCollectors[settings.metrics_collector])
            server.install(settings)
        except ConfigError as error:
            wrong = str(error)
        except (ImportError, NameError) as error:  # Luigi's Datadog collector swallows its ImportError.
            wrong = f"[spendguard] metrics_collector needs a package: {error}"
        if wrong:
            self._luigis = NoMetricsCollector()
        luigi.server.app = partial(_app, wrong)

    def handle_task_started(self, task: Any) -> None:
        self._luigis.handle_task_started(task)

    def handle_task_failed(self, task: Any) -> None:
        self._luigis.handle_task_failed(task)

    def handle_task_disabled(self, task: Any, config: Any) -> None:
        self._luigis.handle_task_disabled(task, config)

    def handle_task_done(self, task: Any) -> None:
        self._luigis.handle_task_done(task)

    def handle_task_statistics(self, task: Any, statistics: Any) -> None:
        self._luigis.handle_task_statistics(task, statistics)

    def generate_latest(self) -> Any:
        return self._luigis.generate_latest()

    def configure_http_handler(self, http_handler: Any) -> None:
        self._luigis.configure_http_handler(http_handler)


def _app(wrong: str, scheduler: Any) -> Any:
    """Return luigid's application with budgets; ends luigid with one line when that cannot be."""
    if wrong:
        sys.stderr.write(f"luigid: {wrong}\n")
        raise SystemExit(2)
    try:
        return server.app(scheduler)
    except (ConfigError, LedgerError, PluginError) as error:
        sys.stderr.write(f"luigid: {error}\n")
        raise SystemExit(3 if isinstance(error, LedgerUnreached) else 2) from None
