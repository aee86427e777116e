"""One request to one receiver.

Nothing that a receiver controls (its name, its answer, its speed) leads Tally elsewhere or holds it:
- The connection goes to an address that `addresses` has judged. Redirects are not followed, and proxies and
  authorities that the environment names (`HTTPS_PROXY`, `REQUESTS_CA_BUNDLE`) are not used.
- Every wait has an end, and so have the request as a whole and the bytes that are read.
- What is said of a failure names the receiver's host and port alone: path, query and headers may be secret,
  and the words of an answer are the receiver's.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPMessage, RemoteDisconnected
from itertools import zip_longest
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from controller import __version__
from controller.clock import Clock
from controller.core.model.notify_url import NotifyUrl, parse_notify_url
from controller.errors import InvalidField, TallyError
from controller.notifier.addresses import Address, Network, Resolver, usable_addresses
from controller.notifier.line import AnswerTooLarge, Line
from controller.retry_after import retry_after_seconds

MAX_ANSWER_BYTES = 64 * 1024
MAX_RETRY_AFTER_SECONDS = 3600.0
MAX_ADDRESSES = 8  # of one name, that are tried in one request
DRAIN_SECONDS = 1.0  # for the body of an answer, which says nothing that is used

_GONE = 410
_MAY_SAY_WHEN = (429, 503)
_SHOWN_HOST = re.compile(r"[-a-z0-9.:]{1,253}")


class PostTimes(NamedTuple):
    """Limits of time, in seconds.

    `connect` is for each of TCP and TLS, `read` between two bytes, `total` for the request and its answer.
    The resolver keeps its own time: once it has answered late, nothing is sent.
    """

    connect: float = 5.0
    read: float = 10.0
    total: float = 20.0


DEFAULT_TIMES = PostTimes()


class Delivered(NamedTuple):
    """The receiver took it."""

    status: int


class Undelivered(NamedTuple):
    """The receiver did not take it, or may not have.

    `why` is a sentence without secrets. `retry_after_seconds` is what the receiver asked for. `status` is 0
    without an answer. If `is_final`, the receiver wants no more of it.
    """

    why: str
    retry_after_seconds: float | None = None
    is_final: bool = False
    status: int = 0


class Postman:
    """Makes requests; any number of threads may use it.

    `allowed` has the networks that receivers may be in besides the public one. `ca_file` has the authorities
    that are trusted instead of the system's, and is read at each request, so that it can be exchanged. Raises
    InvalidField for a file without authorities.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        allowed: Sequence[Network] = (),
        allow_http: bool = False,
        ca_file: str = "",
        times: PostTimes = DEFAULT_TIMES,
        resolve: Resolver = socket.getaddrinfo,
    ) -> None:
        self._clock = clock
        self._allowed = tuple(allowed)
        self._allow_http = allow_http
        self._ca_file = ca_file
        self._times = times
        self._resolve = resolve
        try:
            self._trust = _trust(ca_file)
        except OSError as error:
            raise InvalidField(
                "notifier_ca_file", f"{ca_file!r} has no authorities that can be read"
            ) from error

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], may_begin: Callable[[], bool] = lambda: True
    ) -> Delivered | Undelivered:
        """Send the body once, and tell what came of it. Raises nothing for what a receiver does.

        `may_begin` is asked when the receiver is connected: that may take long.
        """
        ends = self._clock.boottime() + self._times.total
        try:
            target = parse_notify_url(url, "target", allow_http=self._allow_http)
            addresses = usable_addresses(target.host, target.port, self._allowed, self._resolve)
        except TallyError as error:
            return Undelivered(str(error))
        try:
            trust = _trust(self._ca_file) if self._ca_file else self._trust
        except OSError as error:
            return Undelivered(f"the file of trusted authorities cannot be read: {error.strerror}")
        try:
            with closing(self._connected(target, addresses, trust, ends)) as sock:
                if not may_begin():
                    return Undelivered("the turn of this notifier was over before anything was sent")
                line = Line(sock, self._clock, ends, self._times.read, MAX_ANSWER_BYTES)
                return self._asked(target, line, body, headers)
        except (OSError, HTTPException, ValueError) as error:
            return Undelivered(f"{target.authority} {_fault(error)}")

    def _connected(
        self, target: NotifyUrl, addresses: Sequence[Address], trust: ssl.SSLContext, ends: float
    ) -> socket.socket:
        """A connection to the first address that accepts one; with TLS, verified for the host.

        Each address has its share of the time that is left, and so has the request. Raises OSError.
        """
        refusal: OSError = TimeoutError()
        tried = _by_turns(addresses)[:MAX_ADDRESSES]
        for before, address in enumerate(tried):
            now = self._clock.boottime()
            share = now + (ends - now) / (len(tried) - before + 1)
            try:
                sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
            except OSError as error:  # this machine has no IPv6
                refusal = error
                continue
            try:
                sock.settimeout(self._left(share))
                sock.connect((str(address), target.port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if target.scheme == "http":
                    return sock
                sock.settimeout(self._left(share))
                return trust.wrap_socket(sock, server_hostname=target.host)
            except OSError as error:
                refusal = error
                sock.close()
            except ValueError:  # TLS cannot ask for such a name
                sock.close()
                raise
        raise refusal

    def _left(self, ends: float) -> float:
        """Seconds for the next step of connecting. Raises TimeoutError if there are none."""
        left = min(self._times.connect, ends - self._clock.boottime())
        if left <= 0:
            raise TimeoutError
        return left

    def _asked(
        self, target: NotifyUrl, line: Line, body: bytes, headers: Mapping[str, str]
    ) -> Delivered | Undelivered:
        """Send the request, and read the answer's head. Raises OSError, HTTPException."""
        http = HTTPConnection(target.host, target.port)
        http.auto_open = 0  # it never connects on its own
        http.sock = line
        own = {
            "Host": target.authority,
            "User-Agent": f"Tally/{__version__}",
            "Accept": "*/*",
            "Connection": "close",
        }
        # A receiver may answer, and close, before it has read everything.
        with suppress(BrokenPipeError, ConnectionResetError):
            http.request("POST", target.path, body, {**headers, **own})
        with http.getresponse() as response:
            result = self._judged(target, response.status, response.headers)
            # The head has said all. The body is read so that the receiver sees no broken connection; one that
            # is broken, slow or large changes nothing.
            line.shorten(DRAIN_SECONDS)
            with suppress(OSError, HTTPException, ValueError):
                response.read(MAX_ANSWER_BYTES)
        return result

    def _judged(self, target: NotifyUrl, status: int, headers: HTTPMessage) -> Delivered | Undelivered:
        if 200 <= status < 300:
            return Delivered(status)
        words = f"{target.authority} answers {status}"
        if status == _GONE:
            return Undelivered(f"{words}: it wants no more of this", None, True, status)
        if 300 <= status < 400:
            where = _redirected_to(target, headers.get("Location", ""))
            return Undelivered(f"{words}, a redirect{where}, which is not followed", status=status)
        pause = None
        if status in _MAY_SAY_WHEN:
            pause = retry_after_seconds(
                headers.get("Retry-After", ""), self._clock.wall(), MAX_RETRY_AFTER_SECONDS
            )
        return Undelivered(words, pause, status=status)


def _by_turns(addresses: Sequence[Address]) -> list[Address]:
    """The two families by turns: a machine may have no way out for one. Source: RFC 8305, section 4."""
    families = [[each for each in addresses if each.version == version] for version in (4, 6)]
    families.sort(key=lambda family: family[:1] != list(addresses[:1]))  # the resolver's first stays first
    return [each for both in zip_longest(*families) for each in both if each is not None]


def _trust(ca_file: str) -> ssl.SSLContext:
    """Who is believed to know names. Raises OSError."""
    context = ssl.create_default_context(cafile=ca_file or None)
    context.hostname_checks_common_name = False
    return context


def _redirected_to(target: NotifyUrl, location: str) -> str:
    """The host that a redirect names, if it is one."""
    try:
        host = urlsplit(urljoin(f"{target.scheme}://{target.authority}/", location)).hostname or ""
    except ValueError:
        host = ""
    return f" to {host}" if location and _SHOWN_HOST.fullmatch(host) else ""


def _fault(error: Exception) -> str:
    """What happened to a connection, in words that hold nothing of the receiver's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS as we do: {error.reason or 'the connection broke'}"
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, AnswerTooLarge):
        return f"answers with more than {MAX_ANSWER_BYTES} bytes before its answer is complete"
    if isinstance(error, RemoteDisconnected):
        return "closes the connection without an answer"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or type(error).__name__}"
    return "answers what is not HTTP"
