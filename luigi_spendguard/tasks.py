"""`VendorTask`: the mixin that makes a Luigi task a vendor task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from luigi_spendguard.errors import PluginError
from luigi_spendguard.proxy import context
from luigi_spendguard.worker import install


class VendorTask:
    """Mix in before `luigi.Task`: the task's vendor calls are budgeted, audited and revocable.

        class ChargeCustomer(VendorTask, luigi.Task):
            def run(self):
                stripe.PaymentIntent.create(...)

    Importing it installs the patched worker. Inside `run()` the official SDKs of Stripe, Twilio and Resend
    work as ever, synchronous and asynchronous; what is denied is raised as `SpendDenied` (`BudgetExceeded`,
    `KeyRevoked`) and as the SDK's own: `stripe.RateLimitError`, `TwilioRestException`,
    `resend.exceptions.RateLimitError`. Nothing has been sent then.

    Attributes:
        vendors: which vendors the task calls, where that is known: a task whose only vendor's `run_cap_usd`
            is used up is not dispatched.
        max_cost_usd: the most that the task's calls may spend, as "12.50" (attribute or property); None:
            only the run's cap bounds it. The scheduler counts it from dispatch on, and forecasts by it.

    """

    vendors: tuple[str, ...] = ()
    max_cost_usd: Any = None
    #: How the worker knows a vendor task without importing this module.
    __spendguard_vendor__ = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        run = cls.__dict__.get("run")
        if run is not None and not hasattr(run, "__spendguard__"):
            cls.run = _refused_unguarded(run)  # type: ignore[attr-defined]  # Luigi's method


def _refused_unguarded(run: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse to run under a Luigi worker that nobody guards (a subclass of a user's own)."""

    @functools.wraps(run)
    def guarded_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if context.current() is None and context.on_stack({"luigi.worker"}):
            raise PluginError(
                f"{type(self).__name__} was refused before run(): this Luigi worker is not guarded. Use "
                "luigi_spendguard.WorkerSchedulerFactory, or let your Worker class derive from "
                "luigi_spendguard.worker.GuardedWorker"
            )
        return run(self, *args, **kwargs)

    guarded_run.__spendguard__ = True  # type: ignore[attr-defined]  # our own mark
    return guarded_run


install()
