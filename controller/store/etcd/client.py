"""etcd3-py's synchronous client, without the aiohttp that its package imports for the other one.

`import etcd3` takes half a second of CPU, more than half of it for aiohttp, which nothing here uses; every
`tally` command would pay for it. So the package is imported with a placeholder for its asynchronous client,
which is then left to be imported when somebody asks for it: to all others in this process, `etcd3.AioClient`
is what it always was.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

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


Client: Any = (sys.modules.get("etcd3") or _import_without_aiohttp()).Client
