"""What somebody does to sealed books behind the ledger's back, and what is said of it."""

from __future__ import annotations

#: Another hexadecimal text than a column has.
OTHER = "CASE substr({0}, 1, 1) WHEN '0' THEN '1' ELSE '0' END || substr({0}, 2)"


#: What is done to the books, and what is said of it.
TAMPERINGS: dict[str, tuple[str, str]] = {
    "a call's amount": (
        "UPDATE call SET settled_micros = settled_micros - 1000000,"
        " corrected_micros = corrected_micros + 1000000 WHERE object_id = 'pi_settled'",
        r"call \S+ \(stripe payment_intents.create, run run, row \d+ of block \d+ \(sealed \S+\)\) was"
        r' changed since: settled_usd was "7.00" and is "6.00"',
    ),
    "whose a call is": (
        "UPDATE call SET task_id = 'Nobody' WHERE object_id = 'pi_settled'",
        'was changed since: task_id was "Charge_open" and is "Nobody"',
    ),
    "a denial": (
        "UPDATE call SET verdict = 'allowed' WHERE verdict = 'denied'",
        'was changed since: verdict was "denied" and is "allowed"',
    ),
    "an attempt": ('UPDATE claim SET params = \'{"a": "b"}\'', r"params was \{\} and is \{\"a\":\"b\"\}"),
    "a run's family": ("UPDATE run SET root_family = 'Other'", 'root_family was "Root" and is "Other"'),
    "what is no JSON": ("UPDATE claim SET members = 'no JSON'", "it has a value that none can have"),
    "a call is deleted": (
        "DELETE FROM call WHERE object_id = 'pi_settled'",
        r"call \S+ \(.*row \d+ of block \d+ .*was deleted, and entries about it were not: it was not pruned",
    ),
    "an entry's amount": (
        "UPDATE journal SET spent_micros = 9000000 WHERE spent_micros = 7000000",
        r"entry \d+ \(settle of call \S+, row \d+ of block \d+ \(sealed \S+\)\) was changed since: spent_usd"
        ' was "7.00" and is "9.00"',
    ),
    "who did it": ("UPDATE journal SET actor = 'bob' WHERE kind = 'top_up'", 'actor was "" and is "bob"'),
    "an entry is deleted": (
        "DELETE FROM journal WHERE spent_micros = 7000000",
        r"entry \d+ \(settle of call \S+, row \d+ of block \d+ .*\) was deleted from the journal$",
    ),
    "an entry of no call is deleted": (
        "DELETE FROM journal WHERE kind = 'revoke'",
        r"was deleted from the journal: of its run 1 entries are gone and 0 were pruned",
    ),
    "what an operator did is deleted": (
        "DELETE FROM journal WHERE kind = 'operator'",
        r"entry \d+ \(operator of call .*was deleted from the journal$",
    ),
    "an entry is moved": (
        "UPDATE journal SET id = 0 WHERE id = 1",
        r"entry 0 \(open, run run\) was put into the journal after block 1 ",
    ),
    "a row's text": (
        'UPDATE audit_row SET text = replace(text, \'"spent_usd":"7.00"\', \'"spent_usd":"5.00"\')',
        r"the audit's text of entry \d+ \(settle.*row \d+ of block \d+ .*\) was changed: spent_usd was"
        ' "7.00" and is "5.00"',
    ),
    "the text of a call's last row": (
        'UPDATE audit_row SET text = replace(text, \'"settled_usd":"7.00"\', \'"settled_usd":"5.00"\')'
        " WHERE kind = 'call'",
        r"the audit's text of (a row|call \S+)",
    ),
    "the figures of a run after an entry": (
        'UPDATE audit_row SET text = replace(text, \'"run_spent_usd":"7.00"\', \'"run_spent_usd":"5.00"\')',
        r"the audit's text of a row of block \d+ .* was changed \(rows \d+ to \d+\)",
    ),
    "a text that is no row": (
        "UPDATE audit_row SET text = 'x' WHERE seq = 7",
        "row 7 of block 1 .* no sealed row",
    ),
    "a text that is no text": (
        "UPDATE audit_row SET text = CAST(x'7bff7d' AS TEXT) WHERE seq = 7",
        "a row of block 1 .* no UTF-8",
    ),
    "a text of the last block that is no text": (
        "UPDATE audit_block SET ledger = CAST(x'ff' AS TEXT) WHERE number ="
        " (SELECT max(number) FROM audit_block)",
        "the ledger was changed: there is a text that is no UTF-8",
    ),
    "what stands beside a text": (
        "UPDATE audit_row SET run_id = 'other' WHERE seq = 1",
        "row 1 of block 1 .* was changed: its run_id was run and is other",
    ),
    "a row is taken out": ("DELETE FROM audit_row WHERE seq = 7", "row 7 of block 1 .* was taken out"),
    "the last row of a block is taken out": (
        "DELETE FROM audit_row WHERE seq = (SELECT last_seq FROM audit_block WHERE number = 2)",
        "row .* of block 2 .* was taken out",
    ),
    "a row is put in": (
        "INSERT INTO audit_row SELECT 9999, block, kind, name, run_id, at, text FROM audit_row WHERE seq = 1",
        "row 9999 of the audit was put in: no block has it",
    ),
    "a row is put in before all": (
        "INSERT INTO audit_row SELECT 0, block, kind, name, run_id, at, text FROM audit_row WHERE seq = 1",
        "row 0 of the audit was put in: no block has it",
    ),
    "a root": (
        f"UPDATE audit_block SET root = {OTHER.format('root')} WHERE number = 2",
        "block 2 .* was changed: its head has another hash than it says",
    ),
    "a hash": (
        f"UPDATE audit_block SET hash = {OTHER.format('hash')} WHERE number = 2",
        "block 2 .* was changed: its head has another hash than it says",
    ),
    "a signature": (
        f"UPDATE audit_block SET signature = {OTHER.format('signature')} WHERE number = 2",
        "block 2 .* was made anew, or changed: its signature is not that of its key",
    ),
    "how a signature is written": (
        "UPDATE audit_block SET signature = upper(signature) WHERE number = 2",
        "block 2 .* was made anew, or changed: its signature is not that of its key",
    ),
    "when it was sealed": (
        "UPDATE audit_block SET sealed_at = 99999999999999999 WHERE number = 2",
        r"block 2 \(sealed at no time that there is\) was changed",
    ),
    "a block is taken out": ("DELETE FROM audit_block WHERE number = 2", "block 2 is gone: block 3 "),
    "the first block is taken out": ("DELETE FROM audit_block WHERE number = 1", "block 1 is gone: block 2 "),
    "the last block is taken out": (
        "DELETE FROM audit_block WHERE number = (SELECT max(number) FROM audit_block)",
        r"block \d+ was sealed here, and the ledger has block \d+ as its last: an older ledger was restored",
    ),
    "all blocks are taken out": ("DELETE FROM audit_block", "and the ledger has no block at all: an older"),
    "what was pruned": (
        "INSERT INTO audit_pruned SELECT max(id), 1, 1 FROM journal",
        "was changed since: pruned was null and is",
    ),
    "a total": (
        "UPDATE budget SET spent_micros = 24000000 WHERE id = 1",
        "a total was changed: budget run run",
    ),
}


