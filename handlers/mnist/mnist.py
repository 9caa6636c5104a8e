"""The digit classifier's network; the archive names this file as its model file."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions and two linear layers: 28x28 grey pixels in, ten log-probabilities out.

    Layer names and sizes are those of TorchServe's MNIST example, so that weights made for it load here as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.dropout1 = nn.Dropout2d(0.25)
        # The original drops whole channels here too; a row of features has none, and torch would warn at each start.
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(64 * 12 * 12, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities of the ten digits for a batch of shape [N, 1, 28, 28]."""
        strokes = torch.relu(self.conv1(images))
        pooled = torch.max_pool2d(self.conv2(strokes), 2)
        features = torch.relu(self.fc1(self.dropout1(pooled).flatten(1)))
        return torch.log_softmax(self.fc2(self.dropout2(features)), dim=1)
