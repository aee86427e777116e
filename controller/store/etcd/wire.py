"""The wire format of etcd's JSON gateway: requests to bytes, answers to the seam's values.

Keys and values travel as base64, so any bytes can. 64-bit integers travel as texts. Fields at their zero
value are left out. Only the fields that Tally uses are decoded; msgspec skips the rest, which makes a page of
keys cheap.

Source of the messages: https://github.com/etcd-io/etcd/blob/main/api/etcdserverpb/rpc.proto
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from controller.store.base import MOST_SHOWN, Guard, KeyEvent, KeyValue, Put, Transaction
from controller.store.limits import guarded_keys, guarded_prefixes

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True):
    """Which cluster answered, and at which revision.

    `cluster_id` is an unsigned 64-bit number, kept as text.
    """

    cluster_id: str = ""
    revision: int = 0


class WireKeyValue(msgspec.Struct):
    """mvccpb.KeyValue."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


class RangeAnswer(msgspec.Struct):
    """etcdserverpb.RangeResponse."""

    header: Header = Header()
    kvs: list[WireKeyValue] = []
    more: bool = False


class PageAnswer(msgspec.Struct):
    """A RangeAnswer whose keys are decoded later: `decode_item`."""

    header: Header = Header()
    kvs: list[msgspec.Raw] = []
    more: bool = False


class _Response(msgspec.Struct):
    response_range: RangeAnswer | None = None


class TransactionAnswer(msgspec.Struct):
    """etcdserverpb.TxnResponse; `responses` are those of the branch that was taken."""

    header: Header = Header()
    succeeded: bool = False
    responses: list[_Response] = []


class LeaseAnswer(msgspec.Struct):
    """etcdserverpb.LeaseGrantResponse, and LeaseKeepAliveResponse inside its stream's `result`."""

    header: Header = Header()
    ttl: int = msgspec.field(name="TTL", default=0)


class WireEvent(msgspec.Struct):
    """mvccpb.Event; a missing `type` means PUT."""

    kv: WireKeyValue
    type: str = "PUT"


class WatchAnswer(msgspec.Struct):
    """etcdserverpb.WatchResponse."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[WireEvent] = []


class StreamError(msgspec.Struct):
    """How a gateway reports an error inside a stream. The code's name depends on the gateway's version."""

    message: str = ""
    grpc_code: int = 0
    code: int = 0


class KeepAliveMessage(msgspec.Struct):
    """One line of the answer to a keep-alive."""

    result: LeaseAnswer | None = None
    error: StreamError | None = None


class WatchMessage(msgspec.Struct):
    """One line of a watch."""

    result: WatchAnswer | None = None
    error: StreamError | None = None


class TokenAnswer(msgspec.Struct):
    """etcdserverpb.AuthenticateResponse."""

    token: str = ""


class VersionAnswer(msgspec.Struct):
    """The answer to GET /version."""

    etcdserver: str
    etcdcluster: str = ""


class StatusAnswer(msgspec.Struct):
    """etcdserverpb.StatusResponse. It has the quota from etcd 3.6 on."""

    db_size: int = msgspec.field(name="dbSize", default=0)
    db_size_in_use: int = msgspec.field(name="dbSizeInUse", default=0)
    db_size_quota: int = msgspec.field(name="dbSizeQuota", default=0)


class ErrorAnswer(msgspec.Struct):
    """The body of a refusal.

    etcd 3.4 and 3.5 repeat the message as `error` (an object in streams); 3.6 leaves it out.
    """

    message: str = ""
    code: int = 0
    error: str | StreamError = ""


def _decoder(kind: type[T], is_whole: Callable[[T], object] = bool) -> Callable[[bytes], T]:
    """A decoder for answers of one kind.

    It raises MsgspecError for all that etcd does not send, such as JSON without a header. That counts as no
    answer, and so proves nothing.
    """
    # not strict: 64-bit integers are carried as texts
    decode = msgspec.json.Decoder(kind, strict=False).decode

    def decode_whole(data: bytes) -> T:
        try:
            answer = decode(data)
        except (UnicodeDecodeError, OverflowError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from error
        if not is_whole(answer):
            raise msgspec.DecodeError("it lacks a field that every answer of etcd has")
        return answer

    return decode_whole


def _says_who(header: Header) -> bool:
    return bool(header.cluster_id)


def _is_whole_range(answer: RangeAnswer | PageAnswer) -> bool:
    return _says_who(answer.header) and answer.header.revision > 0 and bool(answer.kvs or not answer.more)


def _is_whole_transaction(answer: TransactionAnswer) -> bool:
    reads = answer.succeeded or all(response.response_range is not None for response in answer.responses)
    return _says_who(answer.header) and answer.header.revision > 0 and reads


def _is_whole_message(message: KeepAliveMessage | WatchMessage) -> bool:
    return message.error is not None or (message.result is not None and _says_who(message.result.header))


decode_range = _decoder(RangeAnswer, _is_whole_range)
decode_page = _decoder(PageAnswer, _is_whole_range)
decode_item = _decoder(WireKeyValue, lambda _: True)
decode_transaction = _decoder(TransactionAnswer, _is_whole_transaction)
decode_lease = _decoder(LeaseAnswer, lambda answer: _says_who(answer.header))
decode_keep_alive = _decoder(KeepAliveMessage, _is_whole_message)
decode_watch = _decoder(WatchMessage, _is_whole_message)
decode_token = _decoder(TokenAnswer)
decode_version = _decoder(VersionAnswer)
decode_status = _decoder(StatusAnswer)
decode_error = _decoder(ErrorAnswer)
encode = msgspec.json.Encoder().encode

_SIZE = b"etcd_mvcc_db_total_size_in_bytes"
_IN_USE = b"etcd_mvcc_db_total_size_in_use_in_bytes"
_QUOTA = b"etcd_server_quota_backend_bytes"
_SIZES = re.compile(
    rb"^(%s|%s|%s) ([0-9.]{1,30}(?:e\+?[0-9]{1,2})?)$" % (_SIZE, _IN_USE, _QUOTA), re.MULTILINE
)


def status_in_metrics(text: bytes) -> StatusAnswer:
    """The same from etcd's metrics. Raises MsgspecError if they do not tell the size."""
    found = {name: int(float(value)) for name, value in _SIZES.findall(text)}
    if _SIZE not in found:
        raise msgspec.MsgspecError(f"{_SIZE.decode()} is missing")
    return StatusAnswer(found[_SIZE], found.get(_IN_USE, 0), found.get(_QUOTA, 0))


