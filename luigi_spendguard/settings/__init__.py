"""luigi.cfg: its keys, how their values are read, and what the operator allows."""
