"""A hook of mkdocs: what a page links to outside docs/ is on the site a link to the repository.

The pages are read on the repository's own site too, so their links stay relative to the files.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)
    blob = f"{config['repo_url'].rstrip('/')}/blob/main/"

    def outside(match: re.Match[str]) -> str:
        name, _, anchor = match[2].partition("#")
        place = posixpath.normpath(posixpath.join("docs", folder, name))
        if not name or re.match(r"[a-z]+:", name) or place.startswith("docs/"):
            return match[0]
        return f"{match[1]}{blob}{place}{'#' + anchor if anchor else ''}{match[3]}"

    return LINK.sub(outside, markdown)
