"""`tally engine adopt`: the record of the engine is changed only in the cluster that was looked at."""

from __future__ import annotations

from typing import Any

import pytest

from controller.audit.adoption import adopt_engine
from controller.core.model.installation import EngineIdentity, decode_engine
from controller.errors import UserError
from controller.store.base import Refused
from tests.support.bench import Stage
from tests.support.meddling import MeddledStore

NEW = EngineIdentity(name="null", id="new")


@pytest.mark.parametrize("what", ["engine", "installation", "leader", "hold", "hold of nothing", "new pool"])
def test_an_adoption_compares_all_that_it_was_decided_from(stage: Stage, what: str) -> None:
    """It is refused if somebody has written since, and looks again: a task may hold resources by then."""
    installation = b'{"id":"abc","created_at":5.0,"op":"e1"}'
    engine = b'{"engine":{"name":"null","id":"e"},"installation":"abc","op":"e1"}'
    stage.put(stage.keys.installation, installation)
    stage.put(stage.keys.engine, engine)
    leader = stage.leader()
    refused: list[bool] = []
    holds = what in ("hold", "hold of nothing", "new pool")

    def write() -> None:
        if holds:
            if what == "new pool":
                stage.pool("new")
            fields: dict[str, Any] = {"resources": {}} if what == "hold of nothing" else {}
            stage.submit("job", pool="new" if what == "new pool" else "default", **fields)
            leader.sync()
            leader.run()
        elif what == "leader":
            stage.elect()
        elif what == "engine":
            stage.put(stage.keys.engine, engine)
        else:
            stage.put(stage.keys.installation, installation)

    def write_first(real: Any, transaction: Any, **options: Any) -> Any:
        if not refused:
            write()
        answer = real(transaction, **options)
        refused.append(isinstance(answer, Refused))
        return answer

    store: Any = MeddledStore(stage.store)
    store.on["commit"] = write_first

    def adopt() -> None:
        adopt_engine(store, stage.keys, stage.clock, NEW, "test", forget_running=False)

    if holds:
        with pytest.raises(UserError, match="resources are held by 1 task"):
            adopt()
    else:
        adopt()
    assert refused == ([True] if holds else [True, False])
    item, _ = stage.store.get(stage.keys.engine, deadline=stage.clock.boottime() + 5)
    assert item is not None
    assert (decode_engine(item.value).engine == NEW) is not holds


def test_an_adoption_keeps_the_features_that_are_on(stage: Stage) -> None:
    stage.put(stage.keys.installation, b'{"id":"abc","created_at":5.0,"op":"e1"}')
    stage.put(
        stage.keys.engine,
        b'{"engine":{"name":"null","parts":{"feature/owners":"","namespace a":""}},"installation":"abc"}',
    )
    adopt_engine(stage.store, stage.keys, stage.clock, NEW, "test", forget_running=False)
    item, _ = stage.store.get(stage.keys.engine, deadline=stage.clock.boottime() + 5)
    assert item is not None
    assert decode_engine(item.value).engine.parts == {"feature/owners": ""}
