"""What a pod does when it runs: a script, given by annotation, by a function, or read off its command.

The annotation `fake.tally.dev/script` holds JSON with the fields of `Script`, for example
`{"run_seconds": 5, "exit_code": 3}` or `{"start": "image-error"}`. All times are seconds of the fake cluster.

Without a script the pod's command is read, in the small language of `from_command`: `sleep N`, `echo WORDS`,
`true`, `false`, `exit N`, in sequence through `sh -c "…; …"`, and `trap "exit N" TERM`. Anything else ends at
once with code 0. As in a real container, a process with id 1 that has set no trap ignores TERM, and is killed
after the grace.
"""

from __future__ import annotations

import re
import shlex
from typing import Any, Literal

import msgspec

from controller.dev.fake_kubernetes.apierrors import Document

ANNOTATION = "fake.tally.dev/script"

Start = Literal["runs", "unschedulable", "stuck", "image-error", "image-never", "config-error", "not-found"]


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to one pod. Unless `start` says otherwise its containers run, and end with `exit_code`."""

    start: Start = "runs"
    """unschedulable: no node fits; stuck: ContainerCreating forever; image-error: ErrImagePull,
    ImagePullBackOff; image-never: ErrImageNeverPull; config-error: CreateContainerConfigError; not-found: the
    command does not exist."""
    run_seconds: float | None = 0.0
    """From the container's start to its end; None: it never ends by itself."""
    exit_code: int = 0
    others_stay: bool = False
    """Only the first container ends by itself; all others run until they are stopped."""
    oom: bool = False
    """Killed for its memory when `run_seconds` are over: exit code 137, reason OOMKilled."""
    on_term: int | None = None
    """Exit code after TERM; None: TERM is ignored, and the kill comes after the grace."""
    term_seconds: float = 0.1
    """From TERM to that exit."""
    vanish_after: float | None = None
    """Seconds after its start when the pod object is removed by force; the container is then stopped as
    for a forced deletion.
    """
    evict_after: float | None = None
    """Seconds after its start when the kubelet evicts it."""
    output: tuple[tuple[float, str], ...] = ()
    """What it prints: seconds after its start, and the line."""


def parse_script(text: str) -> Script:
    """The annotation's script. Raises ValueError."""
    try:
        return msgspec.json.decode(text, type=Script)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error


def script_of(pod: Document, missing_images: set[str]) -> Script:
    """The annotation's script, else what the image and the command of the first container say."""
    annotation = (pod["metadata"].get("annotations") or {}).get(ANNOTATION)
    if annotation is not None:
        return parse_script(annotation)
    container = pod["spec"]["containers"][0]
    # RFC 2606: no such host
    if container["image"] in missing_images or container["image"].partition("/")[0].endswith(".invalid"):
        return Script(start="image-never" if container.get("imagePullPolicy") == "Never" else "image-error")
    return from_command(container)


_TRAP = re.compile(r"""trap\s+(?P<quote>["'])(?P<action>.*?)(?P=quote)\s+(?:SIG)?TERM\s*(?:;|&&|$)""")
_EXIT = re.compile(r"\bexit\s+(\d+)")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def from_command(container: Document) -> Script:
    """See the module's docstring."""
    words = [str(word) for word in (*container.get("command", ()), *container.get("args", ()))]
    if len(words) >= 3 and words[0].rsplit("/", 1)[-1] in {"sh", "bash"} and words[1] in {"-c", "-ec", "-lc"}:
        text = words[2]
    else:
        text = shlex.join(words)
    environment = {each["name"]: each.get("value", "") for each in container.get("env", ())}
    on_term: int | None = None
    if trap := _TRAP.search(text):
        code = _EXIT.search(trap["action"])
        on_term = int(code[1]) if code else 0
        text = text[: trap.start()] + text[trap.end() :]
    return _read(text, environment, on_term)


def _read(text: str, environment: dict[str, str], on_term: int | None) -> Script:
    at, exit_code = 0.0, 0
    output: list[tuple[float, str]] = []
    for statement in re.split(r"\s*(?:;|&&|&|\n)\s*", text):
        words = _words(statement)
        name = words[0] if words else ""
        first = words[1] if len(words) > 1 else ""
        exit_code = 0 if name else exit_code
        if name == "sleep":
            at += _seconds(first)
        elif name == "echo":
            output.append((at, _expand(" ".join(words[1:]), environment)))
        elif name == "false":
            exit_code = 1
        elif name == "exit":
            exit_code = int(first) if first.isdecimal() else 0
            break
    ends: float | None = None if at == float("inf") else at
    return Script(run_seconds=ends, exit_code=exit_code, on_term=on_term, output=tuple(output))


def _words(statement: str) -> list[str]:
    try:
        return shlex.split(statement)
    except ValueError:  # an unbalanced quote: not of this language
        return statement.split()


def _seconds(text: str) -> float:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    if text.startswith("inf"):
        return float("inf")
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        return float(number) * unit
    except ValueError:
        return 0.0


def _expand(text: str, environment: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        return environment.get(match[1] or match[2], "")

    return _VARIABLE.sub(value, text)


def script_annotation(**fields: Any) -> dict[str, str]:
    """The annotation for a script with these fields, for a pod's metadata."""
    return {ANNOTATION: msgspec.json.encode(Script(**fields)).decode()}
