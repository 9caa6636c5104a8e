"""Handlers for both servers, as code: one tells all that it sees, one does what it is told."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.server import write_model

ECHO = """
import hashlib
import json


def shown(value):
    if isinstance(value, (bytes, bytearray)):
        long = len(value) > 1000
        return {"bytes": hashlib.sha256(value).hexdigest() if long else value.decode("latin-1"), "length": len(value)}
    if isinstance(value, dict):
        return {key: shown(one) for key, one in value.items()}
    return [shown(one) for one in value] if isinstance(value, list) else value


def handle(data, context):
    if data is None:
        return None
    told = []
    for number, row in enumerate(data):
        headers = context.get_all_request_header(number)
        told.append(json.dumps({
            "row": shown(row),
            "headers": [[name, shown(value)] for name, value in headers.items()],
            "kinds": [type(value).__name__ for value in row.values()] if isinstance(row, dict) else type(row).__name__,
            "url_path": context.get_request_header(number, "url_path"),
            "id": context.get_request_id(number),
            "type": context.get_request_header(number, "Content-Type"),
        }))
    return told
"""

ACTS = """
import time

import numpy
from ts.protocol.otf_message_handler import send_intermediate_predict_response
from ts.utils.util import PredictionException


def piece(text, context):
    send_intermediate_predict_response([text], context.request_ids, "Intermediate", 200, context)


def act(asked, context):
    does, _, more = asked.partition(" ")
    if does == "status":
        code, _, reason = more.partition(" ")
        context.set_response_status(int(code), reason)
        return "told"
    if does == "header":
        name, _, value = more.partition(":")
        context.set_response_header(0, name, value.strip())
        return "told"
    if does == "type":
        context.set_response_content_type(0, more)
        return "told"
    if does == "sleep":
        time.sleep(float(more))
        return "slept"
    if does == "raise":
        raise ValueError("of the handler")
    if does == "refuse":
        code, _, message = more.partition(" ")
        raise PredictionException(message, int(code))
    if does.startswith("stream"):
        return streamed(does.removeprefix("stream"), more, context)
    return VALUES[does](more)


def streamed(how, more, context):
    if how == "-status":
        context.set_response_status(int(more))
    if how == "-header":
        name, _, value = more.partition(":")
        context.set_response_header(0, name, value.strip())
    if how == "-refuse":
        piece("first", context)
        raise PredictionException("after the first piece", 404)
    if how == "-large":
        for _ in range(20):
            piece("x" * 100_000, context)
    elif how == "-empty-pieces":
        for text in ("", "a", "", "b", ""):
            piece(text, context)
        return ""
    else:
        for number in range(int(more) if how in ("", "-break") else 2):
            piece(f"piece {number} ", context)
    if how == "-break":
        raise ValueError("in the middle")
    return "end"


VALUES = {
    "empty": lambda more: "",
    "none": lambda more: None,
    "dict": lambda more: {"a": 1, "b": [1, 2.5, None, True, "\\u00e4"]},
    "list": lambda more: [1, "two", [3]],
    "number": lambda more: 7,
    "float": lambda more: 0.1,
    "true": lambda more: True,
    "nan": lambda more: float("nan"),
    "nested": lambda more: {"a": {"b": {"c": []}}, "d": {}},
    "text": lambda more: more,
    "surrogate": lambda more: "\\ud800",
    "bytes": lambda more: bytes(range(256)) * 2 if int(more) else b"",
    "array": lambda more: numpy.arange(3),
    "large": lambda more: b"x" * int(more),
    "object": lambda more: object,
    "explain": lambda more: "explained",
}


def handle(data, context):
    if data is None:
        return None
    answers = []
    for row in data:
        asked = row.get("body", row.get("data")) if isinstance(row, dict) else row
        if isinstance(asked, (bytes, bytearray)):
            asked = bytes(asked).decode()
        if asked in ("count 0", "count 2"):
            return ["one of them"] * int(asked[-1])
        answers.append(act(str(asked), context))
    return answers
"""


def write_models(store: Path) -> None:
    """``acts`` has two workers, since it is told to sleep."""
    write_model(store, "echo", ECHO, config="minWorkers: 1\nbatchSize: 4\nmaxBatchDelay: 1\n")
    write_model(store, "acts", ACTS, config="minWorkers: 2\n")
