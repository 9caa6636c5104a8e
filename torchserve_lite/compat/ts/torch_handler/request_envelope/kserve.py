"""KServe's V1 protocol: ``{"instances": [...]}`` in, ``{"predictions": [...]}`` or ``{"explanations": [...]}`` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ts.torch_handler.request_envelope.base import (
    BaseEnvelope,
    OpenedRequest,
    Row,
    bad_request,
    expect_count,
    expect_few_rows,
    header_is_true,
    json_kind,
    json_object,
    keys_of,
    listed,
    unsendable_told,
    unwrap_event,
)
from ts.torch_handler.request_envelope.kservev2 import KServev2Envelope, holds_tensors


class KServeEnvelope(BaseEnvelope):
    """One row per instance. Other keys of the body are for other servers, and ignored.

    A body with V2 tensors is answered in V2 form: KServe's own guide sends such to V1 paths.
    """

    one_document = True

    def unpack(self, row: Row, context: Any, index: int) -> list[Any]:
        document = unwrap_event(json_object(row))
        is_v2 = "instances" not in document and holds_tensors(document)
        self._tensors = KServev2Envelope(self._entry_point) if is_v2 else None
        if self._tensors is not None:
            rows = self._tensors.unpack({"body": document}, context, index)
            self.alone, self.input_names = self._tensors.alone, self._tensors.input_names
            return rows
        self._key = "explanations" if header_is_true(context, index, "explain") else "predictions"
        rows = instances_of(document)
        self._count = len(rows)
        return rows

    def pack(self, results: list[Any], context: Any, index: int) -> Any:
        if self._tensors is not None:
            self._tensors.answer_begun = self.answer_begun
            return self._tensors.pack(results, context, index)
        expect_count(results, self._count)
        with unsendable_told():
            return {self._key: [listed(entry) if hasattr(entry, "tolist") else entry for entry in results]}

    def before_call(self, context: Any, owners: Sequence[OpenedRequest] = ()) -> None:
        if self._tensors is not None:
            self._tensors.before_call(context, owners)

    def after_call(self, context: Any) -> None:
        if self._tensors is not None:
            self._tensors.after_call(context)

    def set_apart(self) -> bool:
        return self._tensors is not None and self._tensors.set_apart()


def instances_of(document: dict[str, Any]) -> list[Any]:
    if "instances" not in document:
        raise bad_request(f'The body has no "instances" (it has {keys_of(document)}); expected {{"instances": [...]}}.')
    instances = document["instances"]
    if not isinstance(instances, list):
        raise bad_request(f'Expected "instances" to be a list, not {json_kind(instances)}.')
    if not instances:
        raise bad_request('"instances" is empty; there is nothing to predict.')
    expect_few_rows(len(instances))
    return instances
