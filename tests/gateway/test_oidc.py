"""Tokens of an OpenID provider: those of a real one, and those that a provider or an attacker may make."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controller.errors import InvalidField
from controller.gateway.identity import Method, SignInUnavailable
from controller.gateway.oidc import (
    FRESH_SECONDS,
    PAUSE_SECONDS,
    USABLE_SECONDS,
    Oidc,
    OidcOptions,
)
from tests.support.busy import stays_known
from tests.support.waiting import wait_until

oidc_provider_mock = pytest.importorskip("oidc_provider_mock")


class Provider:
    """A provider on loopback, whose keys and documents the test chooses."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.fetches = 0
        self.is_down = False
        self.broken: bytes | None = None
        self.document: dict[str, Any] = {}
        self.answering: Callable[[], object] = lambda: None  # called before each answer
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answering()
                if provider.is_down:
                    self.send_error(503)
                    return
                if self.path == "/.well-known/openid-configuration":
                    body: Any = {
                        "issuer": provider.url,
                        "jwks_uri": f"{provider.url}/keys",
                    } | provider.document
                else:
                    provider.fetches += 1
                    body = {"keys": [jwk(kid, key) for kid, key in provider.keys.items()]}
                data = json.dumps(body).encode() if provider.broken is None else provider.broken
                self.send_response(200)
                self.send_header("Content-Length", str(len(data) + (9 if provider.broken == b"" else 0)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def token(self, kid: str = "one", key: Any = None, algorithm: str = "RS256", **claims: Any) -> str:
        now = time.time()
        said = {"iss": self.url, "aud": "tally", "sub": "alice", "iat": now, "exp": now + 60} | claims
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, key or self.keys[kid], algorithm, {"kid": kid} if kid else {})


def jwk(kid: str, key: Any) -> dict[str, Any]:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        found = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {**found, "kid": kid, "alg": "ES256", "use": "sig"}
    found = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": kid, "alg": "RS256", "use": "sig"}


def rsa_key() -> Any:
    return rsa.generate_private_key(65537, 2048)


class Clocks:
    wall = staticmethod(time.time)

    def __init__(self) -> None:
        self.now = 1000.0

    def boottime(self) -> float:
        return self.now


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    provider.keys["one"] = rsa_key()
    try:
        yield provider
    finally:
        provider.close()


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def oidc(provider: Provider, clocks: Clocks) -> Oidc:
    return Oidc(OidcOptions(provider.url, "tally"), clocks.wall, clocks.boottime)


def test_a_token_of_a_real_provider() -> None:
    """With a code, as a browser would bring it, exchanged for a token: its subject is the caller."""
    with oidc_provider_mock.run_server_in_thread() as server:
        issuer = f"http://localhost:{server.server_port}"
        with httpx.Client(trust_env=False, base_url=issuer) as http:
            asked = {"client_id": "tally", "redirect_uri": "http://localhost/back", "response_type": "code"}
            sent = http.post("/oauth2/authorize", params={**asked, "scope": "openid"}, data={"sub": "alice"})
            code = parse_qs(urlsplit(sent.headers["Location"]).query)["code"][0]
            answer = http.post(
                "/oauth2/token",
                data={
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": asked["redirect_uri"],
                },
                auth=("tally", "secret"),
            )
            token = answer.json()["id_token"]
        said = jwt.decode(token, options={"verify_signature": False})
        oidc = Oidc(OidcOptions(said["iss"], "tally"), time.time, time.monotonic)
        assert oidc.takes(token)
        assert oidc.identify(token) == ("oidc:alice", frozenset(), Method.OIDC)
        assert Oidc(OidcOptions(said["iss"], "other"), time.time, time.monotonic).identify(token) is None
        head, body, signature = token.split(".")
        forged = json.dumps({**said, "sub": "root"}).encode()
        body = base64.urlsafe_b64encode(forged).rstrip(b"=").decode()
        assert oidc.identify(".".join((head, body, signature))) is None


def test_what_a_token_says(provider: Provider, oidc: Oidc) -> None:
    """Name and groups, with the prefix that keeps them apart from those of other ways."""
    identity = oidc.identify(provider.token(groups=["vision", "all"]))
    assert identity == ("oidc:alice", frozenset(["oidc:vision", "oidc:all"]), Method.OIDC)
    provider.keys["two"] = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": None},
        {"aud": ["another", "third"]},
        {"iss": "http://evil"},
        {"iss": None},
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"exp": True},
        {"nbf": 4e9},
        {"iat": 4e9},
        {"sub": None},
        {"sub": ""},
        {"groups": [1]},
        {"groups": ["a", None]},
        {"groups": [["a"]]},
        {"groups": {"a": 1}},
        {"sub": 7},
        {"sub": "a b"},
        {"sub": "x" * 300},
        {"groups": [["nested"]] * 3, "sub": ["alice"]},
    ],
)
def test_tokens_that_are_refused(provider: Provider, oidc: Oidc, claims: dict[str, Any]) -> None:
    """Signed by the provider, and yet not for us, not now, or nobody's."""
    try:
        token = provider.token(**claims)
    except TypeError:
        pytest.skip("the library makes no such token")
    assert oidc.identify(token) is None


