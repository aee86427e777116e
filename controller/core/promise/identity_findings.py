"""What an audit finds about the installation's identity, and others of its name in the engine: notices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from controller.core.model.installation import EngineIdentity, Installation
from controller.core.model.model import Model
from controller.core.model.printable import counted
from controller.core.model.records import decode_or_empty
from controller.core.promise.finding import Finding, FindingSeverity


def recorded_engine(model: Model) -> EngineIdentity | None:
    """The recorded engine. If its key is gone or damaged: the copy in the last term's record.

    Elections use this copy, too.
    """
    if model.engine is not None:
        return model.engine.engine
    try:
        return msgspec.convert(_last_term(model).get("engine"), EngineIdentity)
    except msgspec.ValidationError:
        return None


def recorded_installation(model: Model) -> Installation | None:
    """The installation. If its key is gone or damaged: the id in the last term's record."""
    told = _last_term(model).get("installation")
    if model.installation is not None or not (isinstance(told, str) and told):
        return model.installation
    return Installation(id=told)


def _last_term(model: Model) -> dict[str, Any]:
    return decode_or_empty(model.terms[max(model.terms)]) if model.terms else {}


def check_identity(model: Model) -> Iterator[Finding]:
    """The two identity keys: a finding if one is gone, although the last term had it."""
    for kind, stored, told in (
        ("installation", model.installation, recorded_installation(model)),
        ("engine", model.engine, recorded_engine(model)),
    ):
        if stored is None and told is not None and (kind, ()) not in model.quarantine:
            yield Finding(
                invariant="identity",
                subject=f"key/{kind}",
                what=(
                    "is gone; the last term's record says"
                    f" {told if isinstance(told, EngineIdentity) else told.id}"
                ),
                since_revision=0,
                likely_cause="deleted by hand",
                repair=(
                    "the current or next leader writes it back: check that a replica leads (`tally get"
                    " replicas`)"
                ),
                severity=FindingSeverity.NOTICE,
            )


def other_engine(model: Model, why: str) -> Finding:
    """The given engine is not the recorded one: its list says nothing about this installation."""
    return Finding(
        invariant="identity",
        subject="engine/asked",
        what=f"is not this installation's, and was not checked: {why}",
        since_revision=model.mod_of("engine", ()),
        likely_cause=(
            "the flags or settings differ from those of the replicas that lead; or the engine was moved or"
            " created again"
        ),
        repair=(
            "use the recorded engine (`tally engine show`), or change the record on purpose (`tally engine"
            " adopt`)"
        ),
        severity=FindingSeverity.NOTICE,
    )


def check_others(others: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Attempts of other installations of the cluster's name, by their id ("" for none)."""
    for mark, names in sorted(others.items()):
        lost = (
            "give one of the two installations another cluster name; or, if the etcd of the other one is"
            f" lost, run `tally engine adopt --installation {mark}`"
        )
        whose = "" if mark else " without an installation id"
        yield Finding(
            invariant="identity",
            subject=f"installation/{mark or '-'}",
            what=(
                f"has {counted(len(names), 'attempt')}{whose} in the engine, under this cluster's name"
                f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}): left alone, and not counted"
            ),
            since_revision=0,
            likely_cause=(
                "another installation with this cluster name uses this engine, or used it before its etcd was"
                " lost"
            ),
            repair=lost if mark else "remove them by hand when they are no longer needed",
            severity=FindingSeverity.NOTICE,
        )
