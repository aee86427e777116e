"""Which addresses a receiver's name may lead to.

Whoever controls a receiver's name chooses its addresses. So every address is judged after the name is
resolved, and the connection goes to exactly the address that was judged: the name is not resolved again.

A name with one refused address is refused as a whole. No honest receiver is both public and inside, and
which of its addresses is taken must not depend on the order of an answer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import SOCK_STREAM, gaierror
from typing import Any, Protocol

from controller.errors import TallyError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Besides what `is_global` refuses, whose list differs between versions of Python.
_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this network
            "100.64.0.0/10",  # shared by carriers (CGNAT)
            "168.63.129.16/32",  # Azure's platform, in every machine there
            "192.0.0.0/24",  # protocol assignments; metadata in Oracle's cloud
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "198.18.0.0/15",  # benchmarking
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
            "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)
# Nothing else of IPv6 is assigned to the public: not ::/8 with its mapped and compatible IPv4, not 64:ff9b::.
_PUBLIC_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")


class AddressRefused(TallyError):
    """The name leads to an address that must not be connected to. The error does not show the address.

    What it says is shown to those who named the receiver, who need not learn what names mean inside.
    """


class NoAddress(TallyError):
    """The name leads nowhere now."""


class Resolver(Protocol):
    """What resolves names, as `socket.getaddrinfo` does. Raises OSError."""

    def __call__(
        self, host: str, port: int, *, type: int
    ) -> Sequence[tuple[Any, Any, int, str, tuple[Any, ...]]]:
        """See `socket.getaddrinfo`."""
        ...


def usable_addresses(
    host: str, port: int, allowed: Sequence[Network], resolve: Resolver
) -> tuple[Address, ...]:
    """The addresses of a name or literal, in the resolver's order, if all of them may be used.

    `allowed` has the networks that may be used though they are not public. Raises AddressRefused, NoAddress.
    """
    try:
        answers = resolve(host, port, type=SOCK_STREAM)
    except gaierror as error:
        raise NoAddress(f"{host} has no address: {error.strerror or 'it cannot be resolved'}") from error
    except (OSError, UnicodeError, ValueError) as error:
        raise NoAddress(f"{host} cannot be resolved: {type(error).__name__}") from error
    found = dict.fromkeys(_address(host, sockaddr) for *_, sockaddr in answers)
    if not found:
        raise NoAddress(f"{host} has no address")
    for address in found:
        if not is_usable(address, allowed):
            raise AddressRefused(
                f"{host} has an address that is not public, and the operator has not allowed its network"
            )
    return tuple(found)


def is_usable(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether a connection may go there.

    An IPv4 address inside an IPv6 one is judged too: allowing the outer network allows no inner one.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False
    return all(
        _is_public(each) or any(each.version == net.version and each in net for net in allowed)
        for each in (address, *_inner(address))
    )


def _address(host: str, sockaddr: tuple[Any, ...]) -> Address:
    """What a resolver has answered. A scope of its own shows as `scope_id`."""
    text = str(sockaddr[0])
    if len(sockaddr) > 3 and sockaddr[3] and "%" not in text:
        text = f"{text}%{sockaddr[3]}"
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise NoAddress(f"{host} has no address: its resolver answers none") from error


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _PUBLIC_IPV6:
        return False
    refused = any(address.version == net.version and address in net for net in _REFUSED)
    return address.is_global and not address.is_multicast and not address.is_reserved and not refused


def _inner(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that a gateway or the kernel may read out of an IPv6 address."""
    if isinstance(address, IPv4Address):
        return
    number = int(address)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    # The local prefix may be cut in other ways too (RFC 6052); the usual one has the address at its end.
    in_last_bits = address in _NAT64 or address in _NAT64_LOCAL or address in _COMPATIBLE
    if in_last_bits and number > 1:  # `::` and `::1` are no IPv4
        yield IPv4Address(number & 0xFFFFFFFF)
