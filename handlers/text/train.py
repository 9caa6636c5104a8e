"""Trains the news classifier on a labelled CSV and says how good it got.

Any file in AG News' form will do: class index from 1, title, description. `corpus.csv` beside this script is a small
one of our own sentences.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from model import TextClassificationModel
from torch import Tensor
from torch.nn import functional

from torchserve_lite import compat

HERE = Path(__file__).parent
LABELS = "World,Sports,Business,Sci/Tec"
UNKNOWN = "<unk>"
NGRAMS = 2  # as the handler has it
HELD_OUT = 0.2
BATCH_SIZE = 32
LEARNING_RATE = 0.02
FORGOTTEN = 0.3  # share of a text's n-grams that are taken for unknown ones in training


@dataclass(frozen=True)
class Texts:
    """Texts as their n-grams, and the class of each, from 0."""

    ngrams: Sequence[list[str]]
    classes: Sequence[int]

    def __len__(self) -> int:
        return len(self.classes)

    def split(self) -> tuple[Texts, Texts]:
        """A part to measure with, and the rest to learn from."""
        order = torch.randperm(len(self)).tolist()
        cut = int(len(order) * HELD_OUT)
        return self._rows(order[:cut]), self._rows(order[cut:])

    def shuffled_batches(self) -> Iterator[Texts]:
        for rows in torch.randperm(len(self)).split(BATCH_SIZE):
            yield self._rows(rows.tolist())

    def _rows(self, rows: list[int]) -> Texts:
        return Texts([self.ngrams[row] for row in rows], [self.classes[row] for row in rows])


def read_texts(file: Path) -> Texts:
    """The rows of the CSV, cut into words as the handler will cut requests; a header line is passed over."""
    compat.install()
    from ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
    from ts.torch_handler.text_classifier import TextClassifier

    handler = TextClassifier()
    handler.tokenizer = get_tokenizer("basic_english")
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.reader(lines) if row and row[0].isdigit()]
    tokens = [handler._tokenize(handler._cleaned(" ".join(row[1:]))) for row in rows]
    return Texts([list(ngrams_iterator(each, NGRAMS)) for each in tokens], [int(row[0]) - 1 for row in rows])


def vocabulary_of(texts: Texts, least: int) -> Counter[str]:
    """Ids of all single words and of the pairs that ``least`` texts have.

    A Counter is a dict that says 0, the id of the unknown, for what it does not hold. A plain dict would raise, which
    TorchServe's own handler does not catch, and the archive is to be good for it, too.
    """
    found = Counter(ngram for ngrams in texts.ngrams for ngram in set(ngrams))
    known = [ngram for ngram, count in found.most_common() if " " not in ngram or count >= least]
    return Counter({ngram: index for index, ngram in enumerate([UNKNOWN, *known])})


def inputs_of(texts: Texts, vocabulary: Counter[str], forgotten: float = 0.0) -> tuple[Tensor, Tensor]:
    """Ids and offsets for the model. Some ids are forgotten, so that it learns what an unknown n-gram is worth."""
    ids = torch.tensor([vocabulary[ngram] for ngrams in texts.ngrams for ngram in ngrams])
    lengths = torch.tensor([0, *(len(ngrams) for ngrams in texts.ngrams)])
    return torch.where(torch.rand(len(ids)) < forgotten, 0, ids), lengths.cumsum(0)[:-1]


def train(model: TextClassificationModel, texts: Texts, vocabulary: Counter[str], epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for epoch in range(epochs):
        for batch in texts.shuffled_batches():
            optimizer.zero_grad()
            logits = model(*inputs_of(batch, vocabulary, FORGOTTEN))
            loss = functional.cross_entropy(logits, torch.tensor(batch.classes), label_smoothing=0.05)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}/{epochs}: last loss {loss.item():.3f}", flush=True)


def accuracy(model: TextClassificationModel, texts: Texts, vocabulary: Counter[str]) -> float:
    with torch.inference_mode():
        predicted = model(*inputs_of(texts, vocabulary)).argmax(1)
    return (predicted == torch.tensor(texts.classes)).double().mean().item()


def save(model: TextClassificationModel, vocabulary: Counter[str], labels: Sequence[str], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out / "model.pt")
    torch.save(vocabulary, out / "source_vocab.pt")
    (out / "index_to_name.json").write_text(json.dumps(dict(enumerate(labels)), indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the text classifier sample of torchserve-lite.")
    parser.add_argument("--data", type=Path, default=HERE / "corpus.csv", help="labelled CSV in AG News' form")
    parser.add_argument("--labels", default=LABELS, help="names of the classes, in their order")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--least", type=int, default=2, help="texts that a pair of words must be in to get an id")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder for model.pt, source_vocab.pt, index_to_name.json"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)  # steps are so small that more threads only wait for each other
    torch.manual_seed(arguments.seed)
    labels = arguments.labels.split(",")
    held_out, rest = read_texts(arguments.data).split()
    vocabulary = vocabulary_of(rest, arguments.least)
    model = TextClassificationModel(len(vocabulary), len(labels))
    train(model, rest, vocabulary, arguments.epochs)
    save(model, vocabulary, labels, arguments.out)
    print(f"accuracy on {len(held_out)} held-out texts: {accuracy(model, held_out, vocabulary):.1%}")
    print(f"{len(vocabulary)} words and pairs; model in {arguments.out}")


if __name__ == "__main__":
    main()
