"""`tally login`, `whoami` and `auth can-i`, and commands that then go by the gateway."""

from __future__ import annotations

import errno
import os
import pty
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import certifi
import pytest
from typer.testing import CliRunner, Result

from controller.cli.main import app
from tests.gateway.conftest import Served
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("TALLY_CONFIG", "TALLY_SERVER", "TALLY_ETCD", "TALLY_CLUSTER", "TALLY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def tally(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert "Traceback" not in result.stdout + result.stderr
    return result


def test_login_is_kept(served: Served, tmp_path: Path) -> None:
    """The token for its owner only; other settings of the file stay; commands then use the gateway."""
    folder = tmp_path / ".config" / "tally"
    folder.mkdir(parents=True)
    (folder / "tally.toml").write_text('# mine\nserver = "http://old"\nlease_ttl_seconds = 7\n')
    done = tally("login", served.gateway.url, stdin=served.tokens["alice"] + "\n")
    assert done.exit_code == 0, done.stderr
    assert "as alice" in done.stdout
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert (folder / "tally.toml").read_text().splitlines()[4:] == ["# mine", "lease_ttl_seconds = 7"]
    assert "vision" in tally("whoami").stdout
    submitted = tally("submit", "a", "--owner", "vision", "--", "true")
    assert (submitted.exit_code, submitted.stdout) == (0, "task/a created\n")
    # a command of its own, which does not know of the revision that the one before wrote
    wait_until(lambda: tally("get", "task", "a", "-o", "name").stdout == "task/a\n", "the task")
    assert tally("auth", "can-i", "cancel", "task/a").stdout == "yes\n"
    refused = tally("auth", "can-i", "cancel", "--owner", "speech")
    assert (refused.exit_code, refused.stdout) == (1, "no\n")
    assert tally("auth", "can-i", "get", "task/none").exit_code == 5
    assert tally("auth", "can-i", "submit", "task/a").stdout == "yes\n"
    twice = tally("auth", "can-i", "submit", "task/a", "--pool", "default")
    assert (twice.exit_code, "pool: is the task's own" in twice.stderr) == (1, True)
    for name in ("..", ".", ""):
        refused = tally("pause", name)
        assert (refused.exit_code, "name: " in refused.stderr) == (1, True), refused.stderr
    denied = tally("submit", "b", "--owner", "speech", "--", "true")
    assert (denied.exit_code, "lack the verb submit" in denied.stderr) == (1, True)
    needs = tally("audit")
    assert needs.exit_code == 1
    assert "needs etcd itself" in needs.stderr


def test_a_demand_that_one_may_not_know_is_not_told_as_none(served: Served) -> None:
    """It would tell what others wait for. Who may read the tasks of all owners sees it."""
    shown = {}
    for name in ("alice", "ops"):
        assert tally("login", served.gateway.url, stdin=served.tokens[name]).exit_code == 0
        lines = tally("describe", "pool", "default").stdout.splitlines()
        [row] = [line.split() for line in lines if line.startswith("  cpu ")]
        shown[name] = row[-1]
    assert shown == {"alice": "-", "ops": "0"}


def test_a_terminal_does_not_show_the_token(served: Served) -> None:
    """Typed and ended with Enter, as a password is."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "controller.cli.main", "login", served.gateway.url]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as login:
        os.close(theirs)
        shown = b""
        while b"Token: " not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, served.tokens["alice"].encode() + b"\n")
        with suppress(OSError):  # the other side is closed
            while more := os.read(ours, 4096):
                shown += more
    os.close(ours)
    assert (login.returncode, b"as alice" in shown) == (0, True), shown
    assert served.tokens["alice"].encode() not in shown


def test_what_a_login_keeps_is_exchanged_and_forgotten(served: Served, tmp_path: Path) -> None:
    """And nothing else of the file."""
    folder, authority = tmp_path / ".config" / "tally", certifi.where()
    assert tally("logout").stdout == "nothing to do: `tally login` has kept nothing\n"
    for _ in range(2):
        done = tally("login", served.gateway.url, "--authority", authority, stdin=served.tokens["alice"])
        assert (done.exit_code, done.stderr) == (0, "")
    file = folder / "tally.toml"
    assert len(file.read_text().splitlines()) == 5
    file.write_text(file.read_text() + '# mine\nca_file = "/etc/hosts"\n')
    file.write_text(file.read_text().replace(f'ca_file = "{authority}"\n', ""))
    done = tally("login", served.gateway.url, stdin=served.tokens["alice"])
    assert 'ca_file = "/etc/hosts"' in file.read_text()
    assert tally("logout").stdout == "signed out\n"
    assert file.read_text() == '# mine\nca_file = "/etc/hosts"\n'
    assert not (folder / "token").exists()
    assert "give --server" in tally("whoami").stderr
    assert tally("login", served.gateway.url, stdin=served.tokens["alice"]).exit_code == 0
    file.write_text("".join(line for line in file.open() if "token" in line or "server" in line))
    assert tally("logout").exit_code == 0
    assert not file.exists()


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_the_token_that_was_kept_is_sent_to_its_gateway_alone(
    served: Served, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to another, whose name may be misspelled; unless the token's file is given, too."""
    assert tally("login", served.gateway.url, stdin=served.tokens["alice"]).exit_code == 0
    heard: list[str | None] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # as the library calls it
            heard.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        flags = ["--server", url] if how == "flag" else []
        if how == "environment":
            monkeypatch.setenv("TALLY_SERVER", url)
        asked = tally("whoami", *flags)
        assert (asked.exit_code, f"{url} is no gateway of Tally" in asked.stderr) == (1, True)
        assert heard == [None]
        tally("whoami", *flags, "--token-file", str(Path("~/.config/tally/token").expanduser()))
        assert heard[1:] == [f"Bearer {served.tokens['alice']}"]
        server.shutdown()
    same = tally("whoami", "--server", f"{served.gateway.url}/")
    assert same.exit_code == 0, same.stderr


def test_a_url_that_is_none_is_named_with_its_source() -> None:
    for url in ("localhost:1", "ftp://x", "http://", "http://x:99999999", "http://[x"):
        asked = tally("whoami", "--server", url)
        assert asked.exit_code == 2
        assert "is not the URL of a gateway" in asked.stderr
        assert "(from flag --server)" in asked.stderr


def test_a_gateway_without_tls_is_told_from_one_with(served: Served) -> None:
    """The usual slip: https for http."""
    asked = tally("whoami", "--server", served.gateway.url.replace("http", "https"))
    assert (asked.exit_code, "is it http://?" in asked.stderr) == (1, True)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (b'"server" = "http://127.0.0.1:1"\ntoken_file = """\n/etc/hosts"""\n', "mend it"),
        (b'# caf\xe9\nserver = "http://127.0.0.1:1"\n', "mend or remove it"),
        (b"lease_ttl_seconds = \n", "mend it"),
        (None, "mend or remove it"),
    ],
)
def test_what_cannot_be_written_whole_is_not_written_at_all(
    served: Served, tmp_path: Path, settings: bytes | None, word: str
) -> None:
    """Else the token of one gateway would be sent to another. A token is forgotten all the same."""
    folder = tmp_path / ".config" / "tally"
    file, token = folder / "tally.toml", folder / "token"
    folder.mkdir(parents=True)
    token.write_text("of another")
    if settings is None:
        file.mkdir()
    else:
        file.write_bytes(settings)
    refused = tally("login", served.gateway.url, stdin=served.tokens["alice"])
    assert (refused.exit_code, word in refused.stderr, str(file) in refused.stderr) == (1, True, True)
    assert token.read_text() == "of another"
    assert settings is None or file.read_bytes() == settings
    assert sorted(folder.iterdir()) == [file, token]
    tally("logout")
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize("refused", ["token", "tally.toml"])
def test_a_token_never_lies_beside_the_url_of_another_gateway(
    served: Served, tmp_path: Path, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two files cannot be replaced."""
    folder = tmp_path / ".config" / "tally"
    folder.mkdir(parents=True)
    (folder / "tally.toml").write_text('server = "http://127.0.0.1:1"\n')
    (folder / "token").write_text("of another")
    replace = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target.name == refused and not self.name.startswith(".token.before"):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    done = tally("login", served.gateway.url, stdin=served.tokens["alice"])
    assert (done.exit_code, "Operation not permitted" in done.stderr) == (1, True)
    is_old = "127.0.0.1:1" in (folder / "tally.toml").read_text().replace(served.gateway.url, "")
    tokens = [each.read_text().strip() for each in folder.glob("*token*")]
    assert tokens == (["of another"] if is_old else [])


def test_a_ca_file_of_the_reader_stays(served: Served, tmp_path: Path) -> None:
    """It is that of etcd, and stands first in the file."""
    folder = tmp_path / ".config" / "tally"
    folder.mkdir(parents=True)
    mine = f'ca_file = "{certifi.where()}"\netcd = "https://etcd.example.org:2379"\n'
    (folder / "tally.toml").write_text(mine)
    for _ in range(2):
        assert tally("login", served.gateway.url, stdin=served.tokens["alice"]).exit_code == 0
        assert (folder / "tally.toml").read_text().endswith(mine)
    assert tally("logout").exit_code == 0
    assert (folder / "tally.toml").read_text() == mine


def test_a_login_that_fails_changes_nothing(served: Served, tmp_path: Path) -> None:
    """A wrong token, no token, and no gateway."""
    for url, given in ((served.gateway.url, "wrong"), (served.gateway.url, ""), ("http://127.0.0.1:1", "x")):
        assert tally("login", url, stdin=given).exit_code == 1
    assert tally("login", "ftp://x", stdin="x").exit_code == 1
    assert not (tmp_path / ".config").exists()


def test_without_a_gateway_there_is_nobody_to_ask() -> None:
    """The error says what to give."""
    for words in (["whoami"], ["auth", "can-i", "submit"]):
        asked = tally(*words)
        assert (asked.exit_code, "give --server" in asked.stderr) == (1, True)


def test_what_a_policy_gives_is_told_before_it_is_used(served: Served) -> None:
    """With the groups that the file of tokens gives a caller."""
    served.policy.write_text(
        "[[rules]]\nwho = ['group:nlp']\nowners = ['speech']\nverbs = ['submit', 'read-own']"
    )
    entries = served.tokens_file.read_text()
    served.tokens_file.write_text(
        f'{entries}\n[[tokens]]\nname = "carol"\ngroups = ["nlp"]\nsha256 = "{"a" * 64}"'
        f'\n[[tokens]]\nname = "dave"\nsha256 = "{"b" * 64}"\nexpires = 2020-01-01T00:00:00Z'
    )
    files = ["--gateway-policy-file", str(served.policy), "--gateway-tokens-file", str(served.tokens_file)]
    told = tally("gateway", "check-policy", *files, "--who", "carol")
    assert (told.exit_code, "may submit for speech" in told.stdout) == (0, True), told.stderr
    assert told.stderr == "warning: expired, so refused: the tokens of dave\n"
    other = tally("gateway", "check-policy", *files, "--who", "alice")
    assert other.stdout.splitlines()[-1] == "may do nothing"
    assert (
        "may submit for speech"
        in tally("gateway", "check-policy", *files, "--who", "x", "--group", "nlp").stdout
    )
