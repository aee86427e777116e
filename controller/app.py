"""Composition root: the settings choose the store and the engine; one replica is built from them and run."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from typing import Any
from urllib.parse import urlsplit

import structlog

from controller import __version__, bulkhead
from controller.audit.audit import run_audit
from controller.audit.own import SelfAudit
from controller.client.reading import Reading
from controller.clock import Clock, SystemClock
from controller.config import Settings, check_timings
from controller.core.model import features
from controller.election.elector import Timings
from controller.endpoint.access import EndpointAccess, StatusFiles, advertised_url
from controller.endpoint.server import StatusServer
from controller.engine.base import Counting, Engine
from controller.errors import InvalidField
from controller.forecaster.forecaster import Forecaster
from controller.forecaster.wire import Subject
from controller.interpreter import hold_large_models
from controller.runtime import failpoints
from controller.runtime.audits import Audits
from controller.runtime.options import ReplicaOptions
from controller.runtime.replica import Replica
from controller.signals import call_at_end
from controller.store.base import new_lease
from controller.store.etcd.gateway import GatewayOptions
from controller.store.etcd.store import EtcdStore
from controller.store.keys import Keys
from controller.telemetry.logs import configure_logs
from controller.telemetry.measured import MeasuredEngine, MeasuredStore
from controller.telemetry.metrics import Metrics
from controller.telemetry.notify import ServiceNotifier
from controller.telemetry.store_size import StoreSizePoll

LOG_SECONDS = 5.0  # to read a kept log for the status endpoint
# EX_SOFTWARE: a thread died, or state could not be torn down. The supervisor of this process starts it again.

log = structlog.get_logger(__name__)


def make_store(settings: Settings, clock: Clock) -> EtcdStore:
    """The store that the settings name. It connects when it is first used."""
    return EtcdStore(
        GatewayOptions(
            endpoints=settings.etcd,
            user=settings.user,
            password_file=str(settings.password_file or ""),
            ca_file=str(settings.ca_file or ""),
            cert_file=str(settings.cert_file or ""),
            key_file=str(settings.key_file or ""),
        ),
        clock,
    )


def make_engine(name: str, settings: Settings, clock: Clock) -> Engine:
    """The engine of that name.

    Raises InvalidField if this version has no such engine, EngineError if the engine cannot be set up.
    """
    if name == "process":
        from controller.engine.process.engine import ProcessEngine

        return ProcessEngine(settings.state_dir, settings.cluster, clock)
    if name == "kubernetes":
        from controller.engine.kubernetes.api import ClusterAccess
        from controller.engine.kubernetes.engine import KubernetesEngine, KubernetesOptions

        access = ClusterAccess(
            kubeconfig=settings.kubeconfig,
            context=settings.kube_context,
            qps=settings.kube_qps,
            burst=settings.kube_burst,
            timeout_seconds=settings.kube_timeout_seconds,
        )
        return KubernetesEngine(
            settings.cluster, clock, KubernetesOptions(access=access, namespaces=settings.kube_namespaces)
        )
    if name == "docker":
        from controller.engine.docker.engine import DockerEngine

        # DOCKER_HOST says where the daemon is, as for every Docker client
        return DockerEngine(None, settings.cluster, clock)
    if name == "null":
        from controller.engine.null import NullEngine

        return NullEngine(clock)
    raise InvalidField("engine", f"{name!r} is not built into this version: set it to process")


def make_subject(settings: Settings, store: EtcdStore) -> Subject:
    """What a forecaster looks at: the installation in this store."""
    return Subject(
        cluster=settings.cluster,
        options=store.gateway.options,
        silence_seconds=settings.silence_seconds,
        name=settings.replica,
    )


def describe_engine(settings: Settings) -> dict[str, Any]:
    """What a replica registers about its engine, so that clients on its machine find attempts' output."""
    engine: dict[str, Any] = {"name": settings.engine}
    if settings.engine == "process":
        engine["state_dir"] = str(settings.state_dir)
    elif settings.engine == "kubernetes":
        engine["namespaces"] = list(settings.kube_namespaces)  # () for the kubeconfig's own
        if settings.kubeconfig is not None:
            engine["kubeconfig"] = str(settings.kubeconfig)
    return engine


def make_metrics(store: EtcdStore, engine: Engine, clock: Clock) -> Metrics:
    """The metrics, connected to the counters that the store and the engine keep themselves."""
    metrics = Metrics(clock)
    metrics.outside.watch_restarts = lambda: store.reconnects
    metrics.outside.endpoint_failures = lambda: store.gateway.endpoints.failures
    if isinstance(engine, Counting):
        metrics.outside.engine_faults = lambda: engine.faults
        metrics.outside.rate_limit_seconds = engine.waited_seconds
    return metrics


