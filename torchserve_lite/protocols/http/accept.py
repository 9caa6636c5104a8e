"""What a client says by its Accept header."""

from __future__ import annotations

from email.message import Message
from urllib.request import parse_http_list


def quality(accept: str, media_type: str) -> float:
    """How much a client wants this very type, 0 when it does not name it: ``*/*`` is what everybody sends who has no
    wish."""
    if media_type not in accept.lower():
        return 0.0
    for text in parse_http_list(accept):
        media_range = Message()
        media_range["Content-Type"] = text
        if media_range.get_content_type() == media_type:
            try:
                return float(str(media_range.get_param("q", "1")))
            except ValueError:
                return 0.0
    return 0.0
