"""Serves models of Hugging Face's transformers: text classes, token classes, answers to questions, generated text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hf_batches import Batch, Batcher, EncodedRow
from hf_explanations import explanation
from hf_inputs import joined, read_row
from hf_models import PretrainedModel, TracedModel, load_config, load_pretrained, load_tokenizer, load_traced
from hf_settings import read_settings
from hf_tasks import TASKS, labels_of
from torch import Tensor
from ts.torch_handler.base_handler import BaseHandler
from ts.utils import util
from ts.utils.util import PredictionException, load_label_mapping


class TransformersHandler(BaseHandler):
    """A row of text in, one answer out; rows of several requests go through the model together."""

    device: torch.device

    def initialize(self, context: Any) -> None:
        model_dir = Path(context.system_properties["model_dir"])
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config or {}
        self.settings = read_settings(model_dir, self.model_yaml_config)
        self.device = _device(context.system_properties.get("gpu_id"))
        self.config = load_config(model_dir, self.settings)
        self.tokenizer = load_tokenizer(model_dir, self.settings)
        self.mapping = _label_mapping(model_dir)
        self.task = TASKS[self.settings.mode](self.tokenizer, labels_of(self.mapping, self.config))
        self.transformer = self._load(model_dir)
        self.batcher = self._new_batcher()
        self.model = self.transformer.network.to(self.device).eval()
        self.initialized = True

    def preprocess(self, data: Sequence[Any]) -> list[EncodedRow]:
        return [self._encoded(index, row) for index, row in enumerate(joined(data))]

    def inference(self, data: Sequence[EncodedRow], *args: Any, **kwargs: Any) -> list[Any]:
        """One answer for each row."""
        batch = self.batcher.batch([encoding for row in data for encoding in row.encodings], self.device)
        with torch.inference_mode():
            answers = iter(self.task.answers(self._outputs(batch), batch))
        return [_grouped([next(answers) for _ in row.encodings], row) for row in data]

    def postprocess(self, data: list[Any]) -> list[Any]:
        return data

    def explain_handle(self, data_preprocess: Sequence[EncodedRow], raw_data: Sequence[Any]) -> list[Any]:
        """One explanation for each row, each for its own target."""
        if not self.settings.captum_explanation:
            raise PredictionException("Explanations are off: captum_explanation is false in the settings.", 501)
        if self.settings.traced:
            raise PredictionException(
                "A traced model has no gradients to explain it by; save_mode: pretrained has.", 501
            )
        if self._is_encoder_decoder:
            raise PredictionException("Models that turn one text into another cannot be explained.", 501)
        return [self._explained(index, row) for index, row in enumerate(data_preprocess)]

    def _encoded(self, index: int, row: Any) -> EncodedRow:
        try:
            read = read_row(row)
            encodings = [self.task.checked(self.batcher.encode(example)) for example in read.examples]
        except ValueError as error:
            raise _refusal_of(index, str(error)) from error
        return EncodedRow(encodings, read.many)

    def _explained(self, index: int, row: EncodedRow) -> Any:
        batches = [self.batcher.batch([encoding], self.device) for encoding in row.encodings]
        pad_id = self.batcher.pad_id
        try:
            return _grouped([explanation(self.transformer, self.task, one, pad_id) for one in batches], row)
        except IndexError as error:
            raise _refusal_of(index, f"The model has no output of the asked target: {error}") from error

    def _outputs(self, batch: Batch) -> Sequence[Tensor] | Sequence[Sequence[Tensor]]:
        if self._generates:
            return [self.transformer.generate(batch, self.batcher.pad_id)]
        return self.transformer.outputs(batch.inputs)

    def _load(self, model_dir: Path) -> PretrainedModel | TracedModel:
        if self.settings.traced:
            return load_traced(model_dir, self.settings, self.manifest, self.tokenizer.eos_token_id)
        auto_model = "AutoModelForSeq2SeqLM" if self._is_encoder_decoder else self.task.auto_model
        return load_pretrained(model_dir, self.settings, auto_model, self.task.fields)

    def _new_batcher(self) -> Batcher:
        """A trace may hold the length it was made with, so its inputs always get that one.

        A decoder goes on at the right end of each row, so its padding is on the left.
        """
        length = self.settings.max_length
        width = length if self.settings.traced and not self._generates else 0
        left = self._generates and not self._is_encoder_decoder
        return Batcher(self.tokenizer, self.transformer.fields, max_length=length, width=width, left=left)

    @property
    def _generates(self) -> bool:
        return self.settings.mode == "text_generation"

    @property
    def _is_encoder_decoder(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False))


def _refusal_of(row: int, message: str) -> PredictionException:
    """Of the one request, where the server can tell it from the others of its batch; TorchServe refuses them all."""
    if hasattr(util, "InvalidRow"):
        return util.InvalidRow(row, message)
    return PredictionException(message, 400)


def _grouped(answers: list[Any], row: EncodedRow) -> Any:
    return answers if row.many else answers[0]


def _device(gpu_id: int | None) -> torch.device:
    return torch.device(f"cuda:{gpu_id}" if gpu_id is not None and torch.cuda.is_available() else "cpu")


def _label_mapping(model_dir: Path) -> dict[str, str] | None:
    file = model_dir / "index_to_name.json"
    return load_label_mapping(os.fspath(file)) if file.is_file() else None
