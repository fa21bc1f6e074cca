"""`Site`: the self-test's own folder, luigi.cfg and environments, made of the user's settings.

luigi.cfg, or luigi.toml, is in the format of the user's. Kept is what decides about money. Replaced are
addresses, files, tokens and secrets, and what would hold the run before it can ask. Luigi's own sections are
not taken: no history database, mail or log of the user's.
"""

from __future__ import annotations

import configparser
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from luigi_spendguard import config
from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES
from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.redaction import Secret
from luigi_spendguard.selftest.sandbox import SelfTestError
from luigi_spendguard.settings.files import Sections, luigi_files, read_sections
from luigi_spendguard.settings.operators import OPERATORS
from luigi_spendguard.vendors.registry import VENDORS

#: section -> key -> value, as a file has them.
Content = dict[str, dict[str, Any]]


def written(kind: str, content: Content) -> str:
    """Return the text of a file of a kind (`ini` or `toml`)."""
    return _toml(content) if kind == "toml" else _ini(content)


def _ini(content: Content) -> str:
    parser = configparser.RawConfigParser(default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # families keep their case
    parser.read_dict(content)
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _toml(content: Content) -> str:
    lines = []
    for section, values in content.items():
        lines.append(f"[{_text(section)}]")
        lines += [f"{_text(key)} = {_value(value)}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for the one character that JSON lets stand.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


FAMILY = "SpendguardSelfTest"
#: Of [spendguard], what is the self-test's own or left away: addresses, files, tokens, and what only waits.
_REPLACED = (
    "ledger_url",
    "gateway_url",
    "tls_cert",
    "tls_key",
    "metrics_collector",
    "on_blocked",
    "forecast",
    "approve_above_usd",
    "audit_key_file",
    "audit_anchor",
    "admin_token",
    "admin_token_file",
    "operator_top_up_usd",
    "two_operators_above_usd",
    "reconcile",
    "worker_token",
    "worker_token_file",
)
#: Of a vendor's section, what is kept.
_KEPT = ("run_cap_usd", "timeout_s", "prices")
_SECRET, _SECRET_FILE = "SPENDGUARD_SELF_TEST_SECRET", "SPENDGUARD_SELF_TEST_SECRET_FILE"
_DROPPED = (
    *("LUIGI_CONFIG_PATH", "SPENDGUARD_RUN_ID", "SPENDGUARD_URL", "SPENDGUARD_AS", "SPENDGUARD_TOKEN"),
    "CREDENTIALS_DIRECTORY",
)
#: Letters of a secret that is in no other text by chance.
_LONG = 16
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "no_proxy")


@dataclass(frozen=True)
class Site:
    """Where a self-test takes place.

    Attributes:
        folder: everything that is written, for its user alone.
        settings: the user's own.
        gateway: whether luigid has the secret; else the workers have it.
        secret: what stands for Stripe's secret.

    """

    folder: Path
    settings: config.Settings
    kind: str
    sections: Sections
    gateway: bool
    secret: Secret

    @property
    def config(self) -> Path:
        """The file that the self-test's processes read."""
        return self.folder / ("luigi.toml" if self.kind == "toml" else "luigi.cfg")

    @property
    def tls(self) -> bool:
        """Whether luigid speaks TLS: as the user's does, if a certificate for this machine could be made."""
        return (self.folder / "cert.pem").exists()

    def write(self, cap: Micros, vendor_url: str, port: int) -> None:
        """Write luigi.cfg. Raises SelfTestError when what it says is not what was meant."""
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{port}"
        content: Content = {
            # Written with dashes, as Luigi alone reads it of TOML.
            "core": {"default-scheduler-url": url, "no_lock": True},
            "scheduler": {"state_path": str(self.folder / "state.pickle"), "retry_delay": 1},
            "worker": {"wait_interval": 0.1, "wait_jitter": 0, "keep_alive": False},
            "spendguard": self._main(url),
            "spendguard_caps": self._kept("spendguard_caps") | {FAMILY: plain_usd(cap)},
        }
        for table in ("spendguard_family_caps", "spendguard_fx"):
            if table in self.sections:
                content[table] = self._kept(table)
        for vendor in VENDORS:
            content[f"spendguard_{vendor}"] = {"base_url": vendor_url}
        content["spendguard_stripe"] |= self._stripe()
        self._private(self.config, written(self.kind, content))
        self._check(vendor_url)

    def _kept(self, section: str) -> dict[str, Any]:
        return {key: raw.value for key, raw in self.sections.get(section, {}).items()}

    def _main(self, url: str) -> dict[str, Any]:
        own = {key: value for key, value in self._kept("spendguard").items() if key not in _REPLACED}
        own |= {"ledger_url": f"sqlite:///{self.folder / 'ledger' / 'spendguard.db'}", "forecast": "off"}
        if self.settings.gateway_url is not None:
            own["gateway_url"] = url
        if self.tls:
            own |= {"tls_cert": str(self.folder / "cert.pem"), "tls_key": str(self.folder / "key.pem")}
        for name in ("admin_token", "worker_token"):
            if getattr(self.settings, name) is None:
                continue
            token = secrets.token_urlsafe(32)
            if f"{name}_file" in self.sections["spendguard"]:
                own[f"{name}_file"] = str(self._private(self.folder / name, token))
            else:
                own[name] = token
        return own

    def _stripe(self) -> dict[str, Any]:
        kept = {key: value for key, value in self._kept("spendguard_stripe").items() if key in _KEPT}
        if not self.gateway:
            return kept
        if "secret_file" not in self.sections.get("spendguard_stripe", {}):
            return kept | {"secret": f"${{{_SECRET}}}"}
        self._private(self.folder / "stripe", self.secret)
        return kept | {"secret_file": f"${{{_SECRET_FILE}}}"}

    def environment(self, *, luigid: bool = False) -> dict[str, str]:
        """Return the environment of a child: the user's, without any secret of the user's and any proxy.

        Whose the secret is here, luigid's or the workers', has what stands for it.
        """
        dropped = {*self._variables_of_secrets(), *CERTIFICATE_VARIABLES, *_DROPPED}
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in dropped and name.lower() not in _PROXIES and not self._shows_secret(value)
        }
        environment["PYTHONPATH"] = os.pathsep.join(python_path())
        environment["XDG_STATE_HOME"] = environment["TMPDIR"] = str(self.folder)
        if self.tls:
            environment[CERTIFICATE_VARIABLES[0]] = str(self.folder / "cert.pem")
        if luigid and self.gateway:
            environment |= {_SECRET: self.secret, _SECRET_FILE: str(self.folder / "stripe")}
        elif not luigid and not self.gateway:
            environment["STRIPE_SECRET_KEY"] = self.secret
        return environment

    def _variables_of_secrets(self) -> set[str]:
        """Return the environment variables that hold a secret of the user's, or say whose account it is."""
        names = {name for vendor in VENDORS.values() for name in vendor.secret_variables}
        for setting in config.SETTINGS:
            if setting.secret or setting.variable:
                raw = self.sections.get(setting.section, {}).get(setting.key)
                names |= {
                    setting.variable,
                    *re.findall(r"\$\{\s*([^}]*?)\s*\}", str(raw.value) if raw else ""),
                }
        for raw in self.sections.get(OPERATORS, {}).values():
            names |= {*re.findall(r"\$\{\s*([^}]*?)\s*\}", str(raw.value))}
        return names

    def _shows_secret(self, text: str) -> bool:
        users = self.settings
        own = [users.admin_token, users.worker_token, *(vendor.secret for vendor in users.vendors.values())]
        own += [one.token for one in users.operators.values()]
        own += [os.environ.get(name) for vendor in VENDORS.values() for name in vendor.secret_variables]
        return any(_stands_in(secret, text) for secret in own if secret)

    def _check(self, vendor_url: str) -> None:
        """Refuse to go on if any process would use what is not the self-test's own. Raises SelfTestError."""
        if self._shows_secret(self.config.read_text("utf-8")):
            raise SelfTestError(
                "a secret stands in your settings where none is meant to be: `spendguard check`"
            )
        for luigid in (True, False):
            try:
                made = config.load([self.config], kind=self.kind, environ=self.environment(luigid=luigid))
            except config.ConfigError as error:
                raise SelfTestError(f"the self-test's own settings cannot be read: {error}") from None
            vendors = [made.vendor(name) for name in VENDORS]
            if not (
                all(vendor.base_url == vendor_url for vendor in vendors)
                and all(vendor.secret in (None, self.secret) for vendor in vendors)
                and made.ledger_server is None
                and self.folder in made.ledger_path.parents
            ):
                raise SelfTestError("your settings cannot be kept away from your own vendors and ledger")

    @staticmethod
    def _private(path: Path, text: str) -> Path:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        return path


