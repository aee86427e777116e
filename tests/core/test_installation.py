"""Which engine is the recorded one, and whose an attempt is: the rules at the top of
`core.model.installation`, case by case.
"""

from __future__ import annotations

import msgspec
import pytest

from controller.core.model import codec
from controller.core.model.installation import (
    EngineIdentity,
    EngineRecord,
    Installation,
    decode_engine,
    decode_installation,
    difference,
    encode,
    merged,
    with_features_of,
)
from controller.core.model.model import Model
from controller.core.model.op import Op
from controller.core.model.records import Change
from controller.errors import CorruptValue

CLUSTER = EngineIdentity(name="kubernetes", id="cluster-1", parts={"namespace a": "", "namespace b": ""})
UIDS = EngineIdentity(name="kubernetes", parts={"namespace a": "uid-a", "namespace b": "uid-b"})
NAMES = EngineIdentity(name="kubernetes", parts={"namespace a": "", "namespace b": ""})
FOLDER = EngineIdentity(name="process", id="folder-1")


@pytest.mark.parametrize(
    ("recorded", "own"),
    [
        pytest.param(FOLDER, FOLDER, id="the same"),
        pytest.param(
            FOLDER,
            EngineIdentity(name="process", id="folder-1", details={"folder": "/elsewhere"}),
            id="another path",
        ),
        pytest.param(
            CLUSTER,
            EngineIdentity(name="kubernetes", id="cluster-1", parts={**CLUSTER.parts, "namespace c": ""}),
            id="more",
        ),
        pytest.param(
            UIDS,
            EngineIdentity(name="kubernetes", parts={**UIDS.parts, "namespace c": "uid-c"}),
            id="more uids",
        ),
        pytest.param(NAMES, CLUSTER, id="the cluster is known by now"),
        pytest.param(NAMES, NAMES, id="nothing was ever known"),
        pytest.param(
            UIDS,
            EngineIdentity(name="kubernetes", parts={"namespace a": "uid-a", "namespace b": ""}),
            id="one is enough",
        ),
        pytest.param(
            CLUSTER,
            EngineIdentity(name="kubernetes", id="cluster-1", parts=UIDS.parts),
            id="the cluster decides",
        ),
    ],
)
def test_the_recorded_engine_is_known_again(recorded: EngineIdentity, own: EngineIdentity) -> None:
    assert difference(recorded, own) == ""


@pytest.mark.parametrize(
    ("recorded", "own", "words"),
    [
        pytest.param(
            FOLDER,
            EngineIdentity(name="null", id="null"),
            "the recorded engine is process",
            id="another kind",
        ),
        pytest.param(
            FOLDER,
            EngineIdentity(name="process", id="folder-2"),
            "the recorded engine is process",
            id="another id",
        ),
        pytest.param(
            CLUSTER,
            EngineIdentity(name="kubernetes", id="cluster-1", parts={"namespace a": ""}),
            "lacks namespace b",
            id="less",
        ),
        pytest.param(CLUSTER, NAMES, "cannot tell", id="cannot tell"),
        pytest.param(UIDS, NAMES, "cannot tell", id="cannot tell the uids"),
        pytest.param(
            UIDS,
            EngineIdentity(name="kubernetes", id="cluster-2", parts=NAMES.parts),
            "cannot tell",
            id="only the other",
        ),
        pytest.param(
            UIDS,
            EngineIdentity(name="kubernetes", parts={"namespace a": "uid-a", "namespace b": "x"}),
            "the recorded",
            id="one differs",
        ),
    ],
)
def test_another_engine_is_told_apart_and_named(
    recorded: EngineIdentity, own: EngineIdentity, words: str
) -> None:
    assert words in difference(recorded, own)


def test_a_record_learns_and_forgets_nothing() -> None:
    assert merged(FOLDER, FOLDER) is FOLDER
    more = EngineIdentity(
        name="kubernetes", id="cluster-1", parts={"namespace b": "", "namespace c": "uid-c"}
    )
    learnt = merged(UIDS, more)
    assert (learnt.id, learnt.parts) == (
        "cluster-1",
        {"namespace a": "uid-a", "namespace b": "uid-b", "namespace c": "uid-c"},
    )


def test_what_carries_no_id_belongs_to_an_upgraded_installation_alone() -> None:
    assert Installation(id="a").owns("a")
    assert not Installation(id="a").owns("b")
    assert not Installation(id="a").owns("")
    assert Installation(id="a", adopts_unmarked=True).owns("")
    assert not Installation(id="a", adopts_unmarked=True).owns("b")


def test_both_records_are_read_as_they_are_written() -> None:
    installation = Installation(id="0123abcd", created_at=5.0, version="1", adopts_unmarked=True)
    record = EngineRecord(engine=UIDS, installation="0123abcd", recorded_at=5.0, recorded_by="r1")
    assert decode_installation(encode(installation, Op("op"))) == installation
    assert decode_engine(encode(record, Op("op"))) == record


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"\xff", b"{}", b'{"id":5}', b'{"id":""}', b'{"id":"a b"}', b'{"id":"%s"}' % (b"a" * 64)],
)
def test_a_damaged_record_is_quarantined_and_what_was_read_last_stays(value: bytes) -> None:
    """Neither identity may be taken for absent: another engine could be recorded in its place."""
    with pytest.raises(CorruptValue):
        decode_installation(value)
    model = Model()
    model.apply(Change("installation", (), encode(Installation(id="a"), Op("op")), 1, 1))
    model.apply(Change("engine", (), encode(EngineRecord(engine=FOLDER, installation="a"), Op("op")), 2, 2))
    model.apply(Change("installation", (), value, 3, 1))
    model.apply(Change("engine", (), codec.encode({"engine": {"name": 1}}), 4, 2))
    assert {kind for kind, _ in model.quarantine} == {"installation", "engine"}
    assert model.installation is not None
    assert model.engine is not None
    assert (model.installation.id, model.engine.engine) == ("a", FOLDER)


def test_a_feature_that_this_release_does_not_know_keeps_it_out() -> None:
    known = msgspec.structs.replace(FOLDER, parts={"feature/owners": "", "feature/claims": "dropping"})
    assert difference(known, FOLDER) == ""
    unknown = msgspec.structs.replace(FOLDER, parts={"feature/owners": "", "feature/tides": ""})
    assert "does not know the feature tides" in difference(unknown, FOLDER)


@pytest.mark.parametrize("value", ["", "dropping", "by hand"])
def test_features_say_nothing_of_the_engine(value: str) -> None:
    """Not that it is another one, nor that it is the same."""
    parts = {"feature/owners": value}
    assert difference(msgspec.structs.replace(NAMES, parts={**NAMES.parts, **parts}), NAMES) == ""
    other = EngineIdentity(name="process", id="folder-2", parts=parts)
    assert "the recorded engine is" in difference(msgspec.structs.replace(FOLDER, parts=parts), other)


def test_features_stay_when_an_engine_is_merged_and_when_another_is_recorded() -> None:
    recorded = msgspec.structs.replace(NAMES, parts={**NAMES.parts, "feature/owners": "dropping"})
    assert merged(recorded, CLUSTER).parts == {**CLUSTER.parts, "feature/owners": "dropping"}
    assert with_features_of(FOLDER, recorded).parts == {"feature/owners": "dropping"}
    assert with_features_of(FOLDER, NAMES) == FOLDER
