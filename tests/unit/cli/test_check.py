"""`spendguard check` says what bounds spending, and what does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import luigi
import luigi.configuration
import pytest
from luigi.configuration import LuigiConfigParser, LuigiTomlParser

from luigi_spendguard.cli.api_client import Operator, OperatorError
from luigi_spendguard.cli.check import findings, named
from luigi_spendguard.cli.check.finding import Grade
from luigi_spendguard.cli.check.spool import waiting
from luigi_spendguard.cli.check.tasks import Tasks
from luigi_spendguard.cli.tokens import Token
from luigi_spendguard.config import Settings, VendorSettings
from luigi_spendguard.http.spool import Kept, Spool
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import rpcs
from luigi_spendguard.protocol.rpcs import FinishRequest
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.operators import NamedOperator
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors.registry import VENDORS


class Unreachable:
    url, code = "http://127.0.0.1:9", 3

    def get(self, path: str) -> Any:
        raise OperatorError("nobody answers", self.code)

    def post(self, path: str, body: Any) -> Any:
        raise OperatorError("nobody answers", self.code)

    def under(self, token: Token) -> Unreachable:
        return self

    def at(self, url: str, token: Token, who: str, remedy: str) -> Unreachable:
        return self


def said(tmp_path: Path, subject: str, **settings: Any) -> str:
    found = findings(Settings(tmp_path / "books.db", Caps(), **settings), Unreachable())
    return next(finding.text for finding in found if finding.subject == subject)


@pytest.mark.parametrize("forecast", ["warn", "hold"])
def test_nothing_bounds_what_a_family_spends_under_a_stock_worker(tmp_path: Path, forecast: str) -> None:
    text = said(tmp_path, "vendor_tasks", vendor_tasks=("Charge", "billing.*"), forecast=forecast)
    assert text.startswith("Charge, billing.*: under a worker without the plugin no call of theirs is seen")
    assert "bounded by a vault key of the gateway, else BY NOTHING" in text
    assert ("forecast = hold holds them for good" in text) is (forecast == "hold")


def test_a_blocked_task_needs_no_new_submission(tmp_path: Path) -> None:
    assert said(tmp_path, "blocked", on_blocked="exit").endswith(
        "exits; after a top-up any other worker that needs them, or an --assistant, takes them up"
    )
    assert said(tmp_path, "blocked", on_blocked="wait").endswith("waits, and goes on at once after a top-up")


def lines(tmp_path: Path, **settings: Any) -> list[str]:
    made = Settings(tmp_path / "books.db", Caps(), **settings)
    found = findings(made, Unreachable())
    return [f"{finding.subject}: {finding.text}" for finding in found]


def test_every_price_in_force_is_said_with_where_it_comes_from(tmp_path: Path) -> None:
    own = {"account_sid": "AC" + "0" * 32, "sms_prices": {"44": 56_000}}
    said = lines(
        tmp_path,
        vendors={
            "twilio": VendorSettings("twilio", "token", own=own),
            "resend": VendorSettings("resend", "re_1"),
        },
    )
    assert "at twilio: sms_prices 44: 0.056 USD a segment (luigi.cfg)" in said
    [us] = [line for line in said if line.startswith("at twilio: sms_prices 1:")]
    assert us.startswith(
        "at twilio: sms_prices 1: 0.0083 USD a segment (default: Twilio's US page as read on"
    )
    assert any(line.startswith("at resend: email_price: 0.0009 USD a recipient (default:") for line in said)
    assert not any("at stripe" in line for line in said)
    assert [line for line in said if line.startswith("resend: ")] == [
        "resend: secret from luigi.cfg; calls go to the vendor itself; allowed: everything that has a price, "
        "and reads; 1 price of its own (--verbose); not asked"
    ]


def test_twilio_without_its_account_is_missing_something(tmp_path: Path) -> None:
    said = lines(tmp_path, vendors={"twilio": VendorSettings("twilio", "token")})
    wanted = "account_sid (TWILIO_ACCOUNT_SID on a worker) is not set: every call is denied until it is"
    assert f"twilio: [spendguard_twilio] {wanted}" in said


def test_a_price_that_is_not_taken_is_not_called_right(tmp_path: Path) -> None:
    prices = {"emails.send": Micros(100_000)}
    said = lines(tmp_path, vendors={"resend": VendorSettings("resend", "re_1", prices=prices)})
    wrong = "prices gives a fixed price to emails.send, which is priced by what it asks for: remove it"
    assert f"resend: [spendguard_resend] {wrong}" in said
    assert not any("emails.send costs" in line for line in said)


def test_a_vendor_that_is_not_used_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor in VENDORS.values():
        for name in vendor.secret_variables:
            monkeypatch.delenv(name, raising=False)
    found = list(findings(Settings(tmp_path / "books.db"), Unreachable()))
    [none] = [finding for finding in found if finding.subject == "vendors"]
    assert none.grade is Grade.LOOK, "luigid may have it, and does not answer"
    assert "[spendguard_twilio] secret or TWILIO_AUTH_TOKEN" in none.text
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_1")
    found = list(findings(Settings(tmp_path / "books.db"), Unreachable()))
    [rest] = [finding for finding in found if finding.subject == "not used"]
    assert rest.grade is Grade.UNKNOWN, "luigid was not asked"
    assert rest.text.startswith("twilio, resend") or rest.text.startswith("resend, twilio")


class Luigid(Unreachable):
    """Answers for luigid and for a gateway apart, which has Stripe's secret."""

    url, held = "https://luigid.example.com", None

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._settings = Settings(folder / "luigids.db", **settings)

    def get(self, path: str) -> Any:
        if path == "/settings":
            return self._settings.in_force() | {"gateway": ["stripe"], "families": ["Charge"]}
        return {"/runs": [], "/status": {"ledger": True}, "/day": {"cap_usd": self.held}}[path]

    def post(self, path: str, body: Any) -> Any:
        return {}


