"""The Budgets tab: what it is made of, and what puts it into Luigi's own page."""
