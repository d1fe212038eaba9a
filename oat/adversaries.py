"""The attacks that finished models are judged by, as configs; `oat.evaluation` runs them.

A new one is a class here, in `AnyAttack` and `ATTACKS`, and a branch in `oat.evaluation`. Those of
users are functions; see `oat.own_attack`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from oat.attacks import Loss, eps_faults
from oat.names import refuse

EVALUATION_SEED = 20
"""Seed of the attacks' random starts; the same for every model, so that points are paired."""

TARGETS = 9
"""Target classes of AutoAttack's targeted stages in its standard version."""


@dataclass(frozen=True)
class EvaluationAttack(ABC):
    """What every attack of an evaluation has.

    Attributes:
        eps: Radius in pixel units; None is that of the study's ``attack``.
        images: Attack only the first so many test images; None is as many as the study evaluates.

    Raises:
        ValueError: A value is out of its range.
    """

    eps: float | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        if self.eps is not None:
            yield from eps_faults(self.eps)
        if self.images is not None:
            yield from _count_faults("images", self.images)

    @property
    @abstractmethod
    def label(self) -> str:
        """Name for tables, such as ``pgd20``."""

    def radius(self) -> float:
        """Return ``eps``, which must have been resolved."""
        assert self.eps is not None, "the study's eps has been filled in"
        return self.eps

    def step(self) -> float | None:
        """Return the length of one step in pixel units; None for an attack without steps."""
        return None

    @abstractmethod
    def passes(self) -> float:
        """Estimate the cost for an image that withstands it, in forward passes."""


@dataclass(frozen=True)
class _Ascent(EvaluationAttack):
    """Signed gradient ascent of several steps.

    Attributes:
        steps: Gradient steps, at least 1.
        step_size: Length of a step in pixel units; ``auto`` is ``2.5 * eps / steps``.
    """

    steps: int = 20
    step_size: float | Literal["auto"] = "auto"

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        yield from _count_faults("steps", self.steps)
        if self.step_size != "auto" and not 0 < self.step_size < float("inf"):
            yield (
                f"`step_size` must be `auto` or a finite number above 0, got {self.step_size:g}."
            )

    def step(self) -> float:
        """Return the length of one step in pixel units."""
        return 2.5 * self.radius() / self.steps if self.step_size == "auto" else self.step_size

    def passes(self) -> float:
        """Count a forward and a backward for each step."""
        return 2.0 * self.steps

    def _odd_step(self) -> str:
        return "" if self.step_size == "auto" else f"-step{self.step_size:.4g}"


@dataclass(frozen=True)
class Pgd(_Ascent):
    """White-box projected gradient ascent.

    An image counts as robust only if no iterate, from each random start to the last step, is
    misclassified. This is never kinder than looking at the last iterates alone.

    Attributes:
        loss: What is ascended; see `oat.attacks.row_loss`.
        restarts: Random starts; the first is that of an attack with one start.
        momentum: Decay of the accumulated gradient (MI-FGSM's μ, usually 1); 0 is plain PGD.
        every_lam: Attack a conditional network at each λ of the study as well, at the same
            width: an image is robust only if it withstands the images crafted at every one.

    Raises:
        ValueError: A value is out of its range.

    Source: Madry et al., ICLR 2018; momentum: Dong et al., CVPR 2018, equations (6) and (7).
    """

    name: Literal["pgd"] = "pgd"
    loss: Loss = "ce"
    restarts: int = 1
    momentum: float = 0.0
    every_lam: bool = False

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        yield from _count_faults("restarts", self.restarts)
        if not 0 <= self.momentum <= 1:
            yield f"`momentum` must be in [0, 1], got {self.momentum:g}."

    @property
    def label(self) -> str:
        """Name such as ``pgd20``, or ``pgd50x10-cw-momentum1-every-lam`` with all there is."""
        many = f"x{self.restarts}" if self.restarts > 1 else ""
        loss = f"-{self.loss}" if self.loss != "ce" else ""
        momentum = f"-momentum{self.momentum:g}" if self.momentum else ""
        strongest = "-every-lam" if self.every_lam else ""
        return f"pgd{self.steps}{many}{loss}{momentum}{self._odd_step()}{strongest}"

    def passes(self) -> float:
        """Count every start; the attacks at other λ are not counted."""
        return super().passes() * self.restarts


