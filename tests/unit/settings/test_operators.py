"""The operators of luigi.cfg: names, tokens and roles are read strictly, and no error shows a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from luigi_spendguard import redaction
from luigi_spendguard.config import ConfigError, Settings, load
from luigi_spendguard.settings.operators import NamedOperator, may

ALICE, BOB, OTHER = ("alice-" + "a1" * 16, "bob-" + "b2" * 16, "other-" + "c3" * 16)


def read(folder: Path, text: str, **environ: str) -> Settings:
    path = folder / "luigi.cfg"
    path.write_text(text)
    return load([path], environ=environ)


def refused(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    message = str(caught.value)
    assert str(folder / "luigi.cfg") in message
    assert not [one for one in (ALICE, BOB, OTHER) if one in message]
    return message.partition(": ")[2]


def operators(*lines: str, roles: str = "", main: str = "") -> str:
    text = "\n".join(["[spendguard_operators]", *lines, ""])
    text += f"[spendguard_roles]\n{roles}\n" if roles else ""
    return text + (f"[spendguard]\n{main}\n" if main else "")


def test_each_has_a_token_and_a_role(tmp_path: Path) -> None:
    file = tmp_path / "carol"
    file.write_text(f"{OTHER}\n")
    file.chmod(0o600)
    text = operators(f"alice = {ALICE}", "bob = ${BOB}", f"carol_file = {file}", roles="carol = read")
    found = read(tmp_path, text + "bob = admin\n", BOB=BOB).operators
    assert found["alice"] == NamedOperator("alice", "operate", ALICE)
    assert (found["bob"].role, found["bob"].token) == ("admin", BOB)
    assert (found["carol"].role, found["carol"].token) == ("read", OTHER)
    assert not [one for one in (ALICE, BOB, OTHER) if one in f"{found!r}"]
    assert redaction.redact(f"{ALICE} {OTHER}") == "[redacted] [redacted]"


def test_toml_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "luigi.toml"
    text = f'[spendguard_operators]\nalice = "{ALICE}"\n"bob@example.com" = "{BOB}"\n'
    path.write_text(text + '[spendguard_roles]\n"bob@example.com" = "admin"\n')
    found = load([path], environ={}).operators
    assert (found["alice"].token, found["bob@example.com"].role) == (ALICE, "admin")


def test_who_has_no_token_here_is_known_all_the_same(tmp_path: Path) -> None:
    settings = read(tmp_path, operators("alice = ${ALICE}", roles="alice = admin"))
    assert settings.operators["alice"] == NamedOperator("alice", "admin", None)
    assert settings.unset == ("[spendguard_operators] alice",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (operators(f"alice = {ALICE}", f"bob = {ALICE}"), "bob: is the same token as alice's"),
        (
            operators(f"alice = {ALICE}", main=f"worker_token = {ALICE}"),
            "alice: is the same token as worker_token",
        ),
        (
            operators(f"alice = {ALICE}", main=f"admin_token = {ALICE}"),
            "alice: is the same token as admin_token",
        ),
        (operators(f"alice = {ALICE}", f"Alice = {BOB}"), "Alice: differs from alice in capitals alone"),
        (operators(f"alice = {ALICE}", roles="bob = read"), "bob: there is no such name in"),
        (operators(f"alice = {ALICE}", roles="alice = boss"), "alice: must be read, operate or admin"),
        ("[spendguard_roles]\nalice = read\n", "alice: there is no such name in [spendguard_operators]"),
        (operators("alice = short"), "alice: must have at least 16"),
        (operators(f"alice = {ALICE}", "alice_file = /nowhere"), "there is no file"),
        (operators(f"{ALICE} = alice"), "a line has a name where its token belongs"),
        *(
            (operators(f"{name} = {BOB}"), "a name there cannot be shown")
            for name in ("an operator", "-alice", "a\u202eb", "alice\u00a0b", "al/ice", "é", ALICE + "x" * 64)
        ),
        (operators(*(f"o{n} = {n:016d}" for n in range(41))), "is one more than the 40 operators"),
    ],
)
def test_what_is_none_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    message = refused(tmp_path, text)
    assert said in message
    assert message.startswith(("[spendguard_operators]", "[spendguard_roles]"))


def test_a_role_may_what_those_before_it_may() -> None:
    assert [may(role, "operate") for role in ("", "read", "operate", "admin", "boss")] == [
        *(False, False, True, True, False)
    ]
