"""etcd3-py's synchronous client, without the aiohttp that its package imports for the asynchronous one.

`import etcd3` takes half a second of CPU. More than half of it is for aiohttp, which Tally does not use, and
every `tally` command would pay for it. So the package is imported with a placeholder for its asynchronous
client. That client is imported when it is first used: for other code in this process, `etcd3.AioClient` is
unchanged.

etcd3-py brings 31 MB of libraries, too much for an installation of the client alone. `BareClient` replaces it
there. Each extra for replicas (kubernetes, docker, dev) installs it.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import requests

_ASYNCHRONOUS = "etcd3.aio_client"


def _import_without_aiohttp() -> Any:
    placeholder: Any = ModuleType(_ASYNCHRONOUS)
    placeholder.AioClient = None
    sys.modules[_ASYNCHRONOUS] = placeholder
    try:
        package: Any = importlib.import_module("etcd3")
    finally:
        del sys.modules[_ASYNCHRONOUS]

    def when_asked_for(name: str) -> Any:
        if name == "AioClient":
            return importlib.import_module(_ASYNCHRONOUS).AioClient
        raise AttributeError(f"module 'etcd3' has no attribute {name!r}")

    del package.AioClient
    package.__getattr__ = when_asked_for
    return package


class BareVersion(NamedTuple):
    """Replaces semantic_version.Version, which etcd3-py uses for versions."""

    major: int
    minor: int

    @classmethod
    def of(cls, text: str) -> BareVersion:
        """The first two numbers of a version. Raises ValueError if `text` is not a version."""
        major, minor = map(int, text.split(".")[:2])
        return cls(major, minor)


class BareClient(ABC):
    """The part of etcd3-py's client that `Connection` uses: session, URLs, the prefix of the version."""

    server_version_sem: BareVersion

    def __init__(
        self, *, host: str, port: int, protocol: str, cert: tuple[str, ...], verify: bool | str
    ) -> None:
        self._session = requests.Session()
        self._session.cert = (cert[0], cert[1]) if cert else None
        self._session.verify = verify
        self._base = f"{protocol}://{host}:{port}"
        self._retrieve_version()
        self._get_prefix()

    @abstractmethod
    def _retrieve_version(self) -> None: ...

    def _get_prefix(self) -> None:
        minor = self.server_version_sem[:2]
        self._prefix = "/v3" if minor >= (3, 4) else "/v3beta" if minor == (3, 3) else "/v3alpha"

    def _url(self, path: str, prefix: bool = True) -> str:
        return f"{self._base}{self._prefix if prefix else ''}{path}"

    def call_rpc(self, path: str, data: bytes, *, raw: bool, **options: Any) -> Any:
        """Post, and return the response. `raw` must be true: Tally uses no other form."""
        assert raw
        response = self._post(self._url(path), data=data, **options)
        self._raise_for_status(response)
        return response

    @abstractmethod
    def _post(self, url: str, data: bytes, **options: Any) -> Any: ...

    @abstractmethod
    def _raise_for_status(self, response: Any) -> None: ...

    def close(self) -> None:
        """End the session."""
        self._session.close()


@cache
def _client() -> tuple[Any, Callable[[str], Any]]:
    try:
        package = sys.modules.get("etcd3") or _import_without_aiohttp()
    except ModuleNotFoundError as error:
        if error.name != "etcd3":
            raise
        return BareClient, BareVersion.of
    return package.Client, importlib.import_module("semantic_version").Version


Client: Any = _client()[0]
version_of: Callable[[str], Any] = _client()[1]
