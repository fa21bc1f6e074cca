"""The tables of the ledger, as a new file has them; `migrations` brings an older one to the same.

Money columns are micro-dollars, times are milliseconds since the epoch by the database's clock.
The operations (`runs`, `reservations`, `settlement`) speak SQL; these classes say what there is, and make it.
"""

from __future__ import annotations

from typing import Any

import peewee
from peewee import SQL, BigIntegerField, CharField, Check, CompositeKey, IntegerField, TextField

from luigi_spendguard.ledger.database import Tx


class _Table(peewee.Model):
    class Meta:
        legacy_table_names = False


class MigrationTable(_Table):
    """Which migrations this file has seen."""

    number = IntegerField(primary_key=True)
    applied_at = BigIntegerField()

    class Meta:
        table_name = "migration"


class RunTable(_Table):
    """One root task's spending scope; `name` is shared by the successive runs of one root."""

    id = peewee.AutoField()
    run_id = CharField(unique=True)
    name = CharField()
    seq = IntegerField()
    by_task_id = IntegerField()
    root_family = CharField()
    root_task_id = CharField()
    label = CharField(default="")
    state = CharField(constraints=[Check("state IN ('active','frozen','ended','revoked')")])
    asked_micros = BigIntegerField(null=True)
    note = TextField(default="")
    # The last forecast: its known part, how much of that is estimated, and how many tasks are unknown.
    forecast_micros = BigIntegerField(null=True)
    estimated_micros = BigIntegerField(default=0)
    unknown_tasks = IntegerField(default=0)
    # The first one: before any of its tasks had run.
    first_forecast_micros = BigIntegerField(null=True)
    first_estimated_micros = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    first_unknown_tasks = IntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    opened_at = BigIntegerField()
    ended_at = BigIntegerField(null=True)
    # Behind which entry of the journal its worker began to look what is complete.
    begun = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    # What it is counted under in reports, by name (JSON); fixed when it is opened.
    tags = TextField(default="{}", constraints=[SQL("DEFAULT '{}'")])

    class Meta:
        table_name = "run"
        indexes = ((("name", "seq"), True),)


class BudgetTable(_Table):
    """What a scope may spend.

    `scope` is `day` (part: the UTC day, all runs), or `run`, `family`, `vendor`, `task`, `key`, `key_day`,
    `beyond_day` with the run_id as subject and the task family, the vendor's name, the task_id, the key's
    budget, that and the UTC day (`9f2c 2026-11-24`), or the day alone as part. `beyond_day` is what the run
    may spend that day when the day's budget is full. `shadow_micros` is what of the cap was lent in shadow
    mode, `raised_micros` by how much operators have raised it above the one that luigi.cfg says.
    """

    id = peewee.AutoField()
    scope = CharField()
    subject = CharField(default="")
    part = CharField(default="")
    cap_micros = BigIntegerField(constraints=[Check("cap_micros >= 0")])
    spent_micros = BigIntegerField(default=0, constraints=[Check("spent_micros >= 0")])
    reserved_micros = BigIntegerField(default=0, constraints=[Check("reserved_micros >= 0")])
    overrun_micros = BigIntegerField(default=0, constraints=[Check("overrun_micros >= 0")])
    shadow_micros = BigIntegerField(default=0, constraints=[Check("shadow_micros >= 0")])
    raised_micros = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])

    class Meta:
        table_name = "budget"
        indexes = ((("scope", "subject", "part"), True),)
        # The conditional UPDATE takes the money; this guards it again.
        constraints = [Check("spent_micros + reserved_micros <= cap_micros")]


class TaskTable(_Table):
    """How often a task has completed: calls made before its last completion are not repeated ones."""

    task_id = CharField(primary_key=True)
    completions = IntegerField(default=0)

    class Meta:
        table_name = "task"
        without_rowid = True


class CompletionTable(_Table):
    """When a task completed for the `number`-th time: which entry of the journal says so (before format 17:
    behind which one), 0: nobody knows.
    """

    task_id = CharField()
    number = IntegerField()
    entry = BigIntegerField()

    class Meta:
        table_name = "completion"
        primary_key = CompositeKey("task_id", "number")
        without_rowid = True


