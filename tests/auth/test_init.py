"""`tally auth init`: what it makes, tells, leaves alone and refuses."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from controller.store.etcd.roles import Role, permissions
from controller.store.keys import Keys
from tests.auth.conftest import QUICK_SIGN_IN, ROLES, Guarded, run_tally
from tests.support.etcd import QUICK_ELECTION, EtcdFactory, admin
from tests.support.etcd import in_seconds as soon


def stored_permissions(guarded: Guarded, role: str) -> set[tuple[str, str, str]]:
    """What etcd has of a role, by another way than Tally's."""
    import base64

    def text(encoded: str) -> str:
        return base64.b64decode(encoded).decode()

    found = admin(
        guarded.store("root"), "/auth/role/get", {"role": f"tally-{guarded.keys.cluster}-{role}"}
    ).get("perm", [])
    return {
        (entry.get("permType", "READ"), text(entry["key"]), text(entry.get("range_end", "")))
        for entry in found
    }


def test_roles_have_exactly_the_ranges_of_the_design(guarded: Guarded) -> None:
    p = guarded.keys.prefix
    read = ("READ", p, p[:-1] + "0")
    own = ("tasks", "requests", "awaits", "schedules")
    user = {read, *(("WRITE", f"{p}{part}/", f"{p}{part}0") for part in own)}
    assert stored_permissions(guarded, "reader") == {read}
    assert stored_permissions(guarded, "user") == user
    assert stored_permissions(guarded, "admin") == user | {
        ("WRITE", f"{p}pools/", f"{p}pools0"),
        ("WRITE", f"{p}repairs/", f"{p}repairs0"),
        ("WRITE", f"{p}delivered/", f"{p}delivered0"),
        ("WRITE", f"{p}engine", ""),
        ("WRITE", f"{p}leader", ""),
    }
    assert stored_permissions(guarded, "gateway") == user | {
        ("WRITE", f"{p}{part}/", f"{p}{part}0") for part in ("attested", "attested-schedules", "gateways")
    }
    assert stored_permissions(guarded, "notifier") == {
        ("READ", f"{p}outbox/", f"{p}outbox0"),
        ("READWRITE", f"{p}delivered/", f"{p}delivered0"),
        ("READWRITE", f"{p}notifier", ""),
    }
    assert stored_permissions(guarded, "controller") == {("READWRITE", p, p[:-1] + "0")}


def test_a_second_run_has_nothing_to_do(guarded: Guarded) -> None:
    answer = guarded.init("--enable")
    assert (answer.exit_code, answer.err) == (0, "")
    assert answer.out == f"all roles of cluster {guarded.keys.cluster} are in order\n"


def test_what_a_role_has_too_much_is_taken_away_and_what_is_missing_given_back(guarded: Guarded) -> None:
    role, states = Role.USER.name_in(guarded.keys.cluster), guarded.keys.state("")
    root = guarded.store("root")
    admin(root, "/auth/role/grant", {"name": role, "perm": {"permType": "READWRITE", "key": states.encode()}})
    requests = f"{guarded.keys.prefix}requests/"
    admin(
        root,
        "/auth/role/revoke",
        {"role": role, "key": requests.encode(), "range_end": f"{requests[:-1]}0".encode()},
    )
    answer = guarded.init()
    assert answer.out == f"role {role} may write {requests}*\nrole {role} may no longer readwrite {states}\n"
    assert len(stored_permissions(guarded, "user")) == 5


def test_a_role_of_an_older_release_is_named_to_whoever_has_it(guarded: Guarded) -> None:
    """By `tally check`, and by the error of what the role lacks."""
    role = f"tally-{guarded.keys.cluster}-user"
    told = " ".join(guarded.tally("user", "check").out.split())
    assert f"ok roles: {role} has what this release needs" in told
    key, end = (f"{guarded.keys.prefix}tasks{mark}".encode() for mark in "/0")
    admin(guarded.store("root"), "/auth/role/revoke", {"role": role, "key": key, "range_end": end})
    told = " ".join(guarded.tally("user", "check").out.split())
    lacks = f"roles: {role} lacks what this release needs (write {guarded.keys.prefix}tasks/*):"
    assert f"{lacks} run `tally auth init` again, as etcd's root" in told
    guarded.client("admin").apply_pool({"name": "default", "capacity": {"cpu": 1}})
    refused = guarded.tally("user", "submit", "job", "--", "true")
    assert refused.exit_code != 0
    assert "that is one of an older release: run `tally auth init` of this one again" in refused.err


def test_a_dry_run_tells_the_same_and_does_nothing(guarded: Guarded, tmp_path: Path) -> None:
    other = Guarded(guarded.server, guarded._factory, guarded.folder, f"{guarded.keys.cluster}-b")
    arguments = (
        "auth",
        "init",
        "--grant",
        f"user=user-{other.keys.cluster}",
        "--passwords",
        str(tmp_path / "made"),
    )
    told = other.tally("root", *arguments, "--dry-run").out
    assert told.count(" (dry run)\n") == len(told.splitlines()) > 10
    assert not (tmp_path / "made").exists()
    done = other.tally("root", *arguments)
    assert done.out == told.replace(" (dry run)", "")
    assert done.exit_code == 0


