"""Reads the status endpoints of replicas, with the CA, token or client certificate of the settings."""

from __future__ import annotations

import ssl
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from controller.errors import UserError

if TYPE_CHECKING:
    from controller.config import Settings


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: the endpoint sends none, and a redirect could carry the token elsewhere."""

    def redirect_request(self, *_: object) -> None:
        """See the base class. None makes the redirect an error."""


def status_reader(settings: Settings) -> urllib.request.OpenerDirector:
    """An opener for their URLs, made from the settings. Raises UserError for a file that cannot be used."""
    try:
        trusted = ssl.create_default_context(
            cafile=str(settings.status_ca_file) if settings.status_ca_file else None
        )
        if settings.status_cert_file is not None:
            trusted.load_cert_chain(settings.status_cert_file, settings.status_key_file)
        token = _first_token(settings.status_token_file) if settings.status_token_file is not None else ""
    except OSError as error:  # an SSLError is an OSError, and names no file
        files = (
            settings.status_ca_file,
            settings.status_cert_file,
            settings.status_key_file,
            settings.status_token_file,
        )
        named = ", ".join(str(file) for file in files if file is not None)
        raise UserError(f"the status endpoints cannot be read with these files ({named}): {error}") from None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted), _NoRedirects()
    )
    if token:
        opener.addheaders = [("Authorization", f"Bearer {token}")]
    return opener


def _first_token(file: Path) -> str:
    return next(
        (line.strip() for line in file.read_text(encoding="latin-1").splitlines() if line.strip()), ""
    )