def key_text(key: bytes) -> str:
    """A stored key as text.

    Bytes that are not UTF-8 (never Tally's own) become backslash escapes, so that they can always be printed.
    """
    return key.decode(errors="backslashreplace")


def key_value(wire: WireKeyValue) -> KeyValue:
    """The seam's form of a key. A missing value is empty, never None."""
    return _of_key(key_text(wire.key), wire)


def _of_key(key: str, wire: WireKeyValue) -> KeyValue:
    return KeyValue(key, wire.value, wire.create_revision, wire.mod_revision, wire.version, wire.lease)


def event(wire: WireEvent) -> KeyEvent:
    """The seam's form of a change."""
    key, kv = key_text(wire.kv.key), wire.kv
    return KeyEvent(key, kv.mod_revision, None if wire.type == "DELETE" else _of_key(key, kv))


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    """`key` and `range_end` of all keys that begin with `prefix`.

    etcd reads a lone NUL as "from the first" or "to the last".
    """
    if not prefix:
        return b"\0", b"\0"
    trimmed = prefix.rstrip(b"\xff")
    return prefix, (trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0")


def encode_range(key: bytes, range_end: bytes = b"", *, revision: int = 0, limit: int = 0) -> bytes:
    """A linearizable range, in key order."""
    request: dict[str, Any] = {"key": key}
    if range_end:
        request["range_end"] = range_end
    if revision:
        request["revision"] = revision
    if limit:
        request["limit"] = limit
    return encode(request)


def encode_transaction(transaction: Transaction) -> bytes:
    """The request. Its failure branch reads each guarded key, so that a refusal shows which guard failed."""
    compare = [
        {"key": g.key.encode(), "target": "CREATE", "create_revision": g.revision}
        if g.on_create
        else _compare_prefix(g)
        if g.is_prefix
        else {"key": g.key.encode(), "target": "MOD", "mod_revision": g.revision}
        for g in transaction.guards
    ]
    success = [
        {"request_put": {"key": w.key.encode(), "value": w.value, **({"lease": w.lease} if w.lease else {})}}
        if isinstance(w, Put)
        else {"request_delete_range": {"key": w.key.encode()}}
        for w in transaction.writes
    ]
    failure = [{"request_range": {"key": key.encode()}} for key in guarded_keys(transaction)]
    failure += [{"request_range": _newer(guard)} for guard in guarded_prefixes(transaction)]
    return encode({"compare": compare, "success": success, "failure": failure})


def _compare_prefix(guard: Guard) -> dict[str, Any]:
    """No key in the range is newer.

    Source: `applyCompare`. All keys of the range must compare so; an empty range compares as a key at 0 does.
    """
    key, range_end = prefix_range(guard.key.encode())
    return {
        "key": key,
        "range_end": range_end,
        "target": "MOD",
        "result": "LESS",
        "mod_revision": guard.revision + 1,
    }


def _newer(guard: Guard) -> dict[str, Any]:
    """The keys that the guard of a prefix does not allow. etcd filters first, and then applies the limit."""
    key, range_end = prefix_range(guard.key.encode())
    return {
        "key": key,
        "range_end": range_end,
        "min_mod_revision": guard.revision + 1,
        "limit": MOST_SHOWN,
    }


def encode_watch(prefix: str, start_revision: int) -> bytes:
    """A watch from `start_revision`, inclusive.

    Without `fragment`, etcd never splits one revision over two messages.
    """
    key, range_end = prefix_range(prefix.encode())
    return encode({"create_request": {"key": key, "range_end": range_end, "start_revision": start_revision}})
