"""Lists are whole: every row once, whatever is added meanwhile; and what a table leaves out is said."""

from __future__ import annotations

import csv
import http.server
import io
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from luigi_spendguard.cli import lists
from luigi_spendguard.protocol import ANSWERED
from tests.support.asking import ASK, Case, send
from tests.support.commands import run_here
from tests.support.processes import environment
from tests.support.site import Site

#: More than a table shows by itself.
MANY = 134


def ask(case: Case, **more: Any) -> str:
    """Make a call of the run's task; return its id."""
    said = ASK | {"call_id": str(uuid.uuid4()), "target": uuid.uuid4().hex, "total_micros": 10_000} | more
    answer = send(case.site, "POST", "/api/spend_reserve", said, case.key)
    assert answer.json["response"]["verdict"] == "allowed", answer
    return str(said["call_id"])


def settle(case: Case, call_id: str, micros: int = 10_000, **more: Any) -> None:
    end = {"call_id": call_id, "total_micros": micros, "status": 200} | more
    assert send(case.site, "POST", "/api/spend_settle", end, case.key).status == 200


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Case, list[str]]]:
    """A run with MANY calls; their ids, the newest first."""
    apart = {"gateway_url": "https://gateway.example.com"}  # Else no key is issued: luigid has no secret.
    with Site(tmp_path_factory.mktemp("lists"), spendguard=apart) as site:
        case = Case(site, "many")
        made = [ask(case) for _ in range(MANY)]
        for call_id in made:
            settle(case, call_id)
        yield site, case, made[::-1]


def cli(site: Site, *args: str) -> tuple[int, str, str]:
    return run_here(site.folder, site.environment(), *args)


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


#: Two calls, as far as a CSV needs them.
TWO = [{"id": "a", "seq": 2}, {"id": "b", "seq": 1}]


