"""A simulator: the real guard, ledger, gate and service in virtual time, with every fault by seed."""