class ClaimTable(_Table):
    """One attempt of one vendor task (or of a batch of them), with the hash of its vault key.

    `also` are the other runs that the task belongs to, `members` the tasks of a batch, `mixed` the
    earlier task that has paid for some of them, `max_cost_micros` what the attempt may spend at most,
    `payment` what it pays for (see `identity`), "" where nothing says so.
    `held_…`: the budget that denied its last denied call, and what was asked of it.
    """

    id = CharField(primary_key=True)
    run_id = CharField(index=True)
    task_id = CharField(index=True)
    family = CharField()
    params = TextField(default="{}")
    worker = CharField(default="")
    also = TextField(default="[]")
    members = TextField(default="[]")
    mixed = CharField(default="")
    payment = TextField(default="", constraints=[SQL("DEFAULT ''")])
    max_cost_micros = BigIntegerField(null=True)
    held_scope = CharField(default="")
    held_part = CharField(default="")
    held_micros = BigIntegerField(default=0)
    key_hash = CharField(unique=True)
    state = CharField(constraints=[Check("state IN ('open','ended','revoked')")])
    outcome = CharField(null=True)
    claimed_at = BigIntegerField()
    ended_at = BigIntegerField(null=True)

    class Meta:
        table_name = "claim"


class MemberTable(_Table):
    """Which tasks a claimed batch stood for, and how often each had completed by then."""

    task_id = CharField()
    claim_id = CharField()
    epoch = IntegerField(default=0)

    class Meta:
        table_name = "member"
        primary_key = CompositeKey("task_id", "claim_id")
        without_rowid = True


class BatchPaymentTable(_Table):
    """Which payments a claimed batch stood for, by what it pays for itself."""

    payment = TextField()
    batch = CharField(index=True)

    class Meta:
        table_name = "batch_payment"
        primary_key = CompositeKey("payment", "batch")
        without_rowid = True


class KeyTermsTable(_Table):
    """What a key that was asked for over HTTP may do; its hash, run and state are those of the claim `id`.

    The lists are JSON, empty ones allow everything. `budget` names the key's own budgets: a key that is
    reissued on the same terms for the same run goes on with them.
    """

    id = CharField(primary_key=True)
    vendor = CharField()
    label = CharField(default="")
    allowed_endpoints = TextField(default="[]")
    allowed_customers = TextField(default="[]")
    allowed_accounts = TextField(default="[]")
    budget = CharField()
    run_cap_micros = BigIntegerField(null=True)
    daily_cap_micros = BigIntegerField(null=True)
    expires_at = BigIntegerField()

    class Meta:
        table_name = "key_terms"


class ApprovalTable(_Table):
    """What an operator let pass: a run's forecast (no task), or a single task's cost.

    `unknown_tasks` is the forecast's other part: the tasks of which nobody knows what they may cost.
    `forecast` is what the forecast was made of when it was approved (JSON, see `runs.Parts`).
    """

    run_id = CharField()
    task_id = CharField(default="")
    amount_micros = BigIntegerField()
    unknown_tasks = IntegerField(default=0)
    forecast = TextField(default="", constraints=[SQL("DEFAULT ''")])

    class Meta:
        table_name = "approval"
        primary_key = CompositeKey("run_id", "task_id")
        without_rowid = True


class DuplicateApprovalTable(_Table):
    """What an operator let pass: a task's call of that amount, beside call `call_id` of another task."""

    run_id = CharField()
    task_id = CharField()
    call_id = CharField()
    amount_micros = BigIntegerField()

    class Meta:
        table_name = "duplicate_approval"
        primary_key = CompositeKey("run_id", "task_id", "call_id")
        without_rowid = True


