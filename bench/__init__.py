"""`python -m bench`: what a guarded call costs, and what the ledger alone can do."""
