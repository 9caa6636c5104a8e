"""Pipeline parallelism with PiPPy. Needs the package ``pippy``, which its authors have ended."""

from __future__ import annotations

from typing import Any, NoReturn

import pippy  # noqa: F401 -- who has no pippy shall read pippy's own ImportError

_ADVICE = (
    "PiPPy has become part of PyTorch: use torch.distributed.pipelining in the handler's initialize(), "
    "with parallelType: pp in model-config.yaml."
)


def initialize_rpc_workers(local_rank: int, world_size: int, ctx: Any) -> NoReturn:
    raise RuntimeError(_ADVICE)


def get_pipeline_driver(model: Any, world_size: int, ctx: Any) -> NoReturn:
    raise RuntimeError(_ADVICE)
