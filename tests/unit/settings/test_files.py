"""A secret in a file of its own: one line that nobody else may read, or a clear error."""

from __future__ import annotations

import os
import struct
import tempfile
import traceback
from pathlib import Path

import pytest

from luigi_spendguard.config import ConfigError, Settings, load
from luigi_spendguard.settings import files as settings_files

CANARY = "sk_live_canary_0123456789"
KEYS = [
    ("spendguard_stripe", "secret", lambda settings: settings.vendor("stripe").secret),
    ("spendguard", "admin_token", lambda settings: settings.admin_token),
    ("spendguard", "worker_token", lambda settings: settings.worker_token),
]


def secret_file(tmp_path: Path, content: bytes = CANARY.encode() + b"\n", mode: int = 0o600) -> Path:
    path = tmp_path / "stripe"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def read(tmp_path: Path, section: str, *lines: str, **environ: str) -> Settings:
    path = tmp_path / "luigi.cfg"
    path.write_text("\n".join([f"[{section}]", *lines, ""]))
    return load([path], environ=environ)


def refused(tmp_path: Path, path: object, **environ: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "spendguard_stripe", f"secret_file = {path}", **environ)
    said = str(error.value)
    assert "luigi.cfg: [spendguard_stripe] secret_file: " in said
    assert CANARY not in said
    return said


@pytest.mark.parametrize(("section", "key", "get"), KEYS)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_the_one_line_is_read_without_its_end(tmp_path, section, key, get, end, mode) -> None:
    path = secret_file(tmp_path, CANARY.encode() + end, mode)
    assert get(read(tmp_path, section, f"{key}_file = {path}")) == CANARY


@pytest.mark.parametrize(("section", "key", "get"), KEYS)
def test_both_ways_at_once_are_an_error_that_shows_neither(tmp_path, section, key, get) -> None:
    other = "sk_live_another_canary_0123456789"
    lines = (f"{key}_file = {secret_file(tmp_path)}", f"{key} = {other}")
    for given in (lines, lines[::-1]):
        with pytest.raises(ConfigError, match=f"is given beside {key}.*: remove one of them") as error:
            read(tmp_path, section, *given)
        assert CANARY not in str(error.value)
        assert other not in str(error.value)
    assert get(read(tmp_path, section, lines[0], f"{key} = ${{UNSET}}")) == CANARY
    assert get(read(tmp_path, section, f"{key}_file = ${{UNSET}}/x", lines[1])) == other


def test_variables_in_the_path_are_expanded_and_an_unset_one_means_not_set(tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    line = "secret_file = ${CREDENTIALS_DIRECTORY}/stripe"
    found = read(tmp_path, "spendguard_stripe", line, CREDENTIALS_DIRECTORY=str(path.parent))
    assert found.vendor("stripe").secret == CANARY
    assert read(tmp_path, "spendguard_stripe", line).vendor("stripe").secret is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o644, 0o610])
def test_a_file_that_others_may_use_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, mode=mode)
    assert f"its mode is {mode:04o}): chmod 600 {path}" in refused(tmp_path, path)


