"""The strict reader: what it accepts, and one clear error for everything else."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from luigi_spendguard import redaction
from luigi_spendguard.config import SETTINGS, ConfigError, Settings, load
from tests.support.processes import REPOSITORY

TOKEN = "t" * 20
INI, TOML = REPOSITORY / "config" / "luigi.cfg", REPOSITORY / "config" / "luigi.toml"


def read(tmp_path: Path, text: str, name: str = "luigi.cfg", **environ: str) -> Settings:
    path = tmp_path / name
    path.write_text(text)
    return load([path], environ=environ)


def refused(tmp_path: Path, text: str, name: str = "luigi.cfg", **environ: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text, name, **environ)
    assert str(tmp_path / name) in str(error.value)
    return str(error.value)


def test_both_examples_say_the_same() -> None:
    environ = {"SPENDGUARD_ADMIN_TOKEN": TOKEN, "STRIPE_SECRET_KEY": "sk_test_12345"}
    ini, toml = load([INI], environ=environ), load([TOML], environ=environ)
    assert dataclasses.replace(ini, files=()) == dataclasses.replace(toml, files=())
    assert ini.caps.families == {"BillingPipeline": 300_000_000}
    assert (ini.admin_token, ini.worker_token) == (TOKEN, None)
    assert ini.fx["eur"] == Decimal("1.12")
    assert ini.vendor("stripe").secret == "sk_test_12345"


@pytest.mark.parametrize("path", [INI, TOML])
def test_the_examples_name_every_setting(path: Path) -> None:
    lines = path.read_text().splitlines()
    for setting in SETTINGS:
        # What needs a file of the user's own stands there as a comment.
        assert any(line.removeprefix("# ").startswith(f"{setting.key} = ") for line in lines), setting.key


@pytest.mark.parametrize("path", [INI, TOML])
def test_what_stands_there_as_a_comment_is_a_setting_once_it_is_none(path: Path, tmp_path: Path) -> None:
    text, count = re.subn(r"^# (\w+ = )", r"\1", path.read_text(), flags=re.MULTILINE)
    assert count == 6
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    settings = read(tmp_path, text.replace("/etc/luigi", str(tmp_path)), path.name)
    assert settings.tls_cert == tmp_path / "cert.pem"
    assert settings.audit_key == Path("/var/lib/luigi-server/audit-key")
    assert settings.audit_anchor == ("/mnt/elsewhere/spendguard-audit.jsonl",)
    assert settings.vendor("twilio").own["api_key_sid"] == "SK" + "0" * 32
    assert settings.reconcile == 180


@pytest.mark.parametrize("path", [INI, TOML])
def test_a_setting_of_the_examples_has_its_default_or_says_it(path: Path) -> None:
    known, section, said = {(one.section, one.key): one for one in SETTINGS}, "", ""
    for line in path.read_text().splitlines():
        found = re.fullmatch(r"(?:# )?(\w+) = (.*)", line)
        setting = known.get((section, found[1])) if found else None
        if setting is not None and found is not None:
            default = setting.default.replace("`", "")
            value = found[2].strip('{}" ').replace('"', "").replace(" = ", ": ")
            assert said == default or (not said and value == default), line
        section = line.strip("[]") if line.startswith("[") else section
        said = line.removeprefix("# Default: ").removesuffix(".") if line.startswith("# Default: ") else ""


def test_every_setting_is_in_the_docs() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    for setting in SETTINGS:
        assert f"`{setting.key}`" in text, setting.key
        assert setting.meaning in text, setting.key


def test_nothing_set_is_the_defaults(tmp_path: Path) -> None:
    settings = load([], environ={"XDG_STATE_HOME": str(tmp_path)})
    assert settings.ledger_path == tmp_path / "luigi-spendguard" / "spendguard.db"
    assert settings.caps.grant("Any", None)[0] == 0
    assert "default_cap_usd" in settings.caps.grant("Any", None)[1]


def test_a_percent_sign_is_a_percent_sign_and_a_dollar_a_dollar(tmp_path: Path) -> None:
    settings = read(tmp_path, f"[spendguard]\nadmin_token = 50%(x)s$${TOKEN}\n")
    assert settings.admin_token == f"50%(x)s$${TOKEN}"


def test_default_section_is_ignored(tmp_path: Path) -> None:
    settings = read(tmp_path, "[DEFAULT]\nfoo = 1\ndefault_cap_usd = 9\n[spendguard]\nmax_cap_usd = 5\n")
    assert settings.caps.default is None


def test_an_unset_variable_means_not_set_for_secrets_and_tokens_only(tmp_path: Path) -> None:
    text = "[spendguard]\nadmin_token = ${NOPE}\n[spendguard_stripe]\nsecret = ${NOPE}\n"
    settings = read(tmp_path, text)
    assert (settings.admin_token, settings.vendor("stripe").secret) == (None, None)
    said = refused(tmp_path, "[spendguard]\ndefault_cap_usd = ${NOPE}\n")
    assert "[spendguard] default_cap_usd" in said
    assert "'NOPE' is not set" in said
    assert read(tmp_path, "[spendguard]\ndefault_cap_usd = ${CAP}\n", CAP="7").caps.default == 7_000_000


def test_a_later_file_wins_key_by_key(tmp_path: Path) -> None:
    first, second = tmp_path / "a.cfg", tmp_path / "b.cfg"
    first.write_text("[spendguard]\ndefault_cap_usd = 1\nmax_cap_usd = 9\n")
    second.write_text("[spendguard]\ndefault_cap_usd = 2\n")
    caps = load([first, second], environ={}).caps
    assert (caps.default, caps.limit) == (2_000_000, 9_000_000)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.cfg", "prices = v2.core.accounts.create: 2.50, payment_links.create: 0"),
        ("a.toml", 'prices = ["v2.core.accounts.create: 2.50", "payment_links.create: 0"]'),
        ("a.toml", 'prices = { "v2.core.accounts.create" = 2.50, "payment_links.create" = 0 }'),
        (
            "a.toml",
            '[spendguard_stripe.prices]\n"v2.core.accounts.create" = "2.50"\n"payment_links.create" = 0',
        ),
    ],
)
def test_fixed_prices_are_read_in_every_form(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(f"[spendguard_stripe]\n{text}\n")
    prices = load([path], environ={}).vendor("stripe").prices
    assert prices == {"v2.core.accounts.create": 2_500_000, "payment_links.create": 0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[spendguard]\ndefault_cap = 5\n", "[spendguard] default_cap: there is no such setting: did you"),
        ("[spendguard]\nDefault_Cap_USD = 5\n", "did you mean default_cap_usd?"),
        ("[spendguard]\nbudget_everything = 5\n", "there is no such setting"),
        ("[spendguard_strip]\nsecret = x\n", "did you mean spendguard_stripe?"),
        (
            "[spendguard_paypal]\nsecret = x\n",
            "[spendguard_paypal] is no section of luigi_spendguard: no vendor paypal is known here, only "
            "resend, stripe and twilio; the package that adds it may be missing here",
        ),
        (
            "[spendguard_strip]\nsecret = x\n",
            "no section of luigi_spendguard: did you mean spendguard_stripe?",
        ),
        ("[spendguard_cap]\nA = 1\n", "no section of luigi_spendguard: did you mean spendguard_caps?"),
        ("[Spendguard]\ndefault_cap_usd = 5\n", "did you mean spendguard?"),
        ("[spendguard]\ndefault_cap_usd = -5\n", "[spendguard] default_cap_usd: '-5' is no amount"),
        ("[spendguard]\ndefault_cap_usd = NaN\n", "is no amount"),
        ("[spendguard]\ndefault_cap_usd = lots\n", "is no amount"),
        ("[spendguard]\ndefault_cap_usd = 2000000000\n", "is more than the largest amount"),
        ("[spendguard]\ndefault_cap_usd = 10\nmax_cap_usd = 5\n", "$10.00 is more than max_cap_usd, $5.00"),
        ("[spendguard]\ndefault_cap_usd =\n", "is empty"),
        ("[spendguard]\ndefault_cap_usd\n", "line 2 is neither"),
        ("[spendguard]\ndefault_cap_usd = 5 # five\n", "a comment must stand on a line of its own"),
        ("[spendguard]\ndefault_cap_usd = 5 ; five\n", "a comment must stand on a line of its own"),
        ("[spendguard]\nreplay_days = 5\nreplay_days = 6\n", "[spendguard] replay_days: is given twice"),
        ("[spendguard]\na = 1\n[spendguard]\nb = 2\n", "the section [spendguard] is given twice"),
        ("[spendguard]\non_blocked = explode\n", "must be exit or wait"),
        ("[spendguard]\nanonymous_read = maybe\n", "must be true or false"),
        ("[spendguard]\nreplay_days = 0\n", "from 1 to 3650"),
        ("[spendguard]\nreconcile = 3:00\n", "must be a time of day (UTC) from 00:00 to 23:59"),
        ("[spendguard]\nreconcile = 24:00\n", "must be a time of day (UTC) from 00:00 to 23:59"),
        ("[spendguard]\nledger_url = sqlite:///relative.db\n", "absolute path"),
        ("[spendguard]\nledger_url = mysql://x/y\n", "absolute path"),
        ("[spendguard]\nledger_url = sqlite:////\n", "absolute path"),
        ("[spendguard]\nvendor_tasks = A,,B\n", "separated by commas"),
        ("[spendguard]\nadmin_token = short\n", "at least 16"),
        ("[spendguard_stripe]\ntimeout_s = never\n", "a number of seconds"),
        ("[spendguard_stripe]\ntimeout_s = 0\n", "a number of seconds"),
        ("[spendguard_stripe]\nbase_url = http://example.com\n", "must be https"),
        ("[spendguard_stripe]\nbase_url = https://a:b@example.com\n", "must be a plain address"),
        ("[spendguard]\ngateway_url = https://a:b@example.com\n", "must be a plain address"),
        ("[spendguard]\ngateway_url = ftp://example.com\n", "must begin with https:// or http://"),
        ("[spendguard]\ngateway_url = https://example.com:x\n", "has a port that is no number"),
        ("[spendguard_stripe]\nallowed_endpoints = everything\n", "is neither like"),
        ("[spendguard_stripe]\nprices = subscriptions.create\n", "is not like `subscriptions.create: 20`"),
        ("[spendguard_stripe]\nprices = create: 20\n", "is not like `subscriptions.create: 20`"),
        ("[spendguard_stripe]\nprices = quotes.accept: lots\n", "prices: 'lots' is no amount"),
        ("[spendguard_stripe]\nprices = quotes.accept: -1\n", "prices: '-1' is no amount"),
        ("[spendguard_stripe]\nprices = quotes.accept: 1, quotes.accept: 2\n", "given two prices"),
        ("[spendguard_stripe]\nprices = a.b: 1,\n", "'' is not like"),
        ("[spendguard_fx]\neur = 0\n", "[spendguard_fx] eur: must be USD for one unit"),
        ("[spendguard_fx]\neur = NaN\n", "must be USD for one unit"),
        ("[spendguard_fx]\neuro = 1\n", "three lower-case letters"),
        ("[spendguard_fx]\nusd = 2\n", "USD needs no rate"),
        ("[spendguard_caps]\nBilling = much\n", "[spendguard_caps] Billing: 'much' is no amount"),
        ("default_cap_usd = 5\n", "line 1 stands before any [section]"),
    ],
)
def test_what_cannot_be_used_is_named_with_file_section_and_key(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://luigi:canary%zz@h/x",
        "postgresql://luigi:canary@canary@h/x",
        "postgresql://luigi:12345/canary@h/x",
        "postgresql://luigi:can#ary@h/x",
        "postgresql://luigi@h/x?password=the canary",
        "postgresql://luigi:canary@h",
        "postgresql://luigi:canary@h/",
    ],
)
def test_a_servers_url_that_libpq_would_read_otherwise_is_refused_and_not_shown(
    tmp_path: Path, url: str
) -> None:
    said = refused(tmp_path, f"[spendguard]\nledger_url = {url}\n")
    assert "must name a database" in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("sslmod=require", "'sslmod' is no parameter of a PostgreSQL URL: did you mean sslmode?"),
        (
            "sslmode=require&pasword=canary",
            "'pasword' is no parameter of a PostgreSQL URL: did you mean password?",
        ),
        ("zzz=canary", "'zzz' is no parameter of a PostgreSQL URL: sslmode"),
    ],
)
def test_a_parameter_that_libpq_does_not_read_is_named_with_the_nearest(
    tmp_path: Path, query: str, says: str
) -> None:
    said = refused(tmp_path, f"[spendguard]\nledger_url = postgresql://luigi@h/x?{query}\n")
    assert "[spendguard] ledger_url: " in said
    assert says in said
    assert "canary" not in said


def test_every_parameter_of_this_libpq_is_known(tmp_path: Path) -> None:
    for one in Conninfo.get_defaults():
        url = f"postgresql://luigi@h/x?{one.keyword.decode()}=1"
        assert read(tmp_path, f"[spendguard]\nledger_url = {url}\n").ledger == url


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgresql://luigi:the%20canary@h/x", "the canary"),
        ("postgres://luigi:canary-1@h:5432/x", "canary-1"),
        ("postgresql://luigi@h/x?sslmode=require&password=canary-2%21", "canary-2!"),
        ("postgresql://luigi@h/x?sslpassword=canary-3", "canary-3"),
    ],
)
def test_a_servers_password_is_taken_out_of_every_text(tmp_path: Path, url: str, password: str) -> None:
    settings = read(tmp_path, f"[spendguard]\nledger_url = {url}\n")
    assert settings.ledger == url
    assert password not in redaction.redact(f"no such host: {password}@h")
    assert password not in settings.ledger_name


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@db1:5432,db2:5432/x?target_session_attrs=read-write",
        "postgresql://u@[::1]:5432/x",
        "postgresql:///x?host=/run/postgresql",
        "postgresql://%2Frun%2Fpostgresql/x?options=-csearch_path%3Dbooks",
    ],
)
def test_a_servers_url_is_whatever_libpq_takes(tmp_path: Path, url: str) -> None:
    assert read(tmp_path, f"[spendguard]\nledger_url = {url}\n").ledger == url
    assert conninfo_to_dict(url)["dbname"] == "x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[spendguard\n", "is no valid TOML"),
        ("[spendguard]\ndefault_cap_usd = 1\ndefault_cap_usd = 2\n", "is no valid TOML"),
        ("[spendguard]\ndefault_cap_usd = -1.5\n", "is no amount"),
        ("[spendguard]\ndefault_cap_usd = nan\n", "is no amount"),
        ("[spendguard]\ndefault_cap_usd = true\n", "is no amount"),
        ("[spendguard]\ndefault_cap_usd = 1979-05-27\n", "cannot be a date"),
        ("[spendguard.stripe]\nsecret = 'x'\n", "[spendguard.stripe] is no section of luigi_spendguard"),
        (
            "[spendguard.caps]\nBilling = 3\n",
            "[spendguard.caps] is no section of luigi_spendguard: did you mean",
        ),
        ("[spendguard.strpe]\nsecret = 'x'\n", "did you mean spendguard_stripe?"),
        ("spendguard = 5\n", "spendguard must be a section"),
        ("[spendguard]\nvendor_tasks = [1, 2]\n", "cannot be a list"),
    ],
)
def test_toml_is_read_as_strictly(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text, "luigi.toml")


@pytest.mark.parametrize(
    "text",
    [
        "[spendguard_stripe]\nsecret = {} # mine\n",
        "[spendguard_stripe]\nsecret = {}\nsecret = {}\n",
        "[spendguard_stripe]\nsecret = a {} b\n",
        "[spendguard]\nadmin_token = {0} {0}\n",
        "{}\n[spendguard]\n",
        "[spendguard_stripe]\n  {}\n x\n",
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, text: str) -> None:
    assert "sk_live_canary" not in refused(tmp_path, text.format("sk_live_canary", "sk_live_canary"))


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        "[spendguard]\nadmin_token = "
        + TOKEN
        + "\nworker_token = w"
        + TOKEN
        + "\n[spendguard_stripe]\nsecret = sk_live_canary\n",
    )
    assert TOKEN not in repr(settings)
    assert "sk_live_canary" not in repr(settings)


def test_a_file_that_luigi_would_ignore_is_not_ignored(tmp_path: Path) -> None:
    toml = tmp_path / "luigi.toml"
    toml.write_text("[spendguard]\n")
    with pytest.raises(ConfigError, match="LUIGI_CONFIG_PARSER=toml"):
        load(environ={"LUIGI_CONFIG_PATH": str(toml)})
    with pytest.raises(ConfigError, match="no file"):
        load(environ={"LUIGI_CONFIG_PATH": str(tmp_path / "missing.cfg")})


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "luigi.cfg"
    path.write_bytes(b"[spendguard]\ndefault_cap_usd = \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load([path], environ={})


@pytest.mark.parametrize(
    ("caps", "asked", "granted"),
    [
        ("default_cap_usd = 100", None, 100),
        ("default_cap_usd = 100", 50, 50),
        ("default_cap_usd = 100", 500, 100),
        ("default_cap_usd = 100\nmax_cap_usd = 1000", 500, 500),
        ("default_cap_usd = 100\nmax_cap_usd = 1000", 5000, 1000),
        ("max_cap_usd = 1000", None, 0),
        ("max_cap_usd = 1000", 5, 5),
        ("default_cap_usd = 100\n[spendguard_caps]\nRoot = 300", None, 300),
        ("default_cap_usd = 1\nmax_cap_usd = 1000\n[spendguard_caps]\nRoot = 300", 900, 300),
        ("", 5, 0),
        ("default_cap_usd = 100\n[spendguard_caps]\nRoot = 0", None, 0),
    ],
)
def test_the_cap_that_is_granted(tmp_path: Path, caps: str, asked: int | None, granted: int) -> None:
    micros = None if asked is None else asked * 1_000_000
    cap, note = read(tmp_path, f"[spendguard]\n{caps}\n").caps.grant("Root", micros)
    assert cap == granted * 1_000_000
    missing = asked is None and caps in ("", "max_cap_usd = 1000")
    assert bool(note) == (missing or (asked is not None and asked != granted))


@pytest.mark.parametrize("text", ["[email]\nreceiver = a,\n   b\n\n   c\n", "[my]\nx = 1\n# c\n   2\n"])
def test_values_that_luigi_reads_are_read(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).caps.default is None
    (tmp_path / "folder").mkdir()
    assert load([tmp_path / "folder"], environ={}).caps.default is None


def test_values_of_several_lines_elsewhere_are_no_error(tmp_path: Path) -> None:
    text = "[email]\nreceiver = a,\n   b\n\n   c\n[spendguard]\ndefault_cap_usd = 5\n"
    assert read(tmp_path, text).caps.default == 5_000_000


def test_luigid_starts_with_a_path_that_luigi_ignores_unless_caps_could_be_lost(tmp_path: Path) -> None:
    missing = {"LUIGI_CONFIG_PATH": str(tmp_path / "none.cfg"), "XDG_STATE_HOME": str(tmp_path)}
    assert load(environ=missing, as_luigid=True).caps.default is None
    with pytest.raises(ConfigError, match="is no file"):
        load(environ=missing)


@pytest.mark.parametrize(
    "url", ["https://gateway.example.com:8083/a", "http://10.0.0.1:8083", "http://[::1]:1"]
)
def test_a_gateway_may_be_reached_by_https_or_http(tmp_path: Path, url: str) -> None:
    assert read(tmp_path, f"[spendguard]\ngateway_url = {url}/\n").gateway_url == url


@pytest.mark.parametrize(
    "name",
    ["spendgaurd", "spengduard_caps", "SpendGaurd", "spend_guard", "luigi_spendguard", "spenduard-stripe"],
)
def test_a_section_that_is_nearly_ours_is_an_error(tmp_path: Path, name: str) -> None:
    said = refused(tmp_path, f"[{name}]\ndefault_cap_usd = 5\n")
    assert f"[{name}] is no section of luigi_spendguard" in said


@pytest.mark.parametrize(
    "name", ["core", "scheduler", "worker", "spark", "email", "sendgrid", "safeguard", "Spend"]
)
def test_a_section_of_somebody_elses_is_left_alone(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, f"[{name}]\nkey = 5\n").caps.default is None


def test_both_tokens_are_not_the_same(tmp_path: Path) -> None:
    said = refused(tmp_path, f"[spendguard]\nadmin_token = {TOKEN}\nworker_token = {TOKEN}\n")
    assert "[spendguard] admin_token: is the same as worker_token" in said
    assert TOKEN not in said


def test_nor_when_they_are_in_files_of_their_own(tmp_path: Path) -> None:
    for name in ("admin", "worker"):
        (tmp_path / name).write_text(TOKEN)
        (tmp_path / name).chmod(0o600)
    said = refused(
        tmp_path,
        f"[spendguard]\nadmin_token_file = {tmp_path}/admin\nworker_token_file = {tmp_path}/worker\n",
    )
    assert "[spendguard] admin_token_file: is the same as worker_token" in said
    assert TOKEN not in said


def test_anchors_are_files_and_addresses_that_nobody_can_listen_to(tmp_path: Path) -> None:
    text = "[spendguard]\naudit_anchor = /mnt/a.jsonl, https://example.com/blocks, http://127.0.0.1:9/x\n"
    assert read(tmp_path, text).audit_anchor == (
        "/mnt/a.jsonl",
        "https://example.com/blocks",
        "http://127.0.0.1:9/x",
    )
    for wrong in ("a.jsonl", "/mnt/", "http://example.com/", "https://", "/a,,/b", "/a b"):
        assert "no file's absolute path" in refused(tmp_path, f"[spendguard]\naudit_anchor = {wrong}\n")
    assert "absolute path" in refused(tmp_path, "[spendguard]\naudit_key_file = key\n")


def test_the_audits_key_is_beside_the_ledger_and_not_in_it(tmp_path: Path) -> None:
    text = f"[spendguard]\nledger_url = sqlite:///{tmp_path}/books.db\n"
    assert read(tmp_path, text).audit_key == tmp_path / "books.db.audit-key"
