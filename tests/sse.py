"""What a browser's EventSource makes of a body of Server-Sent Events."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    data: str
    name: str = "message"


def events_in(body: bytes) -> list[Event]:
    """Comments are left out, and so is an event whose end has not come."""
    found: list[Event] = []
    data: list[str] = []
    name = ""
    for line in re.split(r"\r\n|\n|\r", body.decode())[:-1]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                found.append(Event("\n".join(data), name or "message"))
            data, name = [], ""
        elif field == "data":
            data.append(value)
        elif field == "event":
            name = value
    return found