def test_a_gateway_that_is_shown_keys_in_clear_is_missing_tls(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "books.db", gateway_url="http://gateway.example.com:8083")
    luigid = Luigid(tmp_path, caps=Caps(default=Micros(1_000_000)))
    found = findings(settings, luigid)
    missing = [str(one) for one in found if one.grade is Grade.MISSING]
    assert missing == [
        "MISSING gateway: http://gateway.example.com:8083 would show vault keys to the network, while luigid "
        "is reached by https: calls are denied until both are https"
    ]


def test_tags_of_a_family_that_nobody_has_seen_are_no_error_but_said(tmp_path: Path) -> None:
    tags = {"Charge": {"team": "billing"}, "Chrage": {"team": "billing", "ticket": "OPS-12"}}
    settings = Settings(tmp_path / "books.db", tags=tags)
    luigid = Luigid(tmp_path, caps=Caps(default=Micros(1)), tags=tags)
    found = [one for one in findings(settings, luigid) if one.subject.startswith("tags ")]
    counted = "runs are counted under team: billing"
    misspelt = f"look    tags Chrage: {counted}, ticket: OPS-12; luigid has seen no task Chrage"
    assert [str(one) for one in found] == [
        f"ok      tags Charge: {counted}",
        f"{misspelt}: did you mean Charge?",
    ]
    found = [one for one in findings(settings, luigid, ("json",)) if one.subject == "tags Chrage"]
    [line] = found
    assert line.grade is Grade.LOOK
    assert "Chrage is no task of these modules, nor seen before" in line.text
    [line] = [one for one in findings(settings, Unreachable()) if one.subject == "tags Chrage"]
    assert (line.grade, line.text) == (Grade.UNKNOWN, f"{counted}, ticket: OPS-12; not asked")


def test_an_operator_without_a_token_is_said_of_luigid_and_of_no_client(tmp_path: Path) -> None:
    class Asked(Luigid):
        def get(self, path: str) -> Any:
            lacks = {"shown": "alice", "role": "operate", "without_token": self.without_token}
            return lacks if path == "/whoami" else super().get(path)

        without_token: tuple[str, ...] = ()

    tokens = {"alice": Secret("alice-" + "a1" * 16), "bob": None}
    settings = Settings(
        tmp_path / "books.db",
        operators={name: NamedOperator(name, token=one) for name, one in tokens.items()},
    )
    luigid = Asked(tmp_path, caps=Caps(default=Micros(1)))

    def said() -> list[str]:
        return [str(one) for one in findings(settings, luigid) if one.subject.startswith("operators")]

    at_a_client = [
        "ok      operators: alice has role operate",
        "ok      operators: bob has role operate, whose token cannot be had here",
        "ok      operators: luigid takes you for alice, of role operate",
    ]
    assert said() == at_a_client
    luigid.without_token = ("bob",)
    assert said() == [
        *at_a_client,
        "look    operators of luigid: bob may not change anything: the token in [spendguard_operators] "
        "cannot be had by luigid, as its variable is not set there, or its file may not be read",
    ]


