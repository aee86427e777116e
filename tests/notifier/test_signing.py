"""Signatures and envelopes, read by the libraries that receivers use."""

from __future__ import annotations

import base64
import json
import time

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from controller.errors import InvalidField
from controller.notifier.envelope import CONTENT_TYPE, envelope
from controller.notifier.signing import SignatureRefused, parse_secret, signed_headers, verify

NOW = 1_614_265_330.0
keys = st.binary(min_size=24, max_size=64)
bodies = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3).map(
    lambda document: json.dumps(document).encode()
)


def secret_of(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def test_the_signature_of_the_specification() -> None:
    """The example of Standard Webhooks' own documentation."""
    key = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "secret")
    headers = signed_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.lists(keys, min_size=1, max_size=3, unique=True), bodies)
def test_receivers_libraries_accept_each_secret_in_use(several: list[bytes], body: bytes) -> None:
    headers = signed_headers(several, "event-1", time.time(), body)
    for key in several:
        assert Webhook(secret_of(key)).verify(body, headers) == json.loads(body)
        verify([key], headers, body, time.time())
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_of(b"another secret of 32 bytes.....!")).verify(body, headers)


@given(keys, keys, bodies, bodies)
def test_nothing_else_is_verified(key: bytes, other: bytes, body: bytes, another: bytes) -> None:
    headers = signed_headers([key], "event-1", NOW, body)
    verify([other, key], {name.upper(): value for name, value in headers.items()}, body, NOW)
    if other != key:
        with pytest.raises(SignatureRefused):
            verify([other], headers, body, NOW)
    if another != body:
        with pytest.raises(SignatureRefused):
            verify([key], headers, another, NOW)
    for changed in ({"webhook-id": "event-2"}, {"webhook-timestamp": str(int(NOW) + 1)}):
        with pytest.raises(SignatureRefused):
            verify([key], headers | changed, body, NOW)


@pytest.mark.parametrize("seconds", [-301.0, 301.0])
def test_too_old_and_too_new_is_refused(seconds: float) -> None:
    key = b"k" * 32
    headers = signed_headers([key], "event-1", NOW, b"{}")
    verify([key], headers, b"{}", NOW + seconds * 0.99)
    with pytest.raises(SignatureRefused, match="compare the clocks"):
        verify([key], headers, b"{}", NOW + seconds)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": ""},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "-5"},
        {"webhook-timestamp": "1e9"},
        {"webhook-timestamp": "١٦"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,ä v1,"},
    ],
)
def test_broken_headers_are_refused(changed: dict[str, str]) -> None:
    headers = signed_headers([b"k" * 32], "event-1", NOW, b"{}")
    with pytest.raises(SignatureRefused):
        verify([b"k" * 32], headers | changed, b"{}", NOW)


def test_a_signature_of_another_version_is_no_signature() -> None:
    headers = signed_headers([b"k" * 32], "event-1", NOW, b"{}")
    headers["webhook-signature"] = headers["webhook-signature"].replace("v1,", "v1a,")
    with pytest.raises(SignatureRefused):
        verify([b"k" * 32], headers, b"{}", NOW)


@pytest.mark.parametrize(
    "secret",
    [
        None,
        5,
        "",
        "whsec_",
        "s3cret",
        "whsec_s3cret!!",
        f"whsec_{'QUJD' * 7}s3cret",
        f"whsec_!{'QUJD' * 8}",
        secret_of(b"s" * 23),
        secret_of(b"s" * 65),
    ],
)
def test_a_broken_secret_is_named_and_not_shown(secret: object) -> None:
    with pytest.raises(InvalidField, match=r"^secrets\[0\]: ") as refused:
        parse_secret(secret, "secrets[0]")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("event_id", ["", "a.1", "a b", "a\r\nb", "ä"])
def test_an_id_that_could_be_read_in_two_ways_is_refused(event_id: str) -> None:
    with pytest.raises(InvalidField, match=r"^event_id: "):
        signed_headers([b"k" * 32], event_id, NOW, b"{}")
    with pytest.raises(InvalidField, match=r"^keys: "):
        signed_headers([], "event-1", NOW, b"{}")


def test_the_envelope_is_a_cloud_event() -> None:
    body = envelope(
        event_id="event-1",
        source="/clusters/main",
        kind="tally.task.succeeded",
        subject="train-1",
        when=1_700_000_000.25,
        sequence=42,
        data={"state": "succeeded", "name": "ä"},
    )
    event = from_http_event(HTTPMessage({"content-type": CONTENT_TYPE}, body))
    assert event.get_specversion() == "1.0"
    assert (event.get_id(), event.get_source()) == ("event-1", "/clusters/main")
    assert (event.get_type(), event.get_subject()) == ("tally.task.succeeded", "train-1")
    moment = event.get_time()
    assert moment is not None
    assert moment.timestamp() == 1_700_000_000.25
    assert event.get_extension("sequence") == "00000000000000000042"
    assert event.get_data() == {"state": "succeeded", "name": "ä"}
    assert json.loads(body)["time"] == "2023-11-14T22:13:20.250Z"


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_sequences_are_ordered_as_text(one: int, two: int) -> None:
    first, second = (
        json.loads(
            envelope(event_id="e", source="s", kind="k", subject="t", when=0.0, sequence=number, data={})
        )["sequence"]
        for number in (one, two)
    )
    assert (first < second) == (one < two)
