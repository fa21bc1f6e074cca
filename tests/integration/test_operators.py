"""Operators with names and roles: what each may do on every route, and that it is kept as theirs."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger.audit.blocks import sealed_entry
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.budgets import last_entry
from luigi_spendguard.settings.policy import moment
from scheduler_patch.api import ROUTES
from scheduler_patch.api.authentication import NEEDED
from tests.support.asking import ADMIN, WORKER, WRONG, Case, Reply, send
from tests.support.processes import wait_until
from tests.support.sealed import age
from tests.support.site import Site

TOKENS = {
    name: f"{name}-" + f"{number}d" * 16 for number, name in enumerate(("reader", "alice", "boss", "second"))
}
ROLES = {"reader": "read", "alice": "operate", "boss": "admin", "second": "admin"}
NAMED = {
    "spendguard_operators": TOKENS,
    "spendguard_roles": {"reader": "read", "boss": "admin", "second": "admin"},
}
AGE_MS = 90 * 86_400_000
_RUNS = itertools.count()


def settings(**main: Any) -> dict[str, Any]:
    """Return what a site with operators goes by: nothing is shown to who has no token."""
    said = {"admin_token": ADMIN, "worker_token": WORKER, "anonymous_read": "false", "daily_cap_usd": 10000}
    return {"spendguard": said | {"gateway_url": "http://127.0.0.1:9"} | main, **NAMED}


@pytest.fixture(scope="module")
def staffed(tmp_path_factory: pytest.TempPathFactory, shared_site: Site) -> Iterator[Site]:
    with Site(
        tmp_path_factory.mktemp("staffed"),
        stripe=shared_site.stripe,
        **settings(operator_top_up_usd=50, two_operators_above_usd=1000),
    ) as site:
        Case(site)  # There is a ledger.
        yield site


def over(case: Case) -> str:
    """Let all runs be over, and everything have happened long ago; return a moment since."""
    call_id = case.reserved()
    send(case.site, "POST", "/api/spend_settle", {"call_id": call_id, "total_micros": 2_000_000}, case.key)
    end = {"claim_id": case.attempt.claim_id, "outcome": "completed"}
    assert send(case.site, "POST", "/api/spend_finish", end, WORKER).status == 200
    with case.site.books(writes=True) as tx:
        for change in (
            "run SET state = 'revoked', opened_at = opened_at - ?1, ended_at = opened_at - ?1",
            "claim SET claimed_at = claimed_at - ?1, ended_at = claimed_at - ?1",
            "call SET created_at = created_at - ?1, granted_at = granted_at - ?1, ended_at = ended_at - ?1",
        ):
            tx.run(f"UPDATE {change}", AGE_MS)
    return str(moment(int(time.time() * 1000) - AGE_MS // 2))


def long_sealed(case: Case) -> str:
    """Let blocks of the audit have been sealed long ago; return a moment since."""
    for _ in range(2):  # The newest block stays.
        case.reserved()
        wait_until(lambda: _is_sealed(case.site), what="the audit's next block")
    with case.site.books(writes=True) as tx:
        age(tx, KeyFiles(case.site.ledger.with_name(f"{case.site.ledger.name}.audit-key")), 90)
    return str(moment(int(time.time() * 1000) - AGE_MS // 2))


def _is_sealed(site: Site) -> bool:
    with site.books() as tx:
        return sealed_entry(tx) == last_entry(tx)


def key_of(case: Case) -> str:
    body = {"vendor": "stripe", "run_usd_cap": "5", "agent_run_label": f"luigi/{case.run_id}"}
    return str(send(case.site, "POST", "/vault/keys", body, WORKER).json["id"])


def customer_of(case: Case) -> str:
    customer = f"cus_{next(_RUNS)}"
    call_id = case.reserved(target=customer, body="amount=200")
    end = {"call_id": call_id, "total_micros": 2_000_000, "answer_body": "{}"}
    send(case.site, "POST", "/api/spend_settle", end, case.key)
    return customer


def log_of(site: Site) -> str:
    """Return luigid's log once it has said what was asked for."""
    log = site.folder / "luigid.log"
    wait_until(lambda: "waits for a second operator, by boss" in log.read_text(), what="the log")
    return log.read_text()


