"""Without etcd3-py, the store behaves as with it: `BareClient` stands in for the library's client."""

from __future__ import annotations

from typing import Any

import pytest
from etcd3 import Client

from controller.store.etcd.client import BareClient, BareVersion


class Library(Client):  # type: ignore[misc]  # the library has no types
    """etcd3-py's client, without the request for the version."""

    def _retrieve_version(self) -> None:
        from semantic_version import Version

        self.server_version_sem = self.cluster_version_sem = Version("3.4.0")


class Bare(BareClient):
    def _retrieve_version(self) -> None:
        self.server_version_sem = BareVersion(3, 4)

    def _post(self, url: str, data: bytes, **options: Any) -> Any:
        raise AssertionError("nothing is sent here")

    def _raise_for_status(self, response: Any) -> None:
        raise AssertionError("nothing is sent here")


@pytest.mark.parametrize("version", ["3.2.0", "3.3.9", "3.4.23", "3.5.30", "3.6.1"])
@pytest.mark.parametrize("host", ["127.0.0.1", "etcd.example", "[::1]"])
def test_they_agree_on_urls(version: str, host: str) -> None:
    """On the prefix of each version's paths, and on none where none is asked for."""
    from semantic_version import Version

    library = Library(host=host, port=2379, protocol="https", cert=(), verify=True)
    library.server_version_sem = library.cluster_version_sem = Version(version)
    library._get_prefix()
    bare = Bare(host=host, port=2379, protocol="https", cert=(), verify=True)
    bare.server_version_sem = BareVersion.of(version)
    bare._get_prefix()
    assert bare._url("/kv/txn") == library._url("/kv/txn")
    assert bare._url("/version", prefix=False) == library._url("/version", prefix=False)


@pytest.mark.parametrize("text", ["", "3", "three.four", "not found"])
def test_what_is_no_version_is_told(text: str) -> None:
    """As the library's versions do: `connect` says that this is no etcd."""
    with pytest.raises(ValueError):
        BareVersion.of(text)
