"""`VendorTask`: the mixin that makes a Luigi task a vendor task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import luigi

from luigi_spendguard.proxy import attempts
from luigi_spendguard.worker import install
from luigi_spendguard.worker.any_worker import unguarded


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
        payment_key: what the payment is for, such as f"{month}-{customer}" (attribute or property, 1 to 255
            printable characters): a call of the family under the same key is the same call, whatever the
            task's parameters, its run and the day, and with another amount it is refused. None: the task_id
            says which call it is.

    """

    vendors: tuple[str, ...] = ()
    max_cost_usd: Any = None
    payment_key: Any = None
    #: How the worker knows a vendor task without importing this module.
    __spendguard_vendor__ = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = "run" in cls.__dict__
        run = cls.__dict__["run"] if own else getattr(cls, "run", None)
        # One that is inherited may be anybody's; Luigi's own does nothing, and None means an external task.
        if callable(run) and not hasattr(run, "__spendguard__") and run is not luigi.Task.run:
            cls.run = _refused_unguarded(cls, run, own)  # type: ignore[attr-defined]  # Luigi's method


def _refused_unguarded(cls: Any, run: Callable[..., Any], own: bool) -> Callable[..., Any]:
    """Refuse to run in a pipeline by anything but a guarded worker's attempt.

    Luigi's task processes, and copies of them, lend a task their `set_tracking_url` while it runs (Luigi 3.8,
    `worker.py`).
    """

    @functools.wraps(run)
    def guarded_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        lent = getattr(self, "set_tracking_url", None) is not None
        if (lent or attempts.in_pipeline()) and attempts.current() is None:
            raise unguarded(self)
        if own:
            return run(self, *args, **kwargs)
        return super(cls, self).run(*args, **kwargs)  # Whoever's turn it is.

    guarded_run.__spendguard__ = True  # type: ignore[attr-defined]  # our own mark
    return guarded_run


install()
