"""The live page: an HTML file, a style sheet, scripts and an icon, served as they are.

The page fetches nothing from other hosts.
"""

from __future__ import annotations

from importlib.resources import files

INDEX = "index.html"
PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def load_assets(package: str = __name__) -> dict[str, tuple[bytes, str]]:
    """The page's files by name, or those of the page in another package: content and content type."""
    suffixed = ((file, file.name.rpartition(".")[2]) for file in files(package).iterdir())
    return {file.name: (file.read_bytes(), _TYPES[suffix]) for file, suffix in suffixed if suffix in _TYPES}
