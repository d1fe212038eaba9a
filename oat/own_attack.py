"""Attacks that users bring: a function that makes images, judged like any attack of ours."""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from oat.adversaries import ATTACKS, EvaluationAttack
from oat.own_code import OwnCodeError, digest_of, failure, imported, is_own

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from oat.ascent import LogitsFn

KIND = "attack"
"""What such a function is called in sentences."""
GIVEN = ("logits_fn", "images", "labels", "eps", "generator")
"""Arguments that the evaluation gives; all others are options of the study file."""
TYPES = ("bool", "float", "int", "str", "tuple", "list", "dict")
"""Names of options that would hide a type in the class that is made of a function."""
TRIED = 4
"""Images that an attack is tried on before anything is trained."""
SLACK = 1e-5
"""By how much an image may leave ball and box: what rounding does."""
ASSUMED_PASSES = 40.0
"""Cost that is assumed of an attack nobody knows: that of PGD with 20 steps."""


@dataclasses.dataclass(frozen=True)
class OwnAttack(EvaluationAttack):
    """What every attack of the user's has; a subclass has the options of its function.

    Attributes:
        name: ``module:function``.
        code: Digest of the function's file, so that changed code judges anew.

    Raises:
        OwnCodeError: The code here is other code.
    """

    own_code: ClassVar[str]
    name: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code != self.own_code:
            raise OwnCodeError(
                f"The code of the {KIND} '{self.name}' is not that of the trial "
                f"({self.own_code} here, {self.code} there); give every node the same file."
            )

    def options(self) -> dict[str, Any]:
        """Return the options of the function."""
        shared = {field.name for field in dataclasses.fields(OwnAttack)}
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in shared
        }

    @property
    def label(self) -> str:
        """The function's name, and what differs from its defaults: ``square_patch-size5``."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        odd = [f"-{k}{_word(v)}" for k, v in self.options().items() if v != defaults[k]]
        return "".join([self.name.partition(":")[2], *odd])

    def passes(self) -> float:
        """Assume the cost of PGD with 20 steps."""
        return ASSUMED_PASSES

    def craft(
        self, logits_fn: LogitsFn, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Call the function on a batch, and check what it returns.

        Args:
            logits_fn: Maps images (N, C, H, W) in [0, 1] to logits.
            images: Shape (N, C, H, W).
            labels: Shape (N,).
            generator: Source of randomness, on the device of ``images``.

        Returns:
            Images of the same shape, within ball and box.

        Raises:
            OwnCodeError: It fails, or returns something else.
        """
        import torch

        name, eps = self.name, self.radius()
        attack = imported(name, KIND)
        try:
            made: Any = attack(
                logits_fn,
                images.clone(),
                labels.clone(),
                eps=eps,
                generator=generator,
                **self.options(),
            )
        except torch.AcceleratorError:  # the device is lost: another process must try again
            raise
        except (Exception, SystemExit) as error:  # whatever theirs does
            raise failure(name, KIND, error) from error
        if said := _fault(made, images, eps):
            raise OwnCodeError(f"The {KIND} '{name}' {said}.")
        return made.detach()  # type: ignore[no-any-return]