def given_to(user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files belong to another user: only root may give them away."""
    real = os.fstat

    def given(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        found[4] = user
        return os.stat_result(found)

    monkeypatch.setattr(settings_files.os, "fstat", given)
    monkeypatch.setattr(settings_files.os, "geteuid", lambda: 4711)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret_file(tmp_path)
    given_to(12345, monkeypatch)
    assert "must belong to the user of this process, or to root" in refused(tmp_path, path)


def test_a_file_of_root_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret_file(tmp_path)
    given_to(0, monkeypatch)
    assert read(tmp_path, "spendguard_stripe", f"secret_file = {path}").vendor("stripe").secret == CANARY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\n\n",
        CANARY.encode() + b"\n\n",
        CANARY.encode() + b"\nsecond\n",
        b"\xff\xfe" + CANARY.encode(),
        b"short\n",
        CANARY.encode() + b" # mine\n",
        CANARY.encode() + b"\rx\n",
        b"k" * 70_000,
    ],
)
def test_anything_but_one_line_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    said = refused(tmp_path, secret_file(tmp_path, content))
    assert "must hold one line" in said or "must be the vendor's secret" in said
    assert "kkk" not in said


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert f"there is no file {missing}: make it, or remove this line" in refused(tmp_path, missing)
    assert "is no file" in refused(tmp_path, tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "is no file" in refused(tmp_path, tmp_path / "fifo")
    assert "must be an absolute path" in refused(tmp_path, "run/secrets/stripe")
    assert "cannot be read" in refused(tmp_path, f"{secret_file(tmp_path)}/below")
    assert "cannot be read" in refused(tmp_path, "/" + "x" * 5000)


def test_a_file_that_this_user_may_not_read_counts_as_not_set_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One luigi.cfg serves luigid, workers and operators, who are different users where it matters."""
    path = secret_file(tmp_path)
    real = os.open

    def denied(name: object, *args: int) -> int:
        if name == str(path):
            raise PermissionError(13, "Permission denied")
        return real(name, *args)

    monkeypatch.setattr(settings_files.os, "open", denied)
    settings = read(tmp_path, "spendguard_stripe", f"secret_file = {path}")
    assert settings.vendor("stripe").secret is None
    assert settings.passed_over == (
        f"{tmp_path}/luigi.cfg: [spendguard_stripe] secret_file: {path} may not be read by this user: it "
        "counts as not set",
    )


def test_so_it_is_with_a_real_file() -> None:
    """As another user where root runs the test: root may read everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        line = f"secret_file = {secret_file(folder, mode=0)}"
        read(folder, "spendguard", "default_cap_usd = 1")  # What is imported is read before that.
        (folder / "luigi.cfg").unlink()
        child = os.fork()
        if not child:
            try:
                if os.geteuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                settings = read(folder, "spendguard_stripe", line)
                assert settings.vendor("stripe").secret is None
                assert len(settings.passed_over) == 1
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


OWNER, GROUP, MASK, OTHER, NOBODY = (1, 4, 2**32 - 1), 4, (16, 4, 2**32 - 1), (32, 0, 2**32 - 1), 2**32 - 1
SYSTEMD = [OWNER, (2, 4, 4711), (GROUP, 0, NOBODY), MASK, OTHER]


@pytest.mark.parametrize(
    ("entries", "mode", "fine"),
    [
        (SYSTEMD, 0o440, True),
        (SYSTEMD, 0o444, False),
        ([*SYSTEMD, (2, 4, 4712)], 0o440, False),
        ([*SYSTEMD, (8, 4, 100)], 0o440, False),
        ([*SYSTEMD, (8, 0, 100)], 0o440, True),
        ([OWNER, (2, 4, 4711), (GROUP, 4, NOBODY), MASK, OTHER], 0o440, False),
    ],
)
def test_an_acl_for_this_user_alone_is_private_as_systemd_makes_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    entries: list[tuple[int, int, int]],
    mode: int,
    fine: bool,
) -> None:
    path = secret_file(tmp_path, mode=mode)
    owner = os.stat(path).st_uid
    monkeypatch.setattr(settings_files.os, "getxattr", lambda descriptor, name: acl(*entries))
    # The file is this user's; the ACL is for the user of the service.
    monkeypatch.setattr(settings_files, "_only_acl", lambda d, user: REAL_ONLY_ACL(d, 4711))
    assert owner == os.geteuid()
    if fine:
        assert read(tmp_path, "spendguard_stripe", f"secret_file = {path}").vendor("stripe").secret == CANARY
    else:
        assert "chmod 600" in refused(tmp_path, path)


REAL_ONLY_ACL = settings_files._only_acl


@pytest.mark.parametrize("broken", [b"", b"\2\0\0\0\1", acl()[:3], struct.pack("<I", 3)])
def test_an_acl_that_cannot_be_read_is_none(tmp_path: Path, monkeypatch, broken: bytes) -> None:
    monkeypatch.setattr(settings_files.os, "getxattr", lambda descriptor, name: broken)
    assert "chmod 600" in refused(tmp_path, secret_file(tmp_path, mode=0o440))
