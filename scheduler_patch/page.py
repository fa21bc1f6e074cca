"""The Budgets tab: Luigi's own page with our script and stylesheet, which are served beside it.

Nothing of Luigi's is copied: its page is read as it is installed. Where that cannot be, or looks unlike
what is known, Luigi's own handler answers.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import luigi.server
from tornado.web import RequestHandler, StaticFileHandler

from luigi_spendguard import __version__

logger = logging.getLogger(__name__)

#: Our scripts and styles.
FOLDER = Path(__file__).with_name("visualiser")
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


class Page(RequestHandler):
    """Serves Luigi's page with the Budgets tab."""

    def get(self) -> None:
        """Answer with the page."""
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(page())

    head = get


def page() -> str:
    """Return Luigi's page with ours added; as it is when it does not look like a page."""
    text = _PAGE.read_text("utf-8")
    if _HEAD not in text:
        logger.warning("%s has no %s: it is served without the Budgets tab", _PAGE, _HEAD)
        return text
    return text.replace(_HEAD, _ADDED + _HEAD, 1)


def routes() -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return the routes of the page and of what it loads."""
    ours = (r"/spendguard/(.*)", Ours, {"path": str(FOLDER)})
    return [(r"/static/visualiser/index\.html", Page, {}), ours] if _PAGE.exists() else []
