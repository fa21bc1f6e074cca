"""What runs inside luigid: the budget scheduler, its routes, and the luigid-compatible command."""
