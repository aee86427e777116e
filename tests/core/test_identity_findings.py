"""What an audit says of the two keys that tell who an installation is, when they are gone or damaged."""

from __future__ import annotations

import pytest

from controller.core.model import codec
from controller.core.model.installation import EngineIdentity
from controller.core.model.model import Model
from controller.core.model.records import Change
from controller.core.promise.identity_findings import check_identity, recorded_engine, recorded_installation
from controller.core.promise.invariants import check_layout

OWN = {"name": "process", "id": "abc"}
KEYS = {
    "installation": codec.encode({"id": "i1", "op": "o"}),
    "engine": codec.encode({"engine": OWN, "installation": "i1", "op": "o"}),
}


def model_with(keys: dict[str, bytes | None], term: dict[str, object]) -> Model:
    """A model of these keys, after one term."""
    model = Model()
    model.apply(Change("terms", ("000000000001",), codec.encode({"epoch": 1, **term}), 2, 2))
    for mod, (kind, value) in enumerate(keys.items(), 3):
        if value is not None:
            model.apply(Change(kind, (), value, mod, mod))
    return model


@pytest.mark.parametrize("lacked", ["installation", "engine"])
def test_a_key_that_is_gone_is_found_and_its_value_known_by_the_last_term(lacked: str) -> None:
    """As elections know it: another engine must not be taken for the recorded one meanwhile."""
    model = model_with({**KEYS, lacked: None}, {"installation": "i1", "engine": OWN})
    assert [finding.subject for finding in check_identity(model)] == [f"key/{lacked}"]
    assert recorded_engine(model) == EngineIdentity(name="process", id="abc")
    installation = recorded_installation(model)
    assert installation is not None
    assert installation.id == "i1"


def test_nothing_is_missed_where_no_term_tells_of_it() -> None:
    """An older version has led: the next election makes both."""
    model = model_with({}, {})
    assert list(check_identity(model)) == []
    assert (recorded_engine(model), recorded_installation(model)) == (None, None)
    assert recorded_engine(model_with({}, {"engine": 7})) is None


@pytest.mark.parametrize("damaged", ["installation", "engine"])
def test_a_damaged_key_is_named_as_its_deletion_takes_it(damaged: str) -> None:
    model = model_with({**KEYS, damaged: b"{}"}, {"installation": "i1", "engine": OWN})
    assert list(check_identity(model)) == []
    (finding,) = check_layout(model)
    assert finding.subject == f"key/{damaged}"
    assert f"--delete {damaged}`"[:-1] in finding.repair
    assert recorded_engine(model) == EngineIdentity(name="process", id="abc")