def test_passwords_are_made_for_their_owner_alone_and_never_shown(guarded: Guarded, tmp_path: Path) -> None:
    user = f"new-{guarded.keys.cluster}"
    answer = guarded.tally(
        "root", "auth", "init", "--grant", f"reader={user}", "--passwords", str(tmp_path / "made")
    )
    file = tmp_path / "made" / user
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip() not in answer.out + answer.err
    signed_in = guarded._factory.store(guarded.server.url, user=user, password_file=str(file))
    assert signed_in.get(guarded.keys.leader, deadline=soon())[0] is None


def test_a_password_that_is_there_already_is_taken(guarded: Guarded, tmp_path: Path) -> None:
    user = f"own-{guarded.keys.cluster}"
    (tmp_path / user).write_text("chosen by hand\n")
    assert (
        guarded.tally(
            "root", "auth", "init", "--grant", f"user={user}", "--passwords", str(tmp_path)
        ).exit_code
        == 0
    )
    signed_in = guarded._factory.store(guarded.server.url, user=user, password_file=str(tmp_path / user))
    assert signed_in.get(guarded.keys.leader, deadline=soon())[0] is None


def test_only_root_may(guarded: Guarded) -> None:
    for user in ROLES:
        answer = guarded.tally(user, "auth", "init")
        assert answer.exit_code == 1
        assert (
            f"the etcd user '{user}' may not manage roles and users: only root may; give --user root"
            in answer.err
        )


def test_without_a_user_where_one_is_needed(guarded: Guarded) -> None:
    answer = run_tally("auth", "init", "--etcd", guarded.server.url)
    assert answer.exit_code == 1
    assert "etcd requires a user and a password" in answer.err


@pytest.mark.parametrize(
    "text", ["user", "user=", "boss=alice", "user=root", "root=alice", "user=../alice", "user=a\nb"]
)
def test_a_grant_that_is_none_is_wrong_usage(text: str) -> None:
    answer = run_tally("auth", "init", "--grant", text)
    assert answer.exit_code == 2
    assert "is neither root=root nor ROLE=USER" in " ".join(answer.err.split())


class TestSwitchingOn:
    def test_not_unasked_and_not_without_root(self, etcd_factory: EtcdFactory, tmp_path: Path) -> None:
        server = etcd_factory.start(unsafe_no_fsync=True, extra_args=(*QUICK_ELECTION, QUICK_SIGN_IN))
        connection = ("auth", "init", "--etcd", server.url)
        made = run_tally(*connection)
        assert made.exit_code == 0
        assert made.out.endswith(
            "authentication is off: anyone who can reach etcd has full access. Turn it on with --enable\n"
        )
        refused = run_tally(*connection, "--enable")
        assert (refused.exit_code, refused.out) == (1, "")
        assert "etcd needs the user root with the role root" in refused.err
        assert "--grant root=root --passwords DIR" in refused.err
        assert (
            run_tally(*connection, "--grant", "user=alice").err
            == "error: etcd has no user 'alice': give --passwords DIR, a folder in which the file alice"
            " has its password, or is created with one\n"
        )
        (tmp_path / "root").write_text("\n")
        assert "is empty" in run_tally(*connection, "--grant", "root=root", "--passwords", str(tmp_path)).err
        (tmp_path / "root").unlink()
        switched = run_tally(*connection, "--grant", "root=root", "--passwords", str(tmp_path), "--enable")
        assert switched.exit_code == 0, switched.err
        assert switched.out.endswith("user root has the role root\nauthentication enabled\n")
        assert run_tally(*connection).exit_code == 1
        assert (
            run_tally(*connection, "--user", "root", "--password-file", str(tmp_path / "root")).exit_code == 0
        )

    def test_an_interrupted_run_is_finished_by_the_next(
        self, etcd_factory: EtcdFactory, tmp_path: Path
    ) -> None:
        """Whatever step was the last."""
        from controller.store.etcd.auth import EtcdAuth, Member

        store, keys = (
            etcd_factory.store(
                etcd_factory.start(unsafe_no_fsync=True, extra_args=(*QUICK_ELECTION, QUICK_SIGN_IN)).url
            ),
            Keys("default"),
        )
        auth = EtcdAuth(store.gateway, keys, 10.0)
        members = (Member(None, "root"), Member(Role.USER, "alice"))
        taken = 0
        while steps := auth.plan(members, tmp_path, enable=False):
            auth.take(steps[0])
            auth.take(steps[0])  # its answer was lost: once more is as good as once
            taken += 1
        assert taken == sum(1 + len(permissions(role, keys)) for role in Role) + 5
