"""The fake cluster as one object: its state, served over HTTP on 127.0.0.1."""

from __future__ import annotations

import json
import ssl
import threading
from pathlib import Path

from controller.dev.fake_kubernetes.cluster_state import ClusterOptions, ClusterState
from controller.dev.fake_kubernetes.http_server import ConnectionServer


class FakeCluster:
    """Start it, treat its `state` badly, look at what really ran, stop it.

    With `tls` it is served over that.
    """

    def __init__(
        self, options: ClusterOptions | None = None, *, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.state = ClusterState(options or ClusterOptions())
        self._server = ConnectionServer("127.0.0.1", port, self.state, tls)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="fake-kubernetes-listener", daemon=True
        )

    def start(self) -> FakeCluster:
        """Serve. The same object, for `with FakeCluster().start() as cluster`."""
        self.state.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        """End all connections and threads. Raises what went wrong inside a request, if anything did."""
        self.state.end_streams()
        if self._thread.ident is not None:
            self._server.end()
            self._thread.join()
        self._server.server_close()
        self.state.stop()
        if self._server.failure is not None:
            raise self._server.failure

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def restart(self) -> None:
        """Restart the API server: connections break, and the history is empty; all objects stay."""
        self._server.restart()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT, or https."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def kubeconfig(
        self, path: Path, *, token: str = "", namespace: str = "default", ca_file: str = ""
    ) -> Path:
        """Write a kubeconfig for this server, with its token unless told otherwise, for its owner only;
        returns `path`.

        `ca_file`: the authority of its certificate. Without TLS kubectl is anonymous, since it sends no token
        in the clear.
        """
        cluster = {"server": self.url} | ({"certificate-authority": ca_file} if ca_file else {})
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "fake", "user": {"token": token or self.state.token}}],
            "contexts": [
                {"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}
            ],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=2))  # JSON is YAML
        return path
