"""From the rows of a request to what a transformer reads: text, a question with its context, or token ids.

Rows come from plain bodies, KServe v1 instances and KServe v2 tensors; past this file nobody asks from which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

TEXT_FIELDS = ("text", "data", "body", "prompt")
# Tensors of these names are the fields of one input. TorchServe's sample request says `attention_masks`.
TENSOR_FIELDS = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "attention_masks": "attention_mask",
    "token_type_ids": "token_type_ids",
    "question": "question",
    "context": "context",
}

TOKEN_FIELDS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Example:
    """One input of the model: ``text``, a question (``text``) with its ``context``, or token ids made by the client.

    ``target`` is the class that an explanation is asked for; None means the one that the model predicts.
    """

    text: str = ""
    context: str | None = None
    token_ids: Mapping[str, Sequence[int]] | None = None
    target: int | None = None


@dataclass(frozen=True)
class Row:
    """The examples that one answer is due for. ``many``: the client sent a list of inputs and gets a list."""

    examples: tuple[Example, ...]
    many: bool = False


def joined(rows: Sequence[Any]) -> list[Any]:
    """What an answer each is due for: the rows, but tensors that are fields of one input make one together.

    The same name twice is two inputs: requests of one tensor each share a batch.
    """
    names = [row["name"] for row in rows if _is_field(row)]
    return [_fields(rows)] if names and len(set(names)) == len(rows) else list(rows)


def read_row(row: Any) -> Row:
    """The row's inputs; ValueError, in the client's words, when it holds none."""
    if _is_field(row):
        return read_row(_fields([row]))
    if isinstance(row, dict) and _is_nested(row.get("input_ids")):
        return _row_of_sequences(row)
    value = _text_of_tensor(row) if _is_tensor(row) else row
    target = _target(row) if isinstance(row, dict) else None
    if isinstance(value, list):
        return Row(tuple(_aimed(_example(item), target) for item in value), many=True)
    return Row((_aimed(_example(value), target),))


def _row_of_sequences(fields: Mapping[str, Any]) -> Row:
    """Token ids with a batch dimension: each entry is an example."""
    columns = {name: values for name, values in fields.items() if name in TENSOR_FIELDS}
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError(f"The tensors {', '.join(columns)} differ in their number of rows.")
    each = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return Row(tuple(_aimed(_example_of_fields(one), _target(fields)) for one in each), many=True)


def _aimed(example: Example, target: int | None) -> Example:
    return example if target is None else replace(example, target=target)


def _fields(tensors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = {TENSOR_FIELDS[tensor["name"]]: _plain(tensor["data"]) for tensor in tensors}
    return {**values, "parameters": tensors[0].get("parameters")}


def _is_field(row: Any) -> bool:
    return _is_tensor(row) and row["name"] in TENSOR_FIELDS


def _is_tensor(row: Any) -> bool:
    return isinstance(row, dict) and {"name", "datatype", "data"} <= row.keys()


def _text_of_tensor(tensor: Mapping[str, Any]) -> Any:
    """The text of a v2 tensor: strings as they are, integers as code points, as which the guide sends its text."""
    data, name = _plain(tensor["data"]), tensor["name"]
    if tensor["datatype"] == "BYTES":
        return data[0] if isinstance(data, list) and len(data) == 1 else data
    if _is_nested(data):
        return [_decoded(values, name) for values in data]
    return _decoded(data, name)


def _decoded(code_points: Sequence[Any], name: str) -> str:
    try:
        text = "".join(map(chr, code_points)).rstrip("\0")
        readable = all(letter.isprintable() or letter.isspace() for letter in text)
    except (TypeError, ValueError, OverflowError):
        readable = False
    if not readable:
        raise ValueError(f"Tensor {name!r} holds no text: its values are not code points. Call token ids 'input_ids'.")
    return text


def _plain(data: Any) -> Any:
    """Binary tensors come as arrays."""
    return data.tolist() if hasattr(data, "tolist") else data


def _is_nested(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], list)


def _example(value: Any) -> Example:
    if isinstance(value, dict):
        return _example_of_fields(value)
    text = _text(value)
    return _example_of_json(text) if text.lstrip().startswith("{") else Example(text)


def _example_of_json(text: str) -> Example:
    """A body without a content type may hold the fields as JSON; another text may begin with a brace, too."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return Example(text)
    return _example_of_fields(fields)


def _example_of_fields(given: Mapping[str, Any]) -> Example:
    fields = {TENSOR_FIELDS.get(name, name): value for name, value in given.items()}
    if "input_ids" in fields:
        return Example(token_ids=_token_ids(fields), target=_target(fields))
    if "question" in fields:
        return Example(_text(fields["question"]), _text(fields.get("context", "")), target=_target(fields))
    value = next((fields[name] for name in TEXT_FIELDS if fields.get(name) is not None), None)
    if value is None:
        raise ValueError(f"The input has none of the fields {', '.join(TEXT_FIELDS)}; it has {', '.join(fields)}.")
    return _aimed(_example(value), _target(fields))


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    if isinstance(value, bytes | bytearray):
        return value.decode()
    if isinstance(value, str):
        return value
    raise ValueError(f"Expected text, got {type(value).__name__}.")


def _token_ids(fields: Mapping[str, Any]) -> dict[str, list[int]]:
    """Without the padding at the end, which is made anew for the whole batch."""
    ids = fields["input_ids"]
    given = {name: fields[name] for name in TOKEN_FIELDS if fields.get(name) is not None}
    for name, values in given.items():
        if not (isinstance(values, list) and all(type(value) is int for value in values)):
            raise ValueError(f"{name} must be a list of whole numbers.")
        if len(values) != len(ids):
            raise ValueError(f"{name} has {len(values)} values, input_ids has {len(ids)}.")
    mask = given.setdefault("attention_mask", [1] * len(ids))
    padding = next((gap for gap, attended in enumerate(reversed(mask)) if attended), len(ids))
    return {name: values[: len(ids) - padding] for name, values in given.items()}


def _target(fields: Mapping[str, Any]) -> int | None:
    """Beside the text, or in the parameters of a v2 tensor."""
    parameters = fields.get("parameters")
    target = fields.get("target", parameters.get("target") if isinstance(parameters, dict) else None)
    if target is None or (str(target).isdecimal() and not isinstance(target, bool)):
        return None if target is None else int(target)
    raise ValueError(f"The target must be the index of a class, a whole number; it is {target!r:.40}.")
