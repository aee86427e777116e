"""etcd's JSON gateway behind several endpoints: failover, deadlines, sign-in, rotation of secrets.

One call is one request. The same bytes are sent to the endpoints in turn, until one answers or the deadline
has passed. The endpoint that last answered is asked first, and one that failed goes to the end of the line.
Each try gets a share of the time that is left, so that a silent endpoint does not use it all up. The caller
learns whether a send may have been applied before (`in_doubt`). The store decides what that means.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec
from urllib3 import HTTPResponse

from controller.clock import Clock
from controller.errors import TallyError
from controller.store.base import (
    LeaseNotFound,
    RequestTooLarge,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from controller.store.etcd import wire
from controller.store.etcd.connection import Connection, GatewayOptions, Sent
from controller.store.etcd.endpoints import FIRST_TRY_SECONDS, MIN_TRY_SECONDS, Endpoints, Tries, Unanswered
from controller.store.etcd.faults import ConnectionFailed, ErrorClass, RpcError

__all__ = ["ErrorClass", "Gateway", "GatewayOptions", "RpcError", "Unanswered", "translate"]

T = TypeVar("T")

_IDLE_CONNECTIONS = 16  # kept for each endpoint; further threads open connections of their own


def translate(error: RpcError, user: str, about: str, right: str) -> StoreError:
    """The seam's error for an error of etcd that trying again does not change.

    `about` names the keys, `right` the right that is needed.
    """
    match error.fault:
        case ErrorClass.DENIED if "permission denied" in str(error):
            return StoreDenied(
                f"the etcd user {user or '(none)'!r} lacks the right to {right} {about}: {error}. If it"
                " has the role that it needs, that is one of an older release: run `tally auth init` of this"
                " one again, as etcd's root. Else give it one with `tally auth init --grant ROLE=USER`"
            )
        case ErrorClass.TOKEN if not user:
            return StoreDenied(
                f"etcd requires a user and a password: set `user` and `password_file` ({error})"
            )
        case ErrorClass.DENIED | ErrorClass.TOKEN | ErrorClass.AUTH_OFF:
            return StoreDenied(str(error))
        case ErrorClass.FUTURE:
            return StoreUnavailable(f"the requested revision does not exist yet: {error}")
        case ErrorClass.TOO_LARGE:
            return RequestTooLarge(f"etcd refuses the request on {about} as too large: {error}; split it")
        case ErrorClass.FULL:
            return StoreFull(str(error))
        case ErrorClass.LEASE_MISSING:
            return LeaseNotFound(f"the lease has expired, so nothing was written: {error}")
        case _:
            return StoreError(f"etcd refuses a request on {about}: {error}")


class Gateway:
    """Thread-safe: a thread takes a connection out of the pool, uses it alone, and puts it back.

    The constructor does no I/O. An endpoint is connected to when it is first needed.
    """

    def __init__(self, options: GatewayOptions, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: dict[str, list[Connection]] = defaultdict(list)
        self._token = ""
        self._signed_in = False
        self._sign_in_lock = threading.Lock()
        self.endpoints = Endpoints(options.endpoints, clock)

    def begin(self, path: str, body: bytes, decode: Callable[[bytes], T], *, deadline: float) -> Call[T]:
        """Send `body` to `path` (without the version prefix). The call's `result` is the decoded answer.

        `decode` raises MsgspecError for an incomplete answer, which counts as none.
        """
        call = Call(self, path, body, decode, deadline)
        call.begin()
        return call

    def call(self, path: str, body: bytes, decode: Callable[[bytes], T], *, deadline: float) -> T:
        """As `begin`, and its `result`.

        Raises RpcError for an answer that trying again does not change, and Unanswered. Both have `in_doubt`.
        """
        return Call(self, path, body, decode, deadline).result()

    def stream(self, path: str, body: bytes, *, timeout: float) -> tuple[Connection, HTTPResponse]:
        """Open a stream on the preferred endpoint, once.

        The caller closes both, and reports a failure with `demote`. Raises RpcError, ConnectionFailed, and
        Unanswered (of the sign-in).
        """
        deadline = self._clock.boottime() + timeout
        token = self.token(deadline)
        connection = self._take(self.endpoints.order()[0], timeout)
        try:
            return connection, connection.stream(path, body, timeout=timeout, token=token)
        except BaseException:
            connection.close()
            raise

    def metrics(self, *, deadline: float) -> bytes:
        """The preferred endpoint's own metrics, asked for once. Raises RpcError, ConnectionFailed."""
        timeout = max(MIN_TRY_SECONDS, deadline - self._clock.boottime())
        connection = self._take(self.endpoints.order()[0], timeout)
        try:
            return connection.metrics(timeout)
        finally:
            connection.close()

    def versions(self, *, deadline: float) -> dict[str, str]:
        """The etcd version of each endpoint, or the error it gave, for `tally check`."""
        found = {}
        for endpoint in self.options.endpoints:
            connection = Connection(endpoint, self.options, None)
            left = deadline - self._clock.boottime()
            try:
                found[endpoint] = connection.connect(max(MIN_TRY_SECONDS, min(FIRST_TRY_SECONDS, left)))
            except ConnectionFailed as error:
                found[endpoint] = str(error)
            finally:
                connection.close()
        return found

    def close(self) -> None:
        """Close the idle connections. Calls under way end by their deadlines. Idempotent."""
        self.endpoints.close()
        with self._lock:
            idle = [connection for pool in self._idle.values() for connection in pool]
            self._idle.clear()
        for connection in idle:
            connection.close()

    # -- signing in

    def token(self, deadline: float) -> str:
        """The token to send; signs in if needed. It is "" without a user, or if authentication is off."""
        if not self.options.user or self._signed_in:
            return self._token
        if not self._sign_in_lock.acquire(timeout=max(0.0, deadline - self._clock.boottime())):
            raise Unanswered(f"signing in as {self.options.user!r} took too long", in_doubt=False)
        try:
            if not self._signed_in:  # another thread may just have done it
                self._token = self._sign_in(deadline)
                self._signed_in = True
            return self._token
        finally:
            self._sign_in_lock.release()

    def forget_token(self, token: str | None = None) -> None:
        """Sign in again before the next call, since `token` was refused, unless that has been done since.

        `token` None means the one in use. A sign-in under way is not waited for, whose caller may have more
        time than this one: at worst, there is one more.
        """
        if token in (None, self._token):
            self._signed_in = False

    def doubt_token(self, token: str) -> None:
        """Sign in again before the next call, since a call with `token` got no answer.

        An etcd that was restored from a backup neither refuses nor answers a simple token that was given at a
        later index than its own: it waits for that index (`isValidSimpleToken` in
        https://github.com/etcd-io/etcd/blob/main/server/auth/simple_token.go). A sign-in under way is not
        waited for.
        """
        if self._sign_in_lock.acquire(blocking=False):
            try:
                if token == self._token:
                    self._signed_in = False
            finally:
                self._sign_in_lock.release()

    def _sign_in(self, deadline: float) -> str:
        user, file = self.options.user, self.options.password_file
        try:
            password = Path(file).read_text().rstrip("\r\n")  # read each time: a rotated file is picked up
        except (OSError, UnicodeDecodeError) as error:
            raise RpcError(
                ErrorClass.DENIED,
                f"the password file {file} of the etcd user {user!r} cannot be read: {error}",
            ) from error
        body = wire.encode({"name": user, "password": password})
        tries = Tries(self.endpoints, deadline)
        while True:
            endpoint, timeout = tries.next()
            try:
                under = self.send(endpoint, "/auth/authenticate", body, timeout, "")
                return wire.decode_token(self.receive(under)).token
            except (ConnectionFailed, msgspec.MsgspecError) as error:
                tries.failed(endpoint, error, in_doubt=False, untrusted=getattr(error, "untrusted", False))
            except RpcError as error:
                if error.fault is ErrorClass.AUTH_OFF:
                    return ""
                if error.fault is ErrorClass.DENIED:
                    raise RpcError(
                        ErrorClass.DENIED,
                        f"etcd refuses to sign in the user {user!r} with the password in {file}: {error}",
                    ) from error
                if error.fault not in (ErrorClass.TRANSIENT, ErrorClass.BUSY, ErrorClass.TOKEN):
                    raise
                tries.failed(endpoint, error, in_doubt=False)

    # -- connections

    def send(self, endpoint: str, path: str, body: bytes, timeout: float, token: str) -> _Under:
        """Send once. Raises ConnectionFailed, and RpcError for certificates that cannot be read."""
        started = self._clock.boottime()
        connection = self._take(endpoint, timeout)
        try:
            left = timeout - (self._clock.boottime() - started)
            if left <= 0:
                raise ConnectionFailed(f"{endpoint}: timed out while connecting", sent=False)
            return _Under(connection, connection.send(path, body, timeout=left, token=token))
        except BaseException:
            connection.close()
            raise

    def receive(self, under: _Under) -> bytes:
        """Wait for the answer. Raises RpcError, ConnectionFailed."""
        try:
            answer = under.sent.answer()
        except RpcError:
            self._put_back(under.connection)
            raise
        except BaseException:
            under.connection.close()
            raise
        self._put_back(under.connection)
        return answer

    def _take(self, endpoint: str, timeout: float) -> Connection:
        stamp = self._stamp()
        with self._lock:
            pool = self._idle[endpoint]
            idle = pool.pop() if pool else None
        if idle is not None and idle.stamp == stamp:
            return idle
        if idle is not None:
            idle.close()  # certificates were rotated
        connection = Connection(endpoint, self.options, stamp)
        try:
            connection.connect(timeout)
        except ConnectionFailed:
            connection.close()
            raise
        return connection

    def _put_back(self, connection: Connection) -> None:
        with self._lock:
            pool = self._idle[connection.endpoint]
            if not self.endpoints.closed and len(pool) < _IDLE_CONNECTIONS:
                pool.append(connection)
                return
        connection.close()

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """A value that changes when a certificate file changes."""
        stamps = []
        for file in (self.options.ca_file, self.options.cert_file, self.options.key_file):
            if file:
                try:
                    status = os.stat(file)
                except OSError as error:
                    raise RpcError(
                        ErrorClass.DENIED, f"the certificate file {file} cannot be read: {error.strerror}"
                    ) from error
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(stamps)


