"""Signatures of what is sent, as Standard Webhooks has them (https://www.standardwebhooks.com).

A receiver that knows the secret learns that the body is Tally's, is the one that was signed, and is recent.
While a secret is exchanged, several are in use, and each gives a signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence

from controller.errors import InvalidField, TallyError

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
TOLERANCE_SECONDS = 300.0

_PREFIX = "whsec_"
_LEAST_BYTES, _NEW_BYTES, _MOST_BYTES = 24, 32, 64
_VERSION = "v1"
_ID = re.compile(r"[!-~]+")


class SignatureRefused(TallyError):
    """What came is not what Tally sent, or came too late."""


def parse_secret(raw: object, field: str) -> bytes:
    """The key of a secret such as `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`: 24 to 64 bytes.

    Raises InvalidField, which does not show the secret.
    """
    expected = f"expected a secret: {_PREFIX} and {_LEAST_BYTES} to {_MOST_BYTES} random bytes in base64"
    if not isinstance(raw, str) or not raw.startswith(_PREFIX):
        raise InvalidField(field, expected)
    try:
        key = base64.b64decode(raw.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidField(field, expected) from None
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise InvalidField(field, f"has {len(key)} bytes; {expected}")
    return key


def new_secret() -> str:
    """A secret that nobody else has."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_NEW_BYTES)).decode()


def signed_headers(keys: Sequence[bytes], event_id: str, timestamp: float, body: bytes) -> dict[str, str]:
    """The three headers. `timestamp` is when the request is made, in seconds since the epoch.

    Raises InvalidField for no key, and for an id that is not printable ASCII or has a dot: a dot could be
    taken for the one after the id.
    """
    if not keys:
        raise InvalidField("keys", "is empty: give at least one secret")
    if not _ID.fullmatch(event_id) or "." in event_id:
        raise InvalidField("event_id", f"{event_id[:80]!r} may hold only printable ASCII without dots")
    moment = str(int(timestamp))
    signatures = (f"{_VERSION},{_signature(key, event_id, moment, body)}" for key in keys)
    return {ID_HEADER: event_id, TIMESTAMP_HEADER: moment, SIGNATURE_HEADER: " ".join(signatures)}


def verify(
    keys: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> None:
    """For receivers: returns if one of the signatures was made with one of the keys, not long ago.

    Names of headers may be in any case. The comparison takes the same time wherever signatures differ.
    Raises SignatureRefused. A receiver also keeps the ids that it has seen for the tolerance, since a request
    may come twice.
    """
    given = {name.lower(): value for name, value in headers.items()}
    event_id, moment = given.get(ID_HEADER, ""), given.get(TIMESTAMP_HEADER, "")
    if not event_id or not re.fullmatch(r"[0-9]{1,15}", moment):
        raise SignatureRefused(f"{ID_HEADER} or {TIMESTAMP_HEADER} is missing or broken")
    if abs(now - int(moment)) > tolerance_seconds:
        raise SignatureRefused(
            f"{TIMESTAMP_HEADER} is {now - int(moment):.0f} s before now, at most {tolerance_seconds:g} s are"
            " accepted: compare the clocks"
        )
    is_genuine = False
    for version, _, signature in (each.partition(",") for each in given.get(SIGNATURE_HEADER, "").split()):
        for key in keys:
            expected = _signature(key, event_id, moment, body).encode()
            is_equal = hmac.compare_digest(expected, signature.encode())
            is_genuine |= version == _VERSION and is_equal
    if not is_genuine:
        raise SignatureRefused(f"{SIGNATURE_HEADER} has no signature by a known secret")


def _signature(key: bytes, event_id: str, moment: str, body: bytes) -> str:
    signed = f"{event_id}.{moment}.".encode() + body
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
