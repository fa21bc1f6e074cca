"""The tests of one part each, without a server; the folders are those of the packages."""

from pathlib import Path

#: Tables and files that several tests read.
DATA = Path(__file__).with_name("data")
