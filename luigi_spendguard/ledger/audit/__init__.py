"""The audit that shows what was changed behind the ledger's back.

What the journal says of calls and money is sealed shortly after, in blocks: `rows` says what is sealed of
an entry and of a call, `merkle` makes one hash of a block's rows, `blocks` chains and signs them, `signing`
has the key and what else is kept outside of the database, and `sealing` does it by and by. `verifying` finds
the first row that is not as it was (`chain`, `tampering`). `sums` computes the budgets' totals again.
"""
