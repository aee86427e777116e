"""HTTP calls of a client to a gateway: credentials, errors, and what was written last."""

from __future__ import annotations

import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import msgspec
import requests
import urllib3

from controller.client.connections import Connections, is_unsent, plain
from controller.client.errors import GatewayUnavailable, NotFound, NotSignedIn, Refusal
from controller.client.plain_json import body_of
from controller.client.stop_event import StopEvent
from controller.client.wire import view_of
from controller.config.values import parse_server, positive_seconds
from controller.core.model.scalars import json_problem, parse_text
from controller.errors import Closed, CorruptValue, InvalidField, TallyError
from controller.retry_after import retry_after_seconds

NDJSON = "application/x-ndjson"
GATEWAY_HEADER = "Tally-Gateway"  # of each answer of a gateway: the version of its API
ATTEMPT_HEADER = "Tally-Attempt"  # of an output: the number of its attempt
READ_WAIT_SECONDS = 5.0  # for a gateway to have seen what this client wrote through another one
PATIENT_SECONDS = 30.0  # a call waits this long for a gateway that is restarted, or that asks to wait
PAUSE_SECONDS = 0.5
FOR_NOW = (429, 502, 503, 504)  # of the gateway or of a proxy: the same may be answered otherwise in a moment
_NOT_BEGUN = (429,)
_GONE = 404
_NOT_REACHED = 412  # the gateway has not seen `min_revision` within `wait`
_FRESH = ("min_revision", "wait")
SILENT_SECONDS = 7 * 86_400.0  # of an attempt whose output is followed

T = TypeVar("T")


