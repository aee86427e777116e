"""Static tokens: whose they are, until when, and what is wrong with their file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import InvalidField
from controller.gateway.identity import Method, parse_identity_name
from controller.gateway.tokens import digest, entry, new_token, parse_tokens


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20), st.booleans())
def test_what_is_written_of_a_token_can_be_read(name: str, has_groups: bool) -> None:
    """Whatever the caller's name, of those that a name can be."""
    try:
        parse_identity_name(name, "name")
    except InvalidField:
        return
    token, groups = new_token(), [name] if has_groups else []
    written = entry(name, groups, token, None)
    assert parse_tokens(written).identify(token, 0.0) == (name, frozenset(groups), Method.TOKEN)


def test_a_token_is_its_callers_until_it_expires() -> None:
    """A token that is not in the file is nobody's, nor is the hash itself."""
    alice, bob = new_token(), new_token()
    tokens = parse_tokens(
        f"""
        [[tokens]]
        name = "alice"
        groups = ["vision", "all"]
        sha256 = "{digest(alice)}"
        [[tokens]]
        name = "bob"
        sha256 = "{digest(bob)}"
        expires = 2027-01-31T00:00:00Z
        """
    )
    found = tokens.identify(alice, 4e9)
    assert found == ("alice", frozenset(["vision", "all"]), Method.TOKEN)
    end = 1801353600.0
    assert tokens.identify(bob, end - 1) is not None
    assert tokens.identify(bob, end) is None
    assert tokens.identify(digest(alice), 0) is None
    assert tokens.identify("", 0) is None
    assert tokens.identify(alice[:-1], 0) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[tokens]]\nname = 'a'", r"tokens\[0\].sha256: is missing"),
        ("[[tokens]]\nsha256 = '%s'" % ("a" * 64), r"tokens\[0\].name: is missing"),
        ("[[tokens]]\nname = 'a'\nsha256 = 'secret'", r"tokens\[0\].sha256: expected the SHA-256 hash"),
        ("[[tokens]]\nname = 'a'\ntoken = 'secret'", r"tokens\[0\].token: is not a field"),
        ("[[tokens]]\nname = 'a'\nexpires = 'soon'", r"tokens\[0\].expires: is 'soon', expected a time"),
        (
            "[[tokens]]\nname = 'a'\nexpires = 2027-01-31",
            r"is 2027-01-31, expected a time with",
        ),
        ("[[tokens]]\nname = 'a'\nexpires = 2027-01-31T00:00:00", "expected a time with its zone"),
        ("[[tokens]]\nname = 'a'\ngroups = 'b'", r"tokens\[0\].groups: is 'b', expected a list"),
        ("tokens = 7", "tokens: expected a list of tables"),
        (
            "[[tokens]]\nname = 'a'\nsha256 = '{0}'\n[[tokens]]\nname = 'b'\nsha256 = '{0}'".format("a" * 64),
            r"tokens\[1\]",
        ),
        ("=", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    """The token and the field; what should be a hash is not shown, as it may be a token."""
    with pytest.raises(InvalidField, match=says) as caught:
        parse_tokens(text)
    assert "secret" not in str(caught.value)
