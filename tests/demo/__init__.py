"""The demo: an accident with real money's worth of charges, without and with a cap. `make demo`."""