@contextmanager
def answering(answer: Callable[[str], tuple[int, Any]]) -> Iterator[str]:
    """Serve what `answer` says of a path; yield the address."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header(ANSWERED, "1")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class TestWhole:
    @pytest.mark.parametrize("page", [1000, 134, 50, 67, 1])
    def test_csv_and_json_have_every_call_whatever_a_page_is(
        self, filled: Any, monkeypatch: pytest.MonkeyPatch, page: int
    ) -> None:
        site, _, made = filled
        monkeypatch.setattr(lists, "PAGE", page)
        code, out, err = cli(site, "calls", "--run", "many", "--since", "7d", "--format", "csv")
        assert (code, err) == (0, "")
        assert [row["id"] for row in records(out)] == made
        assert sum(round(float(row["spent_usd"]) * 100) for row in records(out)) == MANY
        code, out, err = cli(site, "calls", "--run", "many", "--format", "json")
        assert (code, err) == (0, "")
        assert json.loads(out) == send(site, "GET", "/runs/many/calls").json

    def test_a_table_says_how_many_there_are_and_how_the_rest_is_had(self, filled: Any) -> None:
        site, _, made = filled
        code, out, err = cli(site, "calls", "--run", "many")
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()[1:]] == made[:100]
        last = send(site, "GET", "/runs/many/calls?limit=100").json[-1]["seq"]
        assert err == (
            f"100 of 134 calls; --all or --format csv for the rest, --before {last} for the next page.\n"
        )
        code, out, err = cli(site, "calls", "--run", "many", "--before", str(last))
        assert (code, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()[1:]] == made[100:]
        code, out, err = cli(site, "calls", "--run", "many", "--all")
        assert (code, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()[1:]] == made
        code, out, err = cli(site, "calls", "--run", "many", "--limit", "134")
        assert (code, err) == (0, "")

    def test_a_limit_is_one_for_every_format(self, filled: Any) -> None:
        site, _, made = filled
        out = cli(site, "calls", "--run", "many", "--limit", "3", "--format", "csv")[1]
        assert [row["id"] for row in records(out)] == made[:3]
        assert len(json.loads(cli(site, "calls", "--limit", "3", "--format", "json")[1])) == 3
        code, out, err = cli(site, "calls", "--limit", "3", "--all")
        assert (code, out) == (2, "")
        assert "say either --limit or --all" in err

    def test_runs_and_keys_are_whole_and_say_what_is_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Site(tmp_path / "site") as site:
            names = [f"run-{number}" for number in range(7)]
            for name in names:
                Case(site, name)
            monkeypatch.setattr(lists, "PAGE", 3)
            monkeypatch.setattr(lists, "SHOWN", 5)
            for command, field, noun in (
                ("runs", "run_id", "5 of 7 runs"),
                ("keys", "run_id", "The newest 5 keys"),
            ):
                out = cli(site, command, "--format", "csv")[1]
                assert [row[field] for row in records(out)] == names[::-1]
                assert [row[field] for row in json.loads(cli(site, command, "--format", "json")[1])] == (
                    names[::-1]
                )
                out, err = cli(site, command)[1:]
                assert len(out.splitlines()) == 6
                assert err.startswith(f"{noun}; --all or --format csv for the rest, --before ")
                last = err.split("--before ")[1].split()[0]
                out, err = cli(site, command, "--before", last)[1:]
                assert (len(out.splitlines()), err) == (3, "")
                assert len(cli(site, command, "--all")[1].splitlines()) == 8

    @pytest.mark.parametrize(
        ("command", "path", "fields"),
        [
            ("calls", "/calls", lists.CALLS.fields),
            ("runs", "/runs", lists.RUNS.fields),
            ("keys", "/vault/keys", lists.KEYS.fields),
        ],
    )
    def test_a_csv_has_every_field_of_the_api(
        self, filled: Any, command: str, path: str, fields: tuple[str, ...]
    ) -> None:
        site, *_ = filled
        body = {"vendor": "stripe", "agent_run_label": "luigi/many", "run_usd_cap": "5", "daily_usd_cap": "2"}
        assert site.call("POST", "/vault/keys", body)[0] == 201
        there = {name for row in site.call("GET", path)[1] for name in row}
        assert there == set(fields)
        assert len(fields) == len(set(fields))
        assert list(records(cli(site, command, "--format", "csv")[1])[0]) == list(fields)

    def test_a_csv_has_params_corrections_and_account(self, tmp_path: Path, filled: Any) -> None:
        site, *_ = filled
        case = Case(site)
        doubt = case.doubted()
        site.call("POST", f"/calls/{doubt}/resolve", {"spent_usd": "2"})
        site.call("POST", f"/calls/{doubt}/resolve", {"spent_usd": "1.50", "correct": True})
        [row] = records(cli(site, "calls", "--run", case.run_id, "--format", "csv")[1])
        assert json.loads(row["params"]) == {"customer": "1"}
        assert row["account"] == "stripe:test"
        [correction] = json.loads(row["corrections"])
        assert correction["usd"] == "-0.50"
        assert row["spent_usd"] == "1.50"


class TestMeanwhile:
    """Rows are added while pages are read: none is there twice, and none that was there is left out."""

    @staticmethod
    def pages(site: Site, path: str, field: str, add: Callable[[], object]) -> list[Any]:
        """Return a field of all rows, read in pages of 3, the newest first; something is added after each."""
        found, query = [], ""
        while True:
            page = send(site, "GET", f"{path}{'&' if '?' in path else '?'}limit=3{query}", token=site.token())
            found += [row[field] for row in page.json]
            add()
            if (before := page.headers.get("x-next-before")) is None:
                return found
            assert unquote(before) == str(page.json[-1]["seq" if "calls" in path else field])
            query = f"&before={before}"

    def test_calls(self, filled: Any) -> None:
        site, *_ = filled
        case = Case(site)
        there = [ask(case) for _ in range(8)][::-1]
        for path in (f"/runs/{case.run_id}/calls", f"/calls?run={case.run_id}"):
            before = [row["id"] for row in send(site, "GET", f"/runs/{case.run_id}/calls").json]
            assert self.pages(site, path, "id", lambda: ask(case)) == before
            assert before[-8:] == there

    def test_runs_and_keys(self, tmp_path: Path) -> None:
        with Site(tmp_path / "site") as site:
            names = [f"請 {number}/?&" for number in range(7)]
            for name in names:
                Case(site, name)
            assert self.pages(site, "/runs", "run_id", lambda: Case(site)) == names[::-1]
            keys = [row["id"] for row in site.call("GET", "/vault/keys")[1]]
            assert self.pages(site, "/vault/keys", "id", lambda: Case(site)) == keys

    def test_a_csv_that_is_written_meanwhile(self, filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        site, *_ = filled
        case = Case(site)
        there = [ask(case) for _ in range(12)]
        monkeypatch.setattr(lists, "PAGE", 2)
        over, added = threading.Event(), list[str]()

        def add() -> None:
            while not over.is_set():
                added.append(ask(case))

        adding = threading.Thread(target=add)
        adding.start()
        try:
            out = cli(site, "calls", "--run", case.run_id, "--format", "csv")[1]
        finally:
            over.set()
            adding.join(30)
        found = [row["id"] for row in records(out)]
        assert added
        assert len(found) == len(set(found))
        assert [one for one in found if one in there] == there[::-1]

    def test_a_list_that_breaks_off_is_not_said_to_be_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lists, "PAGE", 2)
        with answering(
            lambda path: (500, {"error": "internal"}) if "before=1" in path else (200, TWO)
        ) as url:
            for form in ("csv", "json"):
                code, out, err = run_here(
                    tmp_path, environment(SPENDGUARD_URL=url), "calls", "--format", form
                )
                assert (code, bool(err)) == (3, True)
                assert "b" in out
            with pytest.raises(ValueError, match="Expecting"):
                json.loads(out)

    def test_a_luigid_that_does_not_count_calls_has_a_table(self, filled: Any, tmp_path: Path) -> None:
        site, *_ = filled
        two = send(site, "GET", "/runs/many/calls?limit=2").json
        unknown = {"error": "bad_request", "message": "unknown query parameter 'total'"}
        with answering(lambda path: (400, unknown) if "total" in path else (200, two)) as url:
            code, out, err = run_here(tmp_path, environment(SPENDGUARD_URL=url), "calls", "--limit", "1")
        assert (code, len(out.splitlines())) == (0, 2)
        assert err.startswith("The newest 1 calls; --all or --format csv for the rest, --before ")

    def test_whoever_reads_only_the_beginning_gets_no_traceback(self, filled: Any) -> None:
        site, *_ = filled
        command = [sys.executable, "-m", "luigi_spendguard", "calls", "--format", "csv"]
        process = subprocess.Popen(
            command,
            cwd=site.folder,
            env=site.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(60) != 0
        assert "Traceback" not in err
        process.stderr.close()


@pytest.fixture(scope="module")
def case(filled: Any) -> Case:
    """A run with a settled call, one in doubt, and a pending one on the first one's object."""
    site, *_ = filled
    case = Case(site)
    settle(case, ask(case, target="cus_9"), object_id="pi_9", customer="cus_9")
    case.doubted()
    ask(case, target="pi_9", object_id="pi_9", operation="payment_intents.capture")
    return case