class CallTable(_Table):
    """One logical vendor request. `state` is null when nothing was ever reserved for it."""

    id = CharField(primary_key=True)
    run_id = CharField(index=True)
    claim_id = CharField()
    task_id = CharField(index=True)
    # What stands for it in the identity in place of the task_id, "" where that stands for itself.
    payment = TextField(default="", constraints=[SQL("DEFAULT ''")])
    family = CharField()
    vendor = CharField()
    account = CharField()
    operation = CharField()
    method = CharField()
    path = TextField()
    target = TextField(null=True)
    base = CharField(null=True)
    ordinal = IntegerField(default=0)
    key_id = CharField(null=True)
    epoch = IntegerField(default=0)
    # By which formula `base` and `key_id` were made (0: before it was kept), and how many of the keys that
    # are derived from them the vendor had used up: it answers those with a decline for ever.
    formula = IntegerField(default=0)
    tries = IntegerField(default=0)
    fingerprint = CharField(default="")
    wire_key = CharField(default="")
    currency = CharField(default="")
    object_id = CharField(null=True)
    verdict = CharField()
    reason = CharField(default="")
    message = TextField(default="")
    replay_of = CharField(null=True)
    state = CharField(null=True, constraints=[Check("state IN ('pending','settled','voided','in_doubt')")])
    asked_micros = BigIntegerField(default=0)
    # What its object has to count for in all: by what was asked, then by the vendor's answer; null: that says
    # nothing of it.
    total_micros = BigIntegerField(null=True)
    reserved_micros = BigIntegerField(default=0)
    settled_micros = BigIntegerField(default=0)
    corrected_micros = BigIntegerField(default=0)
    overrun_micros = BigIntegerField(default=0)
    sender = CharField(default="")
    ask = IntegerField(default=1)
    # Which try of its sender's process, 0 where that is not said; and what it makes again (see `overtaken`).
    number = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    given_up = TextField(default="", constraints=[SQL("DEFAULT ''")])
    unknown = IntegerField(default=False)
    # What the price that its vendor has named may lack, once it is not waited for any more; null: not known.
    fees_micros = BigIntegerField(null=True)
    # A gateway sends it, not the holder of the key: only a gateway may say how it ended.
    relayed = IntegerField(default=False)
    # The vendor has declined it: settled for what it left open there, and not made.
    declined = IntegerField(default=False, constraints=[SQL("DEFAULT 0")])
    # It goes out with its vendor's tag, as all that goes out under its key on the wire.
    tagged = IntegerField(default=False, constraints=[SQL("DEFAULT 0")])
    timeout_ms = IntegerField(default=0)
    status = IntegerField(default=0)
    # The vendor's own id of the request that it has answered last, "" where it has named none.
    vendor_request = CharField(default="", constraints=[SQL("DEFAULT ''")])
    created_at = BigIntegerField()
    granted_at = BigIntegerField(null=True)
    ended_at = BigIntegerField(null=True)

    class Meta:
        table_name = "call"
        indexes = (
            (("base", "ordinal"), False),
            (("claim_id", "base"), False),
        )
        constraints = [
            SQL("CHECK (settled_micros >= 0 AND reserved_micros >= 0 AND overrun_micros >= 0)"),
            SQL("CHECK (settled_micros + corrected_micros >= 0)"),
        ]


class CallBudgetTable(_Table):
    """Which budgets a call's reservation was taken from; fixed when it is made."""

    call_id = CharField()
    budget_id = IntegerField()

    class Meta:
        table_name = "call_budget"
        primary_key = CompositeKey("call_id", "budget_id")
        without_rowid = True


class ExchangeTable(_Table):
    """Request and answer of a call, kept to be sent again or replayed. Holds customers' data."""

    call_id = CharField(primary_key=True)
    request_body = TextField(default="")
    request_headers = TextField(default="{}")
    status = IntegerField(null=True)
    answer_headers = TextField(default="{}")
    answer_body = TextField(default="")
    stored_at = BigIntegerField(index=True)

    class Meta:
        table_name = "exchange"


class VendorObjectTable(_Table):
    """What a call opened at the vendor, and how much of it is already counted."""

    vendor = CharField()
    account = CharField()
    object_id = CharField()
    run_id = CharField()
    call_id = CharField()
    customer = CharField(default="")
    counted_micros = BigIntegerField(default=0)
    worth_micros = BigIntegerField(default=0)

    class Meta:
        table_name = "vendor_object"
        primary_key = CompositeKey("vendor", "account", "object_id")
        without_rowid = True
        constraints = [SQL("CHECK (counted_micros >= 0)")]


