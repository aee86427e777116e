"""No spelling and no answer of a resolver leads to an address that is refused."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model.notify_url import parse_notify_url
from controller.errors import InvalidField
from controller.notifier.addresses import (
    AddressRefused,
    NoAddress,
    is_usable,
    usable_addresses,
)

Answers = list[tuple[Any, Any, int, str, tuple[Any, ...]]]
PRIVATE_IPV4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
PRIVATE_IPV6 = [
    IPv6Network(text)
    for text in (
        "::/128", "::1/128", "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64",
        "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "fc00::/7", "fe80::/10",
        "fec0::/10", "ff00::/8",
    )
]  # fmt: skip


def answering(*addresses: str) -> Any:
    """A resolver that answers these, whatever it is asked."""

    def resolve(host: str, port: int, *, type: int) -> Answers:
        return [
            (socket.AF_INET6, type, 6, "", (text, port, 0, 0))
            if ":" in text
            else (socket.AF_INET, type, 6, "", (text, port))
            for text in addresses
        ]

    return resolve


def inside(networks: Sequence[IPv4Network] | Sequence[IPv6Network]) -> st.SearchStrategy[Any]:
    each = [st.integers(int(net[0]), int(net[-1])).map(type(net[0])) for net in networks]
    return st.one_of(each)


private_ipv4 = inside(PRIVATE_IPV4)


def embedded(address: IPv4Address) -> list[IPv6Address]:
    """The forms in which IPv6 carries an IPv4 address."""
    number = int(address)
    return [
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(number),
        IPv6Address(0x2002 << 112 | number << 80 | 1),
        IPv6Address((0x64 << 112 | 0xFF9B << 96) | number),
        IPv6Address((0x64 << 112 | 0xFF9B << 96 | 1 << 80) | number),
        IPv6Address(0x20010000 << 96 | number << 64 | (0xFFFFFFFF ^ 0x08080808)),
        IPv6Address(0x20010000 << 96 | 0x08080808 << 64 | (0xFFFFFFFF ^ number)),
    ]


def spellings(address: IPv4Address) -> list[str]:
    """Ways to write an IPv4 address that one resolver or another takes."""
    a, b, c, d = address.packed
    number = int(address)
    usual = str(address)
    return [
        usual, f"{usual}.", str(number), f"{number:#x}", f"0{number:o}", f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{c << 8 | d}", f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"{a:#x}.{number & 0xFFFFFF}", usual.translate({48 + each: 0xFF10 + each for each in range(10)}),
        usual.replace(".", "。"), usual.replace(".", "．"), f"[::{usual}]",
        f"[::ffff:{usual}]", f"::ffff:{usual}",
        f"[64:ff9b::{usual}]", f"[{IPv6Address(0x2002 << 112 | number << 80)}]",
        *(f"[{each}]" for each in embedded(address)), *map(str, embedded(address)),
    ]  # fmt: skip


@given(private_ipv4.flatmap(lambda address: st.sampled_from(spellings(address))))
def test_no_spelling_of_a_private_address_leads_to_it(host: str) -> None:
    """By the real resolver, and by the URL first."""
    with pytest.raises((AddressRefused, NoAddress)):
        usable_addresses(host, 443, (), numeric_only)
    try:
        target = parse_notify_url(f"https://{host}/", "notify")
    except InvalidField:
        return
    with pytest.raises((AddressRefused, NoAddress)):
        usable_addresses(target.host, 443, (), numeric_only)


def numeric_only(host: str, port: int, *, type: int) -> Answers:
    """The machine's resolver, which asks nobody."""
    return socket.getaddrinfo(host, port, type=type, flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0", "localhost."]
)
def test_the_machines_own_resolver_is_judged(host: str) -> None:
    with pytest.raises((AddressRefused, NoAddress)):
        usable_addresses(host, 443, (), socket.getaddrinfo)