class TestFilters:
    @pytest.mark.parametrize(
        ("query", "targets"),
        [
            ("state=in_doubt", ["cus_1"]),
            ("state=settled", ["cus_9"]),
            ("state=pending", ["pi_9"]),
            ("state=voided", []),
            ("customer=cus_9", ["pi_9", "cus_9"]),
            ("customer=cus_", []),
            ("customer=pi_9", ["pi_9"]),
            ("customer=cus_1&state=in_doubt", ["cus_1"]),
            ("until=2026-01-01T00:00:00Z", []),
            ("until=2099-01-01T00:00:00Z&state=settled", ["cus_9"]),
            ("since=2026-01-01T00:00:00Z&until=2099-01-01T00:00:00%2B02:00", ["pi_9", "cus_1", "cus_9"]),
        ],
    )
    def test_calls_are_those_asked_for(self, case: Case, query: str, targets: list[str]) -> None:
        found = send(case.site, "GET", f"/runs/{case.run_id}/calls?total=true&{query}")
        assert [call["target"] for call in found.json] == targets
        assert found.headers["x-total-count"] == str(len(targets))
        options = [f"--{part}".replace("%2B", "+") for part in query.split("&")]
        shown = json.loads(cli(case.site, "calls", "--run", case.run_id, *options, "--format", "json")[1])
        assert shown == found.json

    def test_a_moment_is_the_end_of_one_list_and_the_beginning_of_the_next(self, case: Case) -> None:
        made = send(case.site, "GET", f"/runs/{case.run_id}/calls").json
        at = datetime.fromtimestamp(made[0]["created_at"] / 1000, timezone.utc)
        moment = quote(at.isoformat(timespec="milliseconds"))
        parts = [
            [call["id"] for call in send(case.site, "GET", f"/runs/{case.run_id}/calls?{side}={moment}").json]
            for side in ("since", "until")
        ]
        assert [one for part in parts for one in part] == [call["id"] for call in made]
        assert made[0]["id"] in parts[0]

    def test_runs_are_those_asked_for(self, case: Case) -> None:
        site = case.site
        status = site.run(case.run_id)["status"]
        for args, there in (
            (("--search", case.run_id), True),
            (("--search", case.run_id, "--status", status), True),
            (("--search", case.run_id, "--status", "revoked"), False),
            (("--search", case.run_id, "--since", "1h"), True),
            (("--search", case.run_id, "--until", "1h"), False),
        ):
            found = json.loads(cli(site, "runs", *args, "--format", "json")[1])
            assert [run["run_id"] for run in found] == ([case.run_id] if there else []), args
        assert cli(site, "runs", "--search", "nothing-like-it") == (0, "No run matches.\n", "")

    @pytest.mark.parametrize(
        "path",
        [
            "/calls?state=open",
            "/calls?until=tomorrow",
            "/calls?total=yes",
            "/calls?customer=",
            "/runs?until=2026-11-26",
            "/runs?before=many&offset=1",
            "/runs?before=many&sort=run_id",
            "/vault/keys?limit=0",
            "/vault/keys?limit=1001",
        ],
    )
    def test_a_bad_question_is_400(self, filled: Any, path: str) -> None:
        site, *_ = filled
        assert send(site, "GET", path, token=site.token()).is_error(400, "bad_request")

    @pytest.mark.parametrize("path", ["/runs?before=nope", "/vault/keys?before=nope"])
    def test_a_page_behind_nothing_that_is_there_is_404(self, filled: Any, path: str) -> None:
        site, *_ = filled
        assert send(site, "GET", path, token=site.token()).is_error(404, "not_found")

    def test_a_page_that_is_the_last_names_no_next_one(self, filled: Any) -> None:
        site, *_ = filled
        assert "x-next-before" in send(site, "GET", "/runs/many/calls?limit=133").headers
        assert "x-next-before" not in send(site, "GET", "/runs/many/calls?limit=134").headers
        assert "x-total-count" not in send(site, "GET", "/runs/many/calls").headers
        assert "x-next-before" not in send(site, "GET", "/runs?sort=spent_usd&limit=1").headers

    def test_without_a_ledger_there_are_none(self, site: Site) -> None:
        assert send(site, "GET", "/calls?total=true").headers["x-total-count"] == "0"
        for form in ("csv", "json"):
            code, out, err = cli(site, "calls", "--format", form)
            assert (code, err) == (0, "")
            assert records(out) == [] if form == "csv" else json.loads(out) == []
