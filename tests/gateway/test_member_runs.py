"""The members of an array as runs: of one's own arrays; those of others do not exist."""

from __future__ import annotations

import pytest

from controller.client import Client
from controller.core.model.features import KNOWN
from tests.client.conftest import PutRaw
from tests.client.test_features import release
from tests.gateway.conftest import As
from tests.gateway.test_gateway import task


@pytest.mark.usefixtures("_features")
def test_of_an_array_that_one_may_read(as_: As, client: Client, put_raw: PutRaw) -> None:
    put_raw("leader", release("r1", knows=list(KNOWN)))
    client.features.enable("arrays")
    put_raw("leader", release("r1", knows=list(KNOWN)))
    client.submit(task("mine", owner="vision", array={"size": 100_000}))
    client.submit(task("plain", owner="vision"))
    client.submit(task("theirs", owner="speech", array={"size": 5}))
    seen = {"min_revision": client.get("theirs").create_revision, "wait": 5}

    def runs(name: str) -> tuple[int, str]:
        answer = as_("alice").get(f"/v1/tasks/{name}/members/runs", params=seen)
        return answer.status_code, answer.text

    assert runs("mine") == (200, '{"id":"mine","size":100000,"runs":[[100000,"Waiting"]],"truncated":false}')
    assert runs("plain")[0] == 409
    theirs, nobody = runs("theirs"), runs("nobody")
    assert theirs[0] == 404
    assert theirs[1].replace("theirs", "nobody") == nobody[1]
