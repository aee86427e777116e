"""The live page: an HTML file, a style sheet, scripts and an icon, served as they are.

The page fetches nothing from other hosts.
"""

from __future__ import annotations

from importlib.resources import files

INDEX = "index.html"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def load_assets() -> dict[str, tuple[bytes, str]]:
    """The page's files by name: content and content type."""
    suffixed = ((file, file.name.rpartition(".")[2]) for file in files(__name__).iterdir())
    return {file.name: (file.read_bytes(), _TYPES[suffix]) for file, suffix in suffixed if suffix in _TYPES}