def _stands_in(secret: str, text: str) -> bool:
    """Return whether a secret stands in a text; a short one, which ordinary words have in them, by itself."""
    if len(secret) >= _LONG:
        return secret in text
    return re.search(rf"(?<![\w./:-]){re.escape(secret)}(?![\w./:-])", text) is not None


def make_site(folder: Path, settings: config.Settings) -> Site:
    """Return the site of a self-test of the settings that are in force here. Raises ConfigError."""
    kind, files, _ = luigi_files(os.environ)
    # Who has the secret with the user's settings has it here.
    gateway = "stripe" in settings.vendors_with_secret or settings.gateway_url is not None
    secret = Secret(f"sk_test_selftest_{secrets.token_hex(16)}")
    site = Site(folder, settings, kind, read_sections(kind, files), gateway, secret)
    openssl = shutil.which("openssl")
    if settings.tls_cert is not None and openssl is not None:
        _certificate(openssl, folder)
    return site


def _certificate(openssl: str, folder: Path) -> None:
    """Make a certificate for this machine: the user's own is for another name."""
    subprocess.run(  # noqa: S603  # openssl, with arguments of ours
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ],
        cwd=folder,
        check=False,
        capture_output=True,
    )


def python_path() -> list[str]:
    """Return PYTHONPATH for a process in another folder: this very package, wherever it was found."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    root = str(Path(__file__).resolve().parents[2])
    installed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return paths if root in (*paths, *installed) else [*paths, root]
