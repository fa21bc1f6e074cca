"""What each vendor's calls are guarded by."""

from __future__ import annotations

from collections.abc import Iterator

from luigi_spendguard.cli import in_force
from luigi_spendguard.cli.api_client import Operator, OperatorError
from luigi_spendguard.cli.check.finding import Doubt, Finding, Grade, not_reloaded
from luigi_spendguard.cli.in_force import InForce
from luigi_spendguard.config import Settings, vendor_in_force
from luigi_spendguard.counted import counted
from luigi_spendguard.http.addresses import shown_in_clear
from luigi_spendguard.money import format_usd, parse_usd
from luigi_spendguard.vendors.registry import VENDORS

_DENIED = Doubt("denied until its gateway is mended", Grade.LOOK)


def gateway_apart(settings: Settings, reader: Operator, there: InForce) -> Iterator[Finding]:
    """Yield whether the gateway that is not luigid answers, and what is wrong there."""
    apart, served = settings.gateway_url, there.gateways or {}
    if apart is not None:
        try:
            told = in_force.gateway(settings, apart, reader).get("/settings")
            yield from not_reloaded("the gateway", told)
            yield Finding("gateway", f"answers at {apart}, for {', '.join(sorted(served)) or 'no vendor'}")
            if shown_in_clear(apart, reader.url):
                clear = f"{apart} would show vault keys to the network, while luigid is reached by https"
                yield Finding("gateway", f"{clear}: calls are denied until both are https", Grade.MISSING)
        except OperatorError as error:
            yield Finding("gateway", str(error), Grade.MISSING)


def vendors(settings: Settings, there: InForce, *, gateway_works: bool) -> Iterator[Finding]:
    """Yield a line for each vendor that is used, and what is wrong there."""
    apart, known = settings.gateway_url, there.gateways is not None
    served = there.gateways or {}
    used = [
        name
        for name in VENDORS
        if name in served or in_force.is_set(settings, name) or (apart is not None and not known)
    ]
    for name in used:
        denied = None if gateway_works or name not in served else _DENIED
        for one in [*_vendor(settings, there, name), *_wrong(settings, there, name)]:
            yield one if one.detail else one.unless([denied])
    if unused := [name for name in VENDORS if name not in used]:
        yield _unused(unused, none=not used, told=bool(there.by))


def _unused(names: list[str], *, none: bool, told: bool) -> Finding:
    where = ", ".join(
        f"[spendguard_{name}] secret or {VENDORS[name].secret_variables[0]}"
        for name in names
        if VENDORS[name].secret_variables
    )
    if none:
        text = f"no secret here{'' if told else ', and perhaps not in luigid'}: on the workers, set {where}"
        return Finding(
            "vendors", f"{text}, else their calls are denied", Grade.MISSING if told else Grade.LOOK
        )
    return Finding("not used", f"{', '.join(names)}: their calls are denied (there is no {where})")


def _vendor(settings: Settings, there: InForce, name: str) -> Iterator[Finding]:
    """Yield what a vendor's calls are guarded by, in one line; what is wrong with that; and each price."""
    own, place = in_force.of_worker(settings, name)
    goes_by = (there.gateways or {}).get(name)
    apart = settings.gateway_url
    if goes_by is not None:
        who = f"the gateway at {apart} has the secret" if apart is not None else "luigid is the gateway"
        text = f"{who}: workers need no secret" + (", nor is one of their own used" if place else "")
    elif place:
        text = f"secret from {place}; calls go to {settings.vendor(name).base_url or 'the vendor itself'}"
    elif apart is not None and there.gateways is None:
        text = f"no secret here: calls are forwarded to the gateway at {apart}, which was not asked"
        yield Finding(name, text, Grade.UNKNOWN)
        return
    else:
        where = " or ".join([f"[spendguard_{name}] secret", *VENDORS[name].secret_variables[:1]])
        there_too = "" if there.by else ", and perhaps not in luigid"
        text = f"no secret here{there_too}: on the workers, set {where}, else their calls are denied"
        yield Finding(name, text, Grade.MISSING if there.by else Grade.LOOK)
        return
    told = goes_by if goes_by is not None else own
    if goes_by is not None and "base_url" in told:
        text += f"; it sends calls to {told['base_url'] or 'the vendor itself'}"
    text += f"; allowed: {', '.join(told['allowed_endpoints']) or 'everything that has a price, and reads'}"
    cap = there.told["vendors"].get(name, {}).get("run_cap_usd")
    text += f"; cap {format_usd(parse_usd(cap))} inside any run" if cap is not None else ""
    text += f"; {counted(len(told['prices']), 'price')} of its own (--verbose)" if told["prices"] else ""
    yield Finding(name, text)
    for price in told["prices"]:
        yield Finding(f"at {name}", price, detail=True)


def _wrong(settings: Settings, there: InForce, name: str) -> Iterator[Finding]:
    """Yield what is wrong with a vendor's section: with that of who has its secret, and with the one here.

    That may be luigid's, changed and not in force yet, or that of workers, read where the secret is not.
    """
    told = (there.gateways or {}).get(name) or in_force.of_worker(settings, name)[0]
    section = vendor_in_force(settings.vendor(name))
    for problem in dict.fromkeys([*told["problems"], *section["problems"]]):
        yield Finding(name, problem, Grade.MISSING)
