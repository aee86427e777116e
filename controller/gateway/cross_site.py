"""Requests that pages of other sites make a browser send: those that would change something are refused.

A browser sends a session's cookie, or a client certificate, with whatever a page asks for. It also says from
where the request comes, which no script can change: in `Sec-Fetch-Site`, and in `Origin`.
"""

from __future__ import annotations

import hmac
from http import HTTPStatus

from starlette.datastructures import Headers

from controller.endpoint.problems import Problem
from controller.gateway.sessions import BrowserSession

CSRF_HEADER = "X-Tally-CSRF"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def refuse_other_sites(headers: Headers, scheme: str) -> None:
    """Raises Problem (403) for a request that a browser sent for another site. Other clients say nothing.

    `scheme` is the gateway's own. With TLS, no page in clear text is ours; without, a proxy may have it.
    """
    site = headers.get("sec-fetch-site", "same-origin")
    if site != "same-origin":
        detail = f"Sec-Fetch-Site is {site[:40]!r}: only the gateway's own page may ask for this in a browser"
        raise Problem(HTTPStatus.FORBIDDEN, detail)
    for origin in headers.getlist("origin"):
        is_clear = scheme == "https" and not origin.lower().startswith("https:")
        if is_clear or not _is_ours(origin, headers.get("host", "")):
            detail = (
                f"Origin is {origin[:80]!r}, and Host {headers.get('host', '')[:80]!r}: only the gateway's"
                " own page may ask for this in a browser; a proxy before the gateway has to pass Host on"
            )
            raise Problem(HTTPStatus.FORBIDDEN, detail)


def require_csrf_token(headers: Headers, session: BrowserSession) -> None:
    """Raises Problem (403) for a request that lacks the session's secret."""
    given = headers.getlist(CSRF_HEADER)
    if not given:
        detail = (
            f"{CSRF_HEADER} is missing: send the `csrf` of GET /session, or a token in place of the cookie"
        )
        raise Problem(HTTPStatus.FORBIDDEN, detail)
    if len(given) > 1 or not hmac.compare_digest(given[0].encode(), session.secret.encode()):
        detail = f"{CSRF_HEADER} is not this session's: read `csrf` of GET /session again"
        raise Problem(HTTPStatus.FORBIDDEN, detail)


def _is_ours(origin: str, host: str) -> bool:
    scheme, _, place = origin.lower().partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    return default is not None and place.removesuffix(default) == host.lower().removesuffix(default)
