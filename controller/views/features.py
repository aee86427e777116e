"""The features of an installation: which are on, which replicas know them, and what of the data uses them.

See `controller.core.model.features`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from controller.core.model import features
from controller.core.model.lifecycle import State
from controller.core.model.model import Model
from controller.core.model.records import Change, Task, decode_or_empty
from controller.core.model.requests import RequestKind
from controller.core.model.task import DEFAULT_OWNER, StopReason
from controller.errors import InvalidField
from controller.views.gangs import is_gang

FeatureState = Literal["on", "off", "dropping"]


class Release(NamedTuple):
    """What a replica's registration, or the leader's key, says of its release."""

    name: str
    mod: int
    features: tuple[str, ...]


class Fence(NamedTuple):
    """The record of features, and who must know them.

    `engine_mod` is the mod of the record; 0 if no replica has led yet. `problem` says why it cannot be read.
    """

    engine_mod: int
    problem: str
    recorded: Mapping[str, str]
    leader: Release | None
    replicas: tuple[Release, ...]

    def state(self, name: str) -> FeatureState:
        """Whether the feature is on."""
        if name not in self.recorded:
            return "off"
        return "dropping" if self.recorded[name] == features.DROPPING else "on"

    def unknown_to(self, name: str) -> list[str]:
        """The leader and the registered replicas whose release does not know the feature."""
        asked = filter(None, (self.leader, *self.replicas))
        return list(dict.fromkeys(each.name for each in asked if name not in each.features))


def fence(model: Model) -> Fence:
    """The fence, as far as the model has the records of the engine, the leader and the replicas."""
    recorded = model.engine.engine.parts if model.engine is not None else {}
    return Fence(
        engine_mod=model.mod_of("engine", ()) if model.engine is not None else 0,
        problem=model.quarantine.get(("engine", ()), ""),
        recorded=features.recorded(recorded),
        leader=_release(model.leader) if model.leader is not None else None,
        replicas=tuple(_release(change, name) for name, change in sorted(model.replicas.items())),
    )


def check_on(state: Callable[[str], FeatureState], needed: Mapping[str, str]) -> None:
    """Raise InvalidField for a feature that is not on; `needed` maps each to the field that needs it."""
    lacking = [name for name in needed if state(name) != "on"]
    for name in lacking:
        raise InvalidField(
            needed[name],
            f"needs the feature {name}, which is {state(name)}: an admin turns it on with"
            f" `tally features enable {' '.join(lacking)}`",
        )


def mod_if_on(model: Model, name: str) -> int:
    """The mod of the record that has the feature on, to be guarded by who uses it; 0 if it is off."""
    recorded = features.recorded(model.engine.engine.parts) if model.engine is not None else {}
    return model.mod_of("engine", ()) if recorded.get(name, features.DROPPING) != features.DROPPING else 0


def _release(change: Change, name: str = "") -> Release:
    told = decode_or_empty(change)
    known = told.get("features")
    names = tuple(each for each in known if isinstance(each, str)) if isinstance(known, list) else ()
    return Release(name or str(told.get("id", "unnamed")), change.mod, names)


def uses(model: Model, name: str) -> list[str]:
    """The records that use the feature, as `<kind>/<name>`."""
    needs = features.needed_by_pool
    pools = [f"pool/{pool}" for pool in sorted(model.pools) if name in needs(model.pools[pool].pool)]
    claims = [f"claim/{pool}/{task}" for pool in sorted(model.claims) for task in sorted(model.claims[pool])]
    tasks = [f"task/{task_id}" for task_id in sorted(model.tasks) if _task_uses(model.tasks[task_id], name)]
    attested = [f"attested/{task_id}" for task_id in sorted(model.attested)]
    notices = [f"outbox/{'/'.join(names)}" for names in sorted(model.notices)]
    notices += [f"delivered/{'/'.join(names)}" for names in sorted(model.deliveries)]
    # the records that keep parents of tasks which wait are those of these tasks
    awaits = [f"awaits/{'/'.join(pair)}" for pair in (*model.dependencies.early, *model.dependencies.stale)]
    attested += [f"attested-schedules/{name}" for name in sorted(model.schedules.attested)]
    blocks = [f"arrays/{array.name}" for array in model.arrays]
    own = {
        features.ARRAYS: sorted(blocks),
        features.ATTESTED: attested,
        features.CAPACITIES: [f"capacities/{pool}" for pool in sorted(model.capacities)],
        features.CLAIMS: claims,
        features.DEPENDENCIES: sorted(awaits),
        features.NOTIFY: notices,
        features.SCHEDULES: [f"schedule/{name}" for name in sorted(model.schedules.names)],
    }
    return [*pools, *own.get(name, []), *tasks]


def _task_uses(task: Task, name: str) -> bool:
    if name == features.OWNERS:
        return any(record.owner != DEFAULT_OWNER for record in (task.spec, task.status) if record is not None)
    status = task.status
    if name == features.DEPENDENCIES:
        return bool(task.spec is not None and task.spec.after) or (status is not None and status.gated)
    if name == features.GANGS:
        is_member = status is not None and (status.of_gang or bool(status.reserved))
        return is_member or is_gang(task.spec)
    if name == features.CHANGES:
        return RequestKind.CHANGE in task.requests or (
            status is not None
            and not status.is_finished
            and (status.state is State.CREATED or status.on_hold or status.priority is not None)
        )
    return name == features.CLAIMS and status is not None and status.stopping == StopReason.PREEMPTED
