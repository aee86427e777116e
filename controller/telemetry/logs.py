"""Structured logs on stderr: with colours on a terminal, else as JSON lines. Secrets never reach them."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

from controller.lines import EACH, LineStream

_encoder = msgspec.json.Encoder(enc_hook=str)
_to_text = structlog.processors.JSONRenderer(default=str)


def configure_logs(*, json: bool | None = None, level: int = logging.INFO, **bound: Any) -> None:
    """Set up structlog for this process; every line has the `bound` fields (replica, cluster).

    `json` None means JSON unless stderr is a terminal. Libraries log only warnings and errors, in the same
    format. Tracebacks have no values of variables, which may be a user's.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        shared += [structlog.processors.format_exc_info, lambda _logger, _name, event: {**event, **bound}]
        renderer: Any = _to_text
    else:
        renderer = _Console(structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    structlog.configure(
        processors=[*shared, _to_bytes if as_json else renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(LineStream(sys.stderr.buffer))  # type: ignore[arg-type]
        if as_json
        else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class _Console:
    """A renderer for a terminal."""

    def __init__(self, render: structlog.dev.ConsoleRenderer) -> None:
        self._render = render

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        each = event.pop(EACH, [{}])
        return "\n".join(self._render(logger, name, {**event, **one}) for one in each)


def _to_bytes(logger: object, name: str, event: MutableMapping[str, Any]) -> bytes:
    """A line for each transition was a tenth of a leader's work: what they share is encoded once."""
    each = event.pop(EACH, None)
    try:
        whole = _encoder.encode(event)
        if each is None:
            return whole
        return b"\n".join(whole[:-1] + b"," + _encoder.encode(one)[1:] for one in each)
    except UnicodeEncodeError:  # a file's name that is no UTF-8, with surrogates in it
        return "\n".join(str(_to_text(logger, name, {**event, **one})) for one in each or [{}]).encode()