class _Under(NamedTuple):
    """A request that was sent, and the connection that it occupies until it is answered."""

    connection: Connection
    sent: Sent


class Call(Generic[T]):
    """One request, sent until it is answered or its deadline has passed. See `Gateway.begin`."""

    def __init__(
        self, gateway: Gateway, path: str, body: bytes, decode: Callable[[bytes], T], deadline: float
    ) -> None:
        self._gateway = gateway
        self._path = path
        self._body = body
        self._decode = decode
        self._deadline = deadline
        self._tries = Tries(gateway.endpoints, deadline)
        self._token = ""
        self._unanswered = ""  # the token of a try that was sent, and got no answer
        self._endpoint = ""
        self._under: _Under | None = None
        self._failure: TallyError | None = None  # of the first send; `result` continues from it

    def begin(self) -> None:
        """Send it once. `result` reports any error."""
        try:
            self._send()
        except TallyError as error:
            self._failure = error

    def result(self) -> T:
        """The answer. Raises RpcError for one that trying again does not change, and Unanswered."""
        tries, signed_in_again = self._tries, False
        while True:
            try:
                return self._decode(self._receive())
            except ConnectionFailed as error:
                self._unanswered = self._token if error.sent else self._unanswered
                tries.failed(self._endpoint, error, in_doubt=error.sent, untrusted=error.untrusted)
            except msgspec.MsgspecError as error:
                broken = ConnectionFailed(f"{self._endpoint}: broken answer: {error}", sent=True)
                tries.failed(self._endpoint, broken, in_doubt=True)
            except Unanswered as error:  # or of the sign-in, before anything was sent
                if self._unanswered:
                    self._gateway.doubt_token(self._unanswered)
                raise Unanswered(str(error), in_doubt=tries.in_doubt, closed=error.closed) from error
            except RpcError as error:
                if error.fault is ErrorClass.TOKEN and self._gateway.options.user and not signed_in_again:
                    signed_in_again = True
                    self._gateway.forget_token(self._token)
                    tries.repeat()
                elif error.fault in (ErrorClass.TRANSIENT, ErrorClass.BUSY):
                    tries.failed(self._endpoint, error, in_doubt=error.fault is ErrorClass.TRANSIENT)
                else:
                    error.in_doubt = tries.in_doubt
                    raise

    def abandon(self) -> None:
        """Wait no longer. What was sent may still be applied."""
        under, self._under = self._under, None
        if under is not None:
            under.sent.abandon()
            under.connection.close()

    def _send(self) -> None:
        self._endpoint, timeout = self._tries.next()
        self._token = ""
        self._token = self._gateway.token(self._deadline)
        self._under = self._gateway.send(self._endpoint, self._path, self._body, timeout, self._token)

    def _receive(self) -> bytes:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._under is None:
            self._send()
        under, self._under = self._under, None
        assert under is not None
        return self._gateway.receive(under)
