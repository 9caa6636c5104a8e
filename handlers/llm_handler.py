"""Default handler `llm_handler`: the sample in handlers/llm, by its name alone."""

from __future__ import annotations

import sys
from pathlib import Path

# Last: a file of that name in the model's own folder comes first.
sys.path.append(str(Path(__file__).with_name("llm")))

from llm_handler import LLMHandler as _Sample


class LLMHandler(_Sample):
    """A class of this module, which is where the handler of a model is looked for."""


__all__ = ["LLMHandler"]
