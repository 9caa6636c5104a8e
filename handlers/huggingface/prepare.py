"""Makes the model folder that goes into an archive, from any model of transformers: a hub id or a local folder.

With ``--corpus`` a classification head is trained on top of the frozen encoder first, for models that have none.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from hf_models import TRACED_FILE, PretrainedModel, outputs_of
from hf_settings import MODES, SAVE_MODES
from hf_tasks import TASKS
from torch import Tensor, nn
from torch.nn import functional

HELD_OUT = 0.2
BATCH_SIZE = 32
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class Corpus:
    """Texts and the class of each, from 0. Files are in AG News' form: class index from 1, title, description."""

    texts: list[str]
    classes: Tensor

    @classmethod
    def read(cls, file: Path) -> Corpus:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.reader(lines) if row and row[0].isdigit()]
        return cls([" ".join(row[1:]) for row in rows], torch.tensor([int(row[0]) - 1 for row in rows]))

    def split(self) -> tuple[Corpus, Corpus]:
        """A part to measure with, and the rest to learn from."""
        order = torch.randperm(len(self.texts)).tolist()
        cut = int(len(order) * HELD_OUT)
        return self._rows(order[:cut]), self._rows(order[cut:])

    def batches(self) -> Iterator[Corpus]:
        for rows in torch.randperm(len(self.texts)).split(BATCH_SIZE):
            yield self._rows(rows.tolist())

    def _rows(self, rows: list[int]) -> Corpus:
        return Corpus([self.texts[row] for row in rows], self.classes[rows])


@dataclass(frozen=True)
class Encoded:
    """A batch of texts as the frozen encoder sees them: its output never changes, so it is computed once."""

    tokens: Any
    output: Any
    classes: Tensor

    def logits(self, model: Any) -> Tensor:
        """What the head makes of the encoder's output. The head's form differs from model to model, so the whole model
        is called, with an encoder that has its answer ready."""
        model.base_model.forward = lambda *_, **__: self.output
        try:
            return model(**self.tokens).logits
        finally:
            del model.base_model.forward  # what the class defines is back


def encode(model: Any, tokenizer: Any, corpus: Corpus, max_length: int) -> list[Encoded]:
    model.eval()
    options = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
    with torch.no_grad():
        batches = ((tokenizer(batch.texts, **options), batch.classes) for batch in corpus.batches())
        return [Encoded(tokens, model.base_model(**tokens), classes) for tokens, classes in batches]


def train_head(model: Any, batches: list[Encoded], epochs: int) -> None:
    head = [parameter for name, parameter in model.named_parameters() if not name.startswith(model.base_model_prefix)]
    optimizer = torch.optim.AdamW(head, lr=LEARNING_RATE)
    for epoch in range(epochs):
        for row in torch.randperm(len(batches)).tolist():
            optimizer.zero_grad()
            loss = functional.cross_entropy(batches[row].logits(model), batches[row].classes)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}/{epochs}: last loss {loss.item():.3f}", flush=True)


def accuracy(model: Any, batches: list[Encoded]) -> float:
    with torch.inference_mode():
        right = [batch.logits(model).argmax(1) == batch.classes for batch in batches]
    return torch.cat(right).double().mean().item()


class Traceable(nn.Module):
    """Takes tensors by position and returns tensors only, as a trace must."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return outputs_of(self.model(**{name: tensor for name, tensor in given.items() if tensor is not None}))


def traced(model: Any, tokenizer: Any, fields: Sequence[str], max_length: int) -> torch.jit.ScriptModule:
    """A trace made with a padded input of full length, which is how the handler calls it."""
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokens = tokenizer("An example.", padding="max_length", max_length=max_length, return_tensors="pt")
    model.config.use_cache = False  # a generator's cache is no tensor
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # of what depends on the length, which stays the same
        return torch.jit.trace(Traceable(model.eval()), tuple(tokens[name] for name in fields))


def save(model: Any, tokenizer: Any, settings: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    if settings["save_mode"] == "torchscript":
        model.config.save_pretrained(out)
        fields = PretrainedModel(model, TASKS[settings["mode"]](tokenizer, {}).fields, {}).fields
        traced(model, tokenizer, fields, settings["max_length"]).save(out / TRACED_FILE)
    else:
        model.save_pretrained(out)
    (out / "model-config.yaml").write_text(yaml.safe_dump({"handler": settings}, sort_keys=False))


def new_model(arguments: argparse.Namespace, labels: list[str]) -> Any:
    """The model with the head of its mode; labels are given for a head that is to be trained."""
    named = {"num_labels": len(labels), "id2label": dict(enumerate(labels))} if labels else {}
    # Eager attention is the form that can be traced for any padding.
    implementation = {"attn_implementation": "eager"} if arguments.save_mode == "torchscript" else {}
    auto_model = getattr(transformers, TASKS[arguments.mode].auto_model)
    return auto_model.from_pretrained(arguments.model, **named, **implementation)


def learn(model: Any, tokenizer: Any, arguments: argparse.Namespace) -> None:
    held_out, rest = Corpus.read(arguments.corpus).split()
    train_head(model, encode(model, tokenizer, rest, arguments.max_length), arguments.epochs)
    share = accuracy(model, encode(model, tokenizer, held_out, arguments.max_length))
    print(f"accuracy on {len(held_out.texts)} held-out texts: {share:.1%}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the model folder of a transformers archive.")
    parser.add_argument("--model", required=True, help="a model id of the Hugging Face hub, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--mode", choices=MODES, default=MODES[0])
    parser.add_argument("--save-mode", choices=SAVE_MODES, default=SAVE_MODES[0])
    parser.add_argument("--max-length", type=int, default=150, help="of a text, in tokens")
    parser.add_argument("--corpus", type=Path, help="labelled CSV to train a classification head with")
    parser.add_argument("--labels", default="World,Sports,Business,Sci/Tec", help="names of the corpus' classes")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = new_model(arguments, arguments.labels.split(",") if arguments.corpus else [])
    if arguments.corpus:
        learn(model, tokenizer, arguments)
    settings = {"mode": arguments.mode, "save_mode": arguments.save_mode, "max_length": arguments.max_length}
    save(model, tokenizer, settings, arguments.out)
    print(f"model folder: {arguments.out}")


if __name__ == "__main__":
    main()
