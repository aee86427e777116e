"""The page's files, and what keeps a browser's session its own: the cookie, and who may send it."""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.client import Client
from controller.core.model.lifecycle import State
from controller.endpoint.access import EndpointAccess, StatusFiles
from controller.errors import InvalidField
from controller.gateway import sessions
from controller.gateway.sessions import COOKIE, SECURE_COOKIE, SentCookie, Sessions
from controller.gateway.tokens import digest
from controller.store.etcd.store import EtcdStore
from tests.client.conftest import PutStatus
from tests.client.conftest import put_status as put_status
from tests.gateway.conftest import As, Served, serving
from tests.gateway.test_fuzz import answer_to
from tests.support.etcd import in_seconds
from tests.support.examples import examples
from tests.support.tls import Authority

TASK = {"id": "a", "owner": "vision", "command": ["true"]}
CANCEL = "/v1/tasks/a/cancel"


class Visitor:
    """A browser's requests: the cookie as it was set, and headers as they are given."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.cookie = self.csrf = self.set_cookie = ""

    def sign_in(self, token: str, **headers: str) -> httpx.Response:
        answer = self.send("POST", "/session", Authorization=f"Bearer {token}", **headers)
        if answer.status_code == 201:
            self.csrf = answer.json()["csrf"]
        return answer

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """With the cookie, if there is one. `_` in the name of a header stands for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            sent.setdefault("Cookie", self.cookie)
        self.http.cookies.clear()
        answer = self.http.request(method, path, json=body, headers=sent)
        if set_cookie := answer.headers.get("set-cookie", ""):
            self.set_cookie = set_cookie
            name, _, value = set_cookie.partition(";")[0].partition("=")
            self.cookie = f"{name}={value}" if value else ""
        return answer

    def change(self, path: str = CANCEL, **headers: str) -> httpx.Response:
        """As the page sends it."""
        given = {"X_Tally_CSRF": self.csrf, "Sec_Fetch_Site": "same-origin", **headers}
        return self.send("POST", path, {}, **{name: value for name, value in given.items() if value})


@contextmanager
def visiting(url: str, **options: Any) -> Iterator[Visitor]:
    with httpx.Client(base_url=url, trust_env=False, timeout=30.0, **options) as http:
        yield Visitor(http)


@pytest.fixture
def visitor(served: Served) -> Iterator[Visitor]:
    with visiting(served.gateway.url) as visitor:
        yield visitor


@pytest.fixture
def alice(visitor: Visitor, served: Served, client: Client) -> Visitor:
    """She has signed in, and there is a task of hers."""
    client.submit(TASK)
    assert visitor.sign_in(served.tokens["alice"]).status_code == 201
    return visitor


def refused(answer: httpx.Response, status: int, *says: str) -> bool:
    document = answer.json()
    assert (answer.status_code, document["status"]) == (status, status), document
    assert answer.headers["content-type"] == "application/problem+json"
    assert all(each in document["detail"] for each in says), document
    return True


# -- files