def test_what_only_luigids_file_says_is_not_called_passed_over(tmp_path: Path) -> None:
    luigid = Luigid(
        tmp_path, caps=Caps(default=Micros(1), families={"Bill": Micros(2)}), vendor_tasks=("Chrage",)
    )
    found = list(findings(Settings(tmp_path / "books.db"), luigid))
    assert not any(one.subject == "not in force" for one in found)
    [doubt] = [str(one) for one in found if one.grade is Grade.LOOK]
    [unseen] = [str(one) for one in found if one.grade is Grade.UNKNOWN]
    assert (
        unseen
        == "unknown root Bill: cap $0.000002 a run, and no more if it asks; Bill not seen; give --module"
    )
    assert doubt.endswith(
        f"vendor_tasks of luigid: luigid has seen no task Chrage: did you mean Charge?; {GONE}"
    )


GONE = "luigi.cfg here does not have it: if that is luigid's, restart luigid, as a reload takes nothing away"


@pytest.mark.parametrize(("table", "subject"), [("families", "root"), ("task_families", "tasks")])
def test_what_was_taken_out_of_the_file_is_in_force_until_a_restart(
    tmp_path: Path, table: str, subject: str
) -> None:
    caps = {"default": Micros(1), table: {"Chagre": Micros(2), "Charge": Micros(2)}}
    luigid = Luigid(tmp_path, caps=Caps(**caps))
    left = Settings(tmp_path / "books.db", Caps(**(caps | {table: {"Charge": Micros(2)}})))
    for settings in (left, Settings(tmp_path / "books.db")):
        found = list(findings(settings, luigid))
        [gone] = [one for one in found if one.subject == f"{subject} Chagre"]
        assert gone.grade is Grade.LOOK
        assert gone.text.endswith(f"luigid has seen no task Chagre: did you mean Charge?; {GONE}")
        [seen] = [one for one in found if one.subject == f"{subject} Charge"]
        assert GONE not in seen.text


#: What is known of this machine alone.
OF_HERE = {"configuration", "exit code", "blocked", "plugin", "spool"}


@pytest.mark.parametrize(("code", "why"), [(3, "not asked"), (4, "not told by luigid")])
def test_nothing_that_luigid_was_not_asked_is_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, why: str
) -> None:
    monkeypatch.setattr(Unreachable, "code", code)
    caps = Caps(
        default=Micros(1),
        day=Micros(2),
        families={"Bill": Micros(2)},
        task_families={"Charge": Micros(1)},
        vendors={"stripe": Micros(1)},
        single=Micros(1),
        shadow=True,
    )
    vendors = {"stripe": VendorSettings("stripe", "sk_test_1"), "resend": VendorSettings("resend")}
    for more in ({}, {"gateway_url": "http://127.0.0.1:9"}):
        settings = Settings(tmp_path / "books.db", caps, vendor_tasks=("Pay",), vendors=vendors, **more)
        found = list(findings(settings, Unreachable()))
        assert {one.subject for one in found if one.grade is Grade.OK and not one.detail} <= OF_HERE
        assert len([one for one in found if one.grade is Grade.UNKNOWN and one.text.endswith(f"; {why}")]) > 8


def test_of_one_thing_nothing_is_ok_beside_what_is_wrong(tmp_path: Path) -> None:
    wrong = VendorSettings("stripe", "sk_test_1", allowed_endpoints=("payment_intent.create",))
    settings = Settings(tmp_path / "books.db", vendors={"stripe": wrong})
    for luigid in (Unreachable(), Luigid(tmp_path, caps=Caps(default=Micros(1)), vendors={"stripe": wrong})):
        found = list(findings(settings, luigid))
        [line] = [one for one in found if one.subject == "stripe"]
        assert line.grade is Grade.MISSING
        assert "did you mean payment_intents.create" in line.text


