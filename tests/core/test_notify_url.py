"""URLs of receivers: one spelling, one meaning, and no more than a URL."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.core.model.notify_url import MAX_URL_CHARACTERS, NotifyUrl, parse_notify_url
from controller.errors import InvalidField


@pytest.mark.parametrize(
    ("url", "parts", "authority"),
    [
        ("https://a.example", NotifyUrl("https", "a.example", 443, "/"), "a.example"),
        ("HTTPS://A.Example:443/x", NotifyUrl("https", "a.example", 443, "/x"), "a.example"),
        ("https://a.example:8443?q=1", NotifyUrl("https", "a.example", 8443, "/?q=1"), "a.example:8443"),
        ("https://a.example/p%20q?x=%23", NotifyUrl("https", "a.example", 443, "/p%20q?x=%23"), "a.example"),
        ("https://192.0.2.7/", NotifyUrl("https", "192.0.2.7", 443, "/"), "192.0.2.7"),
        ("https://[2001:DB8:0::1]:44/", NotifyUrl("https", "2001:db8::1", 44, "/"), "[2001:db8::1]:44"),
        (
            "https://xn--bcher-kva.example/",
            NotifyUrl("https", "xn--bcher-kva.example", 443, "/"),
            "xn--bcher-kva.example",
        ),
        ("https://hooks", NotifyUrl("https", "hooks", 443, "/"), "hooks"),
    ],
)
def test_parts_of_a_url(url: str, parts: NotifyUrl, authority: str) -> None:
    assert parse_notify_url(url, "notify") == parts
    assert parts.authority == authority


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (None, "expected the URL"),
        (7, "expected the URL"),
        ("", "expected the URL"),
        ("http://a.example/", "must begin with https"),
        ("ftp://a.example/", "must begin with https"),
        ("//a.example/", "must begin with https"),
        ("a.example", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("https://user@a.example/", "user or password"),
        ("https://@a.example/", "user or password"),
        ("https://a.example:80@b.example/", "user or password"),
        ("https://a.example/#x", "fragment"),
        ("https://a.example/#", "fragment"),
        ("https://a.example:0/", "port from 1 to 65535"),
        ("https://a.example:/", "port from 1 to 65535"),
        ("https://a.example:65536/", "host or port is broken"),
        ("https://a.example:+1/", "host or port is broken"),
        ("https://a.example:1_0/", "host or port is broken"),
        ("https:///x", "no DNS name"),
        ("https://.a.example/", "no DNS name"),
        ("https://a..example/", "no DNS name"),
        ("https://-a.example/", "no DNS name"),
        ("https://a_b.example/", "no DNS name"),
        ("https://a%2eexample/", "no DNS name"),
        (f"https://{'a' * 64}.example/", "no DNS name"),
        (f"https://{'a.' * 130}example/", "no DNS name"),
        ("https://a.example./", "ends with a dot"),
        ("https://a.example/ x", "printable ASCII"),
        ("https://a.example/\r\nHost: b", "printable ASCII"),
        ("https://a.exa\tmple/", "printable ASCII"),
        ("https://b.example\\@a.example/", "printable ASCII"),
        ("https://bücher.example/", "Punycode"),
        ("https://１２７.0.0.1/", "Punycode"),
        ("https://127。0。0。1/", "Punycode"),
        ("https://аpple.example/", "Punycode"),  # a Cyrillic letter
        ("https://0/", "no IPv4 address"),
        ("https://127.1/", "no IPv4 address"),
        ("https://127.0.0.1./", "ends with a dot"),
        ("https://2130706433/", "no IPv4 address"),
        ("https://0x7f.1/", "no IPv4 address"),
        ("https://0x7f000001/", "no IPv4 address"),
        ("https://a.0x/", "no IPv4 address"),
        ("https://0177.0.0.1/", "no IPv4 address"),
        ("https://1.2.3.4.5/", "no IPv4 address"),
        ("https://1.2.3.256/", "no IPv4 address"),
        ("https://[::1/", "host or port is broken"),
        ("https://[::1]x/", "host or port is broken|no address"),
        ("https://[1.2.3.4]/", "host or port is broken|no IPv6 address"),
        ("https://[fe80::1%25eth0]/", "host or port is broken|no address"),
        ("https://[v1.a]/", "host or port is broken|no IPv6 address"),
        (f"https://a.example/{'x' * MAX_URL_CHARACTERS}", "at most 2000"),
    ],
)
def test_what_is_refused_is_named(url: object, problem: str) -> None:
    with pytest.raises(InvalidField, match=rf"^pool\.notify: .*({problem})") as refused:
        parse_notify_url(url, "pool.notify")
    assert refused.value.field == "pool.notify"


def test_http_is_accepted_where_the_operator_allows_it() -> None:
    assert parse_notify_url("http://a.example/x", "notify", allow_http=True) == NotifyUrl(
        "http", "a.example", 80, "/x"
    )
    with pytest.raises(InvalidField, match="must begin with https"):
        parse_notify_url("ftp://a.example/x", "notify", allow_http=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://u:s3cret@a.example/",
        "https://a..b/s3cret",
        "https://a.example/s3cret#",
        "http://a.example/s3cret",
    ],
)
def test_no_secret_is_shown(url: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_notify_url(url, "notify")
    assert "s3cret" not in str(refused.value)


@given(st.text(max_size=60).map(lambda text: f"https://{text}") | st.text(max_size=60))
@example("https://[")
@example("https://[]/")
def test_whatever_comes_is_parsed_or_refused(url: str) -> None:
    try:
        parts = parse_notify_url(url, "notify")
    except InvalidField:
        return
    assert parts.path.startswith("/")
    assert parse_notify_url(f"https://{parts.authority}{parts.path}", "notify") == parts


@given(st.ip_addresses())
def test_an_address_in_its_usual_spelling_is_that_address(address: IPv4Address | IPv6Address) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    assert ip_address(parse_notify_url(f"https://{host}/", "notify").host) == address
