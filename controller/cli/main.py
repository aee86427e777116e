"""The command `tally`: all verbs are registered here.

The command line parses, calls the library and prints. It decides nothing.
"""

from __future__ import annotations

import signal
import sys

import typer

from controller.cli import (
    auth,
    change,
    describe,
    engine,
    forecast,
    gateway,
    get,
    notifier,
    operate,
    owners,
    sign_in,
    top,
)
from controller.cli.audit import audit
from controller.cli.demo import demo
from controller.cli.drain import drain
from controller.cli.features import features
from controller.cli.logs import logs
from controller.cli.selftest import selftest
from controller.cli.session import (
    CONNECTION,
    ERROR,
    command,
    complain,
    drop_output,
    root_flags,
    without_session,
)
from controller.cli.submit import submit
from controller.cli.verbs import Verb, Verbs
from controller.cli.wait import wait
from controller.interpreter import open_standard_files
from controller.signals import ignore

app = typer.Typer(
    name="tally",
    cls=Verbs,
    help="Tasks that hold resources once and release them once, whatever fails.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than everything else that help needs
    context_settings={"help_option_names": ["-h", "--help"]},
)
config = typer.Typer(cls=Verbs, help="Show the settings.", no_args_is_help=True)
app.add_typer(config, name="config", rich_help_panel="Operators")
roles = typer.Typer(cls=Verbs, help="Manage the roles of users in etcd.", no_args_is_help=True)
app.add_typer(roles, name="auth", rich_help_panel="Operators")
settable = typer.Typer(cls=Verbs, help="Change tasks that wait.", no_args_is_help=True)
app.add_typer(settable, name="set", rich_help_panel="Tasks and pools")
gateways = typer.Typer(cls=Verbs, help="Serve people who have no etcd credentials.")
app.add_typer(gateways, name="gateway", rich_help_panel="Operators")
notifiers = typer.Typer(cls=Verbs, help="Tell receivers about ended tasks.")
app.add_typer(notifiers, name="notifier", rich_help_panel="Operators")
engines = typer.Typer(help="Show or change the engine of this installation.", no_args_is_help=True)
app.add_typer(engines, name="engine", rich_help_panel="Operators")

TASKS, OPERATORS = "Tasks and pools", "Operators"
WITH_ENGINE = (*CONNECTION, "state_dir", "kubeconfig", "kube_context", "kube_namespaces")

STATUS_READER = ("status_ca_file", "status_token_file", "status_cert_file", "status_key_file")

root_flags(app)
command(app, "submit", rich_help_panel=TASKS)(submit)
command(app, "get", rich_help_panel=TASKS)(get.get)
command(app, "describe", rich_help_panel=TASKS, settings=WITH_ENGINE)(describe.describe)
command(app, "wait", rich_help_panel=TASKS)(wait)
command(app, "logs", rich_help_panel=TASKS, settings=WITH_ENGINE)(logs)
command(app, "history", rich_help_panel=TASKS)(describe.history)
command(app, "explain", rich_help_panel=TASKS)(forecast.why)
command(app, "plan", rich_help_panel=TASKS)(forecast.plan)
command(app, "what-if", rich_help_panel=TASKS)(forecast.what_if)
command(app, "top", rich_help_panel=TASKS)(top.top)
command(app, "usage", rich_help_panel=TASKS)(owners.usage)
command(app, "cancel", rich_help_panel=TASKS)(change.cancel)
command(app, "retry", rich_help_panel=TASKS)(change.retry)
command(app, "hold", rich_help_panel=TASKS)(change.hold)
command(app, "release", rich_help_panel=TASKS)(change.release)
command(settable, "priority", context_settings={"ignore_unknown_options": True})(change.set_priority)  # -5
command(app, "login", rich_help_panel=TASKS, settings=())(sign_in.login)
command(app, "logout", rich_help_panel=TASKS, settings=())(sign_in.logout)
command(app, "whoami", rich_help_panel=TASKS)(sign_in.whoami)
command(roles, "can-i")(sign_in.can_i)
command(app, "apply", rich_help_panel=TASKS)(change.apply)
command(app, "pause", rich_help_panel=TASKS)(change.pause)
command(app, "resume", rich_help_panel=TASKS)(change.resume)
command(app, "drain", rich_help_panel=TASKS)(drain)
command(app, "delete", rich_help_panel=TASKS)(change.delete)
command(app, "dev", rich_help_panel=OPERATORS, settings=operate.REPLICA_SETTINGS)(operate.dev)
command(app, "demo", rich_help_panel=OPERATORS, settings=())(demo)
command(app, "controller", rich_help_panel=OPERATORS, settings=operate.ALL_SETTINGS)(operate.controller)
command(app, "audit", rich_help_panel=OPERATORS, settings=(*WITH_ENGINE, "engine"))(audit)
command(app, "selftest", rich_help_panel=OPERATORS, settings=(*WITH_ENGINE, *STATUS_READER))(selftest)
command(app, "check", rich_help_panel=OPERATORS, settings=WITH_ENGINE)(operate.check)
command(app, "step-down", rich_help_panel=OPERATORS)(change.step_down)
command(app, "confirm-stopped", rich_help_panel=OPERATORS)(change.confirm_stopped)
command(app, "release-finalizers", rich_help_panel=OPERATORS, settings=WITH_ENGINE)(change.release_finalizers)
command(app, "features", rich_help_panel=OPERATORS)(features)
command(gateways, "", settings=gateway.SETTINGS)(gateway.serve)
command(gateways, "check-policy", settings=gateway.FILES)(gateway.check_policy)
command(gateways, "token", settings=())(gateway.token)
command(notifiers, "", settings=notifier.SETTINGS)(notifier.serve)
notifiers.command("secret", cls=Verb)(without_session(notifier.secret))
command(notifiers, "list")(notifier.list_notices)
command(notifiers, "retry")(notifier.retry_notices)
command(notifiers, "drop")(notifier.drop_notices)
command(roles, "init")(auth.init)
command(engines, "show", settings=(*CONNECTION, *engine.SETTINGS))(engine.show)
command(engines, "adopt", settings=(*CONNECTION, *engine.SETTINGS))(engine.adopt)
command(config, "show", settings=operate.ALL_SETTINGS)(operate.config_show)
app.command("completion", cls=Verb, rich_help_panel=OPERATORS)(without_session(operate.completion))
app.command("version", cls=Verb, rich_help_panel=OPERATORS)(without_session(operate.version))


def main() -> None:
    """Run the command line of this process. `entry` calls this."""
    open_standard_files()
    try:
        app(prog_name="tally")  # a fixed name, since completion depends on it
    except OSError as error:  # of help
        drop_output()
        complain(f"standard output cannot be written: {error.strerror}")
        sys.exit(ERROR)
    finally:
        ignore([signal.SIGINT])  # a second Ctrl-C would print a traceback of the interpreter's end


if __name__ == "__main__":
    main()
