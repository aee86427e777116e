"""Finds in the code where data is read from another component, and where it is kept.

Two kinds of places are found, so that `test_copies` can ask for a row of `deploy/consistency.md` for each:

- A *reading*: a module takes something from a seam, that is from an object of a type in `SEAMS`, or by one of
  `CALLS` or `CALLS_OF`. What is of such a type is found by its annotation (parameters, attributes, results of
  functions), also one in a string, an `Optional` or a container; and by iteration over such a container.
- *Kept state*: an attribute that outlives the call that set it. It is a container that `__init__` or the
  class made, a field of a mutable dataclass, an attribute that another method sets to anything but a constant
  or a lock or thread of its own, a container of a module, or a function that caches its results. A container
  that begins empty in a function counts, too, if the function lives long: it is told when to stop, by an
  event.

An attribute that another object sets (`attempt.observation = seen`) is found if the variable has the name of
the class.

It follows no types, and so it has limits. Not found: what closures and other local variables keep; what is
handed to `__init__`, and is no container there; a seam without annotation, or after a plain assignment
(`it = self._store`); a method that is fetched by `getattr`; a look at a file that reads nothing of it
(`stat`, `exists`). A name means the same everywhere, so that a row may be asked for what only has the name of
a seam.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2] / "controller"
# Other programs than Tally, which stand in for others: a fake Kubernetes, and the demo of naive designs.
APART = {"fake_kubernetes", "demo"}

SEAMS = {
    "Store": {"get", "load", "pages", "watch"},
    "Engine": {"identity", "others", "start", "stop", "find", "attempts", "watch", "logs"},
    "Gateway": {"call", "begin", "stream"},
    "KubernetesApi": {"call", "stream"},
    "DockerDaemon": {"api"},
    "Mirror": {"model", "reading", "subscribe"},
    "Reading": {"model", "tasks", "task", "follow", "kept_log"},
    "ReadableReplica": {"reading", "subscribe", "facts", "audit"},
    "Led": {"reading", "observed"},
    "OpenerDirector": {"open"},
    "Session": {"get"},
}
# An implementation counts as its seam, by the end of its name: `EtcdStore`, `DockerEngine`.
IMPLEMENTED = ("Store", "Engine")
CALLS = {
    "create_connection",
    "glob",
    "iterdir",
    "listdir",
    "open",
    "read_bytes",
    "read_request",
    "read_text",
    "read_versioned",
    "rglob",
    "scandir",
    "urlopen",
}
# Calls of a module. Not `os.environ`: whoever starts a process sets it once, and it changes no more.
CALLS_OF = {
    "requests": {"get", "post", "request"},
    "subprocess": {"Popen", "check_output", "getoutput", "run"},
}
# An `open` that writes, locks or makes durable.
NO_READ = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_DIRECTORY|\bflags\b|'[awx]b?'")

CONTAINERS = {
    "Counter",
    "OrderedDict",
    "PriorityQueue",
    "Queue",
    "SimpleQueue",
    "SortedDict",
    "SortedKeyList",
    "SortedList",
    "SortedSet",
    "WeakSet",
    "WeakValueDictionary",
    "defaultdict",
    "deque",
    "dict",
    "list",
    "set",
}
VALUES = {"Struct", "NamedTuple"}  # bases of values: a container in the class is a default, and not shared
NO_CONTAINERS = {"Callable", "Literal", "type"}  # types whose arguments are nothing that is had
OWN_MAKES = {"Condition", "Event", "Lock", "RLock", "Thread", "Timer"}  # of `threading`

Function = ast.FunctionDef | ast.AsyncFunctionDef
Assignment = ast.Assign | ast.AnnAssign | ast.AugAssign


def sources() -> dict[str, str]:
    """The text of each module and of each script of the page, by its path in `controller`."""
    paths = [*ROOT.rglob("*.py"), *ROOT.rglob("*.js")]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for path in sorted(paths)
        if not APART & set(path.parts)
    }


def last_name(node: ast.AST | None) -> str:
    """The last word of an expression: `x` of `a.x`, `x()` and `x[...]`, without leading underscores."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return str(name).lstrip("_")


