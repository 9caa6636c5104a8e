"""The base of handlers for DeepSpeed: each process of the torchrun group takes the GPU of its rank."""

from __future__ import annotations

import abc
import os
from typing import Any

from ts.torch_handler.base_handler import BaseHandler


class BaseDeepSpeedHandler(BaseHandler, abc.ABC):
    """The subclass makes its engine with ``ts.handler_utils.distributed.deepspeed.get_ds_engine``."""

    def initialize(self, ctx: Any) -> None:
        self.device = int(os.environ.get("LOCAL_RANK", "0"))  # type: ignore[assignment]  # a number, as in TorchServe


__all__ = ["BaseDeepSpeedHandler", "BaseHandler"]
