"""Nobody bounds these calls."""

from calling import charge, run

run(lambda: charge() == 200)