@pytest.mark.parametrize(
    ("caps", "said"),
    [
        ({"families": {"Chagre": Micros(1)}}, "look    not in force: [spendguard_caps] Chagre"),
        ({"task_families": {"Chagre": Micros(1)}}, "look    not in force: [spendguard_family_caps] Chagre"),
        ({"families": {"Bililng": Micros(1)}}, "look    not in force: [spendguard_caps] Bililng"),
    ],
)
def test_a_misspelling_of_this_file_is_named_when_luigid_has_the_right_one(
    tmp_path: Path, caps: Any, said: str
) -> None:
    luigid = Luigid(tmp_path, caps=Caps(default=Micros(9), families={"Billing": Micros(1)}))
    [name] = [name for family in caps.values() for name in family]
    settings = Settings(tmp_path / "books.db", Caps(**caps), set_here=frozenset({said.partition(": ")[2]}))
    found = findings(settings, luigid)
    [line] = [str(one) for one in found if one.subject == "not in force"]
    assert line.startswith(said)
    meant = {"Chagre": "Charge", "Bililng": "Billing"}[name]  # Nobody has seen the second yet.
    assert line.endswith(f"luigid has seen no task {name}: did you mean {meant}?")


def test_short_names_with_two_letters_swapped_are_alike() -> None:
    doubt = Tasks(frozenset({"Pay", "Charge"}), None).doubt("Pya")
    assert doubt is not None
    assert doubt.text == "luigid has seen no task Pya: did you mean Pay?"


def test_the_same_proxy_is_shown_its_user_and_password_for_the_gateway() -> None:
    token = Token(Secret("t" * 20), "the test's")
    here = Operator("https://us%40er:pass@luigid.example.com/luigi", token)
    asked = here.at("https://luigid.example.com/gateway", token, "the gateway", "start it")
    assert asked._headers == here._headers
    assert asked.url == "https://luigid.example.com/gateway"
    other = here.at("https://gateway.example.com", token, "the gateway", "start it")
    assert other._headers["Authorization"] == "Bearer " + "t" * 20
    assert here.under(Token(None, "no token was shown"))._headers["Authorization"].startswith("Basic ")


def test_a_vendor_that_fails_keeps_nobody_from_hearing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(settings: VendorSettings) -> Any:
        raise KeyError("prices")

    monkeypatch.setattr(VENDORS["resend"], "price_list", fails)
    own = {"resend": VendorSettings("resend", "re_1"), "stripe": VendorSettings("stripe", "sk_test_1")}
    said = lines(tmp_path, vendors=own)
    assert "resend: the vendor resend failed to say its prices (KeyError)" in said
    assert any(line.startswith("stripe: secret from luigi.cfg") for line in said)


@pytest.mark.parametrize("families", [{}, {"Bill": Micros(2)}])
def test_in_shadow_mode_a_cap_that_is_missing_denies_nothing_yet(
    tmp_path: Path, families: dict[str, Micros]
) -> None:
    luigid = Luigid(tmp_path, caps=Caps(families=families, shadow=True))
    [line] = [one for one in findings(Settings(tmp_path / "books.db"), luigid) if "roots" in one.subject]
    assert line.grade is Grade.LOOK
    assert line.text.startswith("cap $0.00: default_cap_usd is not set, and a run that is opened so keeps")


@pytest.mark.parametrize("reached", [True, False])
def test_a_section_without_its_secret_says_what_is_misspelt_in_it(
    tmp_path: Path, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VENDORS["resend"].secret_variables:
        monkeypatch.delenv(variable, raising=False)
    wrong = VendorSettings("resend", prices={"domain.create": Micros(1)}, allowed_endpoints=("emails.sent",))
    luigid = Luigid(tmp_path, caps=Caps(default=Micros(1))) if reached else Unreachable()
    for more in ({}, {"gateway_url": "http://127.0.0.1:9"}):
        found = findings(Settings(tmp_path / "books.db", vendors={"resend": wrong}, **more), luigid)
        said = [one.text for one in found if one.subject == "resend" and one.grade is Grade.MISSING]
        assert any("did you mean domains.create" in text for text in said)
        assert any("allowed_endpoints: 'emails.sent' is no operation" in text for text in said)


# The ledger, and who else has it.


def test_a_ledger_at_a_server_is_named_without_its_password_and_not_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "books.db").touch()  # Of before it was at a server.
    url = Secret("postgresql://luigi:canary@127.0.0.1:9/books")
    name = "postgresql://127.0.0.1:9/books"
    here = Settings(tmp_path / "books.db", Caps(), ledger_server=url)
    asked = [one for one in findings(here, Luigid(tmp_path)) if one.subject == "ledger"]
    assert [str(one) for one in asked] == [f"ok      ledger: luigid has one; luigi.cfg here names {name}"]
    [alone] = [str(one) for one in findings(here, Unreachable()) if one.subject == "ledger"]
    assert alone.startswith(
        f"look    ledger: {name}, at a server; the ledger's PostgreSQL cannot be reached "
    )
    assert "canary" not in alone


