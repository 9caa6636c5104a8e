"""The network whose weights lie beside it as a state dict."""

import torch


class WeightedSum(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.ones(3))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows * self.weights).sum(dim=1)
