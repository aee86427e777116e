"""No flag that is given twice is lost in silence: it adds up, or is refused, in every command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import typer

from controller.cli.main import app
from controller.client import Client
from controller.config import Settings, flag_of
from controller.core.model.features import KNOWN
from controller.store.etcd import wire
from tests.cli.conftest import Tally
from tests.client.conftest import PutRaw
from tests.client.test_features import release
from tests.support.etcd import EtcdFactory, in_seconds

ADD_UP = {
    "--after",
    "--delete",
    "--env",
    "--etcd",
    "--gateway-kubernetes-audiences",
    "--grant",
    "--group",
    "--kube-namespaces",
    "--label",
    "--notifier-allowed-networks",
    "--resource",
    "--selector",
    "--state",
}
"""Flags of which all values count: what their help calls a list, and each setting with several values."""

SUPPOSED = {"--pool", "--cancel", "--priority", "--hold", "--release", "--drain"}
"""Flags of `tally what-if`: each value is something else that is supposed."""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


TREE = [
    pytest.param(command, id=" ".join(("tally", *path)))
    for path, command in commands(typer.main.get_command(app))
]


def options(command: Any) -> Iterator[Any]:
    return (
        each for each in command.params if each.param_type_name == "option" and not each.name.startswith("_")
    )


def value_of(option: Any, number: int) -> list[str]:
    return [] if option.is_flag else [str(number)]


@pytest.mark.parametrize("command", TREE)
def test_a_flag_that_is_repeated_adds_up_or_is_refused(command: Any) -> None:
    for option in options(command):
        flags = (option.opts[-1], (option.secondary_opts or option.opts)[-1])
        given = [text for at, flag in enumerate(flags) for text in (flag, *value_of(option, at + 1))]
        context = command.make_context("tally", [], resilient_parsing=True)
        context.resilient_parsing = False
        if option.multiple or (option.is_flag and not option.secondary_opts):
            opts, _, _ = command.make_parser(context).parse_args(args=given)
            assert opts[option.name] in (["1", "2"], True)
            continue
        with pytest.raises(typer.BadParameter, match="is given more than once, and takes one value"):
            command.parse_args(context, given)


@pytest.mark.parametrize("command", TREE)
def test_every_list_may_be_repeated(command: Any) -> None:
    lists = {flag_of(each.name) for each in fields(Settings) if str(each.type).startswith("tuple")}
    assert lists < ADD_UP
    for option in options(command):
        supposed = command.name == "what-if" and option.opts[0] in SUPPOSED
        assert option.multiple == (supposed or bool(ADD_UP & {*option.opts})), option.opts
        assert option.multiple or "commas" not in (option.help or ""), option.opts


def test_all_tasks_of_after_are_waited_for(tally: Tally, client: Client, put_raw: PutRaw) -> None:
    put_raw("engine", b'{"engine":{"name":"null","id":"e"},"installation":"abc"}')
    put_raw("leader", release("r1", knows=list(KNOWN)))
    client.features.enable("dependencies")
    for name in ("cut", "render", "film"):
        assert tally("submit", name, "--", "true").exit_code == 0
    given = ("--after=cut:finished,film", "--after", "render:finished")
    assert tally("submit", "w", *given, "--", "true").exit_code == 0
    after = client.get("w").spec.after  # type: ignore[union-attr]
    assert [(each.task, each.when) for each in after] == [
        ("cut", "finished"),
        ("film", "succeeded"),
        ("render", "finished"),
    ]


def test_all_selectors_must_hold_and_all_states_count(tally: Tally, client: Client) -> None:
    client.submit_many(
        [
            {"id": "both", "command": ["true"], "labels": {"team": "a", "env": "dev"}},
            {"id": "other", "command": ["true"], "labels": {"team": "b", "env": "dev"}},
        ]
    )
    selects = ("-l", "team=a", "-l", "env=dev")
    assert [row[0] for row in tally("get", "tasks", *selects).rows()] == ["both"]
    for verb in ("cancel", "retry", "hold", "release"):
        told = tally(verb, *selects, "--dry-run")
        assert "other" not in told.out + told.err
    assert tally("cancel", *selects, "--dry-run").out.startswith("task/both (Created")
    assert len(tally("get", "tasks", "--state", "failed", "--state", "created,running").rows()) == 2
    assert len(tally("cancel", "--state", "created", "--state", "failed", "--dry-run").out.splitlines()) == 2


def test_all_endpoints_of_etcd_are_tried(tally: Tally, environment: dict[str, str]) -> None:
    own = environment["TALLY_ETCD"]
    for before, after in ((own, "http://127.0.0.1:1"), ("http://127.0.0.1:1", own)):
        assert tally("get", "tasks", "--etcd", before, "--etcd", after).exit_code == 0
        assert tally("--etcd", before, "--etcd", after, "get", "tasks").exit_code == 0


@pytest.mark.parametrize(
    "given",
    [
        ("-l", "team=a", "-l", "team=b"),
        ("--env", "A=1", "--env", "A=2"),
        ("--cpu", "1", "--resource", "cpu=2"),
        ("--pool", "a", "--pool", "b"),
    ],
)
def test_two_values_of_one_name_are_refused(tally: Tally, client: Client, given: tuple[str, ...]) -> None:
    answer = tally("submit", "x", *given, "--", "true")
    assert answer.exit_code == 2
    assert "given" in answer.err
    assert list(client.tasks()) == []


def test_a_full_etcd_is_not_taken_for_one_that_does_not_run(tally: Tally, etcd_factory: EtcdFactory) -> None:
    etcd = etcd_factory.start()
    with Client(etcd.url, cluster="full") as client:
        client.apply_pool({"name": "default", "capacity": {"cpu": 1}})
    alarm = wire.encode({"action": "ACTIVATE", "alarm": "NOSPACE"})
    etcd_factory.store(etcd.url).gateway.call("/maintenance/alarm", alarm, bytes, deadline=in_seconds())
    answer = tally("submit", "x", "--etcd", etcd.url, "--cluster", "full", "--", "true")
    assert answer.exit_code == 1
    assert "etcd is full, and nothing was written: `tally check` says how full" in answer.err
    assert "Is etcd running" not in answer.err
