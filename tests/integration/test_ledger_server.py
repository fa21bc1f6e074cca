"""The ledger at a PostgreSQL server: it goes away, hangs or loses an answer, and nothing is done twice."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import urllib3

from luigi_spendguard.errors import Conflict, LedgerUnavailable
from luigi_spendguard.ledger import Ledger, runs
from luigi_spendguard.ledger.database import Tx, postgres
from luigi_spendguard.money import Micros
from luigi_spendguard.redaction import Secret
from tests.support.asking import ADMIN
from tests.support.postgres import (
    PgBouncer,
    PostgresServer,
    Wire,
    database_url,
    need_pool,
    need_servers,
    through,
)
from tests.support.processes import free_port, wait_until
from tests.support.site import Site

USD = 1_000_000


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    made = Ledger(Secret(url))
    made.write(runs.open_run, request("run")).result(20)
    yield made
    made.close()


def request(run_id: str) -> runs.RunRequest:
    return runs.RunRequest(run_id, False, "Root", "Root_1", Micros(100 * USD))


def more(ledger: Ledger, request_id: str | None = None) -> Future[Any]:
    return ledger.write(add)


def add(tx: Tx) -> None:
    """Do what is noticed when it is done twice."""
    tx.run("UPDATE budget SET cap_micros = cap_micros + 1 WHERE scope = 'run'")


def count(tx: Tx) -> int:
    return int(tx.value("SELECT count(*) FROM budget"))


def done(ledger: Ledger) -> int:
    return int(
        ledger.read(lambda tx: tx.value("SELECT cap_micros FROM budget WHERE scope = 'run'")).result(20)
    )


def terminate(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


def test_connections_that_were_lost_in_between_are_made_again(ledger: Ledger, url: str) -> None:
    before = done(ledger)
    terminate(url)
    more(ledger).result(20)
    terminate(url)
    assert done(ledger) == before + 1


def test_a_transaction_that_loses_its_connection_is_done_again_and_once(ledger: Ledger, url: str) -> None:
    before, tries = done(ledger), []

    def interrupted(tx: Tx) -> str:
        add(tx)
        tries.append(1)
        if len(tries) == 1:
            terminate(url)
        add(tx)
        return "done"

    assert ledger.write(interrupted).result(20) == "done"
    assert (len(tries), done(ledger)) == (2, before + 2)


@pytest.mark.parametrize("code", ["40P01", "40001"])
def test_a_deadlock_or_serialization_failure_is_done_again(ledger: Ledger, code: str) -> None:
    before, tries = done(ledger), []

    def fails(tx: Tx) -> None:
        add(tx)
        tries.append(1)
        if len(tries) == 1:
            tx.run(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$")

    ledger.write(fails).result(20)
    assert (len(tries), done(ledger)) == (2, before + 1)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_that_is_restarted_is_gone_on_with(end: signal.Signals, tmp_path: Path) -> None:
    need_servers()
    with PostgresServer() as server:
        ledger = Ledger(Secret(database_url(server.url, tmp_path)))
        ledger.write(runs.open_run, request("run")).result(20)
        before = done(ledger)
        server.kill() if end == signal.SIGKILL else server.end(end)
        with pytest.raises(LedgerUnavailable):
            more(ledger).result(20)
        server.start()
        wait_until(lambda: ledger.away is None)
        more(ledger).result(20)
        assert done(ledger) == before + 1
        ledger.close()


def test_a_server_that_stands_still_denies_within_seconds(server: PostgresServer, ledger: Ledger) -> None:
    before = done(ledger)
    with server.frozen():
        begun = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            more(ledger).result(60)
        assert time.monotonic() - begun < 30
    wait_until(lambda: ledger.away is None)
    more(ledger).result(20)
    assert done(ledger) in (before + 1, before + 2)


def test_one_that_stands_still_in_the_midst_of_a_transaction_is_given_up(
    server: PostgresServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that write wait for that transaction, and who asks that server again would, too."""
    monkeypatch.setattr(postgres, "ANSWER_S", 0.5)
    before, frozen, tries = done(ledger), contextlib.ExitStack(), []

    def stopped(tx: Tx) -> None:
        tries.append(1)
        add(tx)
        frozen.enter_context(server.frozen())
        add(tx)

    with frozen:
        with pytest.raises(LedgerUnavailable, match="does it stand still"):
            ledger.write(stopped).result(15)
        with pytest.raises(LedgerUnavailable, match="does it stand still"):
            more(ledger).result(15)
    wait_until(lambda: ledger.away is None)
    assert tries == [1]
    assert done(ledger) == before


