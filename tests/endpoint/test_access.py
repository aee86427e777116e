"""Who may read the status endpoint: TLS, tokens, client certificates, and that all of them may be rotated
while it runs.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from controller.endpoint.access import EndpointAccess, StatusFiles
from controller.endpoint.routes import ROUTES
from controller.endpoint.server import StatusServer
from controller.errors import InvalidField
from controller.views.replica import Check
from tests.endpoint.conftest import Files, reader, serving
from tests.endpoint.model_view import ModelView
from tests.support.tls import Authority

PROBES = ("/livez", "/readyz", "/healthz", "/leader")
ASKED = (
    "/",
    "/static/page.js",
    "/metrics",
    "/openapi.json",
    "/v1/tasks",
    "/v1/events",
    "/v1/audit",
    "/nowhere",
)


def connect(
    server: StatusServer, ca_file: str, issued: dict[str, str] | None = None, path: str = "/v1/tasks"
) -> int:
    """The status of one request on a connection of its own, with or without a client certificate."""
    trusted = ssl.create_default_context(cafile=ca_file)
    if issued is not None:
        trusted.load_cert_chain(issued["cert_file"], issued["key_file"])
    return httpx.get(f"{server.url}{path}", verify=trusted, trust_env=False, timeout=20.0).status_code


def replace(file: Path | str, content: bytes) -> None:
    """As Kubernetes and cert-manager do: another file under the same name."""
    other = Path(f"{file}.new")
    other.write_bytes(content)
    other.rename(file)


# -- tokens
# ----------------------------------------------------------------------------------------------------


def test_without_the_token_there_is_nothing_but_probes(view: ModelView, files: Files) -> None:
    view.submit("secret-name")
    with serving(view, files.token) as server, reader(server, files, headers={}) as stranger:
        for path in ASKED:
            for method in ("GET", "POST"):
                answer = stranger.request(method, path)
                assert answer.status_code == 401, path
                assert answer.headers.get_list("www-authenticate") == [
                    'Bearer realm="Tally"',
                    'Basic realm="Tally"',
                ]
                assert answer.json()["status"] == 401
                assert not [name for name in answer.headers if name.startswith("tally-")]
        assert [stranger.get(path).status_code for path in PROBES] == [200, 200, 200, 503]
        assert stranger.post("/livez").status_code == 405


def test_probes_tell_strangers_one_word(view: ModelView, files: Files) -> None:
    view.checks = (
        Check("store", False, "http://etcd-1:2379 does not answer"),
        Check("model", True, "5 tasks"),
    )
    with (
        serving(view, files.token) as server,
        reader(server, files, headers={}) as stranger,
        reader(server, files) as known,
    ):
        for path in PROBES:
            told = stranger.get(f"{path}?verbose")
            assert told.status_code == 503
            assert not [
                word
                for word in ("etcd-1", "replica", "5 tasks")
                if word in told.text.replace("this replica", "")
            ]
        assert "etcd-1" in known.get("/readyz").text
        view.checks = (Check("model", True, "5 tasks"),)
        assert stranger.get("/readyz?verbose").text == "ok\n"
        assert "5 tasks" in known.get("/readyz?verbose").text


def test_the_token_is_taken_as_bearer_and_as_a_browsers_password(view: ModelView, files: Files) -> None:
    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    secret = files.secret
    right = [f"Bearer {secret}", f"bearer  {secret}", basic(f"anyone:{secret}"), basic(f":{secret}")]
    wrong = [
        "",
        "Bearer",
        secret,
        f"Token {secret}",
        f"Bearer {secret[:-1]}",
        f"Bearer {secret}x",
        f"Bearer {secret},{secret}",
        basic(secret),
        basic(f"{secret}:"),
        "Basic",
        "Basic !!!",
        basic(":"),
        "Bearer \u00e9\u00ff",
    ]
    with serving(view, files.token) as server, reader(server, files, headers={}) as http:
        for header in right:
            assert http.get("/v1/tasks", headers={"Authorization": header}).status_code == 200, header
        for header in wrong:
            sent = {b"Authorization": header.encode("latin-1")}
            assert http.get("/v1/tasks", headers=sent).status_code == 401, header


def test_a_rotated_token_counts_at_once_and_two_may_be_valid(view: ModelView, files: Files) -> None:
    file, old, new = files.token["token_file"], files.secret, "n" * 32
    with (
        serving(view, files.token) as server,
        reader(server, files, headers={}) as http,
        capture_logs() as logs,
    ):

        def answers() -> list[int]:
            return [
                http.get("/v1/pools", headers={"Authorization": f"Bearer {token}"}).status_code
                for token in (old, new)
            ]

        assert answers() == [200, 401]
        replace(file, f"{old}\n{new}\n".encode())
        assert answers() == [200, 200]
        replace(file, new.encode())
        assert answers() == [401, 200]
        replace(file, b"\n")
        assert answers() == [401, 401]
        file.unlink()
        assert answers() == [401, 401]
        replace(file, new.encode())
        assert answers() == [401, 200]
    problems = [entry["error"] for entry in logs if entry["log_level"] == "warning"]
    assert len(problems) == 2, "each is said once, not for each request"
    assert "has no token" in problems[0]
    assert "cannot be read" in problems[1]
    assert not any(token in str(logs) for token in (old, new))


# -- TLS
# ----------------------------------------------------------------------------------------------------


def test_over_tls_all_is_as_without(view: ModelView, files: Files) -> None:
    revision = view.submit("a")
    with serving(view, files.tls) as server, reader(server, files, headers={}) as http:
        assert server.url.startswith("https://")
        assert http.get("/v1/tasks").json()["items"][0]["id"] == "a"
        with http.stream("GET", "/v1/events") as stream:
            lines = stream.iter_lines()
            assert f"id: {revision}" in (next(lines), next(lines))
            view.submit("b")
            assert next(line for line in lines if line.startswith("event")) == "event: submitted"
        plain = httpx.Client(base_url=server.url.replace("https", "http"), trust_env=False)
        with plain, pytest.raises(httpx.RemoteProtocolError):
            plain.get("/livez")
        assert http.get("/livez").status_code == 200


def test_a_certificate_is_rotated_without_a_restart(view: ModelView, files: Files, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    with serving(view, files.tls) as server, reader(server, files) as http:
        assert http.get("/v1/tasks").status_code == 200
        issued = other.issue("status")
        for kind, file in files.tls.items():
            replace(file, Path(issued[kind]).read_bytes())
        assert connect(server, other.ca_file) == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            connect(server, files.authority.ca_file)
        assert http.get("/v1/tasks").status_code == 200, "connections that stand are not cut"


def test_a_half_written_certificate_leaves_the_one_before(
    view: ModelView, files: Files, tmp_path: Path
) -> None:
    """Certificate and key are two files: for a moment they do not fit."""
    issued = Authority(tmp_path / "other").issue("status")
    with serving(view, files.tls) as server, capture_logs() as logs:
        replace(files.tls["cert_file"], Path(issued["cert_file"]).read_bytes())
        assert [connect(server, files.authority.ca_file) for _ in range(3)] == [200, 200, 200]
        files.tls["key_file"].unlink()
        assert connect(server, files.authority.ca_file) == 200
    assert len([entry for entry in logs if entry["log_level"] == "warning"]) == 2


# -- client certificates
# ---------------------------------------------------------------------------------------------


def test_a_client_certificate_lets_in_and_probes_need_none(view: ModelView, files: Files) -> None:
    known, stranger = files.clients.issue("prometheus"), files.authority.issue("not-a-client")
    with serving(view, files.tls | files.client_ca) as server:
        ca_file = files.authority.ca_file
        assert connect(server, ca_file, known) == 200
        assert connect(server, ca_file) == 401
        assert [connect(server, ca_file, None, path) for path in PROBES] == [200, 200, 200, 503]
        with pytest.raises(httpx.TransportError):
            connect(server, ca_file, stranger)
        with reader(server, files) as with_token:
            assert with_token.get("/v1/tasks").status_code == 401, "it asks for no token, so none helps"


def test_either_a_token_or_a_certificate_will_do(view: ModelView, files: Files) -> None:
    with (
        serving(view, files.tls | files.client_ca | files.token) as server,
        reader(server, files) as with_token,
    ):
        assert with_token.get("/v1/tasks").status_code == 200
        assert connect(server, files.authority.ca_file, files.clients.issue("prometheus")) == 200
        assert connect(server, files.authority.ca_file) == 401


def test_a_rotated_client_authority_shuts_out_who_was_let_in(
    view: ModelView, files: Files, tmp_path: Path
) -> None:
    old, authority = files.clients.issue("prometheus"), Authority(tmp_path / "new-clients")
    with serving(view, files.tls | files.client_ca) as server:
        assert connect(server, files.authority.ca_file, old) == 200
        replace(files.client_ca["client_ca_file"], Path(authority.ca_file).read_bytes())
        assert connect(server, files.authority.ca_file, authority.issue("prometheus")) == 200
        with pytest.raises(httpx.TransportError):
            connect(server, files.authority.ca_file, old)


# -- what is said about it
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "content", "says"),
    [
        ("token_file", b"\n", "status_token_file: .* has no token"),
        ("token_file", b"short\n", "fewer than 16 characters"),
        ("token_file", None, "status_token_file: .* cannot be read"),
        ("cert_file", b"junk", "status_cert_file: .* are not a certificate and its private key"),
        ("key_file", None, "status_key_file: .* cannot be read"),
        ("client_ca_file", b"junk", "status_client_ca_file: .* contains no certificates"),
    ],
)
def test_files_that_cannot_be_used_end_the_start(
    files: Files, broken: str, content: bytes | None, says: str
) -> None:
    protection = files.tls | files.client_ca | files.token
    if content is None:
        protection[broken].unlink()
    else:
        protection[broken].write_bytes(content)
    with pytest.raises(InvalidField, match=says):
        EndpointAccess(StatusFiles(**protection))


def test_an_encrypted_key_is_refused_and_never_asked_for(files: Files) -> None:
    """OpenSSL would read a password from the terminal."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.tls["key_file"].read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"password")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.tls["key_file"].write_bytes(key.private_bytes(pem, pkcs8, how))
    with pytest.raises(InvalidField, match="status_cert_file"):
        EndpointAccess(StatusFiles(**files.tls))