class TurnTable(_Table):
    """Which objects a pending call acts on (`alone`), and which it was priced by; the last that acted on one
    is kept.
    """

    vendor = CharField()
    account = CharField()
    object_id = CharField()
    call_id = CharField()
    alone = IntegerField()

    class Meta:
        table_name = "turn"
        primary_key = CompositeKey("vendor", "account", "object_id", "call_id")
        without_rowid = True


class PriceDueTable(_Table):
    """A settled call whose price the vendor names later: when it is asked for again, and what is added."""

    call_id = CharField(primary_key=True)
    vendor = CharField()
    account = CharField()
    object_id = CharField()
    relayed = IntegerField(default=False)
    fees_micros = BigIntegerField(default=0)
    tries = IntegerField(default=0)
    due_at = BigIntegerField(index=True)

    class Meta:
        table_name = "price_due"
        without_rowid = True


class CallTargetTable(_Table):
    """Whom a call for several may reach, each as a digest."""

    target = CharField()
    call_id = CharField(index=True)

    class Meta:
        table_name = "call_target"
        primary_key = CompositeKey("target", "call_id")
        without_rowid = True


class TopUpRequestTable(_Table):
    """A top-up that waits, or has waited, for a second operator.

    `asked_by` is the name of who has asked for it, `asked_from` that and from where, as `ended_from` is of
    who has ended it. `request_id` is that of the asking, `confirm_id` that of the top-up it has become.
    """

    id = CharField(primary_key=True)
    request_id = CharField(unique=True)
    run_id = CharField(index=True)
    scope = CharField()
    part = CharField()
    amount_micros = BigIntegerField()
    asked_by = CharField()
    asked_from = TextField()
    asked_at = BigIntegerField()
    expires_at = BigIntegerField()
    state = CharField(constraints=[Check("state IN ('waiting','confirmed','withdrawn')")])
    ended_at = BigIntegerField(null=True)
    ended_from = TextField()
    confirm_id = CharField(null=True)

    class Meta:
        table_name = "top_up_request"
        without_rowid = True


class ReconciliationTable(_Table):
    """What a nightly comparison with a vendor's own books has found in an account; of account "", whether all
    of them were compared, and which process does it.

    `kinds` is JSON: how many differences there are of each kind; `note` says why it has failed.
    """

    vendor = CharField()
    account = CharField()
    until_ms = BigIntegerField()
    since_ms = BigIntegerField()
    state = CharField(constraints=[Check("state IN ('under_way','done','failed')")])
    owner = CharField(default="")
    payments = BigIntegerField(default=0)
    differences = BigIntegerField(default=0)
    vendor_only_micros = BigIntegerField(default=0)
    ledger_only_micros = BigIntegerField(default=0)
    kinds = TextField(default="{}")
    note = TextField(default="")
    at = BigIntegerField()

    class Meta:
        table_name = "reconciliation"
        primary_key = CompositeKey("vendor", "account", "until_ms")
        without_rowid = True


class JournalTable(_Table):
    """Every change of every total, append-only; the totals of `budget` can be computed from it."""

    id = peewee.AutoField()
    at = BigIntegerField()
    kind = CharField()
    run_id = CharField(default="", index=True)
    call_id = CharField(null=True, index=True)
    # Set: the entry concerns this budget alone. Null: all budgets of the call.
    budget_id = IntegerField(null=True)
    cap_micros = BigIntegerField(default=0)
    spent_micros = BigIntegerField(default=0)
    reserved_micros = BigIntegerField(default=0)
    overrun_micros = BigIntegerField(default=0)
    request_id = CharField(null=True)
    note = TextField(default="")
    # Who asked for it in person, such as `an operator at 127.0.0.1`.
    actor = TextField(default="", constraints=[SQL("DEFAULT ''")])

    class Meta:
        table_name = "journal"


class AuditBlockTable(_Table):
    """A signed block of the audit: its rows, up to which entry of the journal, and what stands before it.

    `ledger` tells these books from others, `root` is the Merkle root of the rows' texts, `previous` the hash
    of the block before ("" for the first), `hash` that of this one's head; hexadecimal, as the signature.
    """

    number = IntegerField(primary_key=True)
    ledger = CharField()
    first_seq = BigIntegerField()
    last_seq = BigIntegerField()
    entry = BigIntegerField()
    root = CharField()
    previous = CharField()
    hash = CharField()
    key_id = CharField()
    signature = CharField()
    sealed_at = BigIntegerField()

    class Meta:
        table_name = "audit_block"


