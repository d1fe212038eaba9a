"""What the checks for masked gradients run; `oat.masking` runs it."""

from oat.adversaries import Pgd
from oat.attacks import Loss

STEPS = 20
RESTARTS = 5
DRAWS = 20
MARGIN_LOSSES: tuple[Loss, ...] = ("cw", "dlr")
LARGE_EPS = 0.5
"""Radius at which every image can be made uniformly grey, so that nothing can be robust."""
STRONG = tuple(Pgd(steps=50, restarts=2, loss=loss) for loss in MARGIN_LOSSES)
"""Attacks that follow the restarts for ``ra_strong``. Cross-entropy's gradient vanishes where a
network is sure of itself; that of a margin does not."""
HOW = (STEPS, RESTARTS, DRAWS, LARGE_EPS, *(attack.label for attack in STRONG))
"""What decides the numbers beside the images and the radius; part of a check's key."""

PASSES = 2 * STEPS * (RESTARTS + 2) + DRAWS + sum(1 + attack.passes() for attack in STRONG)
"""Cost for a robust image, in forward passes; at the larger radii images fall early."""
