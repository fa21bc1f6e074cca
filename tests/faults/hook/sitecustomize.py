"""Python imports this by itself where the folder is on its path: it puts faults into a program of ours."""

from tests.faults import hooks

hooks.install()