class AuditRowTable(_Table):
    """What was sealed of an entry of the journal, or of a call as it was then: `text` is what is hashed.

    `name` is the call's id or the entry's number, `at` when that was made. All but `block` stands in `text`,
    too.
    """

    seq = IntegerField(primary_key=True)
    block = BigIntegerField()
    kind = CharField(constraints=[Check("kind IN ('call','entry')")])
    name = CharField()
    run_id = CharField()
    at = BigIntegerField()
    text = TextField()

    class Meta:
        table_name = "audit_row"


class AuditPrunedTable(_Table):
    """How many sealed calls and entries the entry of that number has taken out of the books."""

    entry = IntegerField(primary_key=True)
    calls = BigIntegerField()
    entries = BigIntegerField()

    class Meta:
        table_name = "audit_pruned"


TABLES: tuple[type[peewee.Model], ...] = (
    MigrationTable,
    RunTable,
    BudgetTable,
    TaskTable,
    CompletionTable,
    ClaimTable,
    MemberTable,
    BatchPaymentTable,
    KeyTermsTable,
    ApprovalTable,
    DuplicateApprovalTable,
    CallTable,
    CallBudgetTable,
    ExchangeTable,
    VendorObjectTable,
    TurnTable,
    PriceDueTable,
    CallTargetTable,
    TopUpRequestTable,
    ReconciliationTable,
    JournalTable,
    AuditBlockTable,
    AuditRowTable,
    AuditPrunedTable,
)

#: What no model says: what is looked for among much else is indexed apart.
_BESIDE = (
    "CREATE INDEX run_family ON run (root_family, id)",
    "CREATE INDEX claim_shared ON claim (run_id) WHERE also <> '[]'",
    "CREATE INDEX claim_unheard ON claim (run_id) WHERE ended_at IS NULL",
    "CREATE INDEX claim_payment ON claim (task_id, payment) WHERE payment <> ''",
    # Most calls have none of these yet when they are written, or never.
    "CREATE INDEX call_keyed ON call (key_id) WHERE key_id IS NOT NULL",
    "CREATE INDEX call_object ON call (object_id) WHERE object_id IS NOT NULL",
    "CREATE UNIQUE INDEX journal_request ON journal (request_id) WHERE request_id IS NOT NULL",
    "CREATE INDEX call_open ON call (state, run_id) WHERE state IN ('pending','in_doubt')",
    "CREATE INDEX call_payment ON call (payment) WHERE payment <> ''",
    "CREATE INDEX call_charged ON call (family, target) WHERE base IS NOT NULL AND asked_micros > 0",
    "CREATE INDEX call_vendor ON call (run_id, vendor)",
    "CREATE INDEX call_wired ON call (wire_key) WHERE base IS NULL AND key_id IS NOT NULL",
    "CREATE INDEX call_denied ON call (run_id) WHERE verdict = 'denied'",
    "CREATE INDEX call_doubt ON call (run_id) WHERE state = 'in_doubt'",
    "CREATE INDEX call_lent ON call (run_id) WHERE verdict = 'allowed' AND reason = 'cap'",
    "CREATE INDEX audit_row_run ON audit_row (run_id, seq)",
    "CREATE INDEX audit_row_call ON audit_row (name, seq) WHERE kind = 'call'",
    "CREATE INDEX journal_spent ON journal (at) WHERE spent_micros <> 0 OR overrun_micros <> 0",
)


def create(tx: Tx) -> None:
    """Make all tables of new books, in a transaction."""
    # Only its words are wanted: the transaction says them as its own engine does.
    with peewee.SqliteDatabase(":memory:").bind_ctx(TABLES):
        for table in TABLES:
            made: Any = vars(table)["_schema"]
            for statement in (made._create_table(safe=False), *made._create_indexes(safe=False)):
                tx.run(statement.query()[0])
    for text in _BESIDE:
        tx.run(text)
    tx.guard_journal()
