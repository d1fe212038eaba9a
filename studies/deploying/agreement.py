"""Whether what was exported does what the network does, on held-out images."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from oat.data import Split, unit
from oat.models import Pair
from studies.deploying.formats import Run
from studies.deploying.model import TrainedModel
from studies.errors import ModelError

TOLERANCE = 1e-4
"""How far logits of a file may be from those of the network, in units of logits of at most 1, else
relative to them."""
CHECK_IMAGES = 256
"""Held-out images that a file is checked on, at most."""
ODD_BATCHES = (1, 7)
"""Numbers of images beside that of the check: a file must take any."""
KNOB_LAMS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the knob of a model that knows any λ is checked beside the λ of its training."""


class Agreement(TypedDict):
    """How a file agrees with the network that it was made from, on held-out images.

    Attributes:
        images: How many.
        lams: λ that were set; empty for a file of one point.
        largest_difference: Between logits, relative where these are larger than 1.
        same_class: Share of the images that get the same class.
    """

    images: int
    lams: list[float]
    largest_difference: float
    same_class: float


def example_of(model: TrainedModel, held_out: Split, *, whole: bool) -> tuple[Tensor, ...]:
    """Return inputs of a module: two images, and a λ for each where it has a knob."""
    images = unit(held_out.images[:2])
    return (images, torch.full((len(images),), model.lams[0])) if whole else (images,)


def reference_of(model: TrainedModel, lam: float, width: float) -> nn.Module:
    """Return what a whole knob must be at one λ; that of a mixture gives log-probabilities."""
    network = model.at(lam, width)
    return nn.Sequential(network, nn.LogSoftmax(1)) if isinstance(model.network, Pair) else network


def lams_to_check(model: TrainedModel) -> tuple[float, ...]:
    """Return the λ that a whole knob is checked at."""
    others = filter(model.has_trained, KNOB_LAMS if model.any_lam else ())
    return tuple(sorted({*model.lams, *others}))


def check_knob(model: TrainedModel, width: float, held_out: Split, run: Run) -> Agreement:
    """Hold a whole knob that was read back against the network at each λ."""
    lams = lams_to_check(model)
    return agree(run, [reference_of(model, lam, width) for lam in lams], held_out, lams)


@torch.no_grad()
def agree(
    run: Run,
    references: Sequence[nn.Module],
    held_out: Split,
    lams: Sequence[float],
) -> Agreement:
    """Hold a file against networks: at each λ, or at its one point."""
    images = unit(held_out.images[:CHECK_IMAGES])
    largest, same = 0.0, 1.0
    for i, reference in enumerate(references):
        expected = reference(images)
        for count in (len(images), *ODD_BATCHES):
            few = images[:count]
            given = (few, torch.full((len(few),), lams[i])) if lams else (few,)
            logits, wanted = run(*given), expected[:count]
            if logits.shape != wanted.shape:
                raise ModelError(
                    f"The exported model returns {tuple(logits.shape)} for {count} images, "
                    f"not {tuple(wanted.shape)}."
                )
            apart = (logits - wanted).abs() / wanted.abs().clamp(min=1)
            farthest = apart.max().item()  # NaN stays: `max` would forget it
            largest = farthest if not farthest <= largest else largest
            same = min(same, (logits.argmax(1) == wanted.argmax(1)).double().mean().item())
    return {
        "images": len(images),
        "lams": list(lams),
        "largest_difference": largest,
        "same_class": same,
    }


def together(found: Sequence[Agreement], lams: Sequence[float]) -> Agreement:
    """Return the worst of what several checks have shown."""
    return {
        "images": found[0]["images"],
        "lams": list(lams),
        # NaN stays, which Python's `max` may forget
        "largest_difference": float(np.max([one["largest_difference"] for one in found])),
        "same_class": min(one["same_class"] for one in found),
    }


def refuse_if_apart(found: Agreement) -> None:
    """Refuse a file that does not agree with its network; NaN does not agree.

    Raises:
        ModelError: It does not.
    """
    if found["largest_difference"] <= TOLERANCE and found["same_class"] == 1:
        return
    raise ModelError(
        f"The exported model does not agree with the network: logits differ by up to "
        f"{found['largest_difference']:.2g} (at most {TOLERANCE:g}), and "
        f"{100 * found['same_class']:.1f} % of {found['images']} held-out images get the same "
        "class; it was not kept."
    )
