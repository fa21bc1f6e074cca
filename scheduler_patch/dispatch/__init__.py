"""What luigid knows of tasks, runs and budgets, and whether a vendor task may be dispatched."""