def waiting(case: Case) -> str:
    """Let a top-up of $2 wait for another operator than the second one; return its id."""
    assert case.top_up({"usd": "1000"}, TOKENS["second"]).status == 200
    reply = case.top_up({"usd": "2"}, TOKENS["second"])
    assert reply.status == 202
    return str(reply.json["waiting"]["id"])


#: How each change that a person makes is asked for: the values of its path, and its body.
Asked = tuple[dict[str, str], dict[str, Any] | None]
CHANGES: dict[str, Callable[[Case], Asked]] = {
    "POST /api/revoke_run": lambda case: ({}, {"run_id": case.run_id}),
    "POST /api/top_up_run": lambda case: ({}, {"run_id": case.run_id, "usd": "5"}),
    "POST /api/approve_run": lambda case: (
        {},
        {"run_id": case.run_id, "usd": "5", "task_id": case.pretender.task_id},
    ),
    "POST /api/issue_vault_key": lambda case: ({}, {"vendor": "stripe", "run_usd_cap": "5"}),
    "POST /api/revoke_vault_key": lambda case: ({}, {"id": key_of(case)}),
    "POST /vault/keys": lambda case: ({}, {"vendor": "stripe", "run_usd_cap": "5"}),
    "DELETE /vault/keys/{id}": lambda case: ({"id": key_of(case)}, None),
    "DELETE /runs/{run_id}": lambda case: ({"run_id": case.run_id}, None),
    "POST /runs/{run_id}/top_up": lambda case: ({"run_id": case.run_id}, {"usd": "5"}),
    "POST /runs/{run_id}/approve": lambda case: (
        {"run_id": case.run_id},
        {"usd": "5", "task_id": case.pretender.task_id},
    ),
    "POST /top_ups/{id}/confirm": lambda case: ({"id": waiting(case)}, {}),
    "DELETE /top_ups/{id}": lambda case: ({"id": waiting(case)}, None),
    "POST /calls/{id}/resolve": lambda case: ({"id": case.doubted()}, {"spent_usd": "2"}),
    "POST /forget": lambda case: ({}, {"customer": customer_of(case)}),
    "POST /prune": lambda case: ({}, {"before": over(case)}),
    "POST /audit/prune": lambda case: ({}, {"before": long_sealed(case)}),
}
#: What only operators may ask, and changes nothing.
READS = {"GET /vault/keys", "POST /api/list_vault_keys", "GET /whoami"}
#: Who may do it beside workers.
ISSUES = {"POST /vault/keys", "POST /api/issue_vault_key"}
#: What needs more than `operate`.
OF_ADMINS = {"POST /forget", "POST /prune", "POST /audit/prune", *ISSUES}


def of_operators() -> dict[str, str]:
    """Return every route that an operator's role decides about, with the role."""
    return {
        f"{method} {path}": NEEDED.get(endpoint.who, "admin")
        for path, endpoints in ROUTES
        for method, endpoint in endpoints.items()
        if endpoint.who in NEEDED or f"{method} {path}" in ISSUES
    }


def ask(site: Site, route: str, token: str | None, case: Case | None = None) -> Reply:
    """Ask for what a route does, of a case of its own."""
    method, path = route.split(" ")
    values, body = CHANGES[route](case or Case(site)) if route in CHANGES else ({}, None)
    return send(site, method, path.format(**values), body if body or method != "POST" else {}, token)


def test_each_change_needs_the_role_that_the_docs_say() -> None:
    roles = {route: "admin" if route in OF_ADMINS else "operate" for route in CHANGES}
    assert of_operators() == roles | dict.fromkeys(READS, "read")
    others = {
        f"{method} {path}": endpoint.who
        for path, endpoints in ROUTES
        for method, endpoint in endpoints.items()
        if f"{method} {path}" not in of_operators() and method != "GET"
    }
    looks = {f"POST /api/{name}" for name in ("list_runs", "run_budget", "task_costs")}
    assert {route for route, who in others.items() if who not in ("worker", "key")} == looks
    assert {others[route] for route in looks} == {"read"}


