"""What callers may do: the rules of a policy file.

    [[rules]]
    who = ["alice", "group:vision", "kubernetes:system:serviceaccount:jobs:*"]
    owners = ["vision", "{name}"]
    verbs = ["submit", "read-own", "cancel-own"]

A rule gives its verbs to the callers that it names; a caller has what all its rules together give. `own`
means the tasks of the rule's `owners`; `{name}` stands for the caller's name, if that can be an owner's.
`pools` limits `submit` to these pools. Nothing is allowed that no rule gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from controller.core.model.fields import mapping, read_fields
from controller.core.model.scalars import parse_name, shown
from controller.core.model.toml import parse_toml
from controller.errors import InvalidField, UserError
from controller.gateway.identity import Identity, parse_identity_name

EVERYBODY = "*"
GROUP = "group:"
CALLER = "{name}"
MAX_RULES = 10_000


class PolicyVerb(StrEnum):
    """A right that a rule may give."""

    SUBMIT = "submit"
    READ_OWN = "read-own"
    READ_ANY = "read-any"
    CANCEL_OWN = "cancel-own"  # also retry, hold, release and set priority
    CANCEL_ANY = "cancel-any"
    ADMIN = "admin"  # pools, pause and resume, step-down; and all others, of everybody's tasks


class Right(StrEnum):
    """What a caller asks for, with a task or with what is everybody's."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    ADMIN = "admin"


_GIVES: dict[PolicyVerb, tuple[Right, bool]] = {  # verb → (act, for the tasks of all owners)
    PolicyVerb.SUBMIT: (Right.SUBMIT, False),
    PolicyVerb.READ_OWN: (Right.READ, False),
    PolicyVerb.READ_ANY: (Right.READ, True),
    PolicyVerb.CANCEL_OWN: (Right.CANCEL, False),
    PolicyVerb.CANCEL_ANY: (Right.CANCEL, True),
}
_NEEDS = {
    Right.SUBMIT: PolicyVerb.SUBMIT,
    Right.READ: PolicyVerb.READ_OWN,
    Right.CANCEL: PolicyVerb.CANCEL_OWN,
    Right.ADMIN: PolicyVerb.ADMIN,
}


class PolicyRule(NamedTuple):
    """One rule of the policy. `pools`: None for all."""

    who: tuple[str, ...]
    owners: tuple[str, ...]
    verbs: frozenset[PolicyVerb]
    pools: frozenset[str] | None

    def names(self, identity: Identity) -> bool:
        """Whether the rule is about this caller."""
        return any(
            _matches(who.removeprefix(GROUP), identity.groups)
            if who.startswith(GROUP)
            else _matches(who, (identity.name,))
            for who in self.who
        )

    def owners_of(self, identity: Identity) -> frozenset[str]:
        """The owners whose tasks are the caller's own by this rule."""
        named = (identity.name if owner == CALLER else owner for owner in self.owners)
        return frozenset(owner for owner in named if _can_own(owner))


class Rights(NamedTuple):
    """What one caller may do. `owners`: for each act the owners that it may be done for; None: for all."""

    owners: Mapping[Right, frozenset[str] | None]
    pools: Mapping[str, frozenset[str] | None]  # owner → the pools for which it may submit; None: all
    is_admin: bool

    def allows(self, act: Right, owner: str, pool: str = "") -> bool:
        """Whether the act is allowed with a task of this owner. `pool` counts for `submit`."""
        if self.is_admin:
            return True
        if act is Right.SUBMIT:
            pools = self.pools.get(owner, frozenset())
            return pools is None or pool in pools
        owners = self.owners.get(act, frozenset())
        return owners is None or owner in owners

    def reaches(self, act: Right, owner: str, pool: str = "") -> bool:
        """Whether there may be a task of this owner with which the act is allowed; in this pool, or any."""
        if act is Right.SUBMIT:
            return self.allows(act, owner, pool) if pool else self.is_admin or owner in self.pools
        return self.allows(act, owner) and self.allows(Right.READ, owner)

    @property
    def may_read_all(self) -> bool:
        """Whether it may read the tasks of all owners."""
        return self.readable is None

    @property
    def readable(self) -> frozenset[str] | None:
        """The owners whose tasks it may read; None for all. The same for whoever may read the same."""
        return None if self.is_admin else self.owners.get(Right.READ, frozenset())

    def reachable(self) -> dict[Right, frozenset[str] | None]:
        """`owners`, without those whose tasks it may not read: for it, there are no such tasks."""
        readable = self.readable
        return {
            act: owners if readable is None else readable if owners is None else owners & readable
            for act, owners in sorted(self.owners.items())
        }

    def lines(self) -> list[str]:
        """What is allowed, for people."""
        if self.is_admin:
            return ["may do everything, with the tasks of all owners"]
        found = [
            f"may submit for {owner} to {_listed(pools, 'all pools', 'no pool')}"
            for owner, pools in sorted(self.pools.items())
        ]
        for right, seen in self.reachable().items():
            owners = self.owners[right]
            if seen is None or seen:
                found.append(f"may {right} tasks of {_listed(seen, 'all owners', 'nobody')}")
            if owners is not None and seen is not None and owners - seen:
                found.append(
                    f"may not {right} tasks of {_listed(owners - seen, '', '')}: it may not read them"
                )
        return found or ["may do nothing"]

    @property
    def may_nothing(self) -> bool:
        """Whether no rule gives it anything."""
        return not any(self.may_ever(right) for right in Right)

    def may_ever(self, act: Right, pool: str = "") -> bool:
        """Whether there is an owner for whom the act is allowed; `submit` to this pool, or to any."""
        if self.is_admin:
            return True
        if act is Right.SUBMIT:
            return any(self.reaches(act, owner, pool) for owner in self.pools)
        return self.reachable().get(act, frozenset()) != frozenset()


