"""The base of handlers for PiPPy's pipelines. Importing it without the package gives the package's own ImportError."""

from __future__ import annotations

import abc
import os
from typing import Any

from ts.handler_utils.distributed.pt_pippy import initialize_rpc_workers
from ts.torch_handler.base_handler import BaseHandler


class BasePippyHandler(BaseHandler, abc.ABC):
    """Joins the torchrun group when it is initialised; the subclass makes its pipeline."""

    def initialize(self, ctx: Any) -> None:
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        initialize_rpc_workers(self.local_rank, self.world_size, ctx)


__all__ = ["BaseHandler", "BasePippyHandler"]
