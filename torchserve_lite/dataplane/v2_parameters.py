"""What a V2 request says to the server itself: the ``parameters`` that Triton's clients have flags for.

``timeout`` is a number of microseconds, 0 for none; ``sequence_id`` a number or a text, 0 or empty for none; and
``sequence_start``, ``sequence_end`` are true or false (Triton's schedule policy and sequence extensions). Whatever else
is wrong with the request is for the worker to say, which reads all of it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec

from torchserve_lite.core.models import SequenceHeaders, SequencePolicy
from torchserve_lite.core.requests import Headers, InferenceRequest
from torchserve_lite.errors import BadRequest

_TIMEOUT, _ID, _START, _END = "timeout", "sequence_id", "sequence_start", "sequence_end"


class _Document(msgspec.Struct):
    parameters: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Document).decode
_names_timeout = re.compile(b'"timeout"').search  # which a memoryview has no way of its own to find out
_names_sequence = re.compile(b'"sequence_id"').search


def obeyed(request: InferenceRequest, sequences: SequencePolicy | None) -> InferenceRequest:
    """The request with the time limit and, for a model of sequences, the headers that its parameters ask for.

    Few requests have such parameters, so the JSON is read only where it has their names somewhere.
    """
    text = request.parts[0].data
    in_sequence = sequences is not None and _names_sequence(text)
    if not in_sequence and not _names_timeout(text):
        return request
    try:
        parameters = _decode(text).parameters or {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return request
    seconds = _seconds(parameters)
    if seconds is not None and (request.timeout is None or seconds < request.timeout):
        request = replace(request, timeout=seconds)
    if sequences is not None and (headers := _sequence_headers(parameters, sequences.headers)):
        said = {name.lower() for name, _ in request.headers}
        more = tuple(pair for pair in headers if pair[0].lower() not in said)
        request = replace(request, headers=(*request.headers, *more), encoded_headers=b"")
    return request


def _seconds(parameters: dict[str, Any]) -> float | None:
    microseconds = parameters.get(_TIMEOUT, 0)
    if type(microseconds) is not int or microseconds < 0:
        raise BadRequest(f'"{_TIMEOUT}" is {microseconds!r:.40}; it must be a number of microseconds, 0 for none.')
    return microseconds / 1e6 or None


def _sequence_headers(parameters: dict[str, Any], names: SequenceHeaders) -> Headers:
    sequence = parameters.get(_ID, 0)
    if type(sequence) not in (int, str):
        raise BadRequest(f'"{_ID}" is {sequence!r:.40}; it must be a number or a text, 0 or empty for none.')
    if not sequence:
        return ()
    headers = [(names.id, str(sequence))]
    for key, name in ((_START, names.start), (_END, names.end)):
        told = parameters.get(key, False)
        if not isinstance(told, bool):
            raise BadRequest(f'"{key}" is {told!r:.40}; it must be true or false.')
        if told:
            headers.append((name, "true"))
    return tuple(headers)
