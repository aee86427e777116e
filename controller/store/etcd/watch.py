"""A watch on etcd that never skips: it resumes after the last revision it delivered, or says that it cannot.

One connection carries one watch. The connection is given up, and the watch resumes on a new one, if the
server ends it, cancels it (etcd then keeps the connection open), sends something broken, or is silent for too
long. etcd's own progress notices come only every ten minutes. So silence is the only sign of a half-open
connection, and a new connection is the cheap way to find out.

The watch starts *at* the last revision that it delivered, not after it, and drops what it has seen. An older
etcd that is asked to begin at the very revision that was compacted leaves out a deletion made there, without
an error (measured on 3.4.23 and 3.5.1; https://github.com/etcd-io/etcd/issues/18089). One revision lower, it
reports that history is compacted.

Why it is safe to resume by revision: etcd delivers in order, each event once. It never splits the events of
one revision over two messages unless `fragment` is requested, which Tally does not do.
Source: https://etcd.io/docs/v3.5/learning/api_guarantees/ ("Ordered", "Unique", "Reliable", "Atomic")
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import urllib3
from urllib3 import HTTPResponse

from controller.errors import TallyError
from controller.store.base import Batch, Compacted, StoreUnavailable
from controller.store.etcd import wire
from controller.store.etcd.faults import ConnectionFailed, classify, stream_error
from controller.store.etcd.gateway import ErrorClass, Gateway, RpcError, Unanswered, translate
from controller.store.etcd.identity import ClusterIdentity

_CREATE_SECONDS = 3.0  # until the server must have confirmed a new watch
_FIRST_PAUSE_SECONDS = 0.02
_SHORT_SECONDS = 1.0  # a watch that ends sooner may be cut off at once the next time, too
_MAX_PAUSE_SECONDS = 1.0
_READ_BYTES = 256 * 1024


class _Ended(TallyError):
    """This connection is over, but the watch is not. `cause` is one word, for the count."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class EtcdWatch:
    """Implements `controller.store.base.Watch`. Iterate it in one thread; `close` may come from any.

    `revision` is the last one delivered. `connected` says whether the server has confirmed the present
    connection. `reconnects` counts the new connections by cause.
    """

    def __init__(
        self,
        gateway: Gateway,
        identity: ClusterIdentity,
        prefix: str,
        *,
        after: int,
        silence_seconds: float,
        once: bool,
        check: Callable[[float], None],
        on_reconnect: Callable[[tuple[str]], None] = lambda _: None,
    ) -> None:
        self._gateway = gateway
        self._identity = identity
        self._prefix = prefix
        self._silence_seconds = silence_seconds
        self._once = once
        self._connected_at = 0  # the server's revision when it confirmed the present connection
        self._check = check
        self._on_reconnect = on_reconnect
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._response: HTTPResponse | None = None
        self._denials = 0
        self.revision = after
        self.connected = False
        self.reconnects: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Batch]:
        """See Watch."""
        pause = _FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            endpoint, begun = self._gateway.endpoints.order()[0], time.monotonic()
            try:
                yield from self._follow()
            except _Ended as end:
                if self._closing.is_set():
                    return
                self.reconnects[end.cause] += 1
                self._on_reconnect((end.cause,))
                if self.connected:
                    if time.monotonic() - begun >= _SHORT_SECONDS:
                        pause = _FIRST_PAUSE_SECONDS
                else:
                    self._gateway.endpoints.demote(endpoint)
            finally:
                self.connected = False
            self._closing.wait(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    def _follow(self) -> Iterator[Batch]:
        """One connection, from its creation to its end. Raises _Ended, and the errors that end the watch."""
        self._identity.floor()
        try:
            connection, response = self._gateway.stream(
                "/watch", wire.encode_watch(self._prefix, max(1, self.revision)), timeout=_CREATE_SECONDS
            )
        except (ConnectionFailed, Unanswered) as error:
            raise _Ended("unreachable") from error
        except RpcError as error:
            raise self._refused(error) from error
        try:
            with self._lock:
                self._response = response
            if not self._closing.is_set():
                for line in _lines(response):
                    yield from self._receive(line, response)
                    if self._once and self.connected and self.revision >= self._connected_at:
                        self._closing.set()
                        return
        except RpcError as error:
            raise self._refused(error) from error
        except msgspec.MsgspecError as error:
            raise _Ended("broken answer") from error
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
            raise _Ended("silence") from error
        # ValueError: a socket that `close` has shut down
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _Ended("connection lost") from error
        finally:
            with self._lock:
                self._response = None
            response.close()
            connection.close()
        raise _Ended("ended by the server")

    def _receive(self, line: bytes, response: HTTPResponse) -> Iterator[Batch]:
        """The batch in one message, if any. Raises Compacted, ClusterChanged, RpcError, MsgspecError."""
        message = wire.decode_watch(line)
        if message.error is not None:
            raise stream_error(message.error)
        answer = message.result or wire.WatchAnswer()
        self._identity.confirm_cluster(answer.header)
        if answer.compact_revision:
            raise Compacted(answer.compact_revision)
        if answer.canceled:
            raise RpcError(
                classify(answer.cancel_reason, 0), answer.cancel_reason or "cancelled without a reason"
            )
        if answer.created:
            self._created(answer.header, response)
        events = tuple(wire.event(event) for event in answer.events if event.kv.mod_revision > self.revision)
        if events:
            self.revision = events[-1].mod
            yield Batch(self.revision, events)

    def _created(self, header: wire.Header, response: HTTPResponse) -> None:
        self.connected = True
        self._connected_at = header.revision
        self._denials = 0
        if header.revision < self.revision:
            # A member that lags behind, or another history: only a linearizable read can tell.
            try:
                self._check(self._gateway.endpoints.now() + _CREATE_SECONDS)
            except StoreUnavailable as error:
                raise _Ended("unreachable") from error
        connection = response.connection
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(self._silence_seconds or None)

    def _refused(self, error: RpcError) -> Exception:
        """What a refusal means: a new connection, or the end.

        An old etcd reports a bad token as a missing right. So a first denial is answered by signing in again.
        """
        if error.fault in (ErrorClass.TOKEN, ErrorClass.DENIED):
            self._denials += 1
            if not self._gateway.options.user or self._denials > 1:
                return translate(error, self._gateway.options.user, self._prefix, "read")
            self._gateway.forget_token()
            return _Ended("signed in again")
        return _Ended("cancelled")

    def close(self) -> None:
        """See Watch."""
        self._closing.set()
        with self._lock:
            response = self._response
        if response is not None:
            # Wakes the reading thread. Closing its socket would not.
            with contextlib.suppress(OSError, ValueError):
                response.shutdown()


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    """The messages of a stream: one JSON object per line, cut anywhere by the transport.

    JSON has no newline of its own. Source of the newline: grpc-gateway from 1.3.1,
    https://github.com/etcd-io/etcd/pull/11843
    """
    parts: list[bytes] = []
    while data := response.read1(_READ_BYTES):
        first, *rest = data.split(b"\n")
        parts.append(first)
        for piece in rest:
            line = b"".join(parts)
            parts = [piece]
            if line:
                yield line
