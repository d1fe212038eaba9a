"""A trained model of a study, ready to be run at any of its operating points."""

import copy
from dataclasses import dataclass
from numbers import Real

from torch import nn

from oat.deploy import fold
from oat.encodings import BY_VALUE
from oat.knob import Knob, MixtureKnob
from oat.lambdas import SAME_LAM
from oat.models import Interpolation, Mixed, Mixture, Network, Pair
from oat.operating import OperatingPoint
from studies.errors import ModelError
from studies.known_methods import describe, method_of
from studies.trial.weights import About


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: one network for one trade-off, or for many.

    Attributes:
        network: As it was trained; `at` gives what is deployed.
        about: What its weights file says of it.
        fixed: The one point of a file that was exported at one; None of a trained model.
    """

    network: Network | Pair
    about: About
    fixed: OperatingPoint | None = None

    @property
    def label(self) -> str:
        """Method and trade-off value, such as ``pgd_at λ=0.3``."""
        return describe(method_of(self.about["config"]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by index."""
        return tuple(self.about["classes"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its images."""
        channels, height, width = self.about["image_shape"]
        return channels, height, width

    @property
    def eps(self) -> float:
        """Radius of the training's attack (L∞), in units of pixel values in [0, 1]."""
        return float(self.about["config"]["attack"]["eps"])

    @property
    def has_knob(self) -> bool:
        """Whether it has a trade-off to be set: λ of a once-for-all network, α of a pair."""
        if self.fixed is not None:
            return False
        return isinstance(self.network, Pair) or self.network.encoding is not None

    @property
    def lams(self) -> tuple[float, ...]:
        """The λ that it was trained at, or the α of the study; empty without a knob."""
        if not self.has_knob:
            return ()
        if isinstance(self.network, Pair):
            if (alphas := self.about.get("alphas")) is not None:
                return tuple(alphas)
            points = method_of(self.about["config"]).operating_points(())
            return tuple(sorted(alpha for alpha, _ in points if alpha is not None))
        return tuple(sorted(self.network.conditioning.lambda_choices))

    @property
    def any_lam(self) -> bool:
        """Whether it can be run at every λ in [0, 1], not at `lams` alone."""
        if isinstance(self.network, Pair) or not self.has_knob:
            return self.has_knob
        assert self.network.encoding is not None
        return self.network.encoding.encoding in BY_VALUE

    @property
    def widths(self) -> tuple[float, ...]:
        """Shares of its channels that it can be run at."""
        if isinstance(self.network, Pair) or self.fixed is not None:
            return (1.0,)
        return self.network.conditioning.widths

    def at(self, lam: float | None = None, width: float = 1.0) -> Network | Mixed:
        """Return the plain network that this model is at one operating point.

        Args:
            lam: Trade-off weight; None exactly if the model has no knob.
            width: One of `widths`.

        Returns:
            A module in eval mode, without gradients of its parameters: images (N, C, H, W) in
            [0, 1] in, logits (N, K) out. It shares nothing with this model.

        Raises:
            ModelError: λ or the width does not fit the model.
        """
        self.check(lam, width)
        if self.fixed is not None:
            assert isinstance(self.network, Network)
            return copy.deepcopy(self.network)
        return fold(self.network, lam, width)

    def knob(self, width: float = 1.0) -> nn.Module:
        """Return the whole trade-off at a width as one module, with λ as an input.

        Args:
            width: One of `widths`.

        Returns:
            A module in eval mode: images (N, C, H, W) in [0, 1] and λ (N,), one for each image,
            in; logits (N, K) out, NaN for a λ that the model does not have.

        Raises:
            ModelError: It has no knob, or not that width; or its weights differ at each α.
        """
        if not self.has_knob:
            raise ModelError(f"{self.label} has no knob: it is one operating point.")
        if isinstance(self.network, Interpolation):
            raise ModelError(
                f"{self.label} has other weights at each α, so that its knob is no one network; "
                "it can be exported and run at one α alone (`--at-lam`, in Python `at_lam`)."
            )
        self.check(self.lams[0], width)
        if isinstance(self.network, Mixture):
            return MixtureKnob(self.network).eval()
        assert isinstance(self.network, Network)
        return Knob(self.network, width).eval()

    def check(self, lam: float | None, width: float) -> None:
        """Refuse an operating point that the model does not have.

        Raises:
            ModelError: With those that it has.
        """
        check_number("lam", lam)
        check_number("width", width)
        if width not in self.widths:
            known = ", ".join(f"{w:g}" for w in self.widths)
            raise ModelError(f"{self.label} has the widths {known}, got {width:g}.")
        if not self.has_knob:
            if lam is not None and self.fixed is not None:
                raise ModelError(
                    f"This file is {self.label} at one operating point; leave `lam` out."
                )
            if lam is not None:
                raise ModelError(
                    f"{self.label} has no λ to set: it is trained for one; leave `lam` out."
                )
            return
        known = ", ".join(f"{one:g}" for one in self.lams)
        if lam is None:
            was = "was judged" if isinstance(self.network, Pair) else "was trained"
            raise ModelError(f"{self.label} needs a `lam`: it {was} at {known}.")
        if not 0 <= lam <= 1:
            raise ModelError(f"`lam` must be in [0, 1], got {lam:g}.")
        if not self.any_lam and all(abs(lam - one) >= SAME_LAM for one in self.lams):
            raise ModelError(
                f"{self.label} knows λ = {known} only, as its encoding looks each up, got {lam:g}."
            )
        if not self.has_trained(lam):
            raise ModelError(
                f"{self.label} never trained its batch norms of λ {'= 0' if not lam else 'above 0'}"
                f", as it was trained at λ = {known}; got {lam:g}."
            )

    def has_trained(self, lam: float) -> bool:
        """Tell whether the batch norms that λ takes were trained: λ = 0 may have its own."""
        network = self.network
        return not isinstance(network, Network) or network.conditioning.trains_norms_of(lam)

    def points(self) -> list[OperatingPoint]:
        """Return its operating points: each of `lams` at each of `widths`."""
        lams = self.lams or (None,)
        return [OperatingPoint(lam, width) for width in self.widths for lam in lams]

    def __repr__(self) -> str:
        """Say which model it is and where it can be run."""
        seed = self.about["config"]["seed"]
        said = [f"{self.label} seed {seed}"]
        if self.fixed is not None:
            point = self.fixed
            lam = "" if point.lam is None else f" λ={point.lam:g}"
            said[0] += f" at{lam} width={point.width_mult:g}"
        if self.has_knob:
            known = ", ".join(f"{one:g}" for one in self.lams)
            if isinstance(self.network, Pair):
                said.append(f"any α in [0, 1], judged at {known}")
            else:
                said.append(
                    f"any λ in [0, 1], trained at {known}" if self.any_lam else f"λ {known}"
                )
        if len(self.widths) > 1:
            said.append("widths " + ", ".join(f"{w:g}" for w in self.widths))
        said.append(f"{len(self.classes)} classes")
        return f"<{'; '.join(said)}>"


def check_number(name: str, value: object) -> None:
    """Refuse a value that is there and no number.

    Raises:
        ModelError: It is none.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
        raise ModelError(f"`{name}` must be a number, got {value!r}.")
