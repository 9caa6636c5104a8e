"""Loads a transformer in either save mode and calls it in one way."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hf_batches import Batch
from hf_inputs import TOKEN_FIELDS
from hf_settings import Settings
from torch import Tensor

TRACED_FILE = "traced_model.pt"


class PretrainedModel:
    """A model of transformers, as ``save_pretrained`` left it."""

    def __init__(self, network: Any, fields: Sequence[str], generation: Mapping[str, Any]) -> None:
        self.network = network
        accepted = inspect.signature(network.forward).parameters
        self.fields = tuple(name for name in fields if name in accepted)
        self._generation = generation

    def outputs(self, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return outputs_of(self.network(**inputs))

    def generate(self, batch: Batch, pad_id: int) -> Sequence[Tensor]:
        inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        return self.network.generate(**inputs, pad_token_id=pad_id, **self._generation)


class TracedModel:
    """A TorchScript trace. It takes its inputs by position and cannot generate, so greedy search is done here."""

    def __init__(self, network: Any, generation: Mapping[str, Any], end_id: int | None) -> None:
        self.network = network
        self.fields = TOKEN_FIELDS[: len(network.forward.schema.arguments) - 1]  # the first argument is self
        self._new_tokens = int(generation.get("max_new_tokens", 50))
        self._end_id = end_id

    def outputs(self, inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return outputs_of(self.network(*(inputs[name] for name in self.fields)))

    def generate(self, batch: Batch, pad_id: int) -> Sequence[Tensor]:
        """Row by row: a trace counts positions from the first column, which is wrong for a row padded on the left."""
        device = batch.inputs["input_ids"].device
        return [self._continued(torch.tensor([list(row.ids)], device=device)) for row in batch.encodings]

    def _continued(self, ids: Tensor) -> Tensor:
        for _ in range(self._new_tokens):
            logits = self.outputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0]
            token = logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, token], dim=1)
            if token.item() == self._end_id:
                break
        return ids[0]


def load_tokenizer(model_dir: Path, settings: Settings) -> Any:
    from transformers import AutoTokenizer  # takes seconds; a worker needs it, a reader of this module does not

    own = any((model_dir / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))
    case = {} if settings.do_lower_case is None else {"do_lower_case": settings.do_lower_case}
    return AutoTokenizer.from_pretrained(_source(model_dir, settings, own), **case)


def load_config(model_dir: Path, settings: Settings) -> Any:
    from transformers import AutoConfig

    own = (model_dir / "config.json").is_file()
    if settings.traced and not own and not settings.model_name:
        return None  # a trace carries all it needs
    return AutoConfig.from_pretrained(_source(model_dir, settings, own))


def load_pretrained(model_dir: Path, settings: Settings, auto_model: str, fields: Sequence[str]) -> PretrainedModel:
    import transformers

    source = _source(model_dir, settings, (model_dir / "config.json").is_file())
    network = getattr(transformers, auto_model).from_pretrained(source)
    return PretrainedModel(network, fields, settings.generation)


def load_traced(model_dir: Path, settings: Settings, manifest: Mapping[str, Any] | None, end_id: Any) -> TracedModel:
    serialized = ((manifest or {}).get("model") or {}).get("serializedFile") or TRACED_FILE
    file = model_dir / serialized
    if not file.is_file():
        raise FileNotFoundError(f"save_mode is torchscript, but the archive has no {serialized}.")
    return TracedModel(torch.jit.load(file, map_location="cpu"), settings.generation, end_id)


def outputs_of(result: Any) -> Sequence[Tensor]:
    """The tensors of a model's result in order, whether it comes as an object of transformers, a dict or a tuple."""
    if isinstance(result, Tensor):
        return (result,)
    return tuple(result.values()) if isinstance(result, Mapping) else tuple(result)


def _source(model_dir: Path, settings: Settings, own: bool) -> str:
    """The archive itself, else the model that its settings name."""
    if own:
        return str(model_dir)
    if not settings.model_name:
        raise FileNotFoundError(
            f"The archive has no files of transformers (config.json, tokenizer.json) in {model_dir}, "
            "and its settings name no model: set model_name in the handler section of model-config.yaml."
        )
    inside = model_dir / settings.model_name
    return str(inside) if inside.is_dir() else settings.model_name
