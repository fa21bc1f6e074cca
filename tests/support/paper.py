"""A page of docs/ as its reader follows it: its files as they are named, its commands as they stand."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import textwrap

from tests.support.processes import REPOSITORY
from tests.support.site import Site

PROGRAMS = {
    "luigi": "-m luigi",
    "luigid-spendguard": "-m scheduler_patch",
    "python": "",
    "spendguard": "-m luigi_spendguard",
}
#: Where the pages say that luigid is.
LUIGID = ("http://localhost:8082", "http://luigid:8082")


class Paper:
    """A page, and the site on which it is followed; `places`: what stands for a place that it names.

    A block whose first line is a comment with a file's name is that file; a `diff` block changes the file
    that has its lines; `ini` and `sh` blocks are read in turn. `check` says whether all were.
    """

    def __init__(self, name: str, site: Site, places: dict[str, str] | None = None) -> None:
        self.site, self.name = site, name
        self.text = (REPOSITORY / "docs" / name).read_text("utf-8")
        for text, here in ((places or {}) | dict.fromkeys(LUIGID, site.url)).items():
            self.text = self.text.replace(text, here)
        self._programs = site.folder / "programs"
        self._programs.mkdir(exist_ok=True)
        for program, args in PROGRAMS.items():
            path = self._programs / program
            path.write_text(f'#!/bin/sh\nexec {sys.executable} {args} "$@"\n')
            path.chmod(0o755)
        self._left = {language: self.blocks(language) for language in ("ini", "sh", "diff")}

    def blocks(self, language: str) -> list[str]:
        """Return the fenced blocks of a language."""
        found = re.findall(rf"^( *)```{language}\n(.*?)\n\1```$", self.text, re.DOTALL | re.MULTILINE)
        return [textwrap.dedent(block) + "\n" for _, block in found]

    def write_files(self) -> None:
        """Write the files that the page shows."""
        for block in self.blocks("python"):
            if named := re.match(r"# ([\w/]+\.py)\n", block):
                path = self.site.folder / named.group(1)
                path.parent.mkdir(exist_ok=True)
                path.write_text(block)

    def configure(self) -> None:
        """Take the next `ini` block into luigi.cfg."""
        read = configparser.RawConfigParser()
        read.optionxform = str  # Families keep their letters.
        read.read_string(self._left["ini"].pop(0))
        self.site.configure(**{section: dict(read[section]) for section in read.sections()})

    def change(self) -> None:
        """Change a file as the next `diff` block says."""
        lines = self._left["diff"].pop(0).splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] != "+")
        new = "".join(line[1:] for line in lines if line[0] != "-")
        [path] = [path for path in self.site.folder.glob("*.py") if old in path.read_text()]
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))

    def command(self, stdin: str = "", **env: str) -> str:
        """Let bash run the next `sh` block, in which each command has to succeed; return what it says."""
        text = self._left["sh"].pop(0)
        more = self.site.environment(**env)
        more["PATH"] = f"{self._programs}:{more['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.site.folder,
            env=more,
            timeout=120,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def skip(self, language: str) -> None:
        """Leave out the next block, which another test follows."""
        self._left[language].pop(0)

    def check(self) -> None:
        """Fail where a part of the page was not followed."""
        assert {language: left for language, left in self._left.items() if left} == {}, self.name
