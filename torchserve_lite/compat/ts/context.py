"""What a handler knows about its model and its requests: ``Context``, one per worker, and what it holds per request."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any

_WORKER_ATTRIBUTES = ("mark_stage", "send", "cl_socket")


class RequestHeaders(dict[str, Any]):
    """Headers in the client's own spelling, found by any spelling.

    HTTP stacks change the case of header names on the way, and handlers look for ``X-API-Key`` as well as for
    ``x-api-key``. Iteration keeps the case of the wire, for handlers that loop and compare themselves.
    """

    def __missing__(self, key: str) -> Any:
        spelling = self._spelling(key)
        if spelling is None:
            raise KeyError(key)
        return dict.__getitem__(self, spelling)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or self._spelling(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def _spelling(self, key: object) -> str | None:
        """The name under which ``key`` is kept. The last one, as for any header that comes twice."""
        if not isinstance(key, str):
            return None
        wanted = key.lower()
        return next((name for name in reversed(self) if isinstance(name, str) and name.lower() == wanted), None)


class ResponseHeaders(RequestHeaders):
    """Headers to send: a name that is set again in another spelling replaces the first."""

    def __setitem__(self, key: str, value: Any) -> None:
        spelling = self._spelling(key)
        if spelling is not None and spelling != key:
            del self[spelling]
        dict.__setitem__(self, key, value)


class RequestProcessor:
    """One request's headers, and the status and headers of its answer."""

    def __init__(self, request_header: dict[str, Any]) -> None:
        self._status_code = 200
        self._reason_phrase: str | None = None
        self._headers_set: ResponseHeaders | None = None  # made when asked for: most answers have none
        self._request_header = request_header
        self.deadline: float | None = None  # a reading of time.monotonic(); TorchServe tells of none

    @property
    def untouched(self) -> bool:
        """Nothing has been said of the answer: it is a plain 200."""
        return self._headers_set is None and self._status_code == 200 and self._reason_phrase is None

    @property
    def _response_header(self) -> ResponseHeaders:
        if self._headers_set is None:
            self._headers_set = ResponseHeaders()
        return self._headers_set

    def get_request_property(self, key: str) -> Any:
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> int:
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, Any]:
        return self._response_header

    def get_response_header(self, key: str) -> Any:
        return self._response_header.get(key)


def _deadline_of(processor: RequestProcessor) -> float | None:
    """Also of one that somebody made for a test, in TorchServe's way."""
    return getattr(processor, "deadline", None)


def _unwatched(stage: str, row: int) -> None:
    """Nobody watches where a batch is, until a worker puts its own function in this one's place."""


class Context:
    """The model's facts and the running batch's requests.

    One object serves all batches of a worker, so that what a handler hangs on it (``context.cache = {}``) is there
    the next time. ``mark_stage(stage, row)`` and ``send(index, value, request_id)`` are the worker's: where a batch is,
    and the way out for an intermediate answer. They are no part of what a context is: ``==`` and copies leave them
    alone.
    """

    send: Callable[[int, Any, str], None] | None = None
    cl_socket: Any = None
    mark_stage: Callable[[str, int], None] = staticmethod(_unwatched)
    model_version: str | None = None  # which the worker serves; TorchServe has no such attribute

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        batch_size: int | None,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool | None = True,
        metrics: Any = None,
        model_yaml_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: dict[int, str] | None = None
        self._request_processor: list[RequestProcessor] | None = None
        self._metrics = metrics
        self._limit_max_image_pixels = limit_max_image_pixels
        self.model_yaml_config: Mapping[str, Any] = {} if model_yaml_config is None else model_yaml_config
        self.stopping_criteria = None
        self.header_key_sequence_id = os.environ.get("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        self.header_key_sequence_start = os.environ.get("TS_REQUEST_SEQUENCE_START", "ts_request_sequence_start")
        self.header_key_sequence_end = os.environ.get("TS_REQUEST_SEQUENCE_END", "ts_request_sequence_end")

    @property
    def system_properties(self) -> dict[str, Any]:
        return self._system_properties

    @property
    def request_processor(self) -> list[RequestProcessor] | None:
        return self._request_processor

    @request_processor.setter
    def request_processor(self, request_processor: list[RequestProcessor] | None) -> None:
        self._request_processor = request_processor

    @property
    def metrics(self) -> Any:
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        self._metrics = metrics

    def _request(self, idx: int) -> RequestProcessor:
        if self._request_processor is None:  # TypeError, which it is in TorchServe, without a word of what is wrong
            raise TypeError("The context has no requests yet: the model is being loaded.")
        return self._request_processor[idx]

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx) if self.request_ids else None

    @property
    def deadline(self) -> float | None:
        """When the first of the requests is to be answered, as ``time.monotonic()`` will read then; None when all of
        them can wait. TorchServe has no such thing."""
        deadlines = [own for own in map(_deadline_of, self._request_processor or ()) if own is not None]
        return min(deadlines, default=None)

    def get_deadline(self, idx: int = 0) -> float | None:
        """When this request is to be answered, likewise."""
        return _deadline_of(self._request(idx))

    def get_request_header(self, idx: int, key: str) -> Any:
        return self._request(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self._request(idx).get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> Any:
        return self._request(idx).get_response_header("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self._request(idx).add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, Any]:
        return self._request(idx).get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Without a request (while the model loads) there is nothing to set."""
        if self._request_processor is not None:
            self._request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for processor in self._request_processor or ():
            processor.report_status(code, reason_phrase=phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        processor = self._request(idx)
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def get_sequence_id(self, idx: int) -> Any:
        return self.get_request_header(idx, self.header_key_sequence_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self._own_state() == other._own_state()

    def __deepcopy__(self, memo: dict[int, Any]) -> Context:
        """The worker's functions are shared: copying a bound method would copy the worker with it."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(self._own_state(), memo))
        vars(twin).update({name: value for name, value in vars(self).items() if name in _WORKER_ATTRIBUTES})
        return twin

    def _own_state(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _WORKER_ATTRIBUTES}
