"""Default handler `vllm_handler`: a name kept for archives that use it; not served here.

Without vLLM loading it fails with the package's own ImportError, with it by saying what to use instead.
"""

from __future__ import annotations

from typing import Any

import vllm  # noqa: F401 -- the missing package should say so itself
from ts.torch_handler.base_handler import BaseHandler


class VLLMHandler(BaseHandler):
    def initialize(self, context: Any) -> None:
        raise RuntimeError(
            "torchserve-lite does not drive vLLM. Run vLLM's own OpenAI-compatible server (vllm serve), or write an "
            "asynchronous handler around vllm.AsyncLLMEngine (asyncCommunication: true in model-config.yaml)."
        )


__all__ = ["VLLMHandler"]
