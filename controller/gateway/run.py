"""Runs a gateway: the settings choose the store and the files, and a signal ends it."""

from __future__ import annotations

import os
import resource
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing

import structlog

from controller import __version__, bulkhead
from controller.client import Client
from controller.clock import Clock, WallClock
from controller.config import InvalidSetting, Settings, flag_of, variable_of
from controller.election.session import Registration
from controller.endpoint.access import EndpointAccess, StatusFiles, advertised_url
from controller.endpoint.stream import Feed
from controller.forecaster.forecaster import Forecaster
from controller.forecaster.wire import Subject
from controller.gateway.api import GatewayApi
from controller.gateway.attempt_logs import AttemptLogs, FindEngine
from controller.gateway.changes import Changes
from controller.gateway.events import OwnedEvents
from controller.gateway.metrics import GatewayMetrics
from controller.gateway.noted import NotedCalls
from controller.gateway.oidc import Oidc, OidcOptions
from controller.gateway.openings import MOST_CONNECTIONS
from controller.gateway.rates import Rates
from controller.gateway.server import GatewayServer
from controller.gateway.service import Service
from controller.gateway.sessions import Sessions
from controller.gateway.sign_in import Provider, SignIn, policy_file
from controller.gateway.task_owners import TaskOwners
from controller.gateway.writing import Writing
from controller.interpreter import hold_large_models
from controller.runtime.standby import Standby
from controller.signals import call_at_end
from controller.store.base import Store, new_lease
from controller.store.keys import Keys
from controller.telemetry.logs import configure_logs
from controller.views.freshness import Rule

LOOK_SECONDS = 5.0
OTHER_FILES = 512  # beside connections: spooled answers, etcd, certificates
log = structlog.get_logger(__name__)


