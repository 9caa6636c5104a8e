"""A network of 400 MB that reads every weight for each answer. ``python large.py FILE`` writes its weights."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

PARTS, PART = 100, 1_000_000  # 4 bytes each


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(torch.empty(PART), requires_grad=False) for _ in range(PARTS))

    def forward(self) -> Tensor:
        """How many weights are positive: a whole number, whatever the order in which threads add.

        Nothing large is kept meanwhile: summing booleans makes 8 MB of each part, which the allocator may then hold on
        to, as much as twice the weights in every worker, and that is not what is measured here."""
        return torch.tensor(sum(int(torch.count_nonzero(part > 0)) for part in self.parts))


def main(file: str) -> None:
    torch.manual_seed(0)
    network = Large()
    for part in network.parts:
        part.data = torch.rand(PART) + 0.1  # random, as trained weights are: they hardly compress
        part.data[::2] *= -1
    torch.save(network.state_dict(), file)


if __name__ == "__main__":
    main(sys.argv[1])