def test_luigid_ends_while_its_server_stands_still(server: PostgresServer, url: str, tmp_path: Path) -> None:
    with Site(tmp_path, spendguard={"ledger_url": url, "admin_token": ADMIN}) as site:
        assert site.call("DELETE", "/runs/none", token=ADMIN)[0] == 404
        answers: list[Any] = []

        def revoke() -> None:
            try:
                answers.append(site.call("DELETE", "/runs/none", token=ADMIN)[0])
            except urllib3.exceptions.HTTPError:
                answers.append("ended")

        with server.frozen():
            asked = threading.Thread(target=revoke)
            asked.start()
            time.sleep(0.2)  # It is on its way, or not yet: both have to end.
            assert site.luigid is not None
            site.luigid.popen.terminate()
            assert site.luigid.popen.wait(30) == 0
            asked.join(30)
        assert answers in ([503], ["ended"])


def test_a_read_of_a_table_that_is_locked_is_denied_by_the_server(ledger: Ledger, url: str) -> None:
    """As VACUUM FULL locks it; no backend goes on waiting for it when nobody waits for that one."""
    assert ledger.read(count).result(20)
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE budget IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LedgerUnavailable, match="holds its lock"):
            ledger.read(count).result(20)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'budget'::regclass"
        row = other.execute(waiting).fetchone()
    assert row == (0,)
    assert ledger.read(count).result(20)


def cut_once(wire: Wire, how: str) -> list[bytes]:
    """Cut a wire at the next commit, `before` or `after` it arrives; return what was cut off."""
    cuts: list[bytes] = []

    def cut(data: bytes) -> str:
        if b"COMMIT\0" not in data or cuts:
            return ""
        cuts.append(data)
        return how

    wire.cut_at = cut
    return cuts


@pytest.mark.parametrize("times", [1, 3])
def test_a_ledger_whose_connections_are_cut_while_it_is_opened_is_opened(
    server: PostgresServer, url: str, times: int
) -> None:
    cuts: list[bytes] = []

    def cut(data: bytes) -> str:
        if len(cuts) < times:
            cuts.append(data)
            return "before"
        return ""

    with Wire(server) as wire:
        wire.cut_at = cut
        ledger = Ledger(Secret(through(wire.port, url)))
        ledger.write(runs.open_run, request("run")).result(20)
        ledger.close()
    assert len(cuts) == times


def test_one_whose_server_is_away_is_said_to_be_unavailable(url: str) -> None:
    with pytest.raises(LedgerUnavailable, match="cannot be reached"):
        Ledger(Secret(through(free_port(), url)))


class TestCommits:
    """A commit whose answer was lost is looked up before anything else is done."""

    @pytest.fixture
    def wire(self, server: PostgresServer) -> Iterator[Wire]:
        with Wire(server) as made:
            yield made

    @pytest.mark.parametrize("cut", ["before", "after"])
    def test_it_is_done_once_and_answered(self, wire: Wire, url: str, cut: str) -> None:
        ledger = Ledger(Secret(through(wire.port, url)))
        ledger.write(runs.open_run, request("run")).result(20)
        before = done(ledger)
        cuts = cut_once(wire, cut)
        more(ledger).result(20)
        assert len(cuts) == 1
        assert done(ledger) == before + 1
        ledger.close()

    def test_also_where_the_first_transaction_of_all_was_undone(self, wire: Wire, url: str) -> None:
        ledger = Ledger(Secret(through(wire.port, url)))

        def fail(tx: Tx) -> None:
            tx.insert("task", task_id="undone", completions=1)
            raise Conflict("no")

        with pytest.raises(Conflict):
            ledger.write(fail).result(20)
        ledger.write(runs.open_run, request("run")).result(20)
        before = done(ledger)
        cuts = cut_once(wire, "after")
        more(ledger).result(20)
        assert (len(cuts), done(ledger)) == (1, before + 1)
        ledger.close()

    def test_also_where_another_process_has_forgotten_who_wrote(self, wire: Wire, url: str) -> None:
        """What has written nothing for a day may write again."""
        ledger = Ledger(Secret(through(wire.port, url)))
        ledger.write(runs.open_run, request("run")).result(20)
        with psycopg.connect(url) as other:
            other.execute("DELETE FROM writer")
        before = done(ledger)
        cuts = cut_once(wire, "after")
        more(ledger).result(20)
        assert (len(cuts), done(ledger)) == (1, before + 1)
        ledger.close()

    def test_where_it_cannot_be_looked_up_nothing_is_said_to_be_done(self, wire: Wire, url: str) -> None:
        ledger = Ledger(Secret(through(wire.port, url)))
        ledger.write(runs.open_run, request("run")).result(20)
        before = done(ledger)

        def cut(data: bytes) -> str:
            if b"COMMIT\0" not in data:
                return ""
            wire.refuses = True
            return "after"

        wire.cut_at = cut
        with pytest.raises(LedgerUnavailable, match="is not known yet"):
            more(ledger).result(60)
        wire.refuses, wire.cut_at = False, lambda data: ""
        assert done(ledger) == before + 1
        more(ledger).result(20)
        assert done(ledger) == before + 2
        ledger.close()


