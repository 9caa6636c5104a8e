"""One call of a batch on its way through the worker, and its side that handlers see.

Imported when ``compat.install`` has made ``ts`` importable, and not before.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ts.context import RequestHeaders, RequestProcessor
from ts.torch_handler.request_envelope.base import OpenedRequest

from torchserve_lite.ipc.messages import Call, Reply
from torchserve_lite.worker.inputs import explain_told, headers_of


class CallProcessor(RequestProcessor):
    """A ``RequestProcessor`` whose headers are decoded when a handler asks for them."""

    def __init__(self, call: Call) -> None:  # instead of the parent's, which has the headers
        self._call = call
        self.deadline = None
        self._status_code = 200
        self._reason_phrase = None
        self._headers_set = None

    @cached_property
    def _request_header(self) -> dict[str, Any]:  # type: ignore[override]
        return RequestHeaders(headers_of(self._call))

    def get_request_property(self, key: str) -> Any:
        """Whether to explain is asked of each request that has an envelope, and needs no decoding."""
        if key == "explain" and "_request_header" not in vars(self) and self._call.verb != "describe":
            return explain_told(self._call)
        return super().get_request_property(key)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: the headers, not the call with the whole body that they came with."""
        headers = self._request_header
        return {name: value for name, value in vars(self).items() if name != "_call"} | {"_request_header": headers}


class Request(OpenedRequest):
    """``emitted``: its reply has gone out before the batch's end; ``answer_begun``: pieces of it have. ``deadline``: on
    this process' monotonic clock."""

    __slots__ = ("answer_begun", "call", "deadline", "emitted", "index", "reply")

    def __init__(self, index: int, call: Call, arrived: float) -> None:  # its parent's as well: one is made a request
        self.request_id = call.id
        self.processor = processor = CallProcessor(call)
        self.envelope = None
        self.rows = []
        self.alone = False
        self.index = index
        self.call = call
        self.deadline = processor.deadline = None if call.remaining is None else arrived + call.remaining
        self.reply: Reply | None = None
        self.emitted = False
        self.answer_begun = False

    @property
    def is_one_document(self) -> bool:
        """Nothing of its answer can be sent before all of it is there."""
        return self.envelope is not None and self.envelope.one_document and not self.call.in_pieces
