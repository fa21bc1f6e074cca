"""What the papers look like from the repository's root, where GitHub shows them, said to MkDocs.

The README and its like become pages beside those of docs/, and a file outside of docs/ that a page links to
becomes a file of the site. The links themselves are written for GitHub and are rewritten here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

REPOSITORY = Path(__file__).resolve().parents[2]
PAPERS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
#: Where the site has the files from outside of docs/.
ELSEWHERE = "repository/"
_FETCHED = re.compile(r"""<(?:script|img|source|iframe)\b[^>]*\bsrc(?:set)?=["']?(?:https?:)?//[^>]*>""")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def _place(page: str) -> str:
    """Return where a page is in the repository."""
    return page if page in PAPERS else f"docs/{page}"


def _target(page: str, link: str) -> str:
    """Return what a link of a page leads to, as a path in the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(_place(page)), link))


def _on_site(target: str) -> str:
    """Return where the site has a file of the repository."""
    if target in PAPERS:
        return target
    return target.removeprefix("docs/") if target.startswith("docs/") else ELSEWHERE + target


def _is_elsewhere(target: str) -> bool:
    return _on_site(target).startswith(ELSEWHERE) and (REPOSITORY / target).is_file()


def on_files(files: Any, *, config: Any) -> None:
    """Add the papers, and what pages link to outside of docs/."""
    for name in PAPERS:
        files.append(File.generated(config, name, abs_src_path=str(REPOSITORY / name)))
    for file in list(files.documentation_pages()):
        for link in _LINK.findall(file.content_string):
            target = _target(file.src_uri, link)
            if _is_elsewhere(target) and files.get_file_from_path(_on_site(target)) is None:
                source = str(REPOSITORY / target)
                files.append(File.generated(config, _on_site(target), abs_src_path=source))


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Make the links of a page lead to where the site has what they mean."""
    here = page.file.src_uri

    def rewritten(found: re.Match[str]) -> str:
        target = _target(here, found.group(1))
        if not (REPOSITORY / target).exists():
            return found.group()  # MkDocs says that it is broken.
        return posixpath.relpath(_on_site(target), posixpath.dirname(here) or ".")

    return _LINK.sub(rewritten, markdown)


def on_post_page(output: str, *, page: Any, config: Any) -> None:
    """Refuse a page whose reader would fetch something from elsewhere."""
    if fetched := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} needs a network: {fetched.group()}")