#: What is in force beside the calls, and is changed without an entry that says so.
RIGHTS: dict[str, tuple[str, str]] = {
    "a run is not revoked any more": (
        "UPDATE run SET state = 'active' WHERE run_id = 'revoked'",
        "run revoked was revoked, and is not any more",
    ),
    "a run is not frozen any more": (
        "UPDATE run SET state = 'active' WHERE run_id = 'frozen'",
        "run frozen was frozen by what a vendor billed above a reservation, and is active without a top-up",
    ),
    "a key of a revoked run": (
        "UPDATE claim SET state = 'open' WHERE run_id = 'revoked'",
        r"vault key \S+ was revoked, or its run, and is in force",
    ),
    "what a key may call": (
        "UPDATE key_terms SET allowed_endpoints = '[]'",
        r"the terms of vault key key_\w+ are not those that it was issued on",
    ),
    "which key it is": (
        "UPDATE claim SET key_hash = 'abc' WHERE id IN (SELECT id FROM key_terms)",
        r"the terms of vault key key_\w+ are not those that it was issued on",
    ),
    "a key that nobody has issued": (
        "INSERT INTO key_terms SELECT 'key_1', vendor, label, allowed_endpoints, allowed_customers,"
        " allowed_accounts, budget, run_cap_micros, daily_cap_micros, expires_at FROM key_terms",
        "vault key key_1 was issued by nobody: no entry says so",
    ),
    "an approved forecast": (
        "UPDATE approval SET amount_micros = 99000000 WHERE task_id = ''",
        "what was approved of run run is not what an operator has approved",
    ),
    "an approved task": (
        "UPDATE approval SET run_id = 'other' WHERE task_id <> ''",
        "what was approved of run other, task Charge_dear is not what an operator has approved",
    ),
    "an approved duplicate": (
        "UPDATE duplicate_approval SET amount_micros = 99000000",
        r"what was approved of task Charge_26 beside call \S+ is not what an operator has approved",
    ),
    "a top-up that nobody has asked for": (
        "INSERT INTO top_up_request (id, request_id, run_id, scope, part, amount_micros, asked_by,"
        " asked_from, asked_at, expires_at, state, ended_from) VALUES"
        " ('tu_1', 'a', 'run', 'run', '', 9000000, 'alice',"
        " 'alice at 127.0.0.1', 1, 9999999999999, 'waiting', '')",
        "top-up tu_1 is not what was asked for, or not by whom",
    ),
    "what a cap of luigi.cfg is raised by": (
        "UPDATE budget SET raised_micros = 9000000 WHERE scope = 'family'",
        r"budget family run Charge is raised by \$7.00 more than its top-ups come to",
    ),
    "what shadow mode has lent": (
        "UPDATE budget SET shadow_micros = -1 WHERE scope = 'run' AND subject = 'run'",
        "budget run run lends what it has not got",
    ),
}


#: What of the books' own tables is sealed.
LIVE = {
    "journal": (
        *(
            "at",
            "kind",
            "run_id",
            "call_id",
            "cap_micros",
            "spent_micros",
            "reserved_micros",
            "overrun_micros",
        ),
        *("note", "actor", "request_id", "budget_id"),
    ),
    "call": (
        *("run_id", "claim_id", "task_id", "family", "vendor", "account", "operation", "method", "path"),
        *(
            "target",
            "base",
            "ordinal",
            "key_id",
            "fingerprint",
            "wire_key",
            "currency",
            "object_id",
            "verdict",
        ),
        *(
            "reason",
            "message",
            "replay_of",
            "asked_micros",
            "total_micros",
            "reserved_micros",
            "settled_micros",
        ),
        *("corrected_micros", "overrun_micros", "status", "created_at", "ended_at", "vendor_request"),
    ),
    "audit_row": ("seq", "block", "kind", "name", "run_id", "at", "text"),
    "audit_block": (
        *("number", "ledger", "first_seq", "last_seq", "entry", "root", "previous", "hash", "key_id"),
        *("signature", "sealed_at"),
    ),
    "budget": ("cap_micros", "spent_micros", "reserved_micros", "overrun_micros"),
}
OWN_KEY = {"journal": "id", "call": "rowid", "audit_row": "seq", "audit_block": "number", "budget": "id"}