class GatewayCalls:
    """Calls to one gateway. `token` returns the token of each call; "" for none."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
        timeout_seconds: float = 5.0,
        cluster: str = "",
    ) -> None:
        self.url = parse_server(url, "server")
        self._token = token
        self._cluster = cluster  # that the gateway must serve; "" for any
        self.timeout_seconds = positive_seconds(timeout_seconds, "timeout_seconds")
        self._lock = threading.Lock()
        self._written = 0  # the highest revision that this client wrote
        self._written_at = 0.0  # and when
        self._closed = threading.Event()
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, Connections())
        # neither a proxy nor an authority of the environment: the token goes to this gateway alone
        self._session.trust_env = False
        for name, file in (("ca_file", ca_file), ("cert_file", cert_file)):
            if file and not Path(file).is_file():
                raise InvalidField(name, f"there is no file {file}")
        if ca_file:
            try:
                ssl.create_default_context(cafile=ca_file)
            except ssl.SSLError:
                raise InvalidField("ca_file", f"{ca_file} has no certificate in PEM") from None
        self._session.verify = ca_file or True
        if cert_file:
            self._session.cert = (cert_file, key_file)

    def close(self) -> None:
        """End all calls that go on, and any later one, with Closed; idempotent."""
        self._closed.set()
        self._session.close()

    def get(self, path: str, **parameters: str) -> GatewayAnswer:
        """The document at the path, not older than what this client wrote."""
        return _document(self._send("GET", path, parameters=self._fresh(parameters)))

    def lines(
        self, path: str, stop: StopEvent | None = None, /, **parameters: str
    ) -> Iterator[GatewayAnswer]:
        """The documents at the path, one a line, as they arrive, until `stop` is set."""
        answer = self._send("GET", path, parameters=self._fresh(parameters), stream=True)
        return self._while_open(_documents(answer, stop or StopEvent()))

    def output(self, path: str, stop: threading.Event, **parameters: str) -> tuple[str, Iterator[bytes]]:
        """The output of an attempt, in parts as they arrive, until `stop` is set; and the attempt's number.

        The number is "" if an older gateway does not tell it. Raises GatewayUnavailable if the output breaks
        off. It may be silent for as long as it likes; a `StopEvent` ends it meanwhile.
        """
        parameters = self._fresh(parameters)
        answer = self._send("GET", path, parameters=parameters, stream=True, more_seconds=SILENT_SECONDS)
        return answer.headers.get(ATTEMPT_HEADER, ""), self._while_open(_parts(answer, stop))

    def post(
        self,
        path: str,
        body: object = None,
        *,
        again: object = None,
        once: bool = False,
        method: str = "POST",
        timeout_seconds: float = 0.0,
    ) -> GatewayAnswer:
        """The answer to a request that may write; {} for an empty one.

        If it has to be sent again, the gateway knows it by its key, and by `again`, the body of a copy. A
        copy of a deletion may find nothing. `once`: it cannot be known again, so GatewayUnavailable is raised
        when it may have arrived.
        """
        data = body_of(body if body is not None else {})
        answer = self._send(
            method,
            path,
            data=data,
            again=b"" if once else body_of(again) if again is not None else data,
            key=uuid.uuid4().hex,
            content_type="application/json",
            more_seconds=timeout_seconds,
        )
        return _document(answer)

    def ask(self, path: str, body: object, *, timeout_seconds: float) -> GatewayAnswer:
        """The answer to a question that has a body: not older than what this client wrote."""
        data = body_of(body)
        answer = self._send(
            "POST",
            path,
            data=data,
            content_type="application/json",
            parameters=self._fresh({}),
            more_seconds=timeout_seconds,
        )
        return _document(answer)

    def upload(self, path: str, documents: Iterable[bytes], **parameters: str) -> Iterator[GatewayAnswer]:
        """Send documents, one a line; the answer has one for each.

        Raises GatewayUnavailable if the answer is not whole.
        """
        body = b"".join(line + b"\n" for line in documents)
        answer = self._send(
            "POST",
            path,
            data=body,
            content_type=NDJSON,
            parameters=parameters,
            stream=True,
            more_seconds=PATIENT_SECONDS,
        )
        for document in self._while_open(_documents(answer, StopEvent())):
            if "done" in document:
                self._wrote(view_of(int, document["revision"]))
                return
            if "problem" in document:
                raise error_of(view_of(GatewayProblem, document["problem"]))
            yield document
        raise GatewayUnavailable(
            f"the answer of {self.url} broke off: repeat the call, nothing is stored twice"
        )

    def _while_open(self, parts: Iterator[T]) -> Iterator[T]:
        try:
            yield from parts
        except GatewayUnavailable:
            self._require_open()
            raise

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise Closed

    def _fresh(self, parameters: Mapping[str, str]) -> dict[str, str]:
        given = {name: parse_text(value, name) for name, value in parameters.items() if value}
        if self._written:
            given |= dict(zip(_FRESH, (str(self._written), f"{READ_WAIT_SECONDS:g}"), strict=True))
        return given

    def _wrote(self, revision: int) -> None:
        with self._lock:
            self._written, self._written_at = max(self._written, revision), time.monotonic()

    def _forgets(self, parameters: Mapping[str, str]) -> bool:
        """Whether the gateway need not reach what this client wrote, since no gateway may ever.

        After so long, it does not lag behind: etcd was restored from a backup.
        """
        with self._lock:
            is_gone = time.monotonic() - self._written_at > PATIENT_SECONDS
            if is_gone:
                self._written = 0
            return is_gone and _FRESH[0] in parameters

    def _headers(self, content_type: str, key: str) -> dict[str, str]:
        token = self._token()
        headers = {
            "Content-Type": content_type,
            "Idempotency-Key": key,
            "Tally-Cluster": self._cluster,
            "Authorization": f"Bearer {token}" if token else "",
        }
        return {name: value for name, value in headers.items() if value}

    def _send(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] = {},  # never changed
        data: bytes | None = None,
        again: bytes | None = None,
        key: str = "",
        content_type: str = "",
        stream: bool = False,
        more_seconds: float = 0.0,
    ) -> requests.Response:
        """The answer, if it is no error.

        One that got no answer is sent again, for PATIENT_SECONDS: it has a `key`, by which the gateway knows
        it, or takes effect once by itself. If it may have arrived, `again` is sent in place of `data`; None:
        the same; b"": nothing.
        """
        may_be_done = False
        patience, until = max(self.timeout_seconds, PATIENT_SECONDS if data is not None else 0.0), 0.0
        while True:
            pause = PAUSE_SECONDS
            self._require_open()
            try:
                answer = self._session.request(
                    method,
                    self.url + path,
                    params=parameters,
                    data=data,
                    headers=self._headers(content_type, key),
                    stream=stream,
                    timeout=(self.timeout_seconds, self.timeout_seconds + more_seconds + READ_WAIT_SECONDS),
                    allow_redirects=False,
                )
            # urllib3's own: a host that is none once it is encoded
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                self._require_open()
                failure: TallyError = GatewayUnavailable(f"{self.url} does not answer: {plain(error)}")
                may_be_done = may_be_done or not is_unsent(error)
            else:
                if GATEWAY_HEADER not in answer.headers and answer.status_code not in FOR_NOW:
                    told = f"it answered {answer.status_code} to {method} {path}"
                    raise GatewayUnavailable(f"{self.url} is no gateway of Tally: {told}")
                is_gone = method == "DELETE" and answer.status_code == _GONE and may_be_done
                if answer.status_code < 300 or is_gone:
                    if method != "GET":
                        self._wrote(_revision(answer))
                    return answer
                failure = _error(answer)
                if answer.status_code == _NOT_REACHED and self._forgets(parameters):
                    parameters = {name: parameters[name] for name in parameters.keys() - {*_FRESH}}
                    continue
                if answer.status_code not in FOR_NOW:
                    raise failure
                may_be_done = may_be_done or answer.status_code not in _NOT_BEGUN
                told = answer.headers.get("Retry-After", "")
                pause = retry_after_seconds(told, time.time(), 2 * PATIENT_SECONDS) or PAUSE_SECONDS
            if may_be_done and again is not None:
                if not again:
                    raise failure
                data = again
            until = until or time.monotonic() + patience  # from the first failure: a long poll may be long
            if time.monotonic() + pause >= until:
                raise failure
            self._closed.wait(pause)  # as the gateway asked


class GatewayAnswer(dict[str, Any]):
    """A JSON object that a gateway answered. Raises CorruptValue for a member that it does not have."""

    @classmethod
    def of(cls, value: object) -> Self:
        """Raises CorruptValue if the value is no object."""
        if not isinstance(value, dict):
            raise CorruptValue(f"the gateway answered {type(value).__name__}, and not a JSON object")
        return cls(value)

    def __missing__(self, name: str) -> NoReturn:
        raise CorruptValue(f"the gateway's answer has no {name!r}: is it of another release?")


def read_token(file: Path) -> str:
    """The token of a file. Raises InvalidField."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidField("token_file", f"{file} cannot be read: {error}") from None
    return parse_token(text, str(file))


