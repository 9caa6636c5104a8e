"""A network that answers with what it is given."""

import torch


class Same(torch.nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows
