"""What all commands share: the flags of the connection, the client, and the exit codes for errors.

Exit codes: 0 done; 1 error, or a waited-for task failed; 2 usage; 3 an audit of etcd alone, since the engine
could not be checked; 4 still waiting at the time-out; 5 not found.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from controller import __version__
from controller.cli.verbs import CONNECTION as CONNECTION_PANEL
from controller.cli.verbs import Verb
from controller.errors import TallyError, UserError
from controller.terminal import say, say_lines

if TYPE_CHECKING:
    from controller.client import Client
    from controller.config import ResolvedConfig, Settings

T = TypeVar("T")

ERROR, USAGE, INCOMPLETE, STILL_WAITING, NOT_FOUND, INTERRUPTED = 1, 2, 3, 4, 5, 130
BROKEN_PIPE = 141  # the exit code of a process that SIGPIPE ends
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

CONNECTION = (
    "etcd",
    "cluster",
    "server",
    "token_file",
    "request_timeout_seconds",
    "user",
    "password_file",
    "ca_file",
    "cert_file",
    "key_file",
)
"""Settings that are flags of every command that talks to etcd. They may come before or after the verb."""


class Session:
    """One run of a command: its flags, and the settings and the client, which are made on first use."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self._config = flags.pop("config", None)
        self._flags = flags
        self._client: Client | None = None

    @property
    def flags(self) -> list[str]:
        """The flags of settings that were given."""
        from controller.config import flag_of

        return [flag_of(name) for name in (*self._flags, *(["config"] if self._config is not None else []))]

    @functools.cached_property
    def loaded(self) -> ResolvedConfig:
        """The settings, and the origin of each. Raises InvalidField."""
        from controller.config import load_settings

        return load_settings(self._flags, os.environ, self._config)

    @property
    def settings(self) -> Settings:
        """The settings. Raises InvalidField."""
        return self.loaded.settings

    def given(self, name: str) -> Any:
        """The value of a setting from a flag, the environment or a file; None if it has its default.

        Raises InvalidField.
        """
        return getattr(self.settings, name) if self.loaded.origins[name] != "default" else None

    @property
    def uses_gateway(self) -> bool:
        """Whether the client is that of a gateway."""
        return self.loaded.uses_gateway

    def need_etcd(self) -> None:
        """Raises NeedsEtcd if the client is that of a gateway."""
        if self.uses_gateway:
            from controller.client.by_gateway import NeedsEtcd

            raise NeedsEtcd

    @property
    def client(self) -> Client:
        """The client, made on first use and closed when the command ends."""
        if self._client is None:
            from controller.client.connecting import client_of

            self._client = client_of(self.loaded)
        return self._client

    def close(self) -> None:
        """Close what was opened."""
        if self._client is not None:
            self._client.close()


def command(
    app: typer.Typer, name: str | None = None, *, settings: Iterable[str] = CONNECTION, **options: Any
) -> Callable[..., Any]:
    """Register `function(session, …)` as a command that also takes the flags of these settings.

    If a parameter is a dataclass, each of its fields is a flag. A TallyError becomes a message on stderr and
    an exit code. An unexpected error becomes one line, and how to see more. The name "" is for what a group
    does without a command.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        flags = flag_parameters(settings)
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        groups: dict[str, type[Any]] = {p.name: p.annotation for p in own if _is_group(p.annotation)}

        @functools.wraps(function)
        def run(context: typer.Context, **arguments: Any) -> None:
            flags_given = settings_given({flag.name: arguments.pop(flag.name) for flag in flags})
            before_the_verb = context.obj or {}
            if context.invoked_subcommand is not None:
                context.obj = {**before_the_verb, **flags_given}
                return
            session = Session({**before_the_verb, **flags_given})
            for group, kind in groups.items():
                names = [field.name for field in dataclasses.fields(kind)]
                arguments[group] = kind(**{each: arguments.pop(each) for each in names})
            with_exit_code(session, lambda: function(session, **arguments))

        context = inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        )
        parameters = [context, *(flag for p in own for flag in _flags_of(p)), *flags]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        if name == "":
            app.callback(invoke_without_command=True)(run)
        else:
            app.command(name, cls=Verb, **options)(run)
        return function

    return register


def _is_group(annotation: object) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _flags_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The flags of a parameter: itself, or the fields of a dataclass."""
    if _is_group(parameter.annotation):
        return list(inspect.signature(parameter.annotation, eval_str=True).parameters.values())
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]


def root_flags(app: typer.Typer) -> None:
    """Accept the connection's flags before the verb, too: `tally --etcd URL get tasks`."""
    flags = flag_parameters(CONNECTION)

    def remember(context: typer.Context, **given: Any) -> None:
        if given.pop("version"):
            say(f"tally {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            context.fail("a command is missing")
        context.obj = settings_given(given)

    version = inspect.Parameter(
        "version",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--version", help="Print the version.")],
    )
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    remember.__signature__ = inspect.Signature([context, version, *flags])  # type: ignore[attr-defined]  # as above
    remember.__annotations__ = {
        parameter.name: parameter.annotation for parameter in (context, version, *flags)
    }
    app.callback(invoke_without_command=True)(remember)  # without a command, for --version


def settings_given(flags: Mapping[str, str | Sequence[str] | None]) -> dict[str, Any]:
    """The settings that were given, each as one text: a flag that was repeated is a list with commas."""
    return {
        name: value if isinstance(value, str) else joined(value)
        for name, value in flags.items()
        if isinstance(value, str) or value
    }


def joined(texts: Iterable[str] | None) -> str:
    """The values of a flag that may be repeated, as one list with commas; "" if it was not given."""
    return ",".join(filter(None, texts or ()))


def flag_parameters(settings: Iterable[str]) -> list[inspect.Parameter]:
    """An optional parameter for each setting, and `--config`. `load_settings` parses the values.

    It is a text, or a list of texts if the setting has several values.
    """
    from controller.config import Settings, flag_of

    lists = {spec.name for spec in dataclasses.fields(Settings) if str(spec.type).startswith("tuple")}
    about = {spec.name: spec.metadata["about"] for spec in dataclasses.fields(Settings)}
    about["config"] = "TOML file of settings (default ~/.config/tally/tally.toml, then /etc/tally/tally.toml)"
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                (list[str] if name in lists else str) | None,
                typer.Option(
                    flag_of(name), help=about[name], show_default=False, rich_help_panel=_panel_of(name)
                ),
            ],
        )
        for name in ("config", *settings)
    ]


def _panel_of(name: str) -> str:
    return CONNECTION_PANEL if name in ("config", *CONNECTION) else "Settings"


def with_exit_code(session: Session, function: Callable[[], None]) -> None:
    """Call the function. Errors become a message on stderr, and typer.Exit with their exit code."""
    try:
        function()
        sys.stdout.flush()
    except TallyError as error:
        complain(*_advice(error, session))
        code = _code_of(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        drop_output()
        code = BROKEN_PIPE
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:  # noqa: BLE001  # the last resort: shown in one line, and whole on demand
        if os.environ.get("TALLY_DEBUG"):
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            drop_output()
            complain(f"{error.filename or 'standard output, or a file,'} cannot be written: {error.strerror}")
        else:
            complain(
                f"unexpected {type(error).__name__}: {error}",
                "Run the command again with TALLY_DEBUG=1 to get a traceback, and report it.",
            )
        code = ERROR
    else:
        return
    finally:
        session.close()
    raise typer.Exit(code)


def without_session(function: Callable[..., None]) -> Callable[..., None]:
    """The command that needs no settings, with the exit codes of the others."""

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        with_exit_code(Session({}), lambda: function(**arguments))

    return run


def drop_output() -> None:
    """Write no more on stdout: the interpreter's last flush would report an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(error: str, *advice: str) -> None:
    """Print an error and advice on stderr."""
    for line in (f"error: {error}", *advice):
        say_lines(line.replace("\n", "\n  "), err=True)


def confirm(question: str) -> None:
    """Ask; unless the answer is yes, say that nothing was changed, and end the command.

    Raises typer.Exit: 130 after Ctrl-C, as shells expect, else 1.
    """
    code = ERROR
    try:
        if typer.confirm(question):
            return
    except typer.Abort as abort:  # click makes the same of Ctrl-C and of the end of the input
        say("", err=True)
        if isinstance(abort.__context__, KeyboardInterrupt):
            code = INTERRUPTED
    say("Nothing was changed.", err=True)
    raise typer.Exit(code)


def as_usage(parse: Callable[[], T]) -> T:
    """The result of `parse`; its refusal is a usage error, exit code 2."""
    try:
        return parse()
    except UserError as error:
        raise typer.BadParameter(str(error)) from None


def parse_timeout(text: str | None) -> float | None:
    """The seconds of a --timeout; None if it was not given. Raises BadParameter."""
    from controller.core.model.scalars import parse_duration

    return as_usage(lambda: parse_duration(text, "--timeout")) if text is not None else None


def without_etcd(session: Session) -> str:
    """Advice on where to look without etcd: a replica's endpoint answers from its model."""
    url = f"{'https' if session.settings.status_cert_file else 'http'}://{session.settings.status}"
    return (
        f"Replicas answer without etcd: see the page of one, such as {url}/, or its /readyz?verbose,"
        " /v1/replicas and /v1/tasks"
    )


def _code_of(error: TallyError) -> int:
    from controller.client import NotFound, Still
    from controller.config import InvalidSetting

    codes = ((InvalidSetting, USAGE), (NotFound, NOT_FOUND), (Still, STILL_WAITING))
    return next((code for kind, code in codes if isinstance(error, kind)), ERROR)


def _advice(error: TallyError, session: Session) -> list[str]:
    """The error's text, and advice if the text has none."""
    from controller.client import Still
    from controller.config import InvalidSetting
    from controller.store.base import OutcomeUnknown, StoreDenied, StoreFull, StoreUnavailable

    match error:
        case Still(waiting=waiting):
            return [str(error), f"`tally explain {waiting[0]}` says why."]
        case InvalidSetting():
            return [str(error), "See `tally config show` for all settings and where they come from."]
        case StoreFull():
            full = "etcd is full, and nothing was written: `tally check` says how full it is"
            return [str(error), f"{full}, and the runbook of TallyStoreNearlyFull what to do."]
        case StoreUnavailable():
            tried = ", ".join(session.settings.etcd)
            start = (
                f"Is etcd running at {tried}? Give --etcd or TALLY_ETCD, start a local cluster (tally dev),"
                " or sign in at a gateway (tally login)"
            )
            return [str(error), start, without_etcd(session)]
        case OutcomeUnknown():
            return [str(error), "Run the same command again: nothing is stored twice."]
        case StoreDenied():
            return [str(error), "See --user, --password-file, --ca-file, --cert-file and --key-file."]
    return [str(error)]
