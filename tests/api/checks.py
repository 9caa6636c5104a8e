"""A check of our own for schemathesis, which loads this module into its process."""

from __future__ import annotations

from typing import Any

import schemathesis

_NOT_OURS = (501, 503, 504)  # no explanations; no workers; the request's own time limit


@schemathesis.check
def only_handlers_fail(ctx: Any, response: Any, case: Any) -> None:
    """A handler may stumble over what it is sent, and its failure has a text of its own. The server may not."""
    if response.status_code < 500 or response.status_code in _NOT_OURS:
        return
    told = response.json()
    if isinstance(told.get("error"), dict):  # in OpenAI's form
        told = told["error"]
    assert (response.status_code, told["message"]) == (500, "Prediction failed")
