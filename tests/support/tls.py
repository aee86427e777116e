"""Certificates for tests, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trustme


class Authority:
    """A certificate authority whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)

    def issue(
        self, name: str, *, common_name: str | None = None, organization: str | None = None
    ) -> dict[str, str]:
        """A certificate for 127.0.0.1 as `cert_file` and `key_file`; replaces an older one of the same
        name.
        """
        issued = self._ca.issue_cert(
            "127.0.0.1", "localhost", common_name=common_name, organization_name=organization
        )
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}-key.pem"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return {"cert_file": str(cert), "key_file": str(key)}

    def server_files(self) -> dict[str, Any]:
        """What EtcdConfig needs to serve TLS."""
        return {**self.issue("server"), "ca_file": self.ca_file}

    def stranger(self) -> Authority:
        """Another authority, that nobody here trusts."""
        return Authority(self._folder / "stranger")
