"""An output that goes on where it was when its gateway is restarted, however long it is.

The gateway leaves out what was received, but for the last OVERLAP bytes. That those are the same shows that
this is the place: an engine may have dropped the beginning of an output by then, as a node of Kubernetes
does, and nobody knows what is lacking between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

from controller.client.errors import GatewayUnavailable
from controller.client.gateway_calls import PATIENT_SECONDS, PAUSE_SECONDS, GatewayCalls
from controller.engine.base import without_first
from controller.errors import InvalidField

OVERLAP = 2**14  # bytes


class OutputCut(GatewayUnavailable):
    """The engine has dropped the beginning of an output, so that it cannot go on where it was."""

    def __init__(self) -> None:
        super().__init__(
            "the output broke off, and its place is not known any more: the engine has dropped the beginning"
            " of it meanwhile; run the command again for what there is"
        )


class ResumedOutput:
    """The output at a path of a gateway, as `asked` for, until `stop` is set."""

    def __init__(
        self, http: GatewayCalls, path: str, stop: threading.Event, asked: Mapping[str, str]
    ) -> None:
        self._http = http
        self._path = path
        self._stop = stop
        self._asked = dict(asked)
        self._received = 0
        self._end = b""  # the last OVERLAP bytes of what was received

    def parts(self, begun: Iterator[bytes]) -> Iterator[bytes]:
        """Each byte once, beginning with those of `begun`. Raises OutputCut, and as `GatewayCalls.output`."""
        parts, until = begun, 0.0
        while True:
            try:
                for part in parts:
                    until = 0.0
                    self._received += len(part)
                    self._end = (self._end + part)[-OVERLAP:]
                    yield part
                return
            except OutputCut:
                raise
            except GatewayUnavailable:
                until = until or time.monotonic() + PATIENT_SECONDS
                if time.monotonic() >= until or self._stop.wait(PAUSE_SECONDS):
                    raise
            parts = self._again()

    def _again(self) -> Iterator[bytes]:
        # what there is now shows whether this is the place: who follows would wait for the place to come
        yield from self._rest({**self._asked, "follow": ""})
        if self._asked.get("follow") and not self._stop.is_set():
            yield from self._rest(self._asked)

    def _rest(self, asked: Mapping[str, str]) -> Iterator[bytes]:
        known = self._end
        for part in self._after(self._received - len(known), asked):
            if not known.startswith(part[: len(known)]):
                raise OutputCut
            if fresh := part[len(known) :]:
                yield fresh
            known = known[len(part) :]
        if known and not self._stop.is_set():
            raise OutputCut

    def _after(self, count: int, asked: Mapping[str, str]) -> Iterator[bytes]:
        if not count:
            return self._http.output(self._path, self._stop, **asked)[1]
        try:
            return self._http.output(self._path, self._stop, **asked, skip=str(count))[1]
        except InvalidField:  # a gateway of a release that sends all
            return without_first(count, self._http.output(self._path, self._stop, **asked)[1])
