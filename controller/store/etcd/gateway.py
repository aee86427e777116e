"""etcd's JSON gateway behind several endpoints: failover, deadlines, sign-in, rotation of secrets.

One call is one request, sent again (the same bytes) to the endpoints in turn until it is answered or its
deadline has passed. The endpoint that answered last is asked first; one that failed goes to the end of the
line. One try gets a share of the time that is left, so that a silent endpoint does not use it all up. The
caller learns whether a send may have been applied before (`in_doubt`); what that means is for the store to
say.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from urllib3 import HTTPResponse

from controller.clock import Clock
from controller.errors import TallyError
from controller.store.base import (
    LeaseNotFound,
    Meanwhile,
    RequestTooLarge,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    nothing,
)
from controller.store.etcd import wire
from controller.store.etcd.connection import Connection, GatewayOptions
from controller.store.etcd.faults import ConnectionFailed, ErrorClass, RpcError

__all__ = ["ErrorClass", "Gateway", "GatewayOptions", "RpcError", "Unanswered", "translate"]

T = TypeVar("T")

_MIN_TRY_SECONDS = 0.5  # below this a slow but healthy etcd (a late fsync) would be given up in each try
# doubled each time all endpoints have failed: one may be silent, all of them may be slow
_FIRST_TRY_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 1.0
_IDLE_CONNECTIONS = 16  # kept for each endpoint; threads beyond that many connect anew


class Unanswered(TallyError):
    """The deadline passed without an answer. `in_doubt`: what was sent may have been applied."""

    def __init__(self, message: str, *, in_doubt: bool) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


def translate(error: RpcError, user: str, about: str, right: str) -> StoreError:
    """The seam's error for one of etcd's that trying again does not change; `about` names the keys,
    `right` what is needed.
    """
    match error.fault:
        case ErrorClass.DENIED if "permission denied" in str(error):
            return StoreDenied(
                f"the etcd user {user or '(none)'!r} lacks the right to {right} {about}: {error}. "
                "`tally auth init --grant ROLE=USER` gives a user one of the roles that have their rights"
            )
        case ErrorClass.TOKEN if not user:
            return StoreDenied(f"etcd asks for a user and a password, and none is given: {error}")
        case ErrorClass.DENIED | ErrorClass.TOKEN | ErrorClass.AUTH_OFF:
            return StoreDenied(str(error))
        case ErrorClass.FUTURE:
            return StoreUnavailable(f"the revision asked for is not there yet: {error}")
        case ErrorClass.TOO_LARGE:
            return RequestTooLarge(f"etcd refuses the request on {about} as too large: {error}; split it")
        case ErrorClass.FULL:
            return StoreFull(str(error))
        case ErrorClass.LEASE_MISSING:
            return LeaseNotFound(f"the lease has expired, so nothing was written: {error}")
        case _:
            return StoreError(f"etcd refuses a request on {about}: {error}")


class Gateway:
    """Safe to use from several threads: a connection is taken out of the pool, used by one thread, and put
    back.

    The constructor does no I/O; an endpoint is connected to when it is first needed.
    """

    def __init__(self, options: GatewayOptions, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._order = list(options.endpoints)
        self._idle: dict[str, list[Connection]] = defaultdict(list)
        self._token = ""
        self._signed_in = False
        self._sign_in_lock = threading.Lock()
        self._closed = threading.Event()
        self.failures: dict[str, int] = defaultdict(int)
        """Failed tries by endpoint, for the metrics."""

    def call(
        self,
        path: str,
        body: bytes,
        decode: Callable[[bytes], T],
        *,
        deadline: float,
        meanwhile: Meanwhile = nothing,
    ) -> T:
        """Send `body` to `path` (without the version prefix) until it is answered; returns the answer,
        decoded.

        `meanwhile` is called each time that it has been sent.
        `decode` raises MsgspecError for an answer that is not whole, which counts as none.

        Raises RpcError for an answer that trying again does not change, and Unanswered; both tell `in_doubt`.
        """
        tries = _Tries(self, deadline)
        signed_in_again = False
        while True:
            endpoint, timeout = tries.next()
            token = ""
            try:
                token = self.token(deadline)
                return decode(self._send(endpoint, path, body, timeout, token, meanwhile))
            except ConnectionFailed as error:
                tries.failed(endpoint, error, in_doubt=error.sent, untrusted=error.untrusted)
            except msgspec.MsgspecError as error:
                tries.failed(
                    endpoint,
                    ConnectionFailed(f"{endpoint}: broken answer: {error}", sent=True),
                    in_doubt=True,
                )
            except Unanswered as error:  # the sign-in, before anything was sent
                raise Unanswered(str(error), in_doubt=tries.in_doubt) from error
            except RpcError as error:
                if error.fault is ErrorClass.TOKEN and self.options.user and not signed_in_again:
                    signed_in_again = True
                    self.forget_token(token)
                    tries.repeat()
                elif error.fault in (ErrorClass.TRANSIENT, ErrorClass.BUSY):
                    tries.failed(endpoint, error, in_doubt=error.fault is ErrorClass.TRANSIENT)
                else:
                    error.in_doubt = tries.in_doubt
                    raise

    def stream(self, path: str, body: bytes, *, timeout: float) -> tuple[Connection, HTTPResponse]:
        """Open a stream on the preferred endpoint, once.

        The caller closes both, and reports a failure by `demote`.

        Raises RpcError, ConnectionFailed, Unanswered (the sign-in's).
        """
        deadline = self._clock.boottime() + timeout
        token = self.token(deadline)
        connection = self._take(self.order()[0], timeout)
        try:
            return connection, connection.stream(path, body, timeout=timeout, token=token)
        except BaseException:
            connection.close()
            raise

    def versions(self, *, deadline: float) -> dict[str, str]:
        """The etcd version of each endpoint, or the error it gave, for `tally check`."""
        found = {}
        for endpoint in self.options.endpoints:
            connection = Connection(endpoint, self.options, None)
            left = deadline - self._clock.boottime()
            try:
                found[endpoint] = connection.connect(max(_MIN_TRY_SECONDS, min(_FIRST_TRY_SECONDS, left)))
            except ConnectionFailed as error:
                found[endpoint] = str(error)
            finally:
                connection.close()
        return found

    def order(self) -> list[str]:
        """The endpoints, the preferred one first."""
        with self._lock:
            return list(self._order)

    def demote(self, endpoint: str) -> None:
        """Ask this endpoint last from now on."""
        with self._lock:
            self.failures[endpoint] += 1
            self._order.remove(endpoint)
            self._order.append(endpoint)

    def pause(self, seconds: float) -> bool:
        """Wait; True as soon as the gateway was closed."""
        return self._closed.wait(seconds)

    def now(self) -> float:
        """Seconds of the clock that deadlines are counted on."""
        return self._clock.boottime()

    def close(self) -> None:
        """Close the idle connections; calls under way end by their deadlines. Idempotent."""
        self._closed.set()
        with self._lock:
            idle = [connection for pool in self._idle.values() for connection in pool]
            self._idle.clear()
        for connection in idle:
            connection.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    # --- signing in
    # -------------------------------------------------------------------------------------------------

    def token(self, deadline: float) -> str:
        """The token to send, empty without a user or with authentication switched off; signs in when there
        is none.
        """
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
        """The token (None: whichever is in use) was refused: sign in again before the next call, unless
        done since.
        """
        with self._sign_in_lock:
            if token in (None, self._token):
                self._signed_in = False

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
        tries = _Tries(self, deadline)
        while True:
            endpoint, timeout = tries.next()
            try:
                return wire.decode_token(self._send(endpoint, "/auth/authenticate", body, timeout, "")).token
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

    # --- connections
    # ------------------------------------------------------------------------------------------------

    def _send(
        self,
        endpoint: str,
        path: str,
        body: bytes,
        timeout: float,
        token: str,
        meanwhile: Meanwhile = nothing,
    ) -> bytes:
        started = self._clock.boottime()
        connection = self._take(endpoint, timeout)
        try:
            left = timeout - (self._clock.boottime() - started)
            if left <= 0:
                raise ConnectionFailed(f"{endpoint}: timed out while connecting", sent=False)
            answer = connection.call(path, body, timeout=left, token=token, meanwhile=meanwhile)
        except RpcError:
            self._put_back(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._put_back(connection)
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
            if not self.closed and len(pool) < _IDLE_CONNECTIONS:
                pool.append(connection)
                return
        connection.close()

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when a certificate file does."""
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


class _Tries:
    """The order, time-outs and pauses of one call's tries, and what is known of them."""

    def __init__(self, gateway: Gateway, deadline: float) -> None:
        self._gateway = gateway
        self._deadline = deadline
        self._round = gateway.order()
        self._untrusted = 0
        self._pause = _FIRST_PAUSE_SECONDS
        self._limit = _FIRST_TRY_SECONDS
        self._last_endpoint = ""
        self._errors: dict[str, str] = {}
        self.in_doubt = False

    def next(self) -> tuple[str, float]:
        """The endpoint to try, and the seconds for it.

        Raises Unanswered when time is up, RpcError when TLS fails everywhere.
        """
        if not self._round:
            if self._untrusted == len(self._gateway.options.endpoints):
                raise self._denied()
            self._untrusted = 0
            left = self._deadline - self._gateway.now()
            if left > 0 and not self._gateway.pause(min(self._pause, left)):
                self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS)
            self._limit *= 2
            self._round = self._gateway.order()
        left = self._deadline - self._gateway.now()
        if left <= 0 or self._gateway.closed:
            raise Unanswered(self._describe(), in_doubt=self.in_doubt)
        share = left / (len(self._round) + 1)
        self._last_endpoint = self._round.pop(0)
        return self._last_endpoint, min(left, max(_MIN_TRY_SECONDS, min(share, self._limit)))

    def failed(self, endpoint: str, error: Exception, *, in_doubt: bool, untrusted: bool = False) -> None:
        """Note a failed try, and ask this endpoint last."""
        self.in_doubt |= in_doubt
        self._untrusted += untrusted
        self._errors[endpoint] = str(error)
        self._gateway.demote(endpoint)

    def repeat(self) -> None:
        """Try the same endpoint once more, at once."""
        self._round.insert(0, self._last_endpoint)

    def _denied(self) -> RpcError:
        error = RpcError(ErrorClass.DENIED, f"no TLS connection to etcd: {self._describe()}")
        error.in_doubt = self.in_doubt
        return error

    def _describe(self) -> str:
        if self._gateway.closed:
            return "the store has been closed"
        return (
            "; ".join(self._errors.values())
            or f"no time left to ask {', '.join(self._gateway.options.endpoints)}"
        )