@contextmanager
def warnings_of(view: ModelView, host: str, protection: dict[str, Path]) -> Iterator[list[str]]:
    with capture_logs() as logs:
        server = StatusServer(view, host, 0, access=EndpointAccess(StatusFiles(**protection)))
        server.start()
        server.stop()
    yield [entry["event"] for entry in logs if entry["log_level"] == "warning"]


def test_what_is_open_to_others_is_said(view: ModelView, files: Files) -> None:
    """It does start: a network policy may do what Tally cannot see."""
    with warnings_of(view, "127.0.0.1", {}) as said:
        assert said == []
    with warnings_of(view, "0.0.0.0", {}) as said:
        assert len(said) == 1
        assert "requires no credentials" in said[0]
    with warnings_of(view, "0.0.0.0", files.token) as said:
        assert "in clear text" in said[0]
    with warnings_of(view, "0.0.0.0", files.tls | files.token) as said:
        assert said == []


# -- browsers
# ----------------------------------------------------------------------------------------------------


def test_every_answer_tells_browsers_to_keep_it_to_themselves(http: httpx.Client, view: ModelView) -> None:
    view.submit("a")
    paths = [route.path.format(id="a", name="p") for route in ROUTES if route.path != "/v1/events"]
    for path in (*paths, "/nowhere", "/static/page.js"):
        headers = http.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert (
            headers["Cross-Origin-Resource-Policy"] == headers["Cross-Origin-Opener-Policy"] == "same-origin"
        )
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert not {"server", "access-control-allow-origin"} & set(headers)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("tally.localhost:80", 200),
        ("127.0.0.1:9180", 200),
        ("[::1]:9180", 200),
        ("", 200),
        ("evil.example.org", 421),
        ("evil.example.org:9180", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("[", 421),
    ],
)
def test_on_loopback_another_name_is_not_answered(http: httpx.Client, host: str, status: int) -> None:
    """A page on the Internet whose name is made to mean 127.0.0.1 would else read the tasks through
    somebody's browser.
    """
    assert http.get("/v1/tasks", headers={"Host": host}).status_code == status


def test_where_credentials_are_asked_for_any_name_will_do(view: ModelView, files: Files) -> None:
    with serving(view, files.token) as server, reader(server, files) as http:
        assert http.get("/v1/tasks", headers={"Host": "tally.example.org"}).status_code == 200


def test_a_name_that_it_is_known_under_is_answered(view: ModelView) -> None:
    server = StatusServer(view, access=EndpointAccess(hosts=["tally.example.org"]))
    server.start()
    try:
        assert (
            httpx.get(
                f"{server.url}/v1/tasks", headers={"Host": "tally.example.org"}, trust_env=False
            ).status_code
            == 200
        )
    finally:
        server.stop()
