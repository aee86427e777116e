"""Signing in, rights, certificates, and that all of them may be rotated while Tally runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.clock import SystemClock
from controller.core.model.op import Op
from controller.dev.etcd import EtcdProcess
from controller.store.base import Committed, Guard, Put, Store, StoreDenied, StoreUnavailable, Transaction
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from tests.support.etcd import EtcdFactory, admin, enable_authentication, in_seconds
from tests.support.proxy import Proxy
from tests.support.tls import Authority
from tests.support.waiting import wait_until
from tests.support.watching import WatchReader


def put(store: Store, key: str) -> Committed:
    # by which a copy that was sent again, as on a busy machine, knows its predecessor
    value = f'{{"op":"{key}"}}'.encode()
    result = store.commit(Transaction((Guard(key, 0),), (Put(key, value),), Op(key)), deadline=in_seconds())
    assert isinstance(result, Committed)
    return result


@dataclass
class Guarded:
    """An etcd with authentication, where the user `tally` may read and write below /tally/."""

    server: EtcdProcess
    factory: EtcdFactory
    folder: Path

    def password_file(self, password: str, name: str = "password") -> str:
        path = self.folder / name
        path.write_text(password + "\n")
        return str(path)

    def store(self, password: str = "secret", user: str = "tally") -> EtcdStore:
        return self.factory.store(self.server.url, user=user, password_file=self.password_file(password))

    def root(self) -> EtcdStore:
        return self.factory.store(
            self.server.url, user="root", password_file=self.password_file("root-password", "root")
        )


@pytest.fixture
def guarded(etcd_factory: EtcdFactory, tmp_path: Path) -> Guarded:
    server = etcd_factory.start(extra_args=("--auth-token-ttl=1",))
    enable_authentication(etcd_factory.store(server.url), "tally", "secret", "/tally/")
    return Guarded(server, etcd_factory, tmp_path)


class TestSigningIn:
    def test_everything_works_for_a_user_with_the_right(self, guarded: Guarded) -> None:
        store = guarded.store()
        after = put(store, "/tally/a").revision
        reader = WatchReader(store.watch("/tally/", after=after))
        assert store.grant(7, 60, deadline=in_seconds()) == 60
        assert store.keep_alive(7, deadline=in_seconds()) == 60
        put(store, "/tally/b")
        reader.wait_for(["/tally/b"])
        store.revoke(7, deadline=in_seconds())
        reader.close()

    def test_a_refused_token_is_replaced_for_every_kind_of_call(self, guarded: Guarded) -> None:
        store, root = guarded.store(), guarded.root()
        put(store, "/tally/a")
        store.grant(7, 60, deadline=in_seconds())
        calls: list[Callable[[], Any]] = [
            lambda: store.get("/tally/a", deadline=in_seconds()),
            lambda: store.load("/tally/", deadline=in_seconds()),
            lambda: put(store, "/tally/b"),
            lambda: store.keep_alive(7, deadline=in_seconds()),
            lambda: store.revoke(7, deadline=in_seconds()),
        ]
        tokens = [store.gateway.token(in_seconds())]
        for call in calls:
            # etcd forgets all tokens of a user whose password is set, even to the same.
            admin(root, "/auth/user/changepw", {"name": "tally", "password": "secret"})
            call()
            tokens.append(store.gateway.token(in_seconds()))
        assert len(set(tokens)) >= 4  # etcd 3.5.1 asks for no token to renew a lease

    def test_a_watch_goes_on_after_the_token_was_lost_and_the_connection_too(
        self, guarded: Guarded, proxy_to: Callable[[int], Proxy]
    ) -> None:
        proxy = proxy_to(guarded.server.config.client_port)
        store = guarded.factory.store(proxy.url, user="tally", password_file=guarded.password_file("secret"))
        watch = store.watch("/tally/", after=put(store, "/tally/a").revision)
        reader = WatchReader(watch)
        wait_until(lambda: watch.connected, "the watch")
        admin(guarded.root(), "/auth/user/changepw", {"name": "tally", "password": "secret"})
        proxy.disconnect()
        wait_until(lambda: watch.reconnects["signed in again"], "a new sign-in")
        put(store, "/tally/b")
        reader.wait_for(["/tally/b"])
        reader.close()

    def test_a_wrong_password_names_the_user_and_the_file(self, guarded: Guarded) -> None:
        with pytest.raises(StoreDenied, match=r"'tally' with the password in .*/password"):
            guarded.store("wrong").get("/tally/a", deadline=in_seconds())

    def test_a_wrong_password_is_said_at_once_by_a_watch_too(self, guarded: Guarded) -> None:
        reader = WatchReader(guarded.store("wrong").watch("/tally/", after=1))
        assert isinstance(reader.wait_for_end(), StoreDenied)

    def test_a_password_file_that_is_missing_is_named(self, guarded: Guarded) -> None:
        store = guarded.factory.store(guarded.server.url, user="tally", password_file="/nowhere/password")
        with pytest.raises(StoreDenied, match="/nowhere/password"):
            store.get("/tally/a", deadline=in_seconds())

    def test_no_user_where_one_is_needed(self, guarded: Guarded) -> None:
        with pytest.raises(StoreDenied, match="set `user` and `password_file`"):
            guarded.factory.store(guarded.server.url).get("/tally/a", deadline=in_seconds())

    def test_a_user_where_none_is_needed(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, tmp_path: Path, prefix: str
    ) -> None:
        (tmp_path / "password").write_text("secret")
        store = etcd_factory.store(etcd.url, user="tally", password_file=str(tmp_path / "password"))
        assert store.get(prefix, deadline=in_seconds())[0] is None

    def test_a_rotated_password_is_picked_up(self, guarded: Guarded) -> None:
        store = guarded.store()
        put(store, "/tally/a")
        admin(guarded.root(), "/auth/user/changepw", {"name": "tally", "password": "new"})
        with pytest.raises(StoreDenied, match="password"):
            store.get("/tally/a", deadline=in_seconds())
        guarded.password_file("new")
        assert store.get("/tally/a", deadline=in_seconds())[0] is not None


class TestRights:
    def test_a_missing_right_names_user_key_and_right(self, guarded: Guarded) -> None:
        store = guarded.store()
        with pytest.raises(StoreDenied, match="'tally' lacks the right to read /other/a"):
            store.get("/other/a", deadline=in_seconds())
        with pytest.raises(StoreDenied, match="'tally' lacks the right to write /other/a"):
            put(store, "/other/a")
        with pytest.raises(StoreDenied, match="/other/"):
            store.load("/other/", deadline=in_seconds())
        assert isinstance(WatchReader(store.watch("/other/", after=1)).wait_for_end(), StoreDenied)

    def test_a_role_taken_away_and_given_back(self, guarded: Guarded) -> None:
        store, root = guarded.store(), guarded.root()
        put(store, "/tally/a")
        admin(root, "/auth/user/revoke", {"name": "tally", "role": "tally"})
        with pytest.raises(StoreDenied, match="lacks the right"):
            put(store, "/tally/b")
        admin(root, "/auth/user/grant", {"user": "tally", "role": "tally"})
        put(store, "/tally/b")

    def test_the_size_is_known_without_the_role_root(self, guarded: Guarded) -> None:
        """Some versions of etcd tell it in their metrics alone; see EtcdStore.size."""
        told, rooted = (each.size(deadline=in_seconds()) for each in (guarded.store(), guarded.root()))
        assert told.used == rooted.used
        assert 0 < told.in_use <= told.used


class TestCertificates:
    def test_http_and_https_taken_for_each_other_name_the_setting(
        self, etcd: EtcdProcess, etcd_factory: EtcdFactory, authority: Authority, prefix: str
    ) -> None:
        """etcd itself only hangs up. It is tried until the deadline, which a busy machine must not spoil."""
        with pytest.raises(
            (StoreDenied, StoreUnavailable), match=r"127\.0\.0\.1.* without TLS .* set `etcd` to http://"
        ):
            etcd_factory.store(etcd.url.replace("http", "https")).get(prefix, deadline=in_seconds(3))
        server = etcd_factory.start(**authority.server_files())
        with pytest.raises(StoreUnavailable, match=r"with TLS .* set `etcd` to https://… and `ca_file`"):
            etcd_factory.store(server.url.replace("https", "http")).get(prefix, deadline=in_seconds(3))
        stranger = authority.stranger().ca_file
        with pytest.raises(StoreDenied, match="set `ca_file` to the authority"):
            etcd_factory.store(server.url, ca_file=stranger).get(prefix, deadline=in_seconds())

    def test_what_its_caller_was_handling_is_no_reason_of_a_connection(
        self, etcd_factory: EtcdFactory, authority: Authority, prefix: str
    ) -> None:
        server = etcd_factory.start(**authority.server_files())
        plain = etcd_factory.store(server.url.replace("https", "http"))
        try:
            raise KeyError("no pool of that name")
        except KeyError:
            with pytest.raises(StoreUnavailable) as refused:
                plain.get(prefix, deadline=in_seconds(3))
        assert "no pool of that name" not in str(refused.value)

    def test_verification_can_be_switched_off_only_on_purpose(
        self, etcd_factory: EtcdFactory, authority: Authority, recwarn: pytest.WarningsRecorder
    ) -> None:
        server = etcd_factory.start(**authority.server_files())
        put(etcd_factory.store(server.url, insecure_skip_verify=True), "/tally/a")
        assert any("Unverified HTTPS" in str(warning.message) for warning in recwarn)

    def test_a_client_certificate_is_sent_and_its_lack_is_told(
        self, etcd_factory: EtcdFactory, authority: Authority
    ) -> None:
        server = etcd_factory.start(**authority.server_files(), client_cert_auth=True)
        put(
            etcd_factory.store(server.url, ca_file=authority.ca_file, **authority.issue("client")), "/tally/a"
        )
        with pytest.raises(
            StoreDenied, match="asks for a client certificate that it trusts: set `cert_file` and `key_file`"
        ):
            etcd_factory.store(server.url, ca_file=authority.ca_file).get("/tally/a", deadline=in_seconds())

    def test_a_common_name_that_an_etcd_with_users_refuses_is_told(
        self, etcd_factory: EtcdFactory, authority: Authority, tmp_path: Path
    ) -> None:
        """Its JSON gateway answers with a page of text."""
        server = etcd_factory.start(**authority.server_files(), client_cert_auth=True)
        without = {"ca_file": authority.ca_file, **authority.issue("without")}
        enable_authentication(etcd_factory.store(server.url, **without), "tally", "secret", "/tally/")
        (tmp_path / "password").write_text("secret")
        user = {"user": "tally", "password_file": str(tmp_path / "password")}
        put(etcd_factory.store(server.url, **without, **user), "/tally/a")
        named = authority.issue("named", common_name="tally")
        with pytest.raises(StoreDenied, match="accepts no client certificate with a common name"):
            put(etcd_factory.store(server.url, ca_file=authority.ca_file, **named, **user), "/tally/b")

    def test_a_missing_file_is_named(self, etcd_factory: EtcdFactory) -> None:
        with pytest.raises(StoreDenied, match=r"/nowhere/ca\.pem"):
            etcd_factory.store("https://127.0.0.1:1", ca_file="/nowhere/ca.pem").get(
                "/tally/a", deadline=in_seconds()
            )

    def test_a_rotated_authority_is_picked_up(
        self, etcd_factory: EtcdFactory, authority: Authority, tmp_path: Path
    ) -> None:
        """A new authority signs the server's new certificate; the CA file is replaced; watch and calls go
        on.
        """
        server = etcd_factory.start(**authority.server_files())
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(Path(authority.ca_file).read_bytes())
        store = etcd_factory.store(server.url, ca_file=str(trusted))
        reader = WatchReader(store.watch("/tally/", after=put(store, "/tally/a").revision))
        server.kill()
        new = Authority(tmp_path / "new")
        issued = new.issue("server")
        for kind in ("cert_file", "key_file"):
            Path(getattr(server.config, kind)).write_bytes(Path(issued[kind]).read_bytes())
        Path(authority.ca_file).write_bytes(Path(new.ca_file).read_bytes())
        server.start()
        with pytest.raises(StoreDenied, match="certificate verify failed"):
            store.get("/tally/a", deadline=in_seconds())
        trusted.write_bytes(Path(new.ca_file).read_bytes())
        put(store, "/tally/b")
        reader.wait_for(["/tally/b"])
        reader.close()

    def test_a_rotated_client_certificate_is_used_for_the_next_call(
        self, etcd_factory: EtcdFactory, authority: Authority
    ) -> None:
        server = etcd_factory.start(**authority.server_files(), client_cert_auth=True)
        files = authority.issue("client")
        store = etcd_factory.store(server.url, ca_file=authority.ca_file, **files)
        put(store, "/tally/a")
        stranger = authority.stranger().issue("client")
        good = {kind: Path(file).read_bytes() for kind, file in files.items()}
        for kind, file in files.items():
            Path(file).write_bytes(Path(stranger[kind]).read_bytes())
        with pytest.raises(StoreDenied, match="certificate"):
            store.get("/tally/a", deadline=in_seconds())
        for kind, file in files.items():
            Path(file).write_bytes(good[kind])
        put(store, "/tally/b")

    def test_closing_wakes_a_watch_over_tls(self, etcd_factory: EtcdFactory, authority: Authority) -> None:
        server = etcd_factory.start(**authority.server_files())
        store = etcd_factory.store(server.url, ca_file=authority.ca_file)
        watch = store.watch("/tally/", after=1)
        reader = WatchReader(watch)
        wait_until(lambda: watch.connected, "the watch")
        reader.close()
        assert reader.error is None


def test_a_refused_token_waits_for_no_sign_in() -> None:
    """Another thread may be signing in with more time than this one has."""
    options = GatewayOptions(("http://127.0.0.1:1",), user="tally", password_file="/nowhere")
    gateway = EtcdStore(options, SystemClock()).gateway
    with gateway._sign_in_lock:
        gateway._token, gateway._signed_in = "old", True
        gateway.forget_token("other")
        assert gateway._signed_in
        gateway.forget_token("old")
        assert not gateway._signed_in