def run_controller(settings: Settings) -> int:
    """Run one replica until SIGTERM, SIGINT or SIGHUP, and return the exit code.

    Raises InvalidField if the timings do not fit together, TallyError if the status address or the engine
    cannot be used. An etcd that does not answer is not an error: the replica waits for it.
    """
    check_timings(settings)
    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    configure_logs(replica=settings.replica, cluster=settings.cluster)
    access = status_access(settings)
    threading.excepthook = bulkhead.end_with_thread
    hold_large_models()
    clock = SystemClock()
    store = make_store(settings, clock)
    # The audit has a store of its own. Its loads would otherwise mark a store that was restored from a backup
    # as known before the replica's model has noticed.
    audited = make_store(settings, clock)
    engine = make_engine(settings.engine, settings, clock)
    metrics = make_metrics(store, engine, clock)
    identity = describe_replica(settings, clock)

    def audit() -> dict[str, Any]:
        # `own.last`: what the leader's audit of itself found; None on a follower
        return run_audit(audited, engine, settings.cluster, clock).to_json() | {"own": own.last}

    reading = Reading(audited, Keys(settings.cluster), clock, LOG_SECONDS)
    audits = Audits(audit, clock, metrics.audited)
    notifier = ServiceNotifier(metrics, clock)
    replica = Replica(
        MeasuredStore(store, metrics, clock),
        MeasuredEngine(engine, metrics, clock),
        clock,
        replica_options(settings, identity),
        audits=audits,
        new_lease=new_lease,
        fatal=_exit_now,
        instruments=notifier,
    )
    metrics.observe(replica)
    notifier.observe(replica)
    size = StoreSizePoll(lambda deadline: store.size(deadline=deadline), metrics.sized, clock)
    size.start()
    own = SelfAudit(replica, settings.cluster, settings.audit_interval_seconds, clock, audits.made)
    own.start()
    forecaster = Forecaster(make_subject(settings, store), metrics, settings.forecast_seconds)
    host, _, port = settings.status.rpartition(":")
    shown = metrics.exposition, access, reading.kept_log, forecaster.ask, reading.has_come_to
    server = StatusServer(replica, host.strip("[]"), int(port), *shown)
    server.start()
    forecaster.start()
    identity["status_url"] = advertised_url(server.url, settings.advertise)
    call_at_end(replica.stop)
    log.info("replica starts", status=server.url, etcd=",".join(settings.etcd), **identity["engine"])
    try:
        replica.run()
    finally:
        forecaster.close()
        server.stop()
        own.close()
        size.close()
        engine.close()
        audited.close()
        store.close()
    log.info("replica stopped")
    return 0


def describe_replica(settings: Settings, clock: Clock) -> dict[str, Any]:
    """What a replica registers about itself when it starts."""
    return {
        "id": settings.replica,
        "instance": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "status_url": "",
        "version": __version__,
        "engine": describe_engine(settings),
        "started_at": clock.now(),
        "heartbeat_seconds": settings.heartbeat_seconds,
        "features": list(features.KNOWN),
    }


def status_access(settings: Settings) -> EndpointAccess:
    """Who may read the status endpoint. Raises InvalidField for files that cannot be used."""
    files = StatusFiles(
        settings.status_cert_file,
        settings.status_key_file,
        settings.status_client_ca_file,
        settings.status_token_file,
    )
    return EndpointAccess(files, hosts=[urlsplit(f"//{settings.advertise}").hostname or ""])


def replica_options(settings: Settings, identity: dict[str, Any]) -> ReplicaOptions:
    """The part of the settings that a replica needs."""
    return ReplicaOptions(
        cluster=settings.cluster,
        identity=identity,
        timings=Timings(
            lease_ttl_seconds=settings.lease_ttl_seconds,
            keepalive_interval_seconds=settings.keepalive_interval_seconds,
            deadline_margin_seconds=settings.deadline_margin_seconds,
            request_timeout_seconds=settings.request_timeout_seconds,
            heartbeat_limit_seconds=float(settings.lease_ttl_seconds),
        ),
        relist_seconds=settings.relist_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        silence_seconds=settings.silence_seconds,
        fast_takeover=settings.fast_takeover,
    )


def _exit_now(why: str) -> None:
    try:
        log.critical("exiting at once", why=why)
    finally:
        os._exit(bulkhead.EXIT_TORN)
