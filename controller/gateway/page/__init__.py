"""The gateway's page: its files, and those that it shares with the live page of the status endpoint.

The page fetches nothing from other hosts. Its files say nothing of the records: anybody may read them.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from controller.endpoint.page import INDEX, PAGE_CSP, load_assets
from controller.endpoint.problems import Problem

SHARED = (
    "address.js",
    "ahead.js",
    "chart.js",
    "course.js",
    "format.js",
    "hour.js",
    "icon.svg",
    "live.js",
    "members.js",
    "neighbours.js",
    "page.css",
    "schedules.js",
    "task.js",
    "tasks.js",
    "timeline.js",
)


class PageFiles:
    """The files of the page, by name."""

    def __init__(self) -> None:
        shared = load_assets()
        self._files = {name: shared[name] for name in SHARED} | load_assets(__name__)

    def answer(self, name: str) -> Response:
        """The file of this name; "" for the page itself. Raises Problem if there is none."""
        found = self._files.get(name or INDEX)
        if found is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"the page has no file {name[:80]!r}; see /")
        content, content_type = found
        return Response(content, headers={"Content-Type": content_type, "Content-Security-Policy": PAGE_CSP})
