"""`python -m bench`: what a guarded call costs, and the ledger alone; `bench.pipeline`: whole pipelines."""
