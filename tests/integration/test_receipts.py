"""`spendguard audit receipt`, `check-receipt` and `export`, and the page that says how to do without us."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from luigi_spendguard.cli import cli, outputs
from luigi_spendguard.ledger import runs
from luigi_spendguard.ledger.audit import exporting
from luigi_spendguard.ledger.audit.exporting import COLUMNS
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from tests.support.processes import REPOSITORY
from tests.support.programs import program
from tests.support.sealed import SealedBooks

USD = 1_000_000
PAGE = (REPOSITORY / "docs" / "how-to" / "check-a-receipt.md").read_text("utf-8")


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SealedBooks]:
    config = tmp_path / "luigi.cfg"
    place, key = f"sqlite:///{tmp_path / 'books.db'}", tmp_path / "audit-key"
    config.write_text(f"[spendguard]\nledger_url = {place}\naudit_key_file = {key}\n")
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(config))
    monkeypatch.chdir(tmp_path)
    books = SealedBooks(tmp_path / "books.db")
    books.write(runs.open_run, runs.RunRequest("nightly-42", False, "Root", "Root_2", Micros(50 * USD)))
    for number in range(3):
        pay(books, f"Charge_{number}", number + 1, "nightly-42")
        pay(books, f"Other_{number}", 1, "run")
        books.seal()
    yield books
    books.ledger.close()


def pay(books: SealedBooks, task_id: str, usd: int, run_id: str, target: str = "") -> str:
    key = books.claim(task_id, run_id)
    ask = books.ask(usd * USD, target=target or f"cus_{task_id}")
    assert books.reserve(key, ask).verdict == "allowed"
    end = EndRequest("settle", ask.call_id, total_micros=usd * USD, status=200, object_id=f"pi_{ask.call_id}")
    books.end(key, end)
    return ask.call_id


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["audit", *(str(arg) for arg in args)])


def test_a_receipt_is_made_and_says_what_it_proves(books: SealedBooks, tmp_path: Path) -> None:
    done = run("receipt", "nightly")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("nightly is run nightly-42.\n")
    file = tmp_path / "nightly-42.receipt.json"
    assert file.stat().st_mode & 0o777 == 0o600
    done = run("check-receipt", file, "--public-key", books.files.trusted_file)
    assert done.exit_code == 0, done.output
    [key] = books.files.trusted()
    assert re.search(rf"PROVED: run nightly-42: \d+ rows in 3 blocks, signed by key {key}\.", done.output)
    assert "spent $6.00 of a cap of $50.00, reserved $0.00, overrun $0.00" in done.output
    assert "these are all rows of the run up to block 3 of the audit" in done.output
    assert "3 calls: 3 settled." in done.output
    assert "allowed, settled, $2.00: stripe payment_intents.create, object pi_" in done.output
    assert "came with the receipt itself" not in done.output
    assert "came with the receipt itself" in run("check-receipt", file).output


def test_what_cannot_be_made_is_said(books: SealedBooks, tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("mine")
    done = run("receipt", "nightly-42", "--out", tmp_path / "there.json")
    assert (done.exit_code, (tmp_path / "there.json").read_text()) == (1, "mine")
    assert run("receipt", "nobody").exit_code == 1
    books.write(runs.open_run, runs.RunRequest("young", False, "Root", "Root_3", Micros(USD)))
    done = run("receipt", "young")
    assert (done.exit_code, "nothing of run young is sealed yet" in done.output) == (1, True)
    pay(books, "Late", 1, "nightly-42")
    assert "Not in it: 2 entries that luigid has not sealed yet" in run("receipt", "nightly-42").output


def test_it_is_checked_with_no_setting_no_ledger_and_no_network(
    books: SealedBooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("receipt", "nightly-42", "--out", "it.json")
    (tmp_path / "luigi.cfg").write_text("[spendguard]\nledger_url = nonsense\n")
    assert run("receipt", "nightly-42").exit_code == 2
    assert run("check-receipt", "it.json").exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"\"settled_usd\":\"2.00\"", r"\"settled_usd\":\"1.00\"", "is not what was sealed there"),
        ('"sealed_at":1', '"sealed_at":2', "or the signature, was changed"),
        ('"run_id":"nightly-42"', '"run_id":"other"', "is of another run, nightly-42"),
        ("\n],", "", "it is no JSON, or was cut off"),
    ],
)
def test_a_receipt_that_was_changed_says_so(
    books: SealedBooks, tmp_path: Path, old: str, new: str, said: str
) -> None:
    run("receipt", "nightly-42", "--out", "it.json")
    text = (tmp_path / "it.json").read_text()
    assert old in text
    (tmp_path / "it.json").write_text(text.replace(old, new))
    done = run("check-receipt", "it.json")
    assert (done.exit_code, said in done.output, "PROVED" in done.output) == (1, True, False), done.output


def test_what_is_wrong_is_said_of_the_file_that_it_is_about(books: SealedBooks, tmp_path: Path) -> None:
    run("receipt", "nightly-42", "--out", "it.json")
    (tmp_path / "cut.json").write_text((tmp_path / "it.json").read_text()[:-9])
    keyless = json.loads((tmp_path / "it.json").read_text()) | {"public_keys": []}
    (tmp_path / "keyless.json").write_text(json.dumps(keyless))
    (tmp_path / "empty").touch()
    private = books.files.key
    for args, said in (
        (("cut.json",), "cut.json: it is no JSON, or was cut off: have it sent again"),
        (("keyless.json",), "keyless.json: there is no public key (PEM) in the receipt"),
        (("it.json", "--public-key", "empty"), "there is no public key (PEM) in empty"),
        (("it.json", "--public-key", "cut.json"), "there is no public key (PEM) in cut.json"),
        (
            ("it.json", "--public-key", private),
            f"{private} is a private key, which nobody else may have: name",
        ),
    ):
        done = run("check-receipt", *args)
        assert (done.exit_code, said in done.output) == (1, True), done.output
    done = run("verify", "--public-key", private)
    assert (done.exit_code, f"its public part, {books.files.trusted_file}" in done.output) == (1, True)


def without_a_row(text: str) -> str:
    """Return a receipt from which its first settlement was left away."""
    receipt = json.loads(text)
    settled = r'"kind":"settle"'
    block = next(b for b in receipt["blocks"] if any(settled in row["text"] for row in b["rows"]))
    block["rows"].remove(next(row for row in block["rows"] if settled in row["text"]))
    return json.dumps(receipt)


def test_a_receipt_that_is_not_whole_says_so_first_and_fails(books: SealedBooks, tmp_path: Path) -> None:
    run("receipt", "nightly-42", "--out", "it.json")
    (tmp_path / "it.json").write_text(without_a_row((tmp_path / "it.json").read_text()))
    done = run("check-receipt", "it.json")
    assert done.exit_code == 1
    assert re.match(r"NOT WHOLE: 1 of its \d+ rows were left away\. Ask for the receipt again\.", done.output)
    assert "PROVED" not in done.output


def test_a_receipt_is_made_where_the_key_is_and_of_an_audit_that_is_whole(
    books: SealedBooks, tmp_path: Path
) -> None:
    run("receipt", "nightly-42", "--out", "before.json")
    books.write(lambda tx: tx.run("UPDATE audit_row SET run_id = 'run' WHERE run_id = 'nightly-42'"))
    books.write(lambda tx: tx.run("UPDATE audit_row SET run_id = 'nightly-42' WHERE seq = 1"))
    done = run("receipt", "nightly-42")
    assert (done.exit_code, "Not as it was sealed: row 1 of block 1" in done.output) == (1, True), done.output
    books.files.key.rename(tmp_path / "elsewhere")
    done = run("receipt", "nightly-42")
    assert (done.exit_code, f"the audit's key {books.files.key} is not here" in done.output) == (1, True)
    assert not books.files.key.exists()
    assert run("check-receipt", "before.json").exit_code == 0


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_says_how_to_check_it_without_us(books: SealedBooks, tmp_path: Path) -> None:
    for name in ("openssl", "jq", "xxd"):
        program(name)
    assert run("receipt", "nightly-42", "--out", "nightly-42.json").exit_code == 0
    (tmp_path / "audit-key.public").write_bytes(books.files.trusted_file.read_bytes())
    (tmp_path / "check_receipt.py").write_text(blocks("python")[0])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def sh(script: str) -> subprocess.CompletedProcess[str]:
        own = {"PATH": path, "LUIGI_CONFIG_PATH": os.devnull}
        return subprocess.run(
            ["sh", "-ec", script], capture_output=True, text=True, timeout=60, env=own, cwd=tmp_path
        )

    ours, python, openssl = blocks("sh")[1:]
    for script, said in (
        (ours, "PROVED"),
        (python, "all that blocks 1 to 3 have, are what was sealed; spent 6.00 of 50.00 USD"),
        (openssl, ""),
    ):
        done = sh(script)
        assert done.returncode == 0, (script, done.stderr)
        assert said in done.stdout
    assert (done.stdout + done.stderr).count("Signature Verified Successfully") == 2
    whole = (tmp_path / "nightly-42.json").read_text()
    (tmp_path / "nightly-42.json").write_text(whole.replace(r"\"2.00\"", r"\"1.00\""))
    assert [sh(script).returncode for script in (ours, python)] == [1, 1]
    (tmp_path / "nightly-42.json").write_text(without_a_row(whole))
    assert [sh(script).returncode for script in (ours, python)] == [1, 1]
    (tmp_path / "nightly-42.json").write_text(re.sub('"root":"[0-9a-f]{4}', '"root":"0000', whole))
    assert [sh(script).returncode for script in (ours, python, openssl)] == [1, 1, 1]


# Exports.


def test_lines_are_what_was_hashed(books: SealedBooks, tmp_path: Path) -> None:
    texts = [row["text"] for row in books.read(lambda tx: tx.all("SELECT text FROM audit_row ORDER BY seq"))]
    done = run("export", "--format", "jsonl")
    assert done.stdout.splitlines() == texts
    done = run("export", "--format", "jsonl", "--out", "all.jsonl")
    assert done.exit_code == 0
    assert (tmp_path / "all.jsonl").read_text().splitlines() == texts
    assert (tmp_path / "all.jsonl").stat().st_mode & 0o777 == 0o600
    assert run("export", "--format", "jsonl", "--out", "all.jsonl").exit_code == 1, "nothing is replaced"


def test_some_are_asked_for(books: SealedBooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "AT_ONCE", 2)
    said = run("export", "--format", "jsonl", "--run", "nightly").output.splitlines()
    assert said.pop(0) == "nightly is run nightly-42."
    lines = [json.loads(line) for line in said]
    assert {one["run_id"] for one in lines} == {"nightly-42"}
    assert [one["seq"] for one in lines] == sorted({one["seq"] for one in lines})
    assert len(lines) > 8
    last = run("export", "--format", "jsonl", "--run", "@last").output.splitlines()
    assert last == ["@last is run nightly-42.", *said]
    future = run("export", "--format", "jsonl", "--since", "2100-01-01")
    assert (future.exit_code, "begins in the future" in future.output) == (2, True)
    backwards = run("export", "--format", "jsonl", "--since", "1d", "--until", "2d")
    assert (backwards.exit_code, "the period is empty" in backwards.output) == (2, True)
    assert run("export", "--format", "jsonl", "--until", "2020-01-01").output == ""
    assert run("export", "--format", "jsonl", "--since", "1d", "--run", "run").output != ""


def test_a_table_has_the_same_columns_for_all_rows(books: SealedBooks, tmp_path: Path) -> None:
    pay(books, "=cmd()", 1, "run", target="+SUM(A1)")
    books.seal()
    for form in ("csv", "parquet"):
        assert run("export", "--format", form, "--out", f"all.{form}").exit_code == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["more"] for row in rows if row["more"]] == [], "each field has a column"
    last = [row for row in rows if row["row"] == "call"][-1]
    assert (last["task_id"], last["target"]) == ("'=cmd()", "'+SUM(A1)"), "no cell is a formula"
    assert (last["settled_usd"], last["state"]) == ("1.00", "settled")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", last["created_at"])
    entry = rows[0]
    assert (entry["kind"], entry["budget_scope"], entry["run_cap_usd"]) == ("open", "run", "1000.00")
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet")
    assert table.column_names == list(COLUMNS)
    assert table["seq"].to_pylist() == [int(row["seq"]) for row in rows]
    assert [str(one or "") for one in table["task_id"].to_pylist()] == [
        row["task_id"].lstrip("'") for row in rows
    ]
    kinds = {name: str(table.schema.field(name).type) for name in ("settled_usd", "at", "relayed", "seq")}
    assert kinds == {
        "settled_usd": "decimal128(24, 6)",
        "at": "timestamp[ms, tz=UTC]",
        "relayed": "bool",
        "seq": "int64",
    }
    spent = sum(one or 0 for one in table["settled_usd"].to_pylist())
    assert spent == 6 + 3 + 1


def test_a_table_of_many_row_groups_is_the_same_table(
    books: SealedBooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("export", "--format", "parquet", "--out", "one.parquet")
    monkeypatch.setattr(outputs, "_AT_ONCE", 2)
    monkeypatch.setattr(outputs, "_GROUP", 4)
    done = run("export", "--format", "parquet", "--out", "many.parquet")
    one, many = (pyarrow.parquet.ParquetFile(tmp_path / f"{name}.parquet") for name in ("one", "many"))
    count = one.metadata.num_rows
    assert (one.num_row_groups, many.num_row_groups) == (1, -(-count // 4))
    assert one.read().equals(many.read())
    assert f"many.parquet: {count} rows of all runs" in done.output


def test_what_a_later_version_has_sealed_is_kept_in_a_column_of_its_own() -> None:
    found = exporting.flat(7, '{"seq":1,"budget":{"scope":"run"},"colour":"red","size":[1]}')
    assert found == {"seq": 1, "block": 7, "budget_scope": "run", "more": '{"colour": "red", "size": [1]}'}


def test_parquet_needs_a_file_and_a_package(books: SealedBooks, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("export", "--format", "parquet").exit_code == 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run("export", "--format", "parquet", "--out", "all.parquet")
    assert (done.exit_code, "luigi-spendguard[parquet]" in done.output) == (2, True)