@dataclass(frozen=True)
class Fgsm(EvaluationAttack):
    """White-box: one step of length ``eps`` from the image itself.

    Attributes:
        loss: What is ascended; see `oat.attacks.row_loss`.

    Source: Goodfellow et al., ICLR 2015.
    """

    name: Literal["fgsm"] = "fgsm"
    loss: Loss = "ce"

    @property
    def label(self) -> str:
        """Name such as ``fgsm`` or ``fgsm-cw``."""
        return "fgsm" + (f"-{self.loss}" if self.loss != "ce" else "")

    def step(self) -> float:
        """Return the whole radius."""
        return self.radius()

    def passes(self) -> float:
        """Count a forward and a backward."""
        return 2.0


@dataclass(frozen=True)
class AutoAttack(EvaluationAttack):
    """The standard version of AutoAttack: APGD-CE, targeted APGD-DLR, targeted FAB, Square.

    Needs the extra ``oat-studies[autoattack]``.

    Attributes:
        targets: Target classes of the targeted stages; the standard version's 9 need 10 classes.

    Raises:
        ValueError: A value is out of its range.

    Source: Croce and Hein, ICML 2020.
    """

    name: Literal["autoattack"] = "autoattack"
    targets: int = TARGETS

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if not 3 <= self.targets <= TARGETS:
            yield f"`targets` must be from 3 to {TARGETS}, got {self.targets}."

    @property
    def label(self) -> str:
        """Name such as ``autoattack``, or ``autoattack-4targets``."""
        return "autoattack" + (f"-{self.targets}targets" if self.targets != TARGETS else "")

    def passes(self) -> float:
        """Count 100 steps of APGD, of APGD and of FAB for each target, and Square's queries."""
        return 200 + self.targets * (200 + 300) + 5000


@dataclass(frozen=True)
class Square(EvaluationAttack):
    """Black box: random search with square-shaped changes; sees logits, no gradient.

    Needs the extra ``oat-studies[autoattack]``.

    Attributes:
        queries: Forward passes for each image.

    Raises:
        ValueError: A value is out of its range.

    Source: Andriushchenko et al., ECCV 2020.
    """

    name: Literal["square"] = "square"
    queries: int = 5000

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        yield from _count_faults("queries", self.queries)

    @property
    def label(self) -> str:
        """Name such as ``square5000``."""
        return f"square{self.queries}"

    def passes(self) -> float:
        """Count the queries."""
        return float(self.queries)


@dataclass(frozen=True)
class Transfer(_Ascent):
    """Black box: PGD's last iterates on every *other* retrained model of the same seed.

    An image is robust only if the judged model withstands what was crafted on each of them.
    """

    name: Literal["transfer"] = "transfer"

    @property
    def label(self) -> str:
        """Name such as ``transfer20``."""
        return f"transfer{self.steps}{self._odd_step()}"


AnyAttack = Pgd | Fgsm | AutoAttack | Square | Transfer
ATTACKS: dict[str, type[AnyAttack]] = {
    "pgd": Pgd,
    "fgsm": Fgsm,
    "autoattack": AutoAttack,
    "square": Square,
    "transfer": Transfer,
}
EXTRA = (AutoAttack, Square)
"""Attacks that need the extra ``oat-studies[autoattack]``."""


def check_classes(attack: EvaluationAttack, classes: int) -> None:
    """Refuse an attack that needs more classes than there are.

    Raises:
        ValueError: It does; the sentence names what would fit.
    """
    if isinstance(attack, AutoAttack) and classes <= attack.targets:
        fits = (
            f"set `targets: {classes - 1}`"
            if classes > 3
            else "use `square`, and `pgd` with the loss `cw`"
        )
        raise ValueError(
            f"`autoattack` with {attack.targets} target classes needs at least "
            f"{attack.targets + 1} classes, the data have {classes}; {fits}."
        )
    if isinstance(attack, Pgd | Fgsm) and attack.loss == "dlr" and classes < 3:
        raise ValueError(f"The loss `dlr` needs at least 3 classes, the data have {classes}.")


def _count_faults(name: str, value: int) -> Iterator[str]:
    if value < 1:
        yield f"`{name}` must be at least 1, got {value}."
