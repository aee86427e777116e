"""The policy: who may do what, and what is wrong with a file of rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import InvalidField
from controller.gateway.identity import Identity, Method
from controller.gateway.policy import AccessPolicy, PolicyVerb, Right, parse_policy

RULES = """
[[rules]]
who = ["group:vision"]
owners = ["vision"]
verbs = ["submit", "read-own"]
pools = ["gpu"]

[[rules]]
who = ["alice", "system:serviceaccount:jobs:*"]
owners = ["{name}", "shared"]
verbs = ["submit", "read-own", "cancel-own"]

[[rules]]
who = ["watcher"]
verbs = ["read-any"]

[[rules]]
who = ["ops"]
verbs = ["admin"]
"""


def caller(name: str, *groups: str) -> Identity:
    return Identity(name, frozenset(groups), Method.TOKEN)


@pytest.mark.parametrize(
    ("who", "act", "owner", "pool", "allowed"),
    [
        (caller("bob", "vision"), Right.SUBMIT, "vision", "gpu", True),
        (caller("bob", "vision"), Right.SUBMIT, "vision", "cpu", False),
        (caller("bob", "vision"), Right.SUBMIT, "bob", "gpu", False),
        (caller("bob", "vision"), Right.READ, "vision", "", True),
        (caller("bob", "vision"), Right.CANCEL, "vision", "", False),
        (caller("bob"), Right.READ, "vision", "", False),
        (caller("vision"), Right.READ, "vision", "", False),  # a name is no group
        (caller("alice"), Right.SUBMIT, "alice", "cpu", True),
        (caller("alice"), Right.CANCEL, "shared", "", True),
        (caller("alice"), Right.READ, "vision", "", False),
        (caller("alice", "vision"), Right.SUBMIT, "vision", "cpu", False),  # each rule has its own pools
        (caller("system:serviceaccount:jobs:x"), Right.CANCEL, "shared", "", True),
        (caller("system:serviceaccount:jobsx:x"), Right.CANCEL, "shared", "", False),
        (caller("system:serviceaccount:jobs:x"), Right.SUBMIT, "system:serviceaccount:jobs:x", "cpu", False),
        (caller("watcher"), Right.READ, "anybody", "", True),
        (caller("watcher"), Right.CANCEL, "anybody", "", False),
        (caller("ops"), Right.ADMIN, "", "", True),
        (caller("ops"), Right.SUBMIT, "anybody", "cpu", True),
        (caller("alice"), Right.ADMIN, "", "", False),
        (caller("nobody"), Right.READ, "shared", "", False),
    ],
)
def test_what_a_caller_may_do(who: Identity, act: Right, owner: str, pool: str, allowed: bool) -> None:
    """A caller has what all its rules together give, and nothing that no rule gives."""
    rights = parse_policy(RULES).rights(who)
    assert rights.allows(act, owner, pool) is allowed
    if allowed and act is not Right.CANCEL:
        assert rights.may_ever(act)
        assert rights.reaches(act, owner, pool)


RIGHTS = parse_policy(
    """
    [[rules]]
    who = ["eve"]
    owners = ["vision"]
    verbs = ["submit", "read-own"]
    pools = ["leak"]
    [[rules]]
    who = ["carol"]
    owners = ["vision"]
    verbs = ["cancel-own"]
    """
)


@pytest.mark.parametrize(
    ("who", "act", "owner", "pool", "reaches"),
    [
        ("eve", Right.SUBMIT, "vision", "leak", True),
        ("eve", Right.SUBMIT, "vision", "other", False),
        ("eve", Right.SUBMIT, "vision", "", True),  # to one that is not said
        ("eve", Right.SUBMIT, "speech", "", False),
        ("eve", Right.CANCEL, "vision", "", False),
        ("carol", Right.CANCEL, "vision", "", False),  # for it, there are no such tasks
        ("carol", Right.SUBMIT, "vision", "", False),
    ],
)
def test_what_is_said_to_be_possible_is(who: str, act: Right, owner: str, pool: str, reaches: bool) -> None:
    rights = RIGHTS.rights(caller(who))
    assert rights.reaches(act, owner, pool) is reaches
    assert rights.may_ever(act, pool) is (reaches or owner == "speech")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "rules: the policy has no rule"),
        ("[[rule]]", "rule: is not a field; did you mean rules"),
        ("rules = 1", "rules: expected a list of tables"),
        ("rules = [1]", r"rules\[0\]: expected a table"),
        ("[[rules]]\nverbs = ['admin']", r"rules\[0\].who: is missing"),
        ("[[rules]]\nwho = []\nverbs = ['admin']", r"rules\[0\].who: is missing"),
        ("[[rules]]\nwho = ['a']\nowners = ['*']\nverbs = ['submit']", r"owners: has '\*': name the owners"),
        ("[[rules]]\nwho = ['a']\nverbs = ['submit']\npools = []", r"pools: is empty, so nothing may be"),
        ("[[rules]]\nwho = ['a']", r"rules\[0\].verbs: is missing"),
        ("[[rules]]\nwho = 'a'\nverbs = ['admin']", r"rules\[0\].who: is 'a', expected a list"),
        ("[[rules]]\nwho = ['a b']\nverbs = ['admin']", r"rules\[0\].who\[0\]: is 'a b', expected a name"),
        ("[[rules]]\nwho = ['a*b']\nverbs = ['admin']", r"rules\[0\].who\[0\]: .*at the end only"),
        ("[[rules]]\nwho = ['group:']\nverbs = ['admin']", r"rules\[0\].who\[0\]: is 'group:'"),
        (
            "[[rules]]\nwho = ['a']\nverbs = ['root']",
            r"rules\[0\].verbs\[0\]: is 'root', expected one of submit,",
        ),
        ("[[rules]]\nwho = ['a']\nverbs = ['submit']", r"rules\[0\].owners: is missing: submit is for"),
        (
            "[[rules]]\nwho = ['a']\nowners = ['A']\nverbs = ['submit']",
            r"rules\[0\].owners\[0\]: 'A' may hold only",
        ),
        (
            "[[rules]]\nwho = ['a']\nowner = ['a']\nverbs = ['submit']",
            "owner: is not a field; did you mean owners",
        ),
        ("[[rules]\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    """The rule and the field."""
    with pytest.raises(InvalidField, match=says):
        parse_policy(text)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("who", "owners", "verbs", "pools", "more"), JSON)))
def test_any_rule_is_read_or_refused_by_name(rule: dict[str, Any]) -> None:
    """Whatever a rule has: an error names its field, or it gives something."""
    from controller.gateway.policy import _parse_rule

    refused = ""
    try:
        parsed = _parse_rule(rule, "rules[0]")
    except InvalidField as error:
        refused = error.field
    assert refused.startswith("rules[0]") if refused else parsed.who and parsed.verbs


NAMES = st.sampled_from(["a", "b", "c", "group:a", "group:b", "a*", "*", "group:*"])
OWNERS = st.sampled_from(["a", "b", "{name}"])


@given(
    st.lists(
        st.tuples(
            st.lists(NAMES, min_size=1, max_size=2),
            st.lists(OWNERS, min_size=1, max_size=2),
            st.lists(st.sampled_from(list(PolicyVerb)), min_size=1, max_size=3),
            st.none() | st.lists(st.sampled_from(["p", "q"]), min_size=1, max_size=2),
        ),
        max_size=4,
    ),
    st.sampled_from(["a", "b", "ab"]),
    st.sets(st.sampled_from(["a", "b"])),
    st.sampled_from(list(Right)),
    st.sampled_from(["a", "b", "ab"]),
    st.sampled_from(["p", "q"]),
)
def test_the_rules_are_a_sum(
    rules: list[tuple[list[str], list[str], list[PolicyVerb], list[str] | None]],
    name: str,
    groups: set[str],
    act: Right,
    owner: str,
    pool: str,
) -> None:
    """An act is allowed if, and only if, one rule alone allows it."""
    from controller.gateway.policy import _parse_rule

    parsed = [
        _parse_rule(
            {"who": who, "owners": owners, "verbs": [str(verb) for verb in verbs], "pools": pools}, "rules[0]"
        )
        for who, owners, verbs, pools in rules
    ]
    who = caller(name, *groups)
    alone = [AccessPolicy([rule]).rights(who).allows(act, owner, pool) for rule in parsed]
    assert AccessPolicy(parsed).rights(who).allows(act, owner, pool) is any(alone)
