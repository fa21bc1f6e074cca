"""Stands before what a tool of the tests has brought: Luigi would import it, and users do not have it."""

raise ImportError("not among what luigi-spendguard asks for")
