"""The commands `tally gateway`, `check-policy` and `token`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from controller.cli.session import CONNECTION, Session, as_usage
from controller.core.model.printable import counted
from controller.errors import InvalidField
from controller.terminal import say, say_lines

FILES = ("gateway_policy_file", "gateway_tokens_file")
SETTINGS = (
    *CONNECTION,
    "replica",
    "gateway",
    *FILES,
    "gateway_cert_file",
    "gateway_key_file",
    "gateway_client_ca_file",
    "gateway_session_key_file",
    "gateway_oidc_issuer",
    "gateway_oidc_audience",
    "gateway_oidc_name_claim",
    "gateway_oidc_groups_claim",
    "gateway_oidc_prefix",
    "gateway_oidc_ca_file",
    "gateway_kubernetes",
    "gateway_kubernetes_audiences",
    "engine",
    "state_dir",
    "kubeconfig",
    "kube_context",
    "kube_namespaces",
    "gateway_rate",
    "gateway_burst",
    "forecast_seconds",
)


def serve(session: Session) -> None:
    """Serve people who have no etcd credentials, in the foreground.

    SIGTERM, Ctrl-C and a closed terminal end it, after the requests under way were answered.
    """
    from controller.app import make_store, make_subject
    from controller.cli.engines import engine_of
    from controller.clock import SystemClock
    from controller.config import settings_in_use
    from controller.gateway.run import run_gateway

    settings = session.settings
    named = session.given("engine"), session.given("state_dir")
    with settings_in_use():
        store = make_store(settings, SystemClock())
        subject = make_subject(settings, store)
        raise typer.Exit(
            run_gateway(settings, store, lambda client: engine_of(client, settings, *named), subject)
        )


def check_policy(
    session: Session,
    who: Annotated[
        str, typer.Option(metavar="NAME", help="Also print what the caller of this name may do.")
    ] = "",
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A group of that caller, beside those of its tokens. May be repeated."
        ),
    ] = None,
) -> None:
    """Check the gateway's policy and its file of tokens, before it reads them."""
    from controller.gateway.identity import Identity, Method, parse_identity_name
    from controller.gateway.sign_in import policy_file, tokens_file

    settings = session.settings
    if settings.gateway_policy_file is None:
        raise InvalidField("gateway_policy_file", "is missing: give --gateway-policy-file")
    known: frozenset[str] = frozenset()
    policy = policy_file(settings.gateway_policy_file).current()
    say(f"{settings.gateway_policy_file}: {counted(len(policy.rules), 'rule')}, in order")
    if settings.gateway_tokens_file is not None:
        tokens = tokens_file(settings.gateway_tokens_file).current()
        known = tokens.groups_of(who)
        say(f"{settings.gateway_tokens_file}: {counted(len(tokens), 'token')}, in order")
        if over := tokens.expired(time.time()):
            say(f"warning: expired, so refused: the tokens of {', '.join(over)}", err=True)
    if who:
        groups = known | {parse_identity_name(each, "--group") for each in group or ()}
        rights = policy.rights(Identity(parse_identity_name(who, "--who"), groups, Method.TOKEN))
        for line in rights.lines():
            say(line)


def token(
    session: Session,  # noqa: ARG001  # it needs no settings
    name: Annotated[str, typer.Argument(help="The caller's name.")],
    group: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A group of the caller. May be repeated.")
    ] = None,
    expires: Annotated[
        str, typer.Option(metavar="DURATION", help="How long it is valid, such as 90d. Default: for ever.")
    ] = "",
) -> None:
    """Make a token for a caller of the gateway.

    Prints the token on stderr, once, and on stdout what to add to the file of tokens: its hash.
    """
    from controller.core.model.scalars import parse_duration
    from controller.gateway.identity import parse_identity_name
    from controller.gateway.tokens import entry, new_token

    made = new_token()
    caller = as_usage(lambda: parse_identity_name(name, "NAME"))
    groups = as_usage(lambda: [parse_identity_name(each, "--group") for each in group or ()])
    until = None
    if expires:
        seconds = as_usage(lambda: parse_duration(expires, "--expires"))
        until = datetime.fromtimestamp(int(time.time() + seconds), UTC)
    say_lines(entry(caller, groups, made, until))
    say(f"the token, which is shown this once: {made}", err=True)