def test_every_change_of_a_person_is_known_here() -> None:
    """A new route that changes something has to show, below, that it keeps by whom."""
    assert {*of_operators()} == {*CHANGES, *READS}


@pytest.mark.parametrize("route", CHANGES)
def test_what_a_person_changes_is_kept_as_theirs(staffed: Site, route: str) -> None:
    (method, path), (values, body) = route.split(" "), CHANGES[route](Case(staffed))
    with staffed.books() as tx:
        before = tx.value("SELECT max(id) FROM journal")
    reply = send(staffed, method, path.format(**values), body, TOKENS["boss"])
    assert reply.status in (200, 201)
    with staffed.books() as tx:
        found = tx.all("SELECT kind, actor FROM journal WHERE id > ? AND actor <> ''", before)
    assert found, reply
    both = "second at 127.0.0.1, confirmed by boss at 127.0.0.1"
    assert {row["actor"] for row in found} == {both if "confirm" in route else "boss at 127.0.0.1"}


#: What luigid's log says of each kind of change.
LOGGED = {
    "top_up": "is topped up by",
    "ask_top_up": "waits for a second operator",
    "withdraw_top_up": "is withdrawn",
    "approve": "approved",
    "revoke": "is revoked",
    "revoke_key": "is revoked",
    "resolve": "is resolved as",
    "prune": "Pruned: ",
    "forget": "Forgotten: ",
}


def test_luigids_log_says_who_has_changed_what(staffed: Site) -> None:
    for route in CHANGES:
        ask(staffed, route, TOKENS["boss"])
    log = staffed.folder / "luigid.log"

    def lacking() -> list[str]:
        lines = [line for line in log.read_text().splitlines() if re.search(r", by \w+ at 127", line)]
        return [kind for kind, text in LOGGED.items() if not any(text in line for line in lines)]

    wait_until(lambda: not lacking(), seconds=15, what="a line of each")


@pytest.mark.parametrize("who", [*TOKENS, "worker", "nobody", "wrong"])
@pytest.mark.parametrize("route", of_operators())
def test_a_role_may_what_the_table_of_routes_says(staffed: Site, route: str, who: str) -> None:
    if (who, route) == ("second", "POST /top_ups/{id}/confirm"):
        return  # Nobody confirms their own: see below.
    needed = of_operators()[route]
    token = {**TOKENS, "worker": WORKER, "nobody": None, "wrong": WRONG}[who]
    case, order = Case(staffed), ("read", "operate", "admin")
    with staffed.books() as tx:
        before = tx.value("SELECT count(*) FROM journal")
    if who in ROLES and order.index(ROLES[who]) < order.index(needed):
        reply = ask(staffed, route, token, case) if route in READS else _denied(case, route, token)
        assert reply.is_error(403, "forbidden")
        assert f"you are {who}, of role {ROLES[who]}: this needs role {needed}" in reply.json["message"]
        assert "boss, second and whoever has the admin token have" in reply.json["message"]
        with staffed.books() as tx:
            assert tx.value("SELECT count(*) FROM journal") == before
    elif who in ROLES or (who == "worker" and route in ISSUES):
        assert ask(staffed, route, token, case).status in (200, 201)
    else:
        reply = ask(staffed, route, token, case)
        # Another token may be a vault key there.
        is_holders = "/vault/keys/{id}" in route or route.endswith("revoke_vault_key")
        assert reply.is_error(401, "unknown_key" if is_holders and who == "wrong" else "unauthorized")


def _denied(case: Case, route: str, token: str | None) -> Reply:
    """Ask for what is denied without making anything for it first."""
    method, path = route.split(" ")
    values = {"run_id": case.run_id, "id": "key_" + "0" * 32}
    return send(case.site, method, path.format(**values), {} if method == "POST" else None, token)


@pytest.mark.parametrize("who", TOKENS)
def test_a_reader_reads_what_is_closed_and_is_no_worker(staffed: Site, who: str) -> None:
    assert send(staffed, "GET", "/runs", token=TOKENS[who]).status == 200
    body = {"name": "r", "by_task_id": False, "root_family": "R", "root_task_id": "R_1"}
    reply = send(staffed, "POST", "/api/spend_open_run", body, TOKENS[who])
    assert reply.status == (200 if ROLES[who] == "admin" else 403)


