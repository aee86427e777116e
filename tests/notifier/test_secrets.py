"""The file of secrets: what it may have, and what becomes of a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import InvalidField
from controller.notifier.secrets import parse_secrets, secrets_file
from controller.notifier.signing import new_secret, parse_secret

A, B = new_secret(), new_secret()


def test_hosts_have_their_own_and_others_the_default() -> None:
    found = parse_secrets(f'default = ["{A}"]\n[hosts]\n"Hooks.example.org" = ["{B}", "{A}"]')
    assert found.of("hooks.example.org") == (parse_secret(B, "b"), parse_secret(A, "a"))
    assert found.of("other.example") == (parse_secret(A, "a"),)
    assert parse_secrets(f'[hosts]\n"a.example" = ["{A}"]').of("b.example") == ()
    assert parse_secrets(f'[hosts]\n"2001:db8::1" = ["{A}"]').of("2001:db8::1") == (parse_secret(A, "a"),)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "default"),
        ("default = []", "default"),
        ('default = "SECRET"', "default"),
        ('default = ["whsec_short"]', "default[0]"),
        ("hosts = 3", "hosts"),
        ('[hosts]\n"a" = [1]', "hosts.a[0]"),
        ('defaults = ["SECRET"]', "'defaults'"),
        ("default = [", ""),
        ('[hosts]\n"a.example:8443" = ["SECRET"]', "hosts.a.example:8443"),
        ('[hosts]\n"https://a.example" = ["SECRET"]', "hosts.https://a.example"),
        ('[hosts]\n"a.example/x" = ["SECRET"]', "hosts.a.example/x"),
        ('[hosts]\n"a.example." = ["SECRET"]', "hosts.a.example."),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_shown(text: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_secrets(text.replace("SECRET", A))
    assert caught.value.field == field
    assert A not in str(caught.value)


def test_a_file_that_becomes_unusable_leaves_the_old_secrets(tmp_path: Path) -> None:
    file = tmp_path / "secrets.toml"
    with pytest.raises(InvalidField, match="cannot be read"):
        secrets_file(file)
    file.write_text(f'default = ["{A}"]')
    reloaded = secrets_file(file)
    file.write_text("default = [")
    assert reloaded.current().of("x") == (parse_secret(A, "a"),)
    assert "is not TOML" in reloaded.error
    file.write_text("default = " + 10_000 * "[")
    for _ in range(2):
        assert reloaded.current().of("x") == (parse_secret(A, "a"),)
        assert "nested too deeply" in reloaded.error
    file.write_text(f'default = ["{B}"]')
    assert (reloaded.current().of("x"), reloaded.error) == ((parse_secret(B, "b"),), "")
