"""Structured logs: JSON lines off a terminal, colours on one, always on stderr. No secrets: nothing here sees any."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logs(*, json: bool | None = None, level: int = logging.INFO, **bound: Any) -> None:
    """Set up structlog for this process; `bound` fields (replica, cluster) stand in every line.

    `json` None: JSON unless stderr is a terminal. The libraries' own logging is kept to warnings, in the same form.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        lambda _logger, _name, event: {**event, **bound} if as_json else event,
        structlog.processors.JSONRenderer(default=str) if as_json else structlog.dev.ConsoleRenderer(),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