@cache
def parsed(text: str) -> ast.Module:
    """The module, which is read once."""
    return ast.parse(text)


@cache
def nodes_of(tree: ast.AST) -> tuple[ast.AST, ...]:
    """All nodes below it, and itself. A whole walk of the code takes seconds."""
    return tuple(ast.walk(tree))


def names_of_seams(trees: Iterable[ast.AST]) -> dict[str, str]:
    """What is of a seam's type, by its name anywhere in the code: a name means the same everywhere."""
    found: dict[str, str] = {}
    for tree in trees:
        for node in nodes_of(tree):
            for name, kinds in _bindings(node):
                for kind in filter(None, map(_seam, kinds)):
                    found[name.strip("_")] = kind
    for tree in trees:  # `for engine in engines`
        for node in nodes_of(tree):
            if isinstance(node, ast.For | ast.comprehension) and last_name(node.iter) in found:
                found.setdefault(last_name(node.target), found[last_name(node.iter)])
    return found


def _seam(kind: str) -> str:
    if kind in SEAMS:
        return kind
    return next((each for each in IMPLEMENTED if kind.endswith(each)), "")


def _bindings(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    if isinstance(node, ast.arg):
        yield node.arg, _kinds(node.annotation)
    elif isinstance(node, ast.AnnAssign):
        yield last_name(node.target), _kinds(node.annotation)
    elif isinstance(node, Function):
        yield node.name, _kinds(node.returns) & SEAMS.keys()
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        for target in node.targets:
            yield last_name(target), {last_name(node.value)}
    elif isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call):
        yield last_name(node.optional_vars), {last_name(node.context_expr)}


