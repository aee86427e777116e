"""Runs a notifier: the settings choose the store and the files, and a signal ends it."""

from __future__ import annotations

import threading
from contextlib import closing
from ipaddress import ip_network

import structlog
from prometheus_client import start_http_server

from controller import bulkhead
from controller.clock import WallClock
from controller.config import InvalidSetting, Settings, flag_of, variable_of
from controller.endpoint.server import StatusAddressUnavailable
from controller.notifier.delivery import Postman
from controller.notifier.metrics import NotifierMetrics
from controller.notifier.notifier import Notifier
from controller.notifier.secrets import FIELD, secrets_file
from controller.signals import call_at_end
from controller.store.base import Store
from controller.store.keys import Keys
from controller.telemetry.logs import configure_logs

log = structlog.get_logger(__name__)


def run_notifier(settings: Settings, store: Store) -> int:
    """Run a notifier until SIGTERM, SIGINT or SIGHUP, and return the exit code. It closes `store`.

    Raises InvalidField for files that cannot be used, and StatusAddressUnavailable. An etcd that does not
    answer is not an error: the notifier waits for it.
    """
    if settings.notifier_secrets_file is None:
        raise InvalidSetting(
            FIELD,
            f"is missing, so nothing can be signed: set {flag_of(FIELD)} or {variable_of(FIELD)}",
        )
    configure_logs(replica=settings.replica, cluster=settings.cluster)
    threading.excepthook = bulkhead.end_with_thread
    clock, keys = WallClock(), Keys(settings.cluster)
    secrets = secrets_file(settings.notifier_secrets_file)
    postman = Postman(
        clock,
        allowed=[ip_network(text) for text in settings.notifier_allowed_networks],
        allow_http=settings.notifier_allow_http,
        ca_file=str(settings.notifier_ca_file or ""),
    )
    notifier = Notifier(
        store,
        keys,
        clock,
        settings.replica,
        postman,
        secrets,
        settings.notifier_give_up_seconds,
    )
    ended = threading.Event()
    host, _, port = settings.notifier.rpartition(":")
    metrics = NotifierMetrics(notifier.counts, lambda: bool(secrets.error))
    with closing(store):
        try:
            server, thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
        except OSError as error:
            raise StatusAddressUnavailable(f"{settings.notifier}: {error.strerror}") from error
        try:
            call_at_end(ended.set)
            url = f"http://{host}:{server.server_port}/metrics"
            log.info("notifier starts", metrics=url, etcd=",".join(settings.etcd))
            notifier.run(ended)
        finally:
            server.shutdown()
            server.server_close()
            thread.join(5.0)
    log.info("notifier stopped")
    return 0