def allow_connections() -> None:
    """Open as many files as the connections need, if the hard limit allows it: the soft one is often 1024.

    If it may not be changed, it stays, and the log says so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError) as error:  # a seccomp filter
            log.warning("the limit of open files stays", files=soft, wanted=most, why=str(error))


def providers(settings: Settings, clock: Clock) -> Iterator[Provider]:
    """Whoever is asked about tokens that are not of the file. Raises InvalidField, EngineUnavailable."""
    if settings.gateway_oidc_audience and not settings.gateway_oidc_issuer:
        raise InvalidSetting("gateway_oidc_issuer", "is missing, and gateway_oidc_audience is set")
    if settings.gateway_oidc_issuer:
        options = OidcOptions(
            settings.gateway_oidc_issuer,
            settings.gateway_oidc_audience,
            settings.gateway_oidc_name_claim,
            settings.gateway_oidc_groups_claim,
            settings.gateway_oidc_prefix,
            settings.gateway_oidc_ca_file,
        )
        yield Oidc(options, clock.wall, clock.boottime)
    if settings.gateway_kubernetes:
        from controller.engine.kubernetes.api import ClusterAccess, KubernetesApi
        from controller.gateway.token_review import TokenReviews

        access = ClusterAccess(
            kubeconfig=settings.kubeconfig,
            context=settings.kube_context,
            qps=settings.kube_qps,
            burst=settings.kube_burst,
            timeout_seconds=settings.kube_timeout_seconds,
        )
        yield TokenReviews(
            KubernetesApi(access, clock), settings.gateway_kubernetes_audiences, clock.boottime
        )


def run_gateway(settings: Settings, store: Store, find_engine: FindEngine, subject: Subject) -> int:
    """Run a gateway until SIGTERM, SIGINT or SIGHUP, and return the exit code.

    It closes `store`. Outputs of attempts are read from the engine that `find_engine` opens. `subject` is
    what another process looks ahead at.

    Raises InvalidField for files that cannot be used, and StatusAddressUnavailable. An etcd that does not
    answer is not an error: the gateway waits for it.
    """
    if settings.gateway_policy_file is None:
        raise InvalidSetting(
            "gateway_policy_file",
            "is missing, so nobody may do anything: set"
            f" {flag_of('gateway_policy_file')} or {variable_of('gateway_policy_file')}",
        )
    ways = (
        settings.gateway_tokens_file,
        settings.gateway_client_ca_file,
        settings.gateway_oidc_issuer,
        settings.gateway_kubernetes,
    )
    if not any(ways):
        raise InvalidSetting(
            "gateway_tokens_file",
            "is missing, and so is every other way to sign in: set it, gateway_client_ca_file,"
            " gateway_oidc_issuer or gateway_kubernetes",
        )
    configure_logs(replica=settings.replica, cluster=settings.cluster)
    threading.excepthook = bulkhead.end_with_thread
    allow_connections()
    hold_large_models()
    clock, keys = WallClock(), Keys(settings.cluster)
    policy = policy_file(settings.gateway_policy_file)
    sign_in = SignIn(settings.gateway_tokens_file, clock.wall, [*providers(settings, clock)])
    files = StatusFiles(
        settings.gateway_cert_file, settings.gateway_key_file, settings.gateway_client_ca_file
    )
    access = EndpointAccess(files, prefix="gateway_")
    rule = Rule.of(settings.heartbeat_seconds, settings.silence_seconds, settings.relist_seconds)
    standby = Standby(store, keys, clock, rule, settings.silence_seconds)
    calls = NotedCalls(store, keys, clock, settings.request_timeout_seconds)
    metrics = GatewayMetrics()
    forecaster = Forecaster(subject, metrics, settings.forecast_seconds)
    service = Service(calls, standby, forecaster.answer)
    writing, events = Writing(calls, standby, service), OwnedEvents(TaskOwners(standby.reading))
    logs = AttemptLogs(Client.of_store(store, cluster=keys.cluster, clock=clock), find_engine)
    sessions = Sessions(settings.gateway_session_key_file, settings.cluster, clock.wall)
    changes = Changes(events.owners)
    api = GatewayApi(service, writing, Feed(), changes, events, logs, metrics, sessions)
    rates = Rates(clock, settings.gateway_rate, settings.gateway_burst)
    host, _, port = settings.gateway.rpartition(":")
    server = GatewayServer(api, standby, sign_in, policy, rates, access, host.strip("[]"), int(port))
    ended = threading.Event()
    with closing(store):
        server.start()
        registration = _registration(settings, store, keys, clock, standby, server)
        try:
            standby.start()
            registration.start()
            forecaster.start()
            call_at_end(ended.set)
            log.info("gateway starts", url=server.url, etcd=",".join(settings.etcd))
            _watch_over(standby, ended)
        finally:
            forecaster.close()
            server.stop()
            registration.close()
            standby.close()
    log.info("gateway stopped")
    return 0


def _registration(
    settings: Settings, store: Store, keys: Keys, clock: Clock, standby: Standby, server: GatewayServer
) -> Registration:
    """What keeps the gateway registered, for whoever asks which there are."""
    identity = {
        "id": settings.replica,
        "instance": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "url": advertised_url(server.url, ""),
        "version": __version__,
        "started_at": clock.wall(),
    }

    def now() -> dict[str, object]:
        return {
            "at": clock.wall(),
            "applied_revision": standby.revision,
            "behind_seconds": round(standby.staleness_seconds, 1),
            **server.state(),
        }

    return Registration(
        store, keys.gateways.__add__, clock, identity, now, settings.heartbeat_seconds, new_lease
    )


def _watch_over(standby: Standby, ended: threading.Event) -> None:
    """Until the end, tell in the log when callers should not come here, and when they should again."""
    told = ""
    while not ended.wait(LOOK_SECONDS):
        checks = [each for each in standby.ready() if not each.ok and each.name != "leader"]
        failed = "; ".join(f"{check.name}: {check.detail}" for check in checks)
        if failed and not told:
            log.warning("gateway is not ready", why=failed)
        if told and not failed:
            log.info("gateway is ready")
        told = failed
