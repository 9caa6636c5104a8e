"""The handlers that come with the server: what an archive may name without holding it."""

from __future__ import annotations

import difflib

# Name -> the module that it needs and the server does not bring, "" for none.
BUILT_IN_HANDLERS = {
    "base_handler": "",
    "dali_image_classifier": "nvidia.dali",
    "densenet_handler": "",
    "image_classifier": "",
    "image_segmenter": "",
    "llm_handler": "transformers",
    "object_detector": "",
    "text_classifier": "",
    "text_handler": "",
    "trt_llm_handler": "tensorrt_llm",
    "vision_handler": "",
    "vllm_handler": "vllm",
}

# Those that answer OpenAI's requests, by the path in the header url_path.
OPENAI_HANDLERS = frozenset({"llm_handler", "vllm_handler"})

# torch-model-archiver 0.12 takes these for the name of a file of the user's.
UNKNOWN_TO_THE_ARCHIVER = frozenset({"densenet_handler", "text_handler", "vision_handler"})


def suggestion_for(handler: str) -> str:
    """For somebody whose handler is not known: the one that was probably meant, and all that there are."""
    near = difflib.get_close_matches(handler.lower(), BUILT_IN_HANDLERS, n=1)
    question = f"Did you mean {near[0]}? " if near else ""
    return f"{question}The server's own handlers are {', '.join(BUILT_IN_HANDLERS)}."