def test_a_table_that_another_version_adds_a_column_to_is_read_on(ledger: Ledger, url: str) -> None:
    """What was prepared has other columns than before."""
    with psycopg.connect(url, autocommit=True) as other:
        looks = [ledger.read(lambda tx: tx.one("SELECT * FROM run LIMIT 1")).result(20)]
        other.execute("ALTER TABLE run ADD COLUMN newer BIGINT")
        try:
            looks.append(ledger.read(lambda tx: tx.one("SELECT * FROM run LIMIT 1")).result(20))
        finally:
            other.execute("ALTER TABLE run DROP COLUMN newer")
    assert ["newer" in (look or {}) for look in looks] == [False, True]


def test_the_journal_refuses_changes(ledger: Ledger, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        for statement in ("UPDATE journal SET note = 'x'", "DELETE FROM journal"):
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
                other.execute(statement)


def test_one_writes_at_a_time(ledger: Ledger, url: str) -> None:
    """What is read in a transaction is as it was when that ends."""
    other, begun, go_on = Ledger(Secret(url)), threading.Event(), threading.Event()
    before = done(ledger)

    def slow(tx: Tx) -> int:
        value = int(tx.value("SELECT cap_micros FROM budget WHERE scope = 'run'"))
        begun.set()
        go_on.wait(10)
        tx.run("UPDATE budget SET cap_micros = ? WHERE scope = 'run'", value + 10)
        return value

    first = ledger.write(slow)
    assert begun.wait(10)
    second = more(other)
    time.sleep(0.3)
    assert not second.done()
    go_on.set()
    first.result(20)
    second.result(20)
    assert done(ledger) == before + 11
    other.close()


def test_who_has_waited_for_its_turn_in_vain_writes_again(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger._db, "busy_s", 0.2)
    before = done(ledger)
    with psycopg.connect(url) as other:
        other.execute(postgres._BEGIN % {b"wait": 1000, b"idle": 0})
        with pytest.raises(LedgerUnavailable, match="more processes write to it"):
            more(ledger).result(20)
    more(ledger).result(20)
    assert done(ledger) == before + 1


class TestPools:
    """Behind PgBouncer in transaction mode each transaction may have another backend."""

    @pytest.fixture
    def pooled(self, server: PostgresServer, url: str) -> Iterator[str]:
        need_pool()
        with PgBouncer(server) as pool:
            yield pool.url(url)

    def test_many_write_at_once_and_nothing_is_lost(self, pooled: str) -> None:
        ledgers = [Ledger(Secret(pooled)) for _ in range(4)]
        ledgers[0].write(runs.open_run, request("run")).result(20)
        before = done(ledgers[0])
        for one in [more(ledger) for ledger in ledgers for _ in range(50)]:
            one.result(60)
        assert done(ledgers[0]) == before + 200
        for ledger in ledgers:
            ledger.close()

    def test_a_server_that_stands_still_denies_within_seconds(
        self, server: PostgresServer, pooled: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pool takes a connection all the same, and its own patience is two minutes."""
        monkeypatch.setattr(postgres, "ANSWER_S", 0.5)
        monkeypatch.setattr("luigi_spendguard.ledger.database.listening.ANSWER_S", 0.5)
        monkeypatch.setattr("luigi_spendguard.ledger.CLOSE_S", 0.5)
        ledger, heard = Ledger(Secret(pooled)), threading.Event()
        ledger.browse(count).result(15)
        ledger._db.disconnect()
        with server.frozen():
            ledger.listen(heard.set)
            looking = ledger.browse(count)
            with pytest.raises(LedgerUnavailable):
                more(ledger).result(15)
            writing = more(ledger)
            closing = threading.Thread(target=ledger.close)
            closing.start()
            closing.join(10)
            still = {thread.name for thread in threading.enumerate()}
            assert not closing.is_alive()
            assert "spendguard-listen" not in still
            for one in (writing, looking):
                with pytest.raises(LedgerUnavailable):
                    one.result(0)

    def test_nothing_is_prepared_there(self, pooled: str, ledger: Ledger) -> None:
        """Another client's statement may have the same name at a backend."""
        through = Ledger(Secret(pooled))
        prepared = "SELECT count(*) FROM pg_prepared_statements"
        for one, some in ((through, False), (ledger, True)):
            for _ in range(5):
                one.read(lambda tx: tx.value("SELECT max(id) FROM journal")).result(20)
            assert (one.read(lambda tx: tx.value(prepared)).result(20) > 0) is some
        through.close()


def test_a_server_that_keeps_no_advisory_locks_is_refused(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some that speak the same protocol take them without a word."""
    monkeypatch.setattr(postgres, "_BEGIN", postgres._BEGIN.partition(b" SELECT pg_advisory")[0])
    with pytest.raises(LedgerUnavailable, match="keeps no advisory locks"):
        Ledger(Secret(url))


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_has_not_all_texts_is_refused(server: PostgresServer, encoding: str) -> None:
    name = f"texts_{encoding.lower()}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        how = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(f"CREATE DATABASE {name} {how}".encode())
    parts = urlsplit(server.url)
    with pytest.raises(LedgerUnavailable, match=f"/{name} keeps texts as {encoding}.*createdb") as refused:
        Ledger(Secret(urlunsplit(parts._replace(path=f"/{name}", netloc="postgres:canary@"))))
    assert "canary" not in str(refused.value)


def test_the_environments_encoding_is_not_the_ledgers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with closing(Ledger(Secret(url))) as ledger:
        assert ledger.write(lambda tx: tx.value("SELECT ?", "Łukasz")).result(20) == "Łukasz"


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 9], ids=["NUL", "surrogate", "long"])
def test_what_no_database_takes_is_refused_and_holds_up_nothing(ledger: Ledger, text: str) -> None:
    """The others of its transaction are done; said again it would be refused again."""

    def odd(tx: Tx) -> None:
        add(tx)
        # As an index has it.
        tx.run("INSERT INTO task (task_id, completions) VALUES (?, 1)", random_text(text))

    before, hold = done(ledger), threading.Event()
    ledger.write(lambda _: hold.wait(20))
    others = [ledger.write(add) for _ in range(2)]
    refused = ledger.write(odd)
    others.append(ledger.write(add))
    hold.set()
    with pytest.raises(Conflict, match="does not take"):
        refused.result(20)
    for other in others:
        other.result(20)
    assert done(ledger) == before + 3


def random_text(text: str) -> str:
    """Return a long text as one that cannot be compressed."""
    return text if text != "x" * 9 else "".join(map(chr, random.Random(1).choices(range(97, 1000), k=9000)))


def test_a_process_that_stands_still_in_a_transaction_is_not_waited_for(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STALLED_S", 0.5)
    before, stalled, go_on = done(ledger), threading.Event(), threading.Event()
    other = Ledger(Secret(url))

    def stall(tx: Tx) -> None:
        add(tx)
        if not stalled.is_set():
            stalled.set()
            go_on.wait(20)

    late = other.write(stall)
    assert stalled.wait(10)
    more(ledger).result(20)
    assert done(ledger) == before + 1
    go_on.set()
    late.result(20)  # It is done again.
    assert done(ledger) == before + 2
    other.close()
