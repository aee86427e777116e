"""The TLS credentials of `tally dev`, created at each start. Only their owner can use its etcd.

A port of this machine is open to all its users, and through a browser to every web page: a form can post
text/plain anywhere. The development etcd therefore requires a client certificate, on both ports. An authority
signs one for etcd and one for its clients, and its own key is discarded. All files have mode 600, in a folder
of mode 700.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypedDict

LIFETIME = datetime.timedelta(days=365)  # each start makes new ones
CLOCK_SKEW = datetime.timedelta(days=1)
HOSTS = ("127.0.0.1", "localhost")


class TlsFiles(TypedDict, total=False):
    """Paths, by the names of the settings and of EtcdConfig's fields."""

    ca_file: str
    cert_file: str
    key_file: str


@dataclass(frozen=True, slots=True)
class DevCredentials:
    """The files, and the TOML file that names them for clients. `make` writes all of them."""

    folder: Path
    config: Path

    @property
    def client(self) -> TlsFiles:
        """The files that a client needs."""
        return {
            "ca_file": self._path("ca.pem"),
            "cert_file": self._path("client.pem"),
            "key_file": self._path("client-key.pem"),
        }

    @property
    def server(self) -> TlsFiles:
        """The files that etcd needs."""
        return {
            "ca_file": self._path("ca.pem"),
            "cert_file": self._path("server.pem"),
            "key_file": self._path("server-key.pem"),
        }

    def make(self, settings: Mapping[str, str]) -> None:
        """Write new certificates, and the TOML file with the settings and client files. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for name, content in _certificates().items():
            _write_private(self.folder / name, content)
        lines = "".join(f"{key} = {_toml(value)}\n" for key, value in {**settings, **self.client}.items())
        _write_private(self.config, f"# Written by `tally dev` at each start.\n{lines}".encode())

    def _path(self, name: str) -> str:
        return str(self.folder / name)


def _toml(text: object) -> str:
    """A TOML string: as in JSON, except for DEL, which JSON does not escape, and for surrogate pairs."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _write_private(path: Path, content: bytes) -> None:
    """Write the file atomically, since clients may read it at any time, and with mode 600 from the start."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    new.rename(path)


def _certificates() -> dict[str, bytes]:
    """The authority's certificate, and signed certificates and keys for etcd and clients, as PEM by file."""
    from cryptography import x509  # here, since only `tally dev` needs it
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tally dev: authority")])

    def sign(
        name: x509.Name, key: ec.EllipticCurvePublicKey, *extensions: tuple[x509.ExtensionType, bool]
    ) -> bytes:
        builder = x509.CertificateBuilder(
            issuer_name=authority,
            subject_name=name,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - CLOCK_SKEW,
            not_valid_after=now + LIFETIME,
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        subject = x509.SubjectKeyIdentifier.from_public_key(key)
        for extension, is_critical in (*extensions, (issuer, False), (subject, False)):
            builder = builder.add_extension(extension, is_critical)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    files = {
        "ca.pem": sign(
            authority, authority_key.public_key(), (x509.BasicConstraints(True, 0), True), (signs, True)
        )
    }
    # Both uses for etcd's own: its JSON gateway, and other members, show it as clients.
    uses = {
        "server": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
    }
    hosts = x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOSTS[0])), x509.DNSName(HOSTS[1])])
    for role, use in uses.items():
        key = ec.generate_private_key(ec.SECP256R1())
        # No common name: an etcd with users refuses clients that have one (see `store.etcd.faults`).
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"tally dev: {role}")])
        extensions = [
            (x509.BasicConstraints(False, None), True),
            (x509.ExtendedKeyUsage(use), False),
            (hosts, False),
        ]
        files[f"{role}.pem"] = sign(name, key.public_key(), *extensions)
        files[f"{role}-key.pem"] = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return files
