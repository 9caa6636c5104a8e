"""Sends a piece to the first request, then waits until somebody writes to the pipe that the request names."""

import pathlib

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    name = bytes(data[0]["body"]).decode()
    if name != "go":
        send_intermediate_predict_response(["begun"] + [""] * (len(data) - 1), {0: ""}, "", 200, context)
        pathlib.Path(name).read_text()
    return ["done"] * len(data)