def check_own_attack(
    attack: OwnAttack, image_shape: tuple[int, int, int], num_classes: int
) -> None:
    """Try an attack of the user's on a linear network and a few random images, twice.

    Args:
        attack: With its radius.
        image_shape: Channels, height and width.
        num_classes: Length of the logits.

    Raises:
        OwnCodeError: It fails, leaves ball or box, or differs though ``generator`` does not.
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    images = torch.rand(TRIED, *image_shape, generator=draw)
    weight = torch.randn(images[0].numel(), num_classes, generator=draw)
    labels = torch.arange(TRIED) % num_classes
    once, again = (
        attack.craft(
            lambda images: images.flatten(1) @ weight,
            images,
            labels,
            torch.Generator().manual_seed(1),
        )
        for _ in range(2)
    )
    if not torch.equal(once, again):
        raise OwnCodeError(
            f"The {KIND} '{attack.name}' must draw from `generator` alone: the same one gave other "
            "images."
        )


def attack_class(name: str) -> type[EvaluationAttack]:
    """Return the class of an attack by its name; one of the user's is made of its function.

    Raises:
        KeyError: None of ours has the name.
        OwnCodeError: There is no such function, or its arguments do not fit.
    """
    return _made(name, digest_of(name, KIND)) if is_own(name) else ATTACKS[name]


@cache
def _made(name: str, code: str) -> type[OwnAttack]:
    attack = imported(name, KIND)
    if ours := re.fullmatch(rf"({'|'.join(ATTACKS)})\d*(x\d+)?", name.partition(":")[2]):
        raise OwnCodeError(
            f"The {KIND} '{name}' needs another name, as '{ours[1]}' is one of ours; its results "
            "would be taken for those."
        )
    try:
        parameters = inspect.signature(attack).parameters
        hints = get_type_hints(attack)
    except (TypeError, ValueError, NameError) as error:
        raise OwnCodeError(f"The {KIND} '{name}' has a signature that fails: {error}.") from error
    if missing := [given for given in GIVEN if given not in parameters]:
        raise OwnCodeError(
            f"The {KIND} '{name}' must take {', '.join(GIVEN)}; it lacks {', '.join(missing)}."
        )
    fields: list[Any] = [("name", Literal[name], dataclasses.field(default=name))]
    for option in [one for one in parameters.values() if one.name not in GIVEN]:
        if option.kind in (option.VAR_KEYWORD, option.VAR_POSITIONAL):
            raise OwnCodeError(f"The {KIND} '{name}' must name its options, got `*{option.name}`.")
        known = {*TYPES, *dir(OwnAttack), *(field.name for field in dataclasses.fields(OwnAttack))}
        if option.name in known or option.name not in hints:
            said = "may not have that name" if option.name in known else "must have a type"
            raise OwnCodeError(f"The option `{option.name}` of the {KIND} '{name}' {said}.")
        if option.default is option.empty:
            raise OwnCodeError(
                f"The option `{option.name}` of the {KIND} '{name}' needs a default."
            )
        default = tuple(option.default) if isinstance(option.default, list) else option.default
        hint = _frozen(hints[option.name])
        fields.append((option.name, hint, dataclasses.field(default=default)))
    fields.append(("code", str, dataclasses.field(default=code)))
    made = dataclasses.make_dataclass(
        name.partition(":")[2],
        fields,
        bases=(OwnAttack,),
        frozen=True,
        namespace={"__doc__": inspect.getdoc(attack), "own_code": code},
    )
    return made


def _frozen(hint: Any) -> Any:
    """Return the type of an option: of a list that of a tuple, as a config is frozen."""
    if hint is list:
        return tuple
    if get_origin(hint) is not list:
        return hint
    (item,) = get_args(hint)
    return tuple.__class_getitem__((item, ...))


def _word(value: object) -> str:
    """Write a value as part of a label: other signs would read as a radius or as columns."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")


def _fault(made: Any, images: Tensor, eps: float) -> str:
    """Say what is wrong with the images that a function returned; empty if nothing is."""
    shape = tuple(images.shape)
    if tuple(getattr(made, "shape", ())) != shape:
        got = tuple(made.shape) if hasattr(made, "shape") else type(made).__name__
        return f"must return images of shape {shape}, got {got}"
    if made.dtype != images.dtype or made.device != images.device:
        return (
            f"must return images in {images.dtype} on {images.device}, got {made.dtype} on "
            f"{made.device}"
        )
    if not bool(made.isfinite().all()):
        return "returns values that are not finite"
    if (made < -SLACK).any() or (made > 1 + SLACK).any():
        return f"must stay in [0, 1], got values from {made.min():g} to {made.max():g}"
    if (far := float((made - images).abs().max())) > eps + SLACK:
        return f"must stay within `eps` {eps:g} of the images, got a distance of {far:g}"
    return ""