def parse_token(text: str, where: str) -> str:
    """The token of a text that has nothing else. Raises InvalidField, which does not show the text."""
    token = text.strip()
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise InvalidField("token", f"{where} does not have one token and nothing else")
    return token


class GatewayProblem(msgspec.Struct):
    """A problem document (RFC 9457)."""

    status: int
    detail: str = ""
    field: str = ""


def error_of(problem: GatewayProblem) -> TallyError:
    """The error that a problem tells of."""
    detail, field = problem.detail, problem.field
    match problem.status:
        case 400:
            return InvalidField(field, detail.removeprefix(f"{field}: ") if field else detail)
        case 401:
            return NotSignedIn(f"{detail}; see `tally login`")
        case 404:
            return NotFound(detail)
        case 403 | 409 | 413 | 415:
            return Refusal(detail)
    return GatewayUnavailable(f"the gateway: {detail}")


def _parts(answer: requests.Response, stop: threading.Event) -> Iterator[bytes]:
    ending = stop if isinstance(stop, StopEvent) else StopEvent()
    try:
        with answer, ending.closing(partial(_cut, answer)):
            for chunk in answer.iter_content(chunk_size=None):
                yield chunk
                if stop.is_set():
                    return
    except requests.RequestException as error:
        if stop.is_set():
            return
        raise GatewayUnavailable(f"the answer of the gateway broke off: {plain(error)}") from None


def _cut(answer: requests.Response) -> None:
    """Wake the thread that reads it."""
    with suppress(OSError, ValueError, RuntimeError, AttributeError):  # it has ended meanwhile
        answer.raw.shutdown()


def _document(answer: requests.Response) -> GatewayAnswer:
    try:
        return GatewayAnswer.of(answer.json() if answer.content else {})
    except (ValueError, RecursionError) as error:
        raise CorruptValue(f"the answer of {answer.url} is not JSON: {json_problem(error)}") from None


def _documents(answer: requests.Response, stop: StopEvent) -> Iterator[GatewayAnswer]:
    try:
        with answer, stop.closing(partial(_cut, answer)):
            for line in answer.iter_lines(chunk_size=None):
                if line:
                    yield GatewayAnswer.of(json.loads(line))
                if stop.is_set():
                    return
    except (requests.RequestException, ValueError, RecursionError) as error:
        if stop.is_set():
            return
        raise GatewayUnavailable(f"the answer of the gateway broke off: {plain(error)}") from None


def _error(answer: requests.Response) -> TallyError:
    try:
        problem = view_of(GatewayProblem, {**answer.json(), "status": answer.status_code})
    except (ValueError, TypeError, RecursionError, CorruptValue):
        return GatewayUnavailable(f"{answer.url} answered {answer.status_code}, and is no gateway of Tally")
    return error_of(problem)


def _revision(answer: requests.Response) -> int:
    text = answer.headers.get("Tally-Revision", "")
    return int(text) if text.isdecimal() and len(text) < 20 else 0
