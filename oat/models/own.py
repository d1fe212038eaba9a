"""Networks that users bring: what any module takes to be trained, attacked and folded like ours."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from oat.models.compute import AS_IT_IS
from oat.models.config import Conditioning, ModelConfig
from oat.models.network import Network
from oat.models.norm import Affine2d, Condition, FrozenOp, Norm2d, bn_affine
from oat.own_code import OwnCodeError, failure, imported

KIND = "network"
"""What a function that makes a network is called in sentences."""
PLAIN_NORM = nn.BatchNorm2d(1)


class _Place:
    """Where the norms of a body find the condition of the pass that is under way."""

    cond: Condition | None = None


class PlacedNorm(nn.Module):
    """A norm of ours in the place of a batch norm of the user's: it is called with features alone.

    Args:
        unit: Our norm, or the scale and shift that it is in a folded network.
        place: Where the condition is.
    """

    def __init__(self, unit: Norm2d | Affine2d, place: _Place) -> None:
        super().__init__()
        self.unit = unit
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features of shape (N, C, H, W)."""
        assert self.place.cond is not None, "a body runs within `OwnNetwork.logits` alone"
        return self.unit(x, self.place.cond)  # type: ignore[no-any-return]


class OwnNetwork(Network):
    """A network that a function of the user's makes.

    λ reaches it where it has batch norms: each `torch.nn.BatchNorm2d` becomes one of ours, with
    FiLM and, if asked, a second one for λ = 0. It has no widths.

    Args:
        config: Its name and arguments.
        conditioning: λ and batch norms.
        in_channels: Channels of the images.
        num_classes: Length of the logits.

    Raises:
        OwnCodeError: The function fails or returns no module, or the conditioning does not fit.
    """

    def __init__(
        self,
        config: ModelConfig,
        conditioning: Conditioning,
        *,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__(config, conditioning, in_channels=in_channels, num_classes=num_classes)
        self.place = _Place()
        self.body = _made(config, in_channels, num_classes)
        if conditioning.widths != (1.0,) or conditioning.base_width != 1:
            raise OwnCodeError(
                f"The {KIND} '{config.name}' has no widths, which are for networks of ours."
            )
        if conditioning.folded:
            self._replace(lambda norm: Affine2d(norm.num_features) if _folds(norm) else None)
        elif conditioning.lambda_choices or conditioning.dual_bn:
            _check_conditioned(self.body, config.name)
            self._replace(self._like)

    def _replace(self, made_of: Any) -> None:
        """Put norms of ours in the place of the body's, each once however often it is used."""
        made: dict[int, nn.Module] = {}
        for parent, name, child in _children(self.body):
            if not isinstance(child, _BatchNorm):
                continue
            if id(child) not in made:
                unit = made_of(child)
                made[id(child)] = child if unit is None else PlacedNorm(unit, self.place)
            setattr(parent, name, made[id(child)])

    def _like(self, norm: _BatchNorm) -> Norm2d:
        """Make a norm of ours that begins as one of the body's: its weights, its statistics."""
        unit = self._norm(norm.num_features, film=True)
        for own in unit.modules():
            if isinstance(own, nn.BatchNorm2d):
                own.load_state_dict(norm.state_dict())
        return unit

    def logits(self, images: Tensor, cond: Condition) -> Tensor:
        """Compute logits of shape (N, ``num_classes``) under a condition, in float32 or wider.

        In a frozen view batch norms take their running statistics and nothing is dropped out, and
        no train flag is changed for longer than the pass.
        """
        dtype = cond.compute.dtype
        narrow = dtype is not None and dtype.itemsize < images.dtype.itemsize
        self.place.cond = _without_kernels(cond)  # types are cast as each layer needs them
        try:
            with (
                _in_eval_mode(self.body, cond.frozen is not None),
                torch.autocast(images.device.type, dtype=dtype, enabled=narrow),
            ):
                out = self.body(images if narrow or dtype is None else images.to(dtype))
        finally:
            self.place.cond = None
        if not isinstance(out, Tensor):
            mode = "train" if self.body.training else "eval"
            raise OwnCodeError(
                f"The {KIND} '{self.config.name}' must return its logits as one tensor, got "
                f"{type(out).__name__} in {mode} mode."
            )
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def frozen_ops(self, cond: Condition) -> dict[nn.Module, FrozenOp]:
        """Return what each norm is with frozen statistics; see `Network.frozen_ops`."""
        return super().frozen_ops(_without_kernels(cond))

    @torch.no_grad()
    def folded(self, cond: Condition) -> "OwnNetwork":
        """Return the plain network that this one is at a condition, in eval mode.

        Batch norms with running statistics become a scale and a shift of each channel.
        """
        plain = copy.deepcopy(self)
        plain.conditioning, plain.encoding = Conditioning(folded=True), None
        plain.compute = AS_IT_IS  # as `oat.deploy.fold` has it: in float32, however it was trained
        for parent, name, child in _children(plain.body):
            if isinstance(child, PlacedNorm):
                scale, shift = child.unit.affine(cond)
                affine = _affine(scale[0], shift[0])
            elif isinstance(child, nn.BatchNorm2d) and _folds(child):
                affine = _affine(*bn_affine(child))
            else:
                continue
            setattr(parent, name, PlacedNorm(affine, plain.place))
        plain = plain.to(memory_format=torch.channels_last)
        return plain.eval().requires_grad_(False)


def _without_kernels(cond: Condition) -> Condition:
    """Return a condition that is computed plainly: kernels are for the shapes of our networks."""
    return replace(cond, compute=replace(cond.compute, compiled=False))


def _made(config: ModelConfig, in_channels: int, num_classes: int) -> nn.Module:
    """Call the user's function.

    Raises:
        OwnCodeError: It fails, or returns no module.
    """
    make = imported(config.name, KIND)
    try:
        body = make(in_channels=in_channels, num_classes=num_classes, **config.args)
    except (Exception, SystemExit) as error:  # whatever theirs does
        raise failure(config.name, KIND, error) from error
    if not isinstance(body, nn.Module):
        raise OwnCodeError(
            f"The {KIND} '{config.name}' must return a torch.nn.Module, got {type(body).__name__}."
        )
    return body


def _affine(scale: Tensor, shift: Tensor) -> Affine2d:
    unit = Affine2d(len(scale)).to(scale.device)
    unit.scale.copy_(scale)
    unit.shift.copy_(shift)
    return unit


def _children(body: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """List every place of a module in another, also of one that has several: parent, name, child.

    `torch.nn.Module.named_children` leaves out the second place in one parent.
    """
    return [
        (parent, name, child)
        for parent in body.modules()
        for name, child in parent._modules.items()
        if child is not None
    ]


def _folds(norm: nn.Module) -> bool:
    """Tell whether a norm is a scale and a shift of each channel once it is frozen, and no more.

    A subclass may do more than a batch norm does, such as an activation after it, and so may a
    hook.
    """
    return (
        type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and not (norm._forward_hooks or norm._forward_pre_hooks)
    )


def _check_conditioned(body: nn.Module, name: str) -> None:
    """Refuse to condition a network on λ that it could not heed, or not as ours do.

    Raises:
        OwnCodeError: As above.
    """
    norms = [module for module in body.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise OwnCodeError(
            f"The {KIND} '{name}' has no `torch.nn.BatchNorm2d`, through which λ reaches a "
            "network; pgd_at and trades can train it, oat cannot."
        )
    for norm in norms:
        alike = norm.eps == PLAIN_NORM.eps and norm.momentum == PLAIN_NORM.momentum
        if not _folds(norm) or not alike:
            raise OwnCodeError(
                f"λ reaches the {KIND} '{name}' through `torch.nn.BatchNorm2d` itself, with its "
                f"settings and no hooks, got {norm}; pgd_at and trades can train it, oat cannot."
            )


@contextmanager
def _in_eval_mode(body: nn.Module, wanted: bool) -> Iterator[None]:
    """Put a module into eval mode for a pass, and each of its parts back as it was."""
    parts = [part for part in body.modules() if part.training] if wanted else []
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part in parts:
            part.training = True