class AccessPolicy:
    """The rules. It answers from memory, and never changes."""

    def __init__(self, rules: Sequence[PolicyRule]) -> None:
        self.rules = tuple(rules)

    def rights(self, identity: Identity) -> Rights:
        """What the caller may do, by all rules that name it."""
        owners: dict[Right, frozenset[str] | None] = {}
        pools: dict[str, frozenset[str] | None] = {}
        is_admin = False
        for rule in self.rules:
            if not rule.names(identity):
                continue
            is_admin |= PolicyVerb.ADMIN in rule.verbs
            own = rule.owners_of(identity)
            for verb in rule.verbs - {PolicyVerb.ADMIN}:
                act, for_all = _GIVES[verb]
                if act is Right.SUBMIT:
                    for owner in own:
                        pools[owner] = _both(pools.get(owner, frozenset()), rule.pools)
                else:
                    owners[act] = _both(owners.get(act, frozenset()), None if for_all else own)
        return Rights(owners, pools, is_admin)


def needed(act: Right) -> PolicyVerb:
    """The least verb that allows the act, for the message to who lacks it."""
    return _NEEDS[act]


def parse_policy(text: str) -> AccessPolicy:
    """The policy of a file's text. Raises InvalidField, which names the rule and the field."""
    rules: Any = read_fields(parse_toml(text), {"rules": _parse_rules}).get("rules", ())
    if not rules:
        raise InvalidField("rules", "the policy has no rule, so nobody may do anything: add [[rules]]")
    return AccessPolicy(rules)


def _parse_rules(raw: object, field: str) -> list[PolicyRule]:
    if not isinstance(raw, list):
        raise InvalidField(field, "expected a list of tables: [[rules]]")
    if len(raw) > MAX_RULES:
        raise InvalidField(field, f"has {len(raw)} rules, but at most {MAX_RULES} are allowed")
    return [_parse_rule(each, f"{field}[{index}]") for index, each in enumerate(raw)]


def _parse_rule(raw: object, field: str) -> PolicyRule:
    given = mapping(raw, field, "expected a table with who, owners, verbs and pools")
    values = read_fields(
        given,
        {"who": _parse_who, "owners": _parse_owners, "verbs": _parse_verbs, "pools": _parse_pools},
        f"{field}.",
    )
    for name in ("who", "verbs"):
        if not values.get(name):
            raise InvalidField(f"{field}.{name}", "is missing: a rule without it gives nothing to anybody")
    verbs, owners = frozenset(values["verbs"]), tuple(values.get("owners", ()))
    needs_owners = sorted(verbs & {PolicyVerb.SUBMIT, PolicyVerb.READ_OWN, PolicyVerb.CANCEL_OWN})
    if needs_owners and not owners:
        raise InvalidField(
            f"{field}.owners", f"is missing: {needs_owners[0]} is for the tasks of these owners"
        )
    pools = values.get("pools")
    return PolicyRule(tuple(values["who"]), owners, verbs, None if pools is None else frozenset(pools))


def _items(raw: object, field: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(raw, list):
        raise InvalidField(field, f"is {shown(raw)}, expected a list")
    return ((f"{field}[{index}]", each) for index, each in enumerate(raw))


def _parse_who(raw: object, field: str) -> list[str]:
    found = []
    for place, each in _items(raw, field):
        name = parse_identity_name(each, place)
        bare = name.removeprefix(GROUP)
        if not bare or "*" in bare[:-1]:
            raise InvalidField(place, f"is {shown(name)}: a '*' may stand at the end only")
        found.append(name)
    return found


def _parse_owners(raw: object, field: str) -> list[str]:
    if isinstance(raw, list) and EVERYBODY in raw:
        raise InvalidField(field, "has '*': name the owners; read-any and cancel-any are for tasks of all")
    return [
        each if each == CALLER else parse_name(each, place, "an owner") for place, each in _items(raw, field)
    ]


def _parse_verbs(raw: object, field: str) -> list[PolicyVerb]:
    found = []
    for place, each in _items(raw, field):
        try:
            found.append(PolicyVerb(each))
        except ValueError:
            raise InvalidField(place, f"is {shown(each)}, expected one of {', '.join(PolicyVerb)}") from None
    return found


def _parse_pools(raw: object, field: str) -> list[str]:
    found = [parse_name(each, place, "a pool's name") for place, each in _items(raw, field)]
    if not found:
        raise InvalidField(field, "is empty, so nothing may be submitted: leave it out for all pools")
    return found


def _listed(names: frozenset[str] | None, every: str, none: str) -> str:
    return every if names is None else ", ".join(sorted(names)) or none


def _matches(pattern: str, names: Iterable[str]) -> bool:
    if pattern.endswith(EVERYBODY):
        return any(name.startswith(pattern[:-1]) for name in names)
    return pattern in names


def _can_own(name: str) -> bool:
    try:
        parse_name(name, "owner")
    except InvalidField:
        return False
    return True


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """What either allows; None: all."""
    return None if one is None or other is None else one | other


class Forbidden(UserError):
    """The caller lacks a verb."""

    def __init__(self, act: Right, what: str, verb: PolicyVerb | None = None) -> None:
        self.verb = verb or needed(act)
        super().__init__(f"you lack the verb {self.verb} for {what}: ask who keeps the gateway's policy")
