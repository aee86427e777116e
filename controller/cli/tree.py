"""What a task waits for and what waits for it, as a tree."""

from __future__ import annotations

from collections.abc import Iterator

from controller.cli import output as out
from controller.cli.session import Session
from controller.core.model.codec import to_builtins
from controller.core.model.printable import counted
from controller.terminal import say
from controller.views.dependencies import MAX_DEPTH, EdgeView, NeighboursView, NodeView
from controller.views.tasks import UNREADABLE

COLUMNS = ("NAME", "STATE", "WHEN", "VERDICT", "REASON")

Row = tuple[object, ...]


def print_tree(session: Session, name: str, output: str) -> None:
    """Print the neighbourhood of a task, as a tree or as JSON or YAML. Raises NotFound."""
    found = session.client.neighbours(name, depth=MAX_DEPTH)
    if output:
        out.print_document(to_builtins(found), output)
        return
    if found.member:
        say(
            f"{found.member} is a member of {found.id}, whose tree this is. Where it says (same index), each"
            f" member waits for that of its own index: `tally describe task {found.member}` names these.",
            err=True,
        )
        name = found.id
    above, below = list(_branches(found, up=True)), list(_branches(found, up=False))
    table = out.Table(COLUMNS)
    for rows, words in ((above, f"{name} waits for:"), (below, f"These wait for {name}:")):
        if rows:
            say(words)
            table.print(rows)
            table = out.Table(COLUMNS)
    if not above and not below and not found.hidden:
        say(f"{name} waits for no task, and none waits for it.", err=True)
    if found.truncated or found.deeper:
        say("There are more: look at one of the last ones in the same way.", err=True)
    if found.hidden:
        say(
            f"{counted(found.hidden, 'task')} that you may not read {'is' if found.hidden == 1 else 'are'}"
            " left out.",
            err=True,
        )


def _branches(found: NeighboursView, *, up: bool) -> Iterator[Row]:
    """The rows of one side, each task with what is behind it where it comes first."""
    nodes = {node.id: node for node in found.nodes}
    steps: dict[str, list[EdgeView]] = {}
    for edge in found.edges:
        steps.setdefault(edge.to if up else edge.from_, []).append(edge)
    shown = {found.id}
    # what is left to print, the next one last: a step, its indent, and whether it is the last of its siblings
    rest: list[tuple[EdgeView, str, bool]] = []

    def put(task_id: str, indent: str) -> None:
        edges = steps.get(task_id, [])
        rest.extend((edge, indent, edge is edges[-1]) for edge in reversed(edges))

    put(found.id, "")
    while rest:
        edge, indent, is_last = rest.pop()
        task_id = edge.from_ if up else edge.to
        is_new = task_id not in shown
        branch, has_more = "└── " if is_last else "├── ", not is_new and task_id in steps
        yield _row(nodes[task_id], edge, f"{indent}{branch}{task_id}{' (see above)' if has_more else ''}")
        if is_new:
            shown.add(task_id)
            put(task_id, indent + ("    " if is_last else "│   "))


def _row(node: NodeView, edge: EdgeView, name: str) -> Row:
    state = node.state or (UNREADABLE if node.exists else None)
    return name, state, edge.wish, edge.verdict, out.reason_text(node)
