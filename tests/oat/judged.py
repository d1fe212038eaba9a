"""What the tests of evaluation share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from oat.data import Split


class RowByRow(nn.Module):
    """A network with hidden units whose rows do not depend on the batch by one bit."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(11)
        self.register_buffer("hidden", torch.randn(10, 9, generator=source))
        self.register_buffer("out", torch.randn(3, 10, generator=source))

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        hidden = (x[:, None] * self.get_buffer("hidden")).sum(-1).sub(0.5).tanh()
        return (hidden[:, None] * self.get_buffer("out")).sum(-1)


def split_of(logits_fn: Callable[[Tensor], Tensor], count: int = 60) -> Split:
    """Make images of which a network gets four in five right."""
    images = torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(12))
    labels = logits_fn(images).argmax(dim=1)
    labels[::5] = (labels[::5] + 1) % 3
    return Split(images, labels)
