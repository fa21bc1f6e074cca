"""`python -m bench`: all that is measured of speed and size, and docs/performance.md, which is made of it."""
