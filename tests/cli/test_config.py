"""Settings: precedence, parsing, and timings that must fit together."""

from __future__ import annotations

import dataclasses
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.clock import SystemClock
from controller.config import InvalidSetting, Settings, check_timings, load_settings, table, text_of
from controller.engine.process.engine import ProcessEngine
from controller.errors import InvalidField


def load(tmp_path: Path, toml: str = "", **flags: object) -> Settings:
    file = tmp_path / "tally.toml"
    file.write_text(toml)
    return load_settings(flags, {}, str(file)).settings


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("a:1,b", ("http://a:1", "http://b:2379")),
        ("https://x/", ("https://x:2379",)),
        (" http://[::1]:5 ,1.2.3.4:6", ("http://[::1]:5", "http://1.2.3.4:6")),
        (["a", "b:2"], ("http://a:2379", "http://b:2")),
    ],
)
def test_endpoints(tmp_path: Path, text: object, endpoints: tuple[str, ...]) -> None:
    """With or without scheme and port, as a text or a list."""
    assert load(tmp_path, etcd=text).etcd == endpoints


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "ftp://a", "http://a:port", "http://a/path", "http://u:p@a", "http://a:99999", "a:0"),
        *("http://a#b", [], 7, [1, 2], [True]),
    ],
)
def test_what_is_no_endpoint(tmp_path: Path, text: object) -> None:
    """Refused by name, with the place it came from."""
    with pytest.raises(InvalidSetting, match=r"^etcd: .*from flag --etcd"):
        load(tmp_path, etcd=text)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("etdc = 'x'", "etdc: is not a setting .from file .*the settings are etcd, cluster"),
        ("lease_ttl_seconds = 'soon'", "lease_ttl_seconds: is 'soon', expected a duration.*from file"),
        ("lease_ttl_seconds = 2.5", "lease_ttl_seconds: is 2.5, expected whole seconds"),
        ("heartbeat_seconds = 0", "heartbeat_seconds: must be more than 0"),
        ("heartbeat_seconds = -1", "heartbeat_seconds: is -1"),
        ("heartbeat_seconds = nan", "heartbeat_seconds: is nan, expected a duration"),
        ("engine = 'podman'", "engine: is 'podman', expected one of process, null, kubernetes, docker"),
        ("status = 'localhost'", "status: 'localhost' is not HOST:PORT"),
        ("status = 'localhost:70000'", "is not HOST:PORT"),
        ("status = '[:::]:9180'", "is not HOST:PORT"),
        ("status = '127.0.0.1:٣٣'", "is not HOST:PORT"),
        ("server = 'http://a/b?c'", "is not the URL of a gateway"),
        ("server = 'http://a..b'", "is not the URL of a gateway"),
        (f"server = 'http://{70 * 'a'}.b'", "is not the URL of a gateway"),
        ("kube_qps = 0.0000001", "from 0.001 to below 1000000"),
        ("kube_qps = true", "from 0.001 to below 1000000"),
        ("kube_qps = 1000000.0", "from 0.001 to below 1000000"),
        ("user = 7", "user: is 7, expected a string"),
        ("cert_file = '/dev/null'", "cert_file: /dev/null is not a readable file"),
        ("[etcd]\nurl = 'x'", "etcd: expected etcd's client URLs"),
        ("etcd = ", "config: .*is not TOML"),
        pytest.param("etcd = " + 9_000 * "[", "config: .*tally.toml is not TOML .*nested", id="deep"),
        pytest.param("etcd = " + 9_000 * "7", "config: .*tally.toml is not TOML", id="long"),
    ],
)
def test_a_bad_file_is_refused_by_key(tmp_path: Path, toml: str, says: str) -> None:
    """Names key, value and file."""
    with pytest.raises(InvalidSetting, match=says):
        load(tmp_path, toml)


def test_pairs_must_be_complete(tmp_path: Path) -> None:
    """A certificate without its key is noticed before anything connects."""
    with pytest.raises(InvalidSetting, match="key_file: is missing, but cert_file is given"):
        load(tmp_path, cert_file=__file__)


