"""The verbs of a client for asyncio."""

from __future__ import annotations

import asyncio

import pytest

from controller.client import AsyncClient, Client, NotFound, Still
from controller.client.async_client import THREADS
from controller.core.model.lifecycle import State
from tests.client.conftest import PutStatus


def test_verbs_are_those_of_the_client(client: Client, put_status: PutStatus) -> None:
    """With the same results and errors; the loop goes on meanwhile."""

    async def use() -> None:
        tally = AsyncClient(client)
        assert (await tally.submit({"id": "a", "command": ["true"]})).outcome == "created"
        many = await tally.submit_many({"id": name, "command": ["true"]} for name in "bc")
        assert [result.outcome for result in many] == ["created", "created"]
        assert [view.id for view in await tally.tasks()] == ["a", "b", "c"]
        with pytest.raises(NotFound):
            await tally.get("none")
        with pytest.raises(Still):
            await tally.wait(["a"], timeout_seconds=0.1)
        waiting = asyncio.create_task(tally.wait(["a", "b"]))
        ticks = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            ticks += 1
            if ticks == 5:
                for name in "ab":
                    await tally.call(lambda name=name: put_status(name, State.SUCCEEDED))  # type: ignore[misc]
        assert {view.state for view in (await waiting).values()} == {State.SUCCEEDED}
        async for views in tally.watch_tasks():
            assert len(views) == 3
            break
        assert (await tally.cancel("c", reason="enough")).outcome == "requested"
        assert "c" in await tally.explain("c")

    asyncio.run(use())


def test_a_wait_can_be_cancelled(client: Client) -> None:
    """Its thread ends soon after, and the others are not held up."""

    async def use() -> None:
        tally = AsyncClient(client)
        await tally.submit({"id": "a", "command": ["true"]})
        waits = [asyncio.create_task(tally.wait(["a"])) for _ in range(5)]
        await asyncio.sleep(0.05)
        for each in waits:
            each.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError)
            for each in await asyncio.gather(*waits, return_exceptions=True)
        )
        assert (await tally.get("a")).state is State.CREATED

    asyncio.run(use())


def test_a_watch_that_is_cancelled_gives_its_thread_back(client: Client) -> None:
    """More of them than there are threads; nothing changes meanwhile."""

    async def look(tally: AsyncClient, begun: asyncio.Event) -> None:
        async for _ in tally.watch_tasks():
            begun.set()

    async def use() -> None:
        tally = AsyncClient(client)
        for _ in range(3):
            begun = [asyncio.Event() for _ in range(THREADS // 2)]
            watches = [asyncio.create_task(look(tally, each)) for each in begun]
            await asyncio.gather(*(each.wait() for each in begun))
            for each in watches:
                each.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
        assert await asyncio.wait_for(tally.pools(), 20) is not None

    asyncio.run(use())
