"""The Budgets tab: Luigi's own page with our script and stylesheet, which are served beside it.

Nothing of Luigi's is copied: its page is read as it is installed. Where that cannot be, or looks unlike
what is known, Luigi's own handler answers.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import luigi.server
from tornado.web import RequestHandler, StaticFileHandler

from luigi_spendguard import __version__

logger = logging.getLogger(__name__)

#: Our scripts and styles.
FOLDER = Path(__file__).with_name("static")
#: Luigi's page, as `luigi.server` serves it below `/static`.
_PAGE = Path(luigi.server.__file__).with_name("static") / "visualiser" / "index.html"
#: Relative to that page, so that a prefix which a reverse proxy adds does not matter.
_OURS = "../../spendguard/"
_HEAD = "</head>"
_ADDED = (
    f'<link rel="stylesheet" href="{_OURS}budgets.css?{__version__}">'
    f'<script type="module" src="{_OURS}budgets.js?{__version__}"></script>'
)


class Ours(StaticFileHandler):
    """Serves our scripts and styles; a browser asks each time whether they are another version's."""

    def set_extra_headers(self, path: str) -> None:
        """Let nothing old be shown after an upgrade."""
        self.set_header("Cache-Control", "no-cache")


class Luigis(StaticFileHandler):
    """Serves Luigi's own files as Luigi does, and its page with the Budgets tab.

    All of them, because an address has many spellings. Luigi's page shows families of tasks and messages as
    HTML, and anybody may send them: the scripts that are installed run, and no others, where an operator
    enters a token.
    """

    #: The file that is served; the page is none.
    absolute_path: str | None = None

    def compute_etag(self) -> str | None:
        """Return the file's tag; the page has none."""
        return None if self.absolute_path is None else super().compute_etag()

    def initialize(self, path: str, *args: Any, page: str = "", policy: str = "", **more: Any) -> None:
        """Take the folder, and what was made once of its page: Luigi's thread reads it for no request."""
        super().initialize(path, *args, **more)
        self._page, self._policy = page, policy

    async def get(self, path: str, include_body: bool = True) -> None:
        self.set_header("Content-Security-Policy", self._policy)
        if Path(self.get_absolute_path(self.root, path)) != _PAGE:
            await super().get(path, include_body)
            return
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.set_header("Cache-Control", "no-cache")
        await self.finish(self._page if include_body else None)


def policy() -> str:
    """Return which scripts a browser may run on Luigi's pages: the files that are installed, and the page's
    own lines of script as they are written there (https://www.w3.org/TR/CSP3/).
    """
    lines = re.findall(r"<script>(.*?)</script>", _PAGE.read_text("utf-8"), re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(line.encode()).digest()).decode() for line in lines)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"script-src 'self' {allowed}; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'self'"
    )


def page() -> str:
    """Return Luigi's page with ours added; as it is when it does not look like a page."""
    text = _PAGE.read_text("utf-8")
    if _HEAD not in text:
        logger.warning("%s has no %s: it is served without the Budgets tab", _PAGE, _HEAD)
        return text
    return text.replace(_HEAD, _ADDED + _HEAD, 1)


def routes() -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return the routes of Luigi's files and of ours."""
    if not _PAGE.exists():
        return []
    return [
        (r"/static/(.*)", Luigis, {"path": str(_PAGE.parents[1]), "page": page(), "policy": policy()}),
        (r"/spendguard/(.*)", Ours, {"path": str(FOLDER)}),
    ]
