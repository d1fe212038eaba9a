"""One step of training: what it does, and how it is recorded once and replayed on a GPU.

The step is written for static buffers: it reads which images it takes from one tensor, and adds
its loss to another. It asks the device for no value and has no shape that depends on data, unless
its method says so (`oat.method.Method.fixed_shapes`). So the same code runs eagerly, with compiled
functions, or captured as one CUDA graph, which spares the thousands of kernel launches of a step.
"""

import torch
from torch import Tensor, nn

from oat.attacks import Attack
from oat.data import DataConfig, Split, augment, unit
from oat.method import Method
from oat.models import Network
from oat.recipe import TrainConfig


def make_batch(
    split: Split, rows: Tensor, data: DataConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Gather images and augment them.

    Args:
        split: Where the images are.
        rows: Which, shape (N,).
        data: The augmentation, resolved.
        generator: Source of its draws, on the device of the images.

    Returns:
        Images in [0, 1], shape (N, C, H, W), channels last; and labels, shape (N,).
    """
    assert data.crop is not None
    assert data.flip is not None
    images = augment(unit(split.images[rows]), data.crop, data.flip, generator=generator)
    return images.contiguous(memory_format=torch.channels_last), split.labels[rows]


class Step:
    """Draws a batch, computes the method's losses and their gradients, and updates the weights.

    On a GPU a captured step is run once as it is, for each attack that it meets, then recorded and
    from then on replayed. The recording reads and writes the tensors that were there when it was
    made: all of them belong to the step, the network or the data, and live as long as it does.

    Args:
        model: The network; its parameters, statistics and gradients are updated.
        method: Whose losses.
        optimizer: Of the network's parameters. It runs outside of the recording, as its learning
            rate changes.
        split: Training images.
        data: Their augmentation, resolved.
        train: Batch size, label smoothing and largest norm of the gradient.
        generator: Source of all draws, on the device of the images.
        captured: Whether to record and replay.

    Attributes:
        size: Images of a step.
        loss: Sum of the mean losses of all steps since it was last set to 0, of shape ().
    """

    def __init__(
        self,
        model: Network,
        method: Method,
        optimizer: torch.optim.Optimizer,
        split: Split,
        *,
        data: DataConfig,
        train: TrainConfig,
        generator: torch.Generator,
        captured: bool,
    ) -> None:
        self.model, self.method, self.optimizer = model, method, optimizer
        self.split, self.data, self.config, self.generator = split, data, train, generator
        self.captured = captured
        self.size = min(train.batch_size, len(split))
        device = split.images.device
        self.loss = torch.zeros((), device=device)
        self._rows = torch.zeros(self.size, dtype=torch.long, device=device)
        self._warm: Attack | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, rows: Tensor, attack: Attack) -> None:
        """Take one step.

        Args:
            rows: Which images, shape (`size`,), on their device.
            attack: Inner maximisation.
        """
        self._rows.copy_(rows)
        if not self.captured:
            self._passes(attack)
        elif self._warm != attack:
            self._run_aside(attack)
        else:
            if self._graph is None:
                self._graph = self._record(attack)
            self._graph.replay()
        self.optimizer.step()

    def _passes(self, attack: Attack) -> None:
        """Do all of a step but the update of the weights: what is recorded."""
        images, labels = make_batch(self.split, self._rows, self.data, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros_like(self.loss)
        for rows in self.method.losses(
            self.model,
            images,
            labels,
            attack=attack,
            generator=self.generator,
            label_smoothing=self.config.label_smoothing,
        ):
            loss = rows.mean()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.loss += total
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)

    def _run_aside(self, attack: Attack) -> None:
        """Run a step as it is, on a stream of its own: libraries set themselves up for capture."""
        self._graph, self._warm = None, attack
        here = torch.cuda.current_stream(self._rows.device)
        aside = torch.cuda.Stream(self._rows.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            self._passes(attack)
        here.wait_stream(aside)

    def _record(self, attack: Attack) -> torch.cuda.CUDAGraph:
        """Record a step; nothing is computed, and no draw is made."""
        self.optimizer.zero_grad(set_to_none=True)  # gradients will be the recording's own
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph):
            self._passes(attack)
        return graph