def _kinds(annotation: ast.expr | None) -> set[str]:
    """The types that an annotation names, also as a string, optional, or in a container."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Subscript):
        inner = annotation.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        return set() if last_name(annotation) in NO_CONTAINERS else set().union(*map(_kinds, parts))
    if isinstance(annotation, ast.BinOp):
        return _kinds(annotation.left) | _kinds(annotation.right)
    return {last_name(annotation)} if isinstance(annotation, ast.Name | ast.Attribute) else set()


def readings(text: str, seams: dict[str, str]) -> set[str]:
    """The methods of seams, and the calls, by which a module reads. `seams` is as from `names_of_seams`."""
    found = set()
    for node in nodes_of(parsed(text)):
        if isinstance(node, ast.Attribute):
            if node.attr in SEAMS.get(seams.get(last_name(node.value), ""), ()):
                found.add(node.attr)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            of_module = owner.id if isinstance(owner, ast.Name) and f"import {owner.id}\n" in text else ""
            if called in CALLS_OF.get(of_module, ()) or (called in CALLS and not NO_READ.search(_how(node))):
                found.add(called)
    return found


def kept_for_others(trees: dict[str, ast.AST]) -> set[str]:
    """Attributes that others set to what may be foreign, as `file::Class.attribute`."""
    classes = {
        node.name.lower(): (f"{path}::{node.name}", _attributes(node))
        for path, tree in trees.items()
        for node in nodes_of(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = set()
    for tree in trees.values():
        for node in nodes_of(tree):
            if isinstance(node, Assignment) and any(map(_may_be_foreign, _values(node))):
                for target in _targets(node):
                    owner = last_name(target.value) if isinstance(target, ast.Attribute) else ""
                    place, attributes = classes.get(owner.replace("_", ""), ("", set()))
                    if isinstance(target, ast.Attribute) and target.attr in attributes:
                        found.add(f"{place}.{target.attr}")
    return found


def _attributes(kind: ast.ClassDef) -> set[str]:
    """The attributes that a class declares, in its body or in `__init__`."""
    found = {last_name(node.target) for node in kind.body if isinstance(node, ast.AnnAssign)}
    for method in kind.body:
        if isinstance(method, Function) and method.name == "__init__":
            for node in nodes_of(method):
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    found |= {each.attr for each in _targets(node) if isinstance(each, ast.Attribute)}
    return found


def _how(call: ast.Call) -> str:
    """The arguments of a call, without the name of a file."""
    on_a_path = isinstance(call.func, ast.Attribute) and last_name(call.func.value) != "os"
    return " ".join(map(ast.unparse, [*call.args[0 if on_a_path else 1 :], *call.keywords]))


def _is_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.BoolOp | ast.IfExp):
        return any(_is_container(each) for each in ast.iter_child_nodes(value) if isinstance(each, ast.expr))
    literal = ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp
    return isinstance(value, literal) or (isinstance(value, ast.Call) and last_name(value) in CONTAINERS)


def _is_empty(value: ast.expr | None) -> bool:
    """Whether it is a container that is yet to be filled."""
    return (
        _is_container(value)
        and isinstance(value, ast.expr)
        and not any(
            isinstance(each, ast.expr) and each is not getattr(value, "func", None)
            for each in ast.iter_child_nodes(value)
        )
    )


def kept(text: str) -> set[str]:
    """What a module keeps: `Class.attribute`, `Class.method.local`, and names of the module itself."""
    tree = parsed(text)
    found = set(_containers_in(tree.body))
    for node in nodes_of(tree):
        if isinstance(node, Function) and any("cache" in last_name(each) for each in node.decorator_list):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name in _kept_by(node)}
    return found | set(_kept_by_functions(tree))


def _containers_in(
    body: Iterable[ast.AST], which: Callable[[ast.expr | None], bool] = _is_container
) -> Iterator[str]:
    """The names that these statements set to containers; not constants, nor `__all__` and its like."""
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and any(map(which, _values(node))):
            for target in _targets(node):
                if isinstance(target, ast.Name) and not re.fullmatch(r"_*[A-Z0-9_]+|__\w+__", target.id):
                    yield target.id


def _kept_by_functions(tree: ast.Module) -> Iterator[str]:
    """What is collected by functions that live long: those that are told when to stop, by an event."""
    owners: list[tuple[str, ast.AST]] = [("", tree)]
    owners += [(f"{each.name}.", each) for each in nodes_of(tree) if isinstance(each, ast.ClassDef)]
    for owner, node in owners:
        for function in ast.iter_child_nodes(node):
            if isinstance(function, Function):
                given = [*function.args.args, *function.args.kwonlyargs]
                if any("Event" in _kinds(each.annotation) for each in given):
                    for name in _containers_in(nodes_of(function), _is_empty):
                        yield f"{owner}{function.name}.{name}"


def _kept_by(kind: ast.ClassDef) -> Iterator[str]:
    if not {last_name(base) for base in kind.bases} & VALUES:
        yield from _containers_in(kind.body)
    decorators = " ".join(map(ast.unparse, kind.decorator_list))
    if "dataclass" in decorators and "frozen=True" not in decorators:
        for node in kind.body:
            if isinstance(node, ast.AnnAssign):
                yield last_name(node.target)
    for method in kind.body:
        if not isinstance(method, Function):
            continue
        is_kept = _is_container if method.name == "__init__" else _may_be_foreign
        for part in nodes_of(method):
            if isinstance(part, Assignment) and any(map(is_kept, _values(part))):
                yield from (
                    target.attr
                    for target in _targets(part)
                    if isinstance(target, ast.Attribute) and last_name(target.value) == "self"
                )


def _targets(node: Assignment) -> Iterator[ast.expr]:
    waiting = list(node.targets) if isinstance(node, ast.Assign) else [node.target]
    while waiting:
        target = waiting.pop()
        if isinstance(target, ast.Tuple | ast.List):
            waiting += target.elts
        else:
            yield target


def _values(node: Assignment) -> list[ast.expr | None]:
    return list(node.value.elts) if isinstance(node.value, ast.Tuple) else [node.value]


def _may_be_foreign(value: ast.expr | None) -> bool:
    """Whether a value may come from somewhere else: it is no constant, and no lock or thread."""
    if isinstance(value, ast.UnaryOp):
        value = value.operand
    own = isinstance(value, ast.Call) and last_name(value) in OWN_MAKES
    return value is not None and not isinstance(value, ast.Constant) and not own
