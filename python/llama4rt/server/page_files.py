"""The files of the chat page and of the status page, and how they are handed out.

Anybody may have them: they hold no figures and no secrets, and a browser sends no key when a person opens a page. What
they show comes from other paths, which ask for the key.
"""

import hashlib
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from llama4rt.server.paths import path_of

_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
_LICENCE = "text/plain; charset=utf-8"
_PAGES = {"/": "index.html", "/status": "status.html"}

# The pages load nothing from other servers, run nothing that is not a file of theirs, and say so to the browser. Text
# becomes HTML in two places only: in DOMPurify, and nowhere else ("trusted-types").
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types dompurify llama4rt"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    # The next version of the server has other files under the same names.
    "cache-control": "no-cache",
}


def _found() -> dict[str, Path]:
    files = {
        f"/page/{path.relative_to(_FOLDER).as_posix()}": path
        for path in sorted(_FOLDER.rglob("*"))
        if path.is_file()
        and (path.suffix in _TYPES or path.name.startswith("LICENSE"))
        and path.suffix != ".html"
    }
    return files | {name: _FOLDER / file for name, file in _PAGES.items()}


FILES = _found()  # a path of the server -> the file it has; nothing else can be asked for
PATHS = frozenset(FILES)
PARTS = PATHS - frozenset(_PAGES)  # what the pages load


def endpoints() -> dict[str, Callable[[Request], Awaitable[Response]]]:
    return dict.fromkeys(FILES, _file)


async def _file(request: Request) -> Response:
    path = FILES[path_of(request.scope)]
    tag = _tag(path, path.stat().st_mtime_ns)
    headers = {**HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(path.read_bytes(), headers=headers, media_type=_TYPES.get(path.suffix, _LICENCE))


@cache
def _tag(path: Path, changed_ns: int) -> str:
    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'
