"""What one request of a batch carries, and the part of a preprocessed batch that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def value_of(request: Any) -> Any:
    """The payload: ``data``, else ``body``; what came through an envelope may be the payload itself."""
    if type(request) is not dict and not isinstance(request, Mapping):
        return request
    data = request.get("data")
    is_empty = data is None or (hasattr(data, "__len__") and not isinstance(data, torch.Tensor) and len(data) == 0)
    return request.get("body", data) if is_empty else data


def target_of(request: Any) -> Any:
    """Which output to explain: the request's ``target`` as it came, 0 without one."""
    if not isinstance(request, Mapping):
        return 0
    parameters = request.get("parameters")  # where the Open Inference Protocol puts what is no tensor
    elsewhere = parameters.get("target") if isinstance(parameters, Mapping) else None
    return request.get("target") or elsewhere or 0


def one_row(batch: Any, row: int, rows: int) -> Any:
    """The part of what ``preprocess`` returned that belongs to one request, still as a batch of one.

    A tensor is a batch by its first dimension, a list by its elements, a tuple or mapping by each tensor in it
    (token ids and their mask, say). Anything else belongs to all.
    """
    if isinstance(batch, Mapping) and _all_have_rows(batch.values(), rows):
        return {name: tensor[row : row + 1] for name, tensor in batch.items()}
    if isinstance(batch, tuple) and _all_have_rows(batch, rows):
        return tuple(tensor[row : row + 1] for tensor in batch)
    if (isinstance(batch, torch.Tensor) and batch.dim() and len(batch) == rows) or (
        isinstance(batch, list | tuple) and len(batch) == rows
    ):
        return batch[row : row + 1]
    return batch


def _all_have_rows(tensors: Any, rows: int) -> bool:
    return all(isinstance(tensor, torch.Tensor) and tensor.dim() and len(tensor) == rows for tensor in tensors)