@given(
    private_ipv4 | inside(PRIVATE_IPV6) | private_ipv4.flatmap(lambda each: st.sampled_from(embedded(each)))
)
def test_whatever_a_resolver_answers_nothing_refused_is_returned(address: IPv4Address | IPv6Address) -> None:
    with pytest.raises(AddressRefused):
        usable_addresses("hooks.example.org", 443, (), answering(str(address)))
    with pytest.raises(AddressRefused):  # a public one besides does not help
        usable_addresses("hooks.example.org", 443, (), answering("8.8.8.8", str(address)))


@pytest.mark.parametrize("network", [*PRIVATE_IPV4, *PRIVATE_IPV6], ids=str)
def test_each_refused_network_is_refused(network: IPv4Network | IPv6Network) -> None:
    """Its ends, its middle, and where 8.8.8.8 is in it."""
    first, last = int(network[0]), int(network[-1])
    numbers = {first, last, (first + last) // 2, first | 0x08080808 & (last - first)}
    numbers |= (
        {first | 0x08080808 << 80, first | 0x08080808 << 64} if network == IPv6Network("2002::/16") else set()
    )
    for number in numbers:
        assert not is_usable(type(network[0])(number), ())


@given(st.ip_addresses())
def test_what_is_usable_is_public(address: IPv4Address | IPv6Address) -> None:
    """Also by the judgement of the library."""
    if is_usable(address, ()):
        assert address.is_global
        assert not any(
            (address.is_multicast, address.is_reserved, address.is_link_local, address.is_loopback)
        )


def test_public_addresses_are_returned_in_order_and_once() -> None:
    resolve = answering("2606:4700::1", "8.8.8.8", "2606:4700::1", "1.1.1.1")
    expected = (ip_address("2606:4700::1"), ip_address("8.8.8.8"), ip_address("1.1.1.1"))
    assert usable_addresses("hooks.example.org", 443, (), resolve) == expected


@pytest.mark.parametrize(
    ("network", "address", "usable"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "192.168.0.1", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", False),
        ("::ffff:0:0/96", "::ffff:10.1.2.3", False),
        ("::ffff:0:0/96", "::ffff:8.8.8.8", True),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8", True),
        ("64:ff9b::/96", "64:ff9b::169.254.169.254", False),
        ("64:ff9b:1::/48", "64:ff9b:1::127.0.0.1", False),
        ("2002::/16", "2002:7f00:1::1", False),
        ("::/0", "::7f00:1", False),
        ("::1/128", "::1", True),
        ("fc00::/7", "fd00:ec2::254", True),
        ("fe80::/10", "fe80::1", True),
        ("fe80::/10", "fe80::1%eth0", False),
        ("2000::/3", "2606:4700::1%eth0", False),
    ],
)
def test_an_allowed_network_allows_itself_alone(network: str, address: str, usable: bool) -> None:
    assert is_usable(ip_address(address), (ip_network(network),)) is usable


def test_a_scope_beside_the_address_is_seen() -> None:
    def resolve(host: str, port: int, *, type: int) -> Answers:
        return [(socket.AF_INET6, type, 6, "", ("fe80::1", port, 0, 3))]

    with pytest.raises(AddressRefused):
        usable_addresses("hooks.example.org", 443, (ip_network("fe80::/10"),), resolve)


def test_the_refusal_does_not_tell_what_a_name_means_inside() -> None:
    with pytest.raises(AddressRefused) as refused:
        usable_addresses("db.internal", 443, (), answering("10.20.30.40"))
    assert "10.20" not in str(refused.value)
    assert "db.internal" in str(refused.value)


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError("x"),
        UnicodeError("x"),
        ValueError("x"),
    ],
)
def test_a_resolver_that_fails_is_no_address(error: Exception) -> None:
    def resolve(host: str, port: int, *, type: int) -> Answers:
        raise error

    with pytest.raises(NoAddress, match=r"^hooks\.example\.org "):
        usable_addresses("hooks.example.org", 443, (), resolve)


@pytest.mark.parametrize("resolve", [answering(), answering("nonsense")])
def test_an_answer_without_an_address_is_no_address(resolve: Any) -> None:
    with pytest.raises(NoAddress):
        usable_addresses("hooks.example.org", 443, (), resolve)
