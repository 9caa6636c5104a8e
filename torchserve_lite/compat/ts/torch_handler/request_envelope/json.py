"""``{"instances": [...]}`` in, ``{"predictions": [...]}`` out, with ``{"b64": "..."}`` for bytes."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from ts.torch_handler.request_envelope.base import (
    BaseEnvelope,
    Row,
    bad_request,
    expect_count,
    json_object,
    plain,
    unsendable_told,
)
from ts.torch_handler.request_envelope.kserve import instances_of


class JSONEnvelope(BaseEnvelope):
    """The answer is a text: compact JSON."""

    one_document = True

    def unpack(self, row: Row, context: Any, index: int) -> list[Any]:
        rows = [_decoded(instance, f"instances[{i}]") for i, instance in enumerate(instances_of(json_object(row)))]
        self._count = len(rows)
        return rows

    def pack(self, results: list[Any], context: Any, index: int) -> str:
        expect_count(results, self._count)
        answer = {"predictions": results}
        try:
            return json.dumps(answer, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            with unsendable_told():
                return json.dumps(plain(answer))


def _decoded(instance: Any, where: str) -> Any:
    """``{"b64": text}`` as bytes, be it the instance or one of its columns."""
    if not isinstance(instance, dict):
        return instance
    if instance.keys() == {"b64"}:
        return _bytes(instance["b64"], where)
    return {
        name: _bytes(value["b64"], f"{where}.{name}") if isinstance(value, dict) and "b64" in value else value
        for name, value in instance.items()
    }


def _bytes(text: Any, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # some encoders break the text into lines
    except (binascii.Error, ValueError, AttributeError) as error:
        raise bad_request(f"{where}: 'b64' is not valid base64 ({error}).") from error
