"""What libpq says where there is no connection has a remedy (what a real server says: `test_copying`)."""

from __future__ import annotations

import pytest

from luigi_spendguard.ledger.database.unreached import remedy


@pytest.mark.parametrize(
    ("said", "does", "lasts"),
    [
        ('connection to server at "h" failed: fe_sendauth: no password supplied', "~/.pgpass", True),
        ('FATAL:  password authentication failed for user "luigi"', "mend the user or the password", True),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "luigi"', "pg_hba.conf admit", True),
        ('FATAL:  permission denied for database "shut"', "GRANT CONNECT", True),
        ("FATAL:  sorry, too many clients already", "max_connections", False),
        ("SSL error: certificate verify failed", "sslrootcert", False),
        ("connection to server failed: Connection refused", "start the server", False),
        ("FATAL:  the database system is starting up", "wait: the server is being started", False),
        ("FATAL:  the database system is in recovery mode", "wait: the server is being started", False),
        ("FATAL:  the database system is not yet accepting connections", "wait: the server is being", False),
        ("FATAL:  the database system is shutting down", "start the server when it is down", False),
        ("something that nobody has seen", "look at host, port, user and database", False),
    ],
)
def test_each_says_what_to_do_and_whether_it_is_tried_again(said: str, does: str, lasts: bool) -> None:
    found = remedy(said)
    assert does in found.text
    assert found.lasts is lasts
