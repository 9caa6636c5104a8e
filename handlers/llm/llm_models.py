"""Loads tokenizers and models of transformers, and reads from their files what a server has to know of them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from llm_decoding import text_config
from llm_sampling import SamplingParameters
from llm_settings import Settings

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
_LENGTH_OF_UNBOUNDED_MODELS = 2048


def load_config(source: str, settings: Settings) -> Any:
    from transformers import AutoConfig  # takes seconds; a worker needs it, a reader of this module does not

    return AutoConfig.from_pretrained(source, trust_remote_code=settings.trust_remote_code)


def load_tokenizer(source: str, settings: Settings) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, trust_remote_code=settings.trust_remote_code)


def load_model(source: str, settings: Settings, device: torch.device, *, generates: bool) -> Any:
    """The model in its place, ready to be called."""
    import transformers
    from packaging.version import Version

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a line of the log for each shard
    kind = transformers.AutoModelForCausalLM if generates else transformers.AutoModel
    dtype = settings.dtype
    if dtype == "auto" and device.type == "cpu":
        dtype = "float32"  # half precision saves memory on a CPU, and is slower on most
    chosen = dtype if dtype == "auto" else getattr(torch, dtype)
    name = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"
    model: Any = kind.from_pretrained(source, trust_remote_code=settings.trust_remote_code, **{name: chosen})
    return model.to(device).eval()


def generates_text(config: Any, settings: Settings) -> bool:
    """Whether the model is there to generate; else its vectors are what is asked for."""
    if settings.task != "auto":
        return settings.task == "generate"
    architectures = config.architectures or []
    return any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in architectures)


def max_length(config: Any, settings: Settings) -> int:
    """Of a prompt and its answer together, in tokens. ValueError when the settings ask for more than the model has."""
    known = (getattr(text_config(config), name, None) for name in _LENGTHS)
    own = next((length for length in known if isinstance(length, int) and length > 0), None)
    if settings.max_model_len and own and settings.max_model_len > own:
        raise ValueError(
            f"max_model_len is {settings.max_model_len} in the handler section, and the model was made for {own}."
        )
    return settings.max_model_len or own or _LENGTH_OF_UNBOUNDED_MODELS


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Any of them ends a text. Chat models have several: one ends the message, one the document."""
    generation = getattr(model, "generation_config", None)
    known = (getattr(generation, "eos_token_id", None), tokenizer.eos_token_id)
    return frozenset(
        token for ends in known if ends is not None for token in (ends if isinstance(ends, list) else [ends])
    )


def sampling_defaults(model: Any) -> SamplingParameters:
    """What generation_config.json recommends, where it says that the model should sample; else OpenAI's."""
    generation = getattr(model, "generation_config", None)
    said = generation.to_diff_dict() if generation is not None else {}
    if not said.get("do_sample"):
        return SamplingParameters()
    return SamplingParameters(
        temperature=said.get("temperature") or 1.0, top_p=said.get("top_p") or 1.0, top_k=said.get("top_k") or 0
    )


def pooling_of(source: str) -> str:
    """How models of sentence-transformers make one vector of a text's many: ``cls`` or ``mean``."""
    with contextlib.suppress(OSError, ValueError):
        said = json.loads(Path(source, "1_Pooling", "config.json").read_text(encoding="utf-8"))
        return "cls" if said.get("pooling_mode_cls_token") else "mean"
    return "mean"