def test_algorithms_are_ours_to_choose(provider: Provider, oidc: Oidc) -> None:
    """No token without a signature, none signed with the public key as a secret, none of a strange key."""
    good = provider.token()
    said = jwt.decode(good, options={"verify_signature": False})
    none = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none", "kid": "one"}, said)
    )
    assert oidc.identify(none + ".") is None
    pem = provider.keys["one"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = hashlib.sha256(pem).digest()
    assert oidc.identify(jwt.encode(said, secret, "HS256", {"kid": "one"})) is None
    assert oidc.identify(provider.token(key=rsa_key())) is None
    assert oidc.identify(good) is not None
    for noise in ("", ".", "..", "a.b.c", good[:-2], "x" * 100_000, "." * 1000, "é.é.é"):
        assert oidc.identify(noise) is None


def test_keys_are_rotated(provider: Provider, oidc: Oidc, clocks: Clocks) -> None:
    """A new key is found as soon as a token names it; an old one counts until it is gone; and whoever sends
    names of keys that are not there causes no more fetches than the pause allows.
    """
    old = provider.token()
    assert oidc.identify(old) is not None
    provider.keys["two"] = rsa_key()
    clocks.now += PAUSE_SECONDS
    assert oidc.identify(provider.token("two")) is not None
    assert oidc.identify(old) is not None
    assert provider.fetches == 2
    for number in range(100):
        assert oidc.identify(provider.token(f"no-{number}", provider.keys["one"])) is None
    assert provider.fetches == 2
    del provider.keys["one"]
    clocks.now += FRESH_SECONDS
    assert oidc.identify(provider.token("two")) is not None
    wait_until(lambda: provider.fetches == 3 and oidc.identify(old) is None, "the end of the old key")


def test_a_provider_that_is_down(provider: Provider, oidc: Oidc, clocks: Clocks) -> None:
    """Known keys go on to count for a day; without any, it is not known whether a token is valid."""
    token = provider.token(exp=time.time() + 10**6)
    provider.is_down = True
    with pytest.raises(SignInUnavailable, match="503"):
        oidc.identify(token)
    provider.is_down = False
    clocks.now += PAUSE_SECONDS
    assert oidc.identify(token) is not None
    provider.is_down = True
    clocks.now += FRESH_SECONDS
    assert oidc.identify(token) is not None
    wait_until(lambda: oidc.error, "the fetch")
    with pytest.raises(SignInUnavailable):  # it may be of a key that is new
        oidc.identify(provider.token("new", rsa_key()))
    clocks.now += USABLE_SECONDS - FRESH_SECONDS - 1
    assert oidc.identify(token) is not None
    clocks.now += PAUSE_SECONDS
    with pytest.raises(SignInUnavailable):
        oidc.identify(token)


@pytest.mark.parametrize("document", [{"issuer": "http://evil"}, {"jwks_uri": None}, {"jwks_uri": 7}])
def test_a_document_of_another_issuer(provider: Provider, oidc: Oidc, document: dict[str, Any]) -> None:
    """Its keys do not count."""
    provider.document = document
    with pytest.raises(SignInUnavailable):
        oidc.identify(provider.token())


def test_an_address_counts_only_if_it_is_verified(provider: Provider, clocks: Clocks) -> None:
    """Whoever may set an address could be anybody."""
    options = OidcOptions(provider.url, "tally", name_claim="email", prefix="")
    oidc = Oidc(options, clocks.wall, clocks.boottime)
    said = {"email": "alice@example.com"}
    assert oidc.identify(provider.token(**said)) is None
    assert oidc.identify(provider.token(**said, email_verified="true")) is None
    found = oidc.identify(provider.token(**said, email_verified=True))
    assert found is not None
    assert found.name == "alice@example.com"


@pytest.mark.parametrize(
    ("issuer", "audience", "says"),
    [
        ("idp", "tally", "gateway_oidc_issuer"),
        ("http://idp.example.com", "tally", "gateway_oidc_issuer: is http"),
        ("https://idp.example.com?x", "tally", "gateway_oidc_issuer"),
        ("https://idp.example.com", "", "gateway_oidc_audience: is missing"),
    ],
)
def test_options_that_protect_nothing_are_refused(issuer: str, audience: str, says: str) -> None:
    """By name."""
    with pytest.raises(InvalidField, match=says):
        OidcOptions(issuer, audience)


@pytest.mark.parametrize(
    "answer", [b"", b"[" * 100_000, b"null", b'{"keys": 1}', b"\xff", b'{"jwks_uri": 7}']
)
def test_whatever_a_provider_answers_a_known_key_goes_on_to_count(provider: Provider, answer: bytes) -> None:
    """An empty answer here is one that breaks off. The cause is kept, for the checks to show."""
    clocks = Clocks()
    oidc = Oidc(OidcOptions(provider.url, "tally"), clocks.wall, clocks.boottime)
    try:
        assert oidc.identify(provider.token()) is not None
        clocks.now += FRESH_SECONDS
        provider.broken = answer
        assert oidc.identify(provider.token()) is not None
        wait_until(lambda: oidc.error, "the fetch")
    finally:
        oidc.close()


def test_who_is_known_waits_for_nobody(provider: Provider, oidc: Oidc) -> None:
    """Not for the tokens of others, with keys that nobody has."""
    assert stays_known(provider.token(), oidc)


def test_who_has_a_key_that_is_known_waits_for_no_fetch(
    provider: Provider, oidc: Oidc, clocks: Clocks
) -> None:
    """Also not the first to find that the keys are old; meanwhile nobody else fetches them."""
    token, before = provider.token(), oidc.identify(provider.token())
    asked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        go_on.wait(60)

    provider.answering = hold
    clocks.now += FRESH_SECONDS
    try:
        assert oidc.known(token) == oidc.identify(token) == before is not None
        assert asked.wait(30)
        clocks.now += PAUSE_SECONDS
        assert oidc.identify(token) == before
        assert not go_on.is_set()
    finally:
        go_on.set()
    wait_until(lambda: not oidc._lock.locked(), "the end of the fetch")
    assert provider.fetches == 2