def test_a_smaller_cap_of_another_luigid_is_said(tmp_path: Path) -> None:
    luigid = Luigid(tmp_path, caps=Caps(day=Micros(9_000_000)))
    luigid.held = "9.00"
    shown = [str(one) for one in findings(Settings(tmp_path / "books.db"), luigid)]
    assert "ok      all runs: cap $9.00 a UTC day together" in shown
    luigid.held = "4.00"
    [said] = [str(one) for one in findings(Settings(tmp_path / "books.db"), luigid) if "all runs" in str(one)]
    assert said.startswith("look    all runs: cap $4.00 a UTC day together, as another luigid, gateway or ")
    assert said.endswith("luigid's own is $9.00: give all the same")


# Whose names are misspelt, and who has no cap of its own.


@pytest.mark.parametrize("parser", ["cfg", "toml"])
def test_an_exit_code_that_is_misspelt_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parser: str
) -> None:
    sections = {"retcode": {"spend_bloked": 45, "not_run": 25}}
    kinds = {"cfg": LuigiConfigParser, "toml": LuigiTomlParser}
    config = kinds[parser]()
    if parser == "cfg":
        config.read_dict(sections)
    else:
        config.data = sections
    monkeypatch.setattr(luigi.configuration, "get_config", lambda: config)
    wanted = "[retcode] spend_bloked is nobody's setting: did you mean spend_blocked?"
    assert said(tmp_path, "exit code") == wanted


def test_roots_that_have_the_default_cap_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "tasks_here", lambda: [ReportRoot, ChargeRoot, Below])
    settings = Settings(tmp_path / "books.db", Caps(default=Micros(10_000_000), families={"ChargeRoot": 1}))
    found = findings(settings, Unreachable(), ("tests.unit.cli.test_check",))
    text = next(one.text for one in found if one.subject == "other roots")
    assert "cap $10.00 a run; at most $10.00 if its budget_usd asks for it (ReportRoot)" in text


class Below(luigi.Task):
    pass


class ReportRoot(luigi.Task):
    def requires(self) -> luigi.Task:
        return Below()


class ChargeRoot(ReportRoot):
    pass


# What waits on disk.


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "luigi-spendguard" / "spool"


def test_what_waits_is_counted_for_each_luigid_and_what_was_refused(tmp_path: Path, spool: Path) -> None:
    assert said(tmp_path, "spool") == f"nothing waits in {spool}"
    kept = Kept.of("the end", rpcs.FINISH, FinishRequest("claim", "returned"))
    here, there, own = Spool("http://here"), Spool("http://there"), Spool("/var/lib/books.db")
    own.keep([kept])
    numbers = here.keep([kept] * 3)
    there.keep([kept])
    here.refused(numbers[0], "there is no such claim")
    here.said(numbers[1:2])
    text = re.sub(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "since then", said(tmp_path, "spool"))
    next_one = "for the next worker here, or `spendguard deliver`, to say"
    assert text.split("; ") == [
        f"1 message for /var/lib/books.db waits since then in {spool}, for luigid, its gateway or the next "
        "worker here with --local-scheduler to book",
        f"1 message for http://here waits since then in {spool}, {next_one}",
        f"1 message for http://there waits since then in {spool}, {next_one}",
        f"1 message refused for good: look into {spool / 'refused'}",
    ]
    assert waiting().grade is Grade.LOOK
    there.keep([kept])
    assert "2 messages for http://there wait since " in said(tmp_path, "spool")


def test_where_nothing_can_be_kept_it_says_so(tmp_path: Path, spool: Path) -> None:
    spool.parent.touch()
    text = said(tmp_path, "spool")
    assert text.startswith(f"{spool} cannot be used (")
    assert text.endswith("what cannot be told to luigid is lost with its worker")


def test_without_a_home_it_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: object) -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert said(tmp_path, "spool").endswith("; set XDG_STATE_HOME")
    with pytest.raises(OSError, match="set XDG_STATE_HOME"):
        Spool("http://here").keep([Kept.of("the end", rpcs.FINISH, FinishRequest("claim", "returned"))])
