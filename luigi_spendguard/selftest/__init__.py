"""The self-test: real workers, a real luigid and the user's luigi.cfg against a fake vendor that counts."""
