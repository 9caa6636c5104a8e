"""The benchmark's models for servers that load no archives: the same networks and weights, called directly.

Run by the servers' own environment, so nothing here imports torchserve-lite or the rest of the benchmark.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Predict = Callable[[list[Any]], list[Any]]  # what was decoded of each request to what is answered


@dataclass(frozen=True)
class Settings:
    """What a service is told, as JSON in the variable BENCHMARK_SERVICE. ``folder``: the model's unpacked archive;
    ``delay``: seconds; ``v1``: requests are KServe's V1 JSON with one instance."""

    model: str
    folder: Path
    port: int
    workers: int
    batch_size: int
    delay: float
    v1: bool

    @classmethod
    def read(cls) -> Settings:
        told = json.loads(os.environ["BENCHMARK_SERVICE"])
        return cls(**{**told, "folder": Path(told["folder"])})

    def predict(self) -> Predict:
        predict = MODELS[self.model](self.folder)
        if not self.v1:
            return predict

        def predict_v1(requests: list[Any]) -> list[Any]:
            rows = [base64.b64decode(request["instances"][0]["data"]) for request in requests]
            return [{"predictions": [answer]} for answer in predict(rows)]

        return predict_v1


def noop(folder: Path) -> Predict:
    return lambda rows: [b"ok"] * len(rows)


def echo(folder: Path) -> Predict:
    return lambda rows: rows


def mnist(folder: Path) -> Predict:
    import numpy
    import torch
    from PIL import Image

    torch.set_num_threads(1)  # as many workers as cores
    network = network_in(folder, "mnist", "Net", "mnist_cnn.pt")

    def predict(pictures: list[bytes]) -> list[int]:
        pixels = [numpy.array(Image.open(io.BytesIO(picture)).convert("L"), numpy.float32) for picture in pictures]
        batch = (torch.from_numpy(numpy.stack(pixels))[:, None] / 255 - 0.1307) / 0.3081
        with torch.inference_mode():
            classes: list[int] = network(batch).argmax(1).tolist()
        return classes

    return predict


def bert(folder: Path) -> Predict:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def predict(texts: list[bytes]) -> list[bytes]:
        sentences = [text.decode() for text in texts]
        tokens = tokenizer(sentences, padding=True, truncation=True, max_length=150, return_tensors="pt")
        with torch.inference_mode():
            classes = network(**tokens).logits.argmax(1).tolist()
        return [network.config.id2label[number].encode() for number in classes]

    return predict


def large(folder: Path) -> Predict:
    network = network_in(folder, "large", "Large", "large.pt")
    return lambda rows: [int(network())] * len(rows)


def network_in(folder: Path, module: str, name: str, weights: str) -> Any:
    import torch

    sys.path.insert(0, str(folder))
    network = getattr(__import__(module), name)()
    network.load_state_dict(torch.load(folder / weights, map_location="cpu"))
    return network.eval()


MODELS: dict[str, Callable[[Path], Predict]] = {
    "noop": noop,
    "echo": echo,
    "mnist": mnist,
    "bert": bert,
    "large": large,
}
