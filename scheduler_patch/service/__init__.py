"""What operators, workers and the clock do with the ledger, told to the gate."""
