"""An etcd that asks for users, whose roles `tally auth init` made; one for all tests of a worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.client import Client
from controller.dev.etcd import EtcdBinary, EtcdProcess
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from tests.cli.conftest import Answer
from tests.support.etcd import QUICK_ELECTION, EtcdFactory

ROLES = ("controller", "reader", "user", "admin", "gateway", "notifier")
"""Each is also the name of a user who has that role."""
QUICK_SIGN_IN = "--bcrypt-cost=4"
Run = Callable[..., Answer]


def run_tally(*arguments: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Answer:
    """A command in this process, with these settings and none of the machine's; a traceback fails the
    test.
    """
    unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("TALLY_")}
    result = CliRunner(env={**unset, "HOME": "/nonexistent", **(env or {})}).invoke(
        app, list(arguments), input=stdin
    )
    assert "Traceback" not in result.stdout + result.stderr
    return Answer(result.exit_code, result.stdout, result.stderr)


class Guarded:
    """An etcd with authentication, and users of all roles of the cluster `name`."""

    def __init__(self, server: EtcdProcess, factory: EtcdFactory, folder: Path, name: str) -> None:
        self.server = server
        self.keys = Keys(name)
        self.folder = folder
        self._factory = factory

    def settings(self, user: str) -> dict[str, str]:
        """The environment of a command that is called by that user."""
        return {
            "TALLY_ETCD": self.server.url,
            "TALLY_CLUSTER": self.keys.cluster,
            "TALLY_USER": user,
            "TALLY_PASSWORD_FILE": str(self.folder / user),
        }

    def tally(self, user: str, *arguments: str, stdin: str | None = None) -> Answer:
        """A command, called by that user."""
        return run_tally(*arguments, env=self.settings(user), stdin=stdin)

    def store(self, user: str) -> EtcdStore:
        """etcd itself, signed in as that user."""
        return self._factory.store(self.server.url, user=user, password_file=str(self.folder / user))

    def client(self, user: str) -> Client:
        """Tally's client, signed in as that user; its store is closed with the factory."""
        return Client.of_store(self.store(user), cluster=self.keys.cluster)

    def init(self, *arguments: str) -> Answer:
        """`tally auth init` as root, for this cluster, with users of all its roles."""
        members = [argument for role in ROLES for argument in ("--grant", f"{role}={role}")]
        return self.tally("root", "auth", "init", *members, "--passwords", str(self.folder), *arguments)


@pytest.fixture(scope="session")
def _guarded_etcd(etcd_binary: EtcdBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    factory = EtcdFactory(etcd_binary, folder)
    server = factory.start(extra_args=(*QUICK_ELECTION, QUICK_SIGN_IN), unsafe_no_fsync=True)
    guarded = Guarded(server, factory, folder / "passwords", "first")
    members = [argument for role in ROLES for argument in ("--grant", f"{role}={role}")]
    answer = run_tally(
        "auth",
        "init",
        "--etcd",
        server.url,
        "--cluster",
        "first",
        "--grant",
        "root=root",
        *members,
        "--passwords",
        str(guarded.folder),
        "--enable",
    )
    assert answer.exit_code == 0, answer.err
    yield guarded
    factory.close()


@pytest.fixture
def guarded(_guarded_etcd: Guarded, cluster_name: str, etcd_factory: EtcdFactory) -> Guarded:
    """That etcd, and a cluster of the test's own in it, of which the users have their roles."""
    own = Guarded(_guarded_etcd.server, etcd_factory, _guarded_etcd.folder, cluster_name)
    answer = own.init()
    assert answer.exit_code == 0, answer.err
    return own
