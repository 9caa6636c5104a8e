"""Helpers for handlers: importing a class by name, and sending a piece of an answer before the rest."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ts.context import Context
from ts.protocol.otf_message_handler import create_predict_response

__all__ = ["Context", "create_predict_response", "import_class", "send_intermediate_predict_response"]


def import_class(class_name: str, module_prefix: str | None = None) -> type:
    """``"package.module.Class"``, or the class of that name inside ``module_prefix``."""
    path = ".".join(filter(None, [module_prefix, class_name]))
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ImportError(f"{class_name!r} names no module: write it as 'package.module.{class_name}'")
    found: type | None = getattr(importlib.import_module(module_name), name, None)
    if found is None:
        raise ImportError(f"class:{name} not found in module:{module_name}.")
    return found


def send_intermediate_predict_response(
    ret: Sequence[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Context | None
) -> None:
    """Sends ``ret[i]`` as the next piece of request ``i``'s answer, for each ``i`` of the map. The value that the
    handler returns is the last piece.

    Of the processes that torchrun starts for one model only the first one talks to the clients.
    """
    if context is None or context.send is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    for index, request_id in req_id_map.items():
        context.send(index, ret[index], request_id)