def test_without_a_worker_token_a_reader_elsewhere_is_no_worker_either(tmp_path: Path) -> None:
    """An operator is served from everywhere: what the machine's own peers may is not theirs by that."""
    with Site(tmp_path / "site", spendguard={"admin_token": ADMIN, "daily_cap_usd": 9}, **NAMED) as site:
        away = {"X-Forwarded-For": "203.0.113.7"}
        assert send(site, "GET", "/runs", token=TOKENS["reader"], **away).status == 200
        assert send(site, "GET", "/runs", token=WRONG, **away).status == 403
        body = {"name": "r", "by_task_id": False, "root_family": "R", "root_task_id": "R_1"}
        for path, asked in (("/api/spend_open_run", body), ("/vault/keys", {"vendor": "stripe"})):
            assert send(site, "POST", path, asked, TOKENS["reader"], **away).status == 403
            assert send(site, "POST", path, asked, TOKENS["alice"], **away).status == 403
        assert send(site, "POST", "/api/spend_open_run", body, TOKENS["boss"], **away).status == 200


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH"])
def test_no_other_method_does_what_a_role_may_not(staffed: Site, method: str) -> None:
    case = Case(staffed)
    over = {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE"}
    path = f"/runs/{case.run_id}"
    assert send(staffed, method, path, None, TOKENS["reader"], **over).status == 405
    assert send(staffed, "GET", path + "?_method=DELETE", None, TOKENS["reader"], **over).status == 400
    assert send(staffed, "GET", path, None, TOKENS["reader"], **over).json["state"] == "active"


def test_whoami(staffed: Site) -> None:
    def told(token: str) -> Any:
        return send(staffed, "GET", "/whoami", token=token).json

    assert told(TOKENS["alice"]) == {
        "name": "alice",
        "shown": "alice",
        "role": "operate",
        "may": ["read", "operate"],
        "alone_usd": "1000.00",
        "top_up_usd": "50.00",
        "without_token": [],
    }
    assert told(ADMIN) == {
        "name": None,
        "shown": "an operator",
        "role": "admin",
        "may": ["read", "operate", "admin"],
        "alone_usd": "1000.00",
        "top_up_usd": None,
        "without_token": [],
    }


class TestTheMostThatAnOperatorMayRaise:
    def test_it_is_the_sum_of_what_was_raised_of_a_run_by_whatever_route(self, staffed: Site) -> None:
        case, alice = Case(staffed), TOKENS["alice"]
        assert case.top_up({"usd": "30", "request_id": case.run_id}, alice).status == 200
        assert case.top_up({"usd": "15", "day": True}, alice).status == 200
        rpc = {"run_id": case.run_id, "usd": "5.01"}
        for reply in (
            case.top_up({"usd": "5.01"}, alice),
            send(staffed, "POST", "/api/top_up_run", rpc, alice),
        ):
            assert reply.is_error(403, "forbidden")
            assert "by $50.00 in all" in reply.json["message"]
            assert "those of this one, or asked to, by $45.00" in reply.json["message"]
        assert case.top_up({"usd": "5"}, alice).status == 200
        # What was done already is not done again, and so not refused.
        assert case.top_up({"usd": "30", "request_id": case.run_id}, alice).json["repeated"] is True
        assert send(staffed, "GET", f"/runs/{case.run_id}", token=alice).json["cap_usd"] == "135.00"

    def test_others_are_not_counted_and_an_admin_has_none(self, staffed: Site) -> None:
        case = Case(staffed)
        assert case.top_up({"usd": "500"}, TOKENS["boss"]).status == 200
        assert case.top_up({"usd": "500"}, ADMIN).status == 200
        assert case.top_up({"usd": "50"}, TOKENS["alice"]).status == 200
        assert Case(staffed).top_up({"usd": "50"}, TOKENS["alice"]).status == 200
        actions = send(staffed, "GET", f"/actions?run={case.run_id}", token=ADMIN).json
        assert [one["actor"].partition(" at ")[0] for one in actions] == ["alice", "an operator", "boss"]


class TestTwoOperators:
    def test_a_top_up_waits_and_is_confirmed_on_the_command_line(self, staffed: Site) -> None:
        case = Case(staffed)
        code, said, _ = staffed.cli(
            "top-up", case.run_id, "1001", "--as", "second", "--request-id", case.run_id
        )
        assert code == 0
        found = re.search(r"Nothing is raised yet: (tu_[0-9a-f]{12}), a top-up of \$1,001.00, waits", said)
        assert found is not None, said
        assert "(alice or boss), who confirms it with `spendguard confirm tu_" in said
        again = staffed.cli("top-up", case.run_id, "1001", "--as", "second", "--request-id", case.run_id)
        assert (again[0], f"Nothing was changed: {case.run_id} was done before. " in again[1]) == (0, True)
        listed = staffed.cli("top-ups", "--run", case.run_id, "--state", "waiting", "--as", "reader")[1]
        assert f"{found[1]} waiting $1,001.00" in re.sub(" +", " ", listed)
        assert "second at 127.0.0.1" in listed
        shown = staffed.cli("run", case.run_id, "--as", "reader")[1]
        assert "$1,001.00 asked for by second at 127.0.0.1, waits for alice or boss: `spendguard con" in shown
        for who, why in (
            ("second", "you are second, who has asked for it; alice or boss can"),
            ("alice", "by $50.00 in all"),
            ("reader", "this needs role operate"),
        ):
            code, _, err = staffed.cli("confirm", found[1], "--as", who)
            assert (code, why in err) == (4, True), err
        code, _, err = staffed.cli("confirm", found[1])
        assert (code, "the admin token names nobody" in err) == (4, True)
        code, said, err = staffed.cli("confirm", found[1], "--as", "boss", "--request-id", f"c {case.run_id}")
        assert (code, "has a cap of $1,101.00" in said) == (0, True), err
        code, said, _ = staffed.cli("confirm", found[1], "--as", "boss", "--request-id", f"c {case.run_id}")
        assert (code, "Nothing was changed" in said) == (0, True)
        code, _, err = staffed.cli("withdraw", found[1], "--as", "second")
        assert (code, "waits no more: it is confirmed by boss at" in err) == (1, True)

    def test_one_that_is_withdrawn_raises_nothing(self, staffed: Site) -> None:
        case = Case(staffed)
        name = waiting(case)
        code, said, _ = staffed.cli("withdraw", name, "--as", "alice")
        assert (code, said) == (0, f"{name} is withdrawn: nothing of run {case.run_id} was raised.\n")
        assert send(staffed, "POST", f"/top_ups/{name}/confirm", {}, TOKENS["boss"]).is_error(409, "conflict")
        actions = send(staffed, "GET", f"/actions?run={case.run_id}", token=ADMIN).json
        assert [(one["kind"], one["usd"], one["actor"]) for one in actions] == [
            ("withdraw_top_up", "2.00", "alice at 127.0.0.1"),
            ("ask_top_up", "2.00", "second at 127.0.0.1"),
            ("top_up", "1000.00", "second at 127.0.0.1"),
        ]

    def test_by_the_rpc_it_waits_as_well(self, staffed: Site) -> None:
        case = Case(staffed)
        body = {"run_id": case.run_id, "usd": "1001"}
        reply = send(staffed, "POST", "/api/top_up_run", body, TOKENS["boss"])
        assert (reply.status, reply.json["response"]["waiting"]["state"]) == (202, "waiting")
        reply = send(staffed, "POST", "/api/top_up_run", body, ADMIN)
        assert reply.is_error(403, "forbidden")
        assert send(staffed, "GET", f"/runs/{case.run_id}", token=ADMIN).json["cap_usd"] == "100.00"
        assert "Traceback" not in (staffed.folder / "luigid.log").read_text()
        assert "waits for a second operator, by boss at 127.0.0.1" in log_of(staffed)


class TestTheCommandLine:
    def test_it_says_who_one_is_and_what_that_may(self, staffed: Site) -> None:
        case = Case(staffed)
        assert staffed.cli("top-up", case.run_id, "5", "--as", "alice")[0] == 0
        assert staffed.cli("--as=boss", "top-up", case.run_id, "5")[0] == 0
        assert staffed.cli("top-up", case.run_id, "5", SPENDGUARD_AS="alice")[0] == 0
        assert staffed.cli("top-up", case.run_id, "5")[0] == 0
        code, _, err = staffed.cli("revoke", case.run_id, "--as", "reader")
        assert code == 4
        assert (
            "you are reader, of role read: this needs role operate, which alice, boss, second and whoever"
            in err
        )
        assert "refused was the token of reader in [spendguard_operators]" in err
        actions = send(staffed, "GET", f"/actions?run={case.run_id}", token=ADMIN).json
        who = [one["actor"].partition(" at ")[0] for one in actions]
        assert who == ["an operator", "alice", "boss", "alice"]

    def test_who_has_no_luigi_cfg_with_it_has_a_variable(self, staffed: Site) -> None:
        case = Case(staffed)
        assert staffed.cli("top-up", case.run_id, "5", SPENDGUARD_TOKEN=TOKENS["alice"])[0] == 0
        code, out, err = staffed.cli("runs", SPENDGUARD_TOKEN=WRONG)
        assert (code, WRONG in out + err) == (4, False)
        assert "refused was the token of SPENDGUARD_TOKEN" in err
        [action] = send(staffed, "GET", f"/actions?run={case.run_id}", token=ADMIN).json
        assert action["actor"] == "alice at 127.0.0.1"

    @pytest.mark.parametrize(
        ("who", "wanted"),
        [
            (
                "alice",
                [
                    "you alice, of role operate, by the token of alice in [spendguard_operators]",
                    "may look; top up, approve, resolve, revoke",
                    "top-ups $50.00 of one run in all ([spendguard] operator_top_up_usd); what comes to more "
                    "than $1,000.00 of one run waits for a second operator",
                    "kept as alice: what you change is kept with your name",
                ],
            ),
            (
                "reader",
                [
                    "you reader, of role read, by the token of reader in [spendguard_operators]",
                    "may look",
                ],
            ),
            (
                "",
                [
                    "you an operator, of role admin, by the admin token of [spendguard] admin_token (or "
                    "admin_token_file)",
                    "may look; top up, approve, resolve, revoke; issue vault keys, prune, forget",
                    "top-ups what comes to more than $1,000.00 of one run needs two operators who have names",
                    "kept as an operator: the admin token names nobody; [spendguard_operators] names reader, "
                    "alice, boss, second: say who you are with --as NAME",
                ],
            ),
        ],
    )
    def test_whoami_says_who_one_is_where_and_what_that_may(
        self, staffed: Site, who: str, wanted: list[str]
    ) -> None:
        code, out, err = staffed.cli("whoami", *(["--as", who] if who else []))
        lines = [re.sub(" +", " ", line) for line in out.splitlines()]
        assert (code, lines, err) == (0, [f"luigid {staffed.url}", *wanted], "")

    def test_whoami_is_read_by_programs_too_and_is_no_answer_for_a_worker(self, staffed: Site) -> None:
        code, out, _ = staffed.cli("whoami", "--as", "alice", "--format", "json")
        assert (code, json.loads(out)) == (0, send(staffed, "GET", "/whoami", token=TOKENS["alice"]).json)
        code, _, err = staffed.cli("whoami", SPENDGUARD_TOKEN=WORKER)
        assert (code, "this is not an operator's token" in err) == (4, True)

    def test_a_change_under_the_admin_token_says_that_it_names_nobody(self, staffed: Site) -> None:
        def said(*args: str, **env: str) -> str:
            code, _, err = staffed.cli(*args, **env)
            assert code == 0, err
            return err

        case = Case(staffed)
        unnamed = (
            "This is kept as an operator's, without a name: [spendguard_operators] names reader, alice, "
            "boss, second: say who you are with --as NAME.\n"
        )
        change = ("top-up", case.run_id, "5", "--request-id", case.run_id)
        assert said(*change) == unnamed
        assert said(*change) == "", "nothing was changed"
        assert said("revoke-key", key_of(case), SPENDGUARD_TOKEN=ADMIN) == unnamed
        assert said("prune", "--before", "2020-01-01", "--dry-run") == said("run", case.run_id) == ""
        assert said("prune", "--before", "2020-01-01") == unnamed, "once, however often it asks"
        assert said("top-up", case.run_id, "5", "--as", "alice") == ""
        assert said("top-up", case.run_id, "5", SPENDGUARD_TOKEN=TOKENS["alice"]) == ""

    def test_check_says_who_is_named_and_whom_luigid_sees(self, staffed: Site) -> None:
        said = staffed.cli("check", "--as", "alice")[1]
        assert "operators: reader has role read\n" in re.sub(" +", " ", said)
        assert "luigid takes you for alice, of role operate" in said
        code, said, _ = staffed.cli("check", SPENDGUARD_TOKEN=WRONG)
        assert (code, "this token is wrong" in said, WRONG in said) == (1, True, False)

    @pytest.mark.parametrize(
        ("args", "env", "said"),
        [
            (("--as", "nobody"), {}, "names reader, alice, boss, second"),
            (("--as", "alice"), {"SPENDGUARD_TOKEN": WRONG}, "say either --as (or SPENDGUARD_AS)"),
            ((), {"SPENDGUARD_TOKEN": "two words of 16 letters"}, "has other signs than a token has"),
        ],
    )
    def test_who_is_nobody_is_bad_usage(
        self, staffed: Site, args: tuple[str, ...], env: dict[str, str], said: str
    ) -> None:
        code, out, err = staffed.cli("runs", *args, **env)
        assert (code, said in err, out) == (2, True, "")
        assert not [one for one in env.values() if one in err]


def test_a_reload_ends_a_token_at_once_and_takes_no_role_away_by_a_line_that_is_gone(tmp_path: Path) -> None:
    with Site(tmp_path / "site", **settings()) as site:
        log = site.folder / "luigid.log"

        def reload(**sections: Any) -> str:
            before = len(log.read_text())
            site.configure(**sections)
            assert site.luigid is not None
            os.kill(site.luigid.popen.pid, signal.SIGHUP)

            def said() -> str:
                return "".join(
                    line for line in log.read_text()[before:].splitlines(True) if "reloaded" in line
                )

            wait_until(lambda: bool(said()), what="the reload")
            return said()

        def status(who: str) -> int:
            return send(site, "GET", "/whoami", token=TOKENS[who]).status

        assert [status(who) for who in TOKENS] == [200, 200, 200, 200]
        assert "[spendguard_roles] reader was there and is gone" in reload(spendguard_roles={"reader": None})
        assert send(site, "GET", "/whoami", token=TOKENS["reader"]).json["role"] == "read"
        site.configure(spendguard_roles={"reader": "read"})
        said = reload(spendguard_operators={"alice": None})
        assert "luigi.cfg was reloaded: [spendguard_operators] alice changed" in said
        assert [status(who) for who in TOKENS] == [200, 401, 200, 200]
        reload(spendguard_operators={"dave": "${NOBODY_SETS_IT}"})
        lacks = send(site, "GET", "/whoami", token=TOKENS["reader"]).json["without_token"]
        assert (lacks, site.cli("check")[1].count("dave may not change anything")) == (["dave"], 1)
        # With the last line of one both are gone.
        gone = reload(spendguard_operators={"reader": None}, spendguard_roles={"reader": None})
        assert "luigi.cfg was reloaded" in gone
        assert [status(who) for who in TOKENS] == [401, 401, 200, 200]
        assert not [token for token in TOKENS.values() if token in log.read_text()]


def test_wrong_tokens_are_throttled_and_right_ones_are_not(tmp_path: Path) -> None:
    with Site(tmp_path / "site", **settings()) as site:
        found = {send(site, "GET", "/whoami", token=WRONG).status for _ in range(210)}
        assert found == {401, 429}
        assert [send(site, "GET", "/whoami", token=token).status for token in TOKENS.values()] == [200] * 4
