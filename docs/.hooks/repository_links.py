"""For mkdocs: links to files beside docs/, which stand in the repository and not on the site, become their paths. One
that leads to no file stays, and the build refuses it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[2]
_LINK = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _LINK.sub(_path, markdown)


def _path(link: re.Match[str]) -> str:
    text, path = link.groups()
    if not (_REPOSITORY / path).exists():
        return link[0]
    return f"{text} (`{path}` of the repository)"
