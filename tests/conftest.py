"""Fixtures that several folders share."""

from __future__ import annotations

import functools
import itertools
import os
import platform
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
import typer.testing
from hypothesis import HealthCheck, settings

from controller.dev.etcd import EtcdBinary, EtcdNotFound, EtcdProcess, find_etcd, identify
from controller.store.etcd.store import EtcdStore
from tests.support.docker import PrivateDocker, private_docker
from tests.support.etcd import EtcdFactory
from tests.support.examples import examples
from tests.support.proxy import Proxy
from tests.support.tls import Authority

# A busy machine is no fault of the code's.
settings.register_profile(
    "tally", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tally")

# Each run of a command would build the tree of all commands anew, which takes 30 ms of computing; each client
# of httpx would read the certificates of all authorities, in 18 ms. Neither ever differs.
typer.testing._get_command = functools.cache(typer.main.get_command)  # type: ignore[attr-defined]
_certificates = functools.cache(httpx.create_ssl_context)


def _context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    if verify is True and cert is None and not trust_env:
        return _certificates(trust_env=False)
    return httpx.create_ssl_context(verify, cert, trust_env)


httpx._transports.default.create_ssl_context = _context  # type: ignore[attr-defined]

# Who is started in the background by a script ignores Ctrl-C, and by nohup a closed terminal; and so would
# all that tests start and interrupt. A handler goes on only here: what is started gets the default.
# xdist starts its workers after this, and so they have the default, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN or "PYTEST_XDIST_WORKER" in os.environ:
    signal.signal(signal.SIGHUP, lambda *_: None)

_prefixes = itertools.count()


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """A test that fills the stack (a document nested too deeply) may have the collector run at its bottom.

    The finalizers of what other tests left behind have no stack there, nor has pytest to say so, which would
    fail the test.
    """
    told = sys.unraisablehook
    sys.unraisablehook = lambda ignored: (
        None if isinstance(ignored.exc_value, RecursionError) else told(ignored)
    )


def _chosen_etcd() -> EtcdBinary:
    """The etcd that TALLY_TEST_ETCD names, else the newest. Raises EtcdNotFound."""
    if path := os.environ.get("TALLY_TEST_ETCD"):
        binary = identify(path)
        assert binary is not None, f"TALLY_TEST_ETCD: {path} is no etcd that runs here"
        return binary
    return find_etcd()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests ran on: quiet runs show no header."""
    try:
        etcd = str(_chosen_etcd())
    except EtcdNotFound:
        etcd = "no etcd"
    terminalreporter.write_line(f"on Python {platform.python_version()}, {etcd}")


@pytest.fixture(scope="session")
def etcd_binary() -> EtcdBinary:
    """The etcd that tests run; without one they are skipped."""
    try:
        return _chosen_etcd()
    except EtcdNotFound as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def etcd(etcd_binary: EtcdBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """One etcd for the whole session; tests keep apart by their prefixes and leave it running."""
    factory = EtcdFactory(etcd_binary, tmp_path_factory.mktemp("etcd"))
    # The time-outs, and so the shortest lease, are etcd's own. It is never killed: what it does not sync
    # would be lost.
    yield factory.start(extra_args=(), unsafe_no_fsync=True)
    factory.close()


@pytest.fixture
def etcd_factory(etcd_binary: EtcdBinary, tmp_path: Path) -> Iterator[EtcdFactory]:
    """Makes etcds that the test may treat badly."""
    factory = EtcdFactory(etcd_binary, tmp_path)
    yield factory
    factory.close()


@pytest.fixture
def store(etcd: EtcdProcess, etcd_factory: EtcdFactory) -> EtcdStore:
    """A store on the session's etcd."""
    return etcd_factory.store(etcd.url)


@pytest.fixture
def cluster_name() -> str:
    """A cluster's name that no other test uses, in any worker."""
    return f"t{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}-{os.getpid()}-{next(_prefixes)}"


@pytest.fixture
def prefix(cluster_name: str) -> str:
    """The key prefix of that cluster."""
    return f"/tally/{cluster_name}/"


@pytest.fixture(scope="session")
def docker() -> Iterator[PrivateDocker]:
    """One Docker daemon for the whole session; what uses it belongs to the xdist group "docker", so that
    one worker has it.
    """
    with private_docker() as running:
        yield running


@pytest.fixture
def proxy_to() -> Iterator[Callable[[int], Proxy]]:
    """Makes proxies to a port of 127.0.0.1."""
    proxies: list[Proxy] = []

    def make(target: int) -> Proxy:
        proxies.append(Proxy(target))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority of the test's own."""
    return Authority(tmp_path / "authority")
