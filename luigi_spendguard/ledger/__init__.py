"""The books: runs, claims, calls, objects, budgets and the journal, on peewee."""
