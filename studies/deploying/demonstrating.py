"""One image under a trained model at an operating point: what it says, also under an attack."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor, nn

from oat.adversaries import Pgd
from oat.ascent import ascend, ball, row_loss
from oat.data import Split, unit
from oat.evaluation import evaluate
from oat.operating import OperatingPoint
from studies.deploying.judged import points_at
from studies.deploying.model import TrainedModel
from studies.errors import ModelError
from studies.naming import radius_text
from studies.report.operating_points import interval
from studies.results.mlflow_index import Links

MOST_STEPS = 200
"""Steps of an attack that a page may ask for, at most: each takes a pass forward and one back."""


@dataclass(frozen=True)
class Attacked:
    """What an attack makes of one image.

    Attributes:
        image: After the last step, in [0, 1], shape (C, H, W). The first image that was
            misclassified, where the last one is not; the image as it is, if that one is.
        probabilities: Of each class there, shape (K,).
        robust: Whether `oat.evaluation` counts the image as robust.
        broken_after: Gradient steps from the random start to the first image that was
            misclassified; None if there was none, or nothing was attacked.
    """

    image: Tensor
    probabilities: Tensor
    robust: bool
    broken_after: int | None


class _Watched:
    """A network that keeps what it was last shown, and counts."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.count = 0
        self.images = self.logits = torch.empty(0)

    def __call__(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        self.count += 1
        self.images, self.logits = images.detach(), logits.detach()
        return logits


def attack_image(network: nn.Module, image: Tensor, label: int, attack: Pgd) -> Attacked:
    """Attack one image as `oat.evaluation` does, and go on to the last step.

    An evaluation stops at the first image that is misclassified. The steps that are left are taken
    from there, without momentum.

    Args:
        network: At one operating point, on the CPU.
        image: uint8 or float in [0, 1], shape (C, H, W).
        label: Class that the attack leads away from.
        attack: With its radius.
    """
    watched = _Watched(network)
    labels = torch.tensor([label])
    judged = evaluate(watched, Split(image[None], labels), attack)
    robust, shown, logits = bool(judged.robust[0]), watched.images, watched.logits
    if robust or not judged.clean[0]:
        return Attacked(shown[0], logits[0].softmax(0), robust, None)
    # beside the clean image a network is shown the start and what comes of each step, each time
    # the attack is started; on a CPU the last is the first that is misclassified
    done = (watched.count - 2) % (attack.steps + 1)
    loss, bounds = row_loss(attack.loss, labels), ball(unit(image)[None], attack.radius())
    last = ascend(network, loss, shown, bounds, steps=attack.steps - done, step=attack.step())
    with torch.no_grad():
        at_last = network(last)
    if int(at_last.argmax()) != label:
        shown, logits = last, at_last
    return Attacked(shown[0], logits[0].softmax(0), robust, done)


@dataclass
class Demo:
    """A trained model with what a page shows beside it. One thread at a time computes.

    Attributes:
        study: Name of the study.
        model: The model.
        seed: Of its training.
        test: The study's test images.
        attack: What images are attacked by unless other steps are asked for.
        points: The model's own points on test images; see `studies.deploying.judged.points_of`.
        run_key: Of the trial that made the model.
        links: Addresses of MLflow runs.
    """

    study: str
    model: TrainedModel
    seed: int
    test: Split
    attack: Pgd
    points: pd.DataFrame
    run_key: str
    links: Links
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False)
    _ended: bool = field(default=False, init=False)
    _folded: tuple[OperatingPoint, nn.Module] | None = field(default=None, init=False)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for others to have computed; only inside may a thread call what computes.

        Raises:
            ModelError: The demo ends.
        """
        with self._turn:
            if self._ended:
                raise ModelError("The demo has ended.")
            yield

    def end(self) -> None:
        """Wait for what is being computed, and let nothing begin after it."""
        with self._turn:
            self._ended = True

    def network(self, point: OperatingPoint) -> nn.Module:
        """Return the plain network at a point, the same as long as no other is asked for.

        Raises:
            ModelError: The model does not have that point.
        """
        if self._folded is None or self._folded[0] != point:
            self._folded = point, self.model.at(*point)
        return self._folded[1]

    def look(self, image: Tensor, point: OperatingPoint) -> Tensor:
        """Return the probability of each class, shape (K,).

        Args:
            image: uint8 or float in [0, 1], shape (C, H, W).
            point: Where.

        Raises:
            ModelError: The model does not have that point.
        """
        with torch.no_grad():
            found: Tensor = self.network(point)(unit(image)[None])[0].softmax(0)
        return found

    def attacked(self, image: Tensor, label: int, point: OperatingPoint, steps: int) -> Attacked:
        """Attack one image at a point with so many steps.

        Args:
            image: uint8 or float in [0, 1], shape (C, H, W).
            label: Class that the attack leads away from.
            point: Where.
            steps: From 1 to `MOST_STEPS`.

        Raises:
            ModelError: The model does not have that point.
        """
        return attack_image(self.network(point), image, label, self.with_steps(steps))

    def with_steps(self, steps: int) -> Pgd:
        """Return the attack with so many steps."""
        return replace(self.attack, steps=steps)

    def found(self, point: OperatingPoint) -> list[tuple[str, str, str | None]]:
        """Return SA, and RA under each attack at the radius of training, as the study found them.

        Returns:
            Name, text with the interval, and the address of the MLflow run where there is one.
            Empty where the study did not judge the point.
        """
        rows = points_at(self.points, self.model, point)
        rows = rows[(rows["eps"] - self.attack.radius()).abs() < 1e-9]
        if rows.empty:
            return []
        records = rows.sort_values("images", ascending=False).to_dict("records")
        return [
            ("SA", _text(records[0], "sa"), None),
            *(
                (f"RA, {row['attack']}", _text(row, "ra"), self.links.points.get(row["point_key"]))
                for row in records
            ),
        ]

    def radius(self) -> str:
        """Write the radius of the attack for people."""
        return radius_text(self.attack.radius())


def _text(row: dict[str, object], name: str) -> str:
    return f"{interval(row, name)} on {row['images']:,} images"