def test_the_page_is_served_to_whoever_asks(visitor: Visitor) -> None:
    """With all that it refers to, from this gateway alone, and with what protects it."""
    page = visitor.send("GET", "/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    wanted, found = set(re.findall(r'"(/static/[^"]+)"', page.text)), dict[str, str]()
    while more := wanted - found.keys():
        for path in more:
            answer = visitor.send("GET", path)
            assert answer.status_code == 200, path
            found[path] = answer.text
            wanted |= set(re.findall(r'"(/static/[^"]+)"', answer.text))
            for headers in (answer.headers, page.headers):
                policy = headers["content-security-policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; ")
                assert "unsafe" not in policy
                assert headers["x-frame-options"] == "DENY"
                assert headers["cache-control"] == "no-store"
    assert {"/static/main.js", "/static/format.js", "/static/page.css"} <= set(found)
    assert not [path for path, text in found.items() if "innerHTML" in text or "localStorage" in text]
    for name in ("none.js", "..%2Frun.py", "__init__.py", ""):
        assert visitor.send("GET", f"/static/{name}").status_code == 404
    assert visitor.send("POST", "/").status_code == 405
    assert "revision" not in page.text


# -- the cookie


def test_the_cookie_of_a_session(alice: Visitor, served: Served) -> None:
    """No script reads it, no other site sends it, and it does not tell the token."""
    assert re.fullmatch(rf"{COOKIE}=[\w=-]+; Path=/; HttpOnly; SameSite=Strict", alice.set_cookie)
    token, value = served.tokens["alice"], alice.cookie.partition("=")[2]
    assert token not in value
    assert token.encode() not in base64.urlsafe_b64decode(value)
    session = alice.send("GET", "/session").json()
    assert (session["name"], session["csrf"]) == ("alice", alice.csrf)
    assert token not in json.dumps(session)
    assert alice.send("GET", "/v1/whoami").json()["name"] == "alice"
    again = Visitor(alice.http)
    again.sign_in(token)
    assert (again.cookie != alice.cookie, again.csrf != alice.csrf) == (True, True)


def test_the_cookie_under_tls(client: Client, store: EtcdStore, tmp_path: Path) -> None:
    """It is bound to the host and to TLS. A certificate signs in without one."""
    authority = Authority(tmp_path / "ca")
    files = {name: Path(file) for name, file in authority.issue("server").items()}
    access = EndpointAccess(
        StatusFiles(files["cert_file"], files["key_file"], Path(authority.ca_file)), prefix="gateway_"
    )
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    certified = ssl.create_default_context(cafile=authority.ca_file)
    own = authority.issue("bob", common_name="bob", organization="speech")
    certified.load_cert_chain(own["cert_file"], own["key_file"])
    keys = tmp_path / "keys"
    keys.write_text("ab" * 32)
    with serving(store, client.keys.cluster, tmp_path, access=access, session_keys=keys) as served:
        with visiting(served.gateway.url, verify=trusting) as alice:
            assert alice.sign_in(served.tokens["alice"]).status_code == 201
            assert re.fullmatch(
                rf"{SECURE_COOKIE}=[\w=-]+; Path=/; HttpOnly; SameSite=Strict; Secure", alice.set_cookie
            )
            assert alice.send("GET", "/session").json()["name"] == "alice"
            # what somebody else may set, without TLS or from another host of the domain
            plain = Sessions(keys, client.keys.cluster, time.time)
            other = sent(plain, f"Bearer {served.tokens['bob']}")
            kept = alice.cookie
            assert alice.send("GET", "/session", Cookie=f"{COOKIE}={other.text}").status_code == 401
            alice.cookie = kept
            for both in (f"{alice.cookie}; {COOKIE}={other.text}", f"{COOKIE}={other.text}; {alice.cookie}"):
                assert alice.send("GET", "/session", Cookie=both).json()["name"] == "alice"
        with visiting(served.gateway.url, verify=certified) as bob:
            session = bob.send("GET", "/session").json()
            assert (session["name"], session["csrf"], session["ends_at"]) == ("bob", "", None)
            assert refused(bob.send("POST", "/session"), 400, "stands for a token")
            assert bob.change().status_code == 404  # no such task of his
            in_clear = served.gateway.url.replace("https", "http")
            for header in (
                {"Sec_Fetch_Site": "cross-site"},
                {"Origin": "https://evil.example"},
                {"Origin": in_clear},
            ):
                assert refused(bob.change(**header), 403, "own page")
            bob.sign_in(served.tokens["alice"])
            assert bob.send("GET", "/session").json()["name"] == "alice", "who sends a token is who it says"


def test_behind_a_proxy_that_speaks_tls(visitor: Visitor, served: Served) -> None:
    """The browser tells in Origin that it came by TLS."""
    host = served.gateway.url.removeprefix("http://")
    assert visitor.sign_in(served.tokens["alice"], Origin=f"https://{host}").status_code == 201
    assert visitor.set_cookie.startswith(f"{SECURE_COOKIE}=")
    assert visitor.set_cookie.endswith("; Secure")
    assert visitor.change("/v1/tasks:wait", Origin=f"https://{host}").status_code == 400
    assert visitor.send("DELETE", "/session", X_Tally_CSRF=visitor.csrf).status_code == 204
    assert visitor.set_cookie.startswith(f"{SECURE_COOKIE}=; ")


def test_a_session_ends_with_its_token(alice: Visitor, served: Served) -> None:
    """At once, and the browser forgets it."""
    entries = served.tokens_file.read_text()
    served.tokens_file.write_text(entries.replace('"alice"', '"alice-2"'))
    assert alice.send("GET", "/session").json()["name"] == "alice-2"
    served.tokens_file.write_text("tokens = []")
    ended = alice.send("GET", "/v1/tasks")
    assert refused(ended, 401, "sign in again")
    assert ended.headers["set-cookie"] == f"{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"


def test_a_session_is_ended(alice: Visitor) -> None:
    kept = alice.cookie
    assert refused(alice.send("DELETE", "/session"), 403, "X-Tally-CSRF")
    assert alice.cookie == kept
    answer = alice.send("DELETE", "/session", X_Tally_CSRF=alice.csrf)
    assert (answer.status_code, answer.content, alice.cookie) == (204, b"", "")
    assert alice.send("GET", "/session").status_code == 401


def test_a_cookie_that_was_changed_is_nobody_s(alice: Visitor) -> None:
    """In any of its bytes, cut, longer, or under the other name."""
    name, _, value = alice.cookie.partition("=")
    sealed = base64.urlsafe_b64decode(value)
    for at in range(0, len(sealed), 7):
        changed = bytes([*sealed[:at], sealed[at] ^ 1, *sealed[at + 1 :]])
        text = base64.urlsafe_b64encode(changed).decode()
        assert refused(alice.send("GET", "/session", Cookie=f"{name}={text}"), 401)
    for text in (value[:-4], value[4:], value + "AAAA", "", "%", value.replace("=", "").lower()):
        assert alice.send("GET", "/session", Cookie=f"{name}={text}").status_code == 401, text
    assert alice.send("GET", "/session", Cookie=f"{SECURE_COOKIE}={value}").status_code == 401


def test_of_two_cookies_none_counts(alice: Visitor, served: Served) -> None:
    """One of them may be of somebody who wants the other one's owner to act as him."""
    bob = Visitor(alice.http)
    bob.sign_in(served.tokens["bob"])
    for both in (f"{alice.cookie}; {bob.cookie}", f"{bob.cookie}; {alice.cookie}"):
        assert alice.send("GET", "/session", Cookie=both).status_code == 401
    assert alice.send("GET", "/session", Cookie=f"x=1; {bob.cookie}; y=2").json()["name"] == "bob"


def test_a_token_that_no_cookie_can_hold(visitor: Visitor, served: Served, as_: As) -> None:
    """Is said to be so; and a cookie that is too large is nobody's."""
    long = "x" * sessions.MOST_AUTHORIZATION_BYTES
    served.tokens_file.write_text(f'[[tokens]]\nname = "alice"\nsha256 = "{digest(long)}"')
    assert refused(visitor.sign_in(long), 400, "fewer claims")
    assert visitor.cookie == ""
    short = long[: sessions.MOST_AUTHORIZATION_BYTES - len("Bearer ")]
    served.tokens_file.write_text(f'[[tokens]]\nname = "alice"\nsha256 = "{digest(short)}"')
    assert visitor.sign_in(short).status_code == 201
    assert len(visitor.set_cookie) <= 4096, "what browsers keep"
    assert visitor.send("GET", "/session").json()["name"] == "alice"
    assert visitor.send("GET", "/session", Cookie=f"{COOKIE}={'A' * 12_000}").status_code == 401


def test_an_authorization_header_is_all_that_counts(alice: Visitor, served: Served) -> None:
    """Beside it no cookie is read, a good one for a bad token neither; and it needs no X-Tally-CSRF."""
    bearer = f"Bearer {served.tokens['bob']}"
    assert alice.send("GET", "/v1/whoami", Authorization=bearer).json()["name"] == "bob"
    assert refused(alice.send("GET", "/v1/whoami", Authorization="Bearer wrong"), 401, "was sent")
    assert alice.cookie, "which did not sign in, and does not end"
    assert alice.send("GET", "/v1/whoami", Authorization="").status_code == 401
    own = f"Bearer {served.tokens['alice']}"
    answer = alice.send("POST", CANCEL, {}, Authorization=own, Sec_Fetch_Site="cross-site")
    assert answer.status_code == 200


# -- requests of other sites


def test_what_another_site_sends_is_refused(alice: Visitor, served: Served, client: Client) -> None:
    """Each kind of it, and nothing is changed; then the page's own request, which names who asked."""
    host = served.gateway.url.removeprefix("http://")
    other = Visitor(alice.http)
    other.sign_in(served.tokens["alice"])
    for headers, says in (
        ({"X_Tally_CSRF": ""}, "X-Tally-CSRF is missing"),
        ({"X_Tally_CSRF": "0" * 64}, "not this session's"),
        ({"X_Tally_CSRF": other.csrf}, "not this session's"),
        ({"Sec_Fetch_Site": "cross-site"}, "Sec-Fetch-Site"),
        ({"Sec_Fetch_Site": "same-site"}, "Sec-Fetch-Site"),
        ({"Sec_Fetch_Site": "none"}, "Sec-Fetch-Site"),
        ({"Origin": "https://evil.example"}, "Origin"),
        ({"Origin": "null"}, "Origin"),
        ({"Origin": f"http://{host}.evil.example"}, "Origin"),
        ({"Origin": f"ftp://{host}"}, "Origin"),
    ):
        assert refused(alice.change(**headers), 403, says), headers
    assert client.get("a").requests == ()
    assert alice.change(Origin=f"http://{host}").json()["outcome"] == "requested"
    stored, _ = client.store.get(client.keys.request("a", "cancel"), deadline=in_seconds())
    assert stored is not None
    assert json.loads(stored.value)["by"] == "alice"


def test_every_operation_that_changes_something_is_guarded(alice: Visitor) -> None:
    """Whatever it is: none that a cookie signs in goes without the session's secret."""
    document = alice.send("GET", "/openapi.json").json()
    changing = [
        (method.upper(), path.replace("{id}", "a").replace("{name}", "default"))
        for path, methods in document["paths"].items()
        for method in methods
        if method != "get"
    ]
    assert len(changing) > 10
    for method, path in changing:
        if path != "/session" or method != "POST":
            assert refused(alice.send(method, path, {}), 403, "X-Tally-CSRF is missing"), path


def test_nobody_is_signed_in_by_another_site(visitor: Visitor, served: Served) -> None:
    """As somebody whose tasks he would then take for his own."""
    token = served.tokens["bob"]
    for header in ({"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}):
        assert refused(visitor.sign_in(token, **header), 403, "Sec-Fetch-Site")
    assert refused(visitor.sign_in(token, Origin="https://evil.example"), 403, "Origin")
    assert visitor.cookie == ""
    assert refused(visitor.sign_in("wrong"), 401)
    assert refused(visitor.send("POST", "/session", {"token": token}), 401, "sign in")
    assert visitor.sign_in(token, Sec_Fetch_Site="same-origin").status_code == 201


# -- limits


def test_rates_are_of_the_caller_and_not_of_its_sessions(
    client: Client, store: EtcdStore, tmp_path: Path
) -> None:
    """Two sessions and a token of one person share them; another person is not held up."""
    with (
        serving(store, client.keys.cluster, tmp_path, rates=(0.001, 4)) as served,
        visiting(served.gateway.url) as one,
        visiting(served.gateway.url) as two,
    ):
        assert one.sign_in(served.tokens["alice"]).status_code == 201
        assert two.sign_in(served.tokens["alice"]).status_code == 201
        assert one.send("GET", "/session").status_code == 200
        assert two.send("GET", "/session").status_code == 200
        assert refused(one.send("GET", "/session"), 429, "alice asks too often")
        assert refused(two.send("GET", "/session"), 429, "alice asks too often")
        assert two.sign_in(served.tokens["alice"]).status_code == 429
        assert one.cookie, "the session goes on"
        assert Visitor(one.http).sign_in(served.tokens["bob"]).status_code == 201


def test_who_may_nothing_signs_in_and_is_told_so(visitor: Visitor, served: Served) -> None:
    assert visitor.sign_in(served.tokens["nobody"]).status_code == 201
    assert visitor.send("GET", "/session").json()["name"] == "nobody"
    assert refused(visitor.send("GET", "/v1/tasks:page"), 403, "no rule gives nobody anything")


@given(st.binary(max_size=400), st.sampled_from([COOKIE, SECURE_COOKIE]), st.booleans())
@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_cookie(served: Served, value: bytes, name: str, encoded: bool) -> None:
    """Is refused, whatever it is, and is no error of the gateway."""
    text = base64.urlsafe_b64encode(value) if encoded else value.replace(b"\n", b"")
    for cookie in (name.encode() + b"=" + text, text, b"a=b;" + name.encode() + b"=" + text + b";;="):
        for method in (b"GET", b"DELETE"):
            request = method + b" /session HTTP/1.1\r\nHost: x\r\nCookie: " + cookie + b"\r\n\r\n"
            assert answer_to(served.gateway.url, request) in (b"400", b"401", b"431", b"")


@given(st.text(st.characters(codec="latin-1"), max_size=60), st.sampled_from(["origin", "sec-fetch-site"]))
@settings(max_examples=examples(100), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_word_of_where_it_comes_from(alice: Visitor, word: str, name: str) -> None:
    """Never an error, and never allowed but for the one that is right."""
    line = re.sub(r"[\x00-\x20\x7f-\xa0]", "", word)
    texts = {name: line, "cookie": alice.cookie, "x-tally-csrf": alice.csrf}
    headers = {key.encode(): value.encode("latin-1") for key, value in texts.items()}
    answer = alice.http.post("/v1/tasks/none/cancel", headers=headers)
    assert answer.status_code in (400, 403)


# -- keys and times


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def sent(made: Sessions, authorization: str = "Bearer t") -> SentCookie:
    header = made.header(made.begin(authorization, secure=False))
    name, _, text = header.partition(";")[0].partition("=")
    return SentCookie(name, text)


def test_a_session_goes_on_at_another_gateway(client: Client, store: EtcdStore, tmp_path: Path) -> None:
    """That has the same key: behind a Service, each request may come to another one."""
    keys = tmp_path / "keys"
    keys.write_text("ab" * 32)
    with visiting("http://127.0.0.1:1") as alice:
        cluster = client.keys.cluster
        with (
            serving(store, cluster, tmp_path, session_keys=keys) as one,
            serving(store, cluster, tmp_path, session_keys=keys) as two,
            serving(store, cluster, tmp_path) as other,
        ):
            alice.http.base_url = httpx.URL(one.gateway.url)
            assert alice.sign_in(other.tokens["alice"]).status_code == 201
            kept = alice.cookie
            for gateway, status in ((two, 200), (one, 200), (other, 401)):
                alice.http.base_url, alice.cookie = httpx.URL(gateway.gateway.url), kept
                assert alice.send("GET", "/session").status_code == status
            alice.http.base_url, alice.cookie = httpx.URL(two.gateway.url), kept
            assert alice.change("/v1/tasks/none/cancel").status_code == 404, "its secret holds there, too"


def test_keys_are_replaced_without_an_end_of_sessions(tmp_path: Path) -> None:
    """A new key is added, then comes first, and the old one goes when all sessions of it have ended."""
    file, old, new = tmp_path / "keys", "ab" * 32, "CD" * 32
    file.write_text(f"{old}\n")
    made = Sessions(file, "c", Hands())
    before = sent(made)
    file.write_text(f"{new}\n{old}\n")
    assert made.opened(before) is not None
    after = sent(made)
    file.write_text(new)
    assert (made.opened(before), made.opened(after) is not None) == (None, True)
    assert Sessions(file, "other", Hands()).opened(after) is None, "a cookie is of one installation"
    file.write_text("short")
    assert made.opened(after) is not None
    assert "64 hexadecimal digits" in made.problems()["gateway_session_key_file"]
    for text in ("", "short", "x" * 64, "\xe9" * 64):
        file.write_text(text)
        with pytest.raises(InvalidField, match=r"gateway_session_key_file.*64 hexadecimal digits"):
            Sessions(file, "c", Hands())
    with pytest.raises(InvalidField, match="cannot be read"):
        Sessions(tmp_path / "none", "c", Hands())


def test_a_session_has_its_time() -> None:
    """It ends when nothing is asked for long enough, and in any case."""
    clock = Hands()
    made = Sessions(None, "c", clock)
    cookie, begun = sent(made), clock.now
    clock.now = begun + sessions.IDLE_SECONDS - 1
    session = made.opened(cookie)
    assert session is not None
    assert session.authorization == "Bearer t"
    clock.now += 1
    assert made.opened(cookie) is None
    clock.now = begun
    assert made.renewed(session) is None, "not yet"
    while clock.now < begun + sessions.LONGEST_SECONDS - sessions.RENEW_SECONDS:
        clock.now += sessions.RENEW_SECONDS
        renewed = made.renewed(session)
        assert renewed is not None
        text = made.header(renewed).partition(";")[0].partition("=")[2]
        session = made.opened(SentCookie(COOKIE, text))
        assert session is not None
    assert session.secret == made.opened(SentCookie(COOKIE, text)).secret  # type: ignore[union-attr]  # seen above
    clock.now += sessions.RENEW_SECONDS
    assert made.opened(SentCookie(COOKIE, text)) is None, "however often it was renewed"
    clock.now = begun - sessions.AHEAD_SECONDS - 1
    assert made.opened(cookie) is None, "of a clock that is far ahead"


def test_a_session_that_is_used_is_renewed(alice: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """By any request that it signs in, also one that is refused for another reason."""
    kept = alice.cookie
    assert "set-cookie" not in alice.send("GET", "/session").headers
    monkeypatch.setattr(sessions, "RENEW_SECONDS", 0.0)
    assert alice.send("GET", "/v1/tasks/none").status_code == 404
    assert alice.cookie != kept
    assert alice.send("GET", "/session").json()["csrf"] == alice.csrf
    kept = alice.cookie
    assert alice.send("POST", CANCEL).status_code == 403
    assert alice.cookie == kept, "what another site may have sent does not keep it alive"


# -- pages of tasks


def test_pages_have_what_their_reader_may_read(client: Client, as_: As, put_status: PutStatus) -> None:
    """Whole, in order, each task once; and nothing of others, in any order."""
    for n in range(12):
        client.submit({**TASK, "id": f"t{n:02}", "owner": "vision" if n % 3 else "speech"})
    revision = put_status("t11", State.WAITING_RETRY, on_hold=True, owner="vision")
    assert (
        as_("alice").get("/v1/tasks:page", params={"min_revision": revision, "wait": 30}).status_code == 200
    )
    mine = [f"t{n:02}" for n in range(12) if n % 3]
    for name, sort, wanted in (
        ("alice", "name", mine),
        ("alice", "-name", mine[::-1]),
        ("alice", "submitted", mine),
        ("watcher", "-submitted", [f"t{n:02}" for n in range(12)][::-1]),
        ("watcher", "pool", [f"t{n:02}" for n in range(12)]),
    ):
        http, found, token = as_(name), list[str](), ""
        while True:
            query = {"sort": sort, "limit": "3", **({"continue": token} if token else {})}
            page = http.get("/v1/tasks:page", params=query).json()
            found += [task["id"] for task in page["items"]]
            token = page["continue"]
            if not token:
                break
            assert len(page["items"]) == 3
        assert found == wanted, (name, sort)
    bob = as_("bob").get("/v1/tasks:page", params={"owner": "vision"}).json()
    assert (bob["items"], bob["continue"]) == ([], "")
    for query, wanted in (
        ({"search": "t1", "state": "waiting"}, ["t10", "t11"]),
        ({"state": "on-hold"}, ["t11"]),
        ({"state": "running,on-hold", "limit": "1"}, ["t11"]),
        ({"label": "a=b"}, []),
    ):
        picked = as_("alice").get("/v1/tasks:page", params=query).json()
        assert ([task["id"] for task in picked["items"]], picked["continue"]) == (wanted, "")
    first = as_("alice").get("/v1/tasks:page", params={"limit": 1}).json()["continue"]
    wrong = as_("alice").get("/v1/tasks:page", params={"sort": "pool", "continue": first})
    assert refused(wrong, 400, "keep that sort")