def test_the_first_existing_file_of_the_usual_places_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --config, TALLY_CONFIG and then ~/.config/tally/tally.toml."""
    monkeypatch.setenv("HOME", str(tmp_path))
    usual = tmp_path / ".config" / "tally" / "tally.toml"
    usual.parent.mkdir(parents=True)
    usual.write_text("cluster = 'usual'")
    named = tmp_path / "named.toml"
    named.write_text("cluster = 'named'")
    assert load_settings({}, {}).settings.cluster == "usual"
    assert load_settings({}, {"TALLY_CONFIG": str(named)}).settings.cluster == "named"
    assert (
        load_settings(
            {}, {"TALLY_CLUSTER": "env", "TALLY_CONFIG": str(named), "TALLY_SERVICE_HOST": "x"}
        ).settings.cluster
        == "env"
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lease_ttl_seconds": 1}, "lease_ttl_seconds"),
        ({"keepalive_interval_seconds": 2.5}, "keepalive_interval_seconds"),
        ({"deadline_margin_seconds": 2.5}, "deadline_margin_seconds"),
        ({"silence_seconds": 6.0}, "silence_seconds"),
        ({"heartbeat_seconds": 3.4}, "silence_seconds"),
    ],
)
def test_timings_are_checked_against_each_other(changes: dict[str, Any], field: str) -> None:
    """The defaults fit; each limit is refused at its edge."""
    check_timings(Settings())
    with pytest.raises(InvalidField) as caught:
        check_timings(dataclasses.replace(Settings(), **changes))
    assert caught.value.field == field


@given(
    name=st.sampled_from([each.name for each in dataclasses.fields(Settings) if each.type == "float"]),
    value=st.floats(0.001, 999_999) | st.integers(1, 999_999).map(float) | st.just(5e-05),
)
def test_a_number_is_read_as_it_is_shown(name: str, value: float) -> None:
    """Also what `tally dev` hands on to replicas, and what `config show` prints."""
    read = next(each for each in dataclasses.fields(Settings) if each.name == name).metadata["parse"]
    try:
        given = read(value, name)
    except InvalidField:
        return
    assert read(text_of(given), name) == given


def test_the_table_has_a_row_for_each_setting() -> None:
    """What stands in `deploy/configuration.md` is generated from the settings."""
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [field.name for field in dataclasses.fields(Settings)]


def test_the_file_of_a_local_cluster_is_found_where_nothing_else_says_which_etcd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what we ourselves wrote: who prepares a folder must not say where our tasks and secrets go."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".tally").mkdir()
    written = tmp_path / ".tally" / "tally.toml"
    written.write_text('etcd = "https://127.0.0.1:1"\ncluster = "local"\n')
    written.chmod(0o600)

    def found(**flags: str) -> tuple[tuple[str, ...], str]:
        settings = load_settings(flags, {}).settings
        return settings.etcd, settings.cluster

    usual = ("http://127.0.0.1:2379",), "default"
    assert found() == (("https://127.0.0.1:1",), "local")
    assert found(etcd="http://127.0.0.1:2") == (("http://127.0.0.1:2",), "default")
    assert found(server="https://gateway") == usual, "its certificates are for its etcd alone"
    assert load_settings({}, {"TALLY_SERVER": "https://gateway"}).settings.cluster == "default"
    written.chmod(0o666)
    assert found() == usual, "others may write it"
    written.chmod(0o644)
    assert found() == usual, "it came with the folder, as a clone of somebody's repository has it"
    written.chmod(0o600)
    kept = written.read_text()
    for line in ('server = "http://evil.example"', 'token_file = "/etc/hostname"', "password_file = 'x'"):
        written.write_text(f"{kept}{line}\n")
        with pytest.raises(InvalidSetting, match="is not among what `tally dev` writes"):
            found()
    written.write_text(kept)
    written.rename(tmp_path / "elsewhere.toml")
    written.symlink_to(tmp_path / "elsewhere.toml")
    assert found() == usual, "a link says nothing of who made it"
    if os.geteuid() == 0:
        written.unlink()
        (tmp_path / "elsewhere.toml").rename(written)
        os.chown(written, 65534, 65534)
        assert found() == usual, "somebody else's"


def test_without_a_home_directory_the_folder_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user that the system does not know, as in a container: who needs the folder names its setting. One
    that is given is used, and nobody else needs it.
    """
    unknown = max(entry.pw_uid for entry in pwd.getpwall()) + 7
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: unknown)
    found = load(tmp_path, etcd="http://127.0.0.1:1")
    assert found.etcd == ("http://127.0.0.1:1",)
    with pytest.raises(InvalidField, match=r"^state_dir: .*home directory is not known"):
        ProcessEngine(found.state_dir, "default", SystemClock())
    assert load(tmp_path, state_dir="/var/lib/tally").state_dir == Path("/var/lib/tally")
