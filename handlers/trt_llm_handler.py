"""Default handler `trt_llm_handler`: a name kept for archives that use it; not served here.

Without TensorRT-LLM loading it fails with the package's own ImportError, with it by saying what to use instead.
"""

from __future__ import annotations

from typing import Any

import tensorrt_llm  # noqa: F401 -- the missing package should say so itself
from ts.torch_handler.base_handler import BaseHandler


class TRTLLMHandler(BaseHandler):
    def initialize(self, context: Any) -> None:
        raise RuntimeError(
            "torchserve-lite does not drive TensorRT-LLM. Archive the model with --handler vllm_handler or "
            "llm_handler, run TensorRT-LLM's own server (trtllm-serve), or write an asynchronous handler around "
            "tensorrt_llm.LLM (asyncCommunication: true and openai: true in model-config.yaml)."
        )


__all__ = ["TRTLLMHandler"]
