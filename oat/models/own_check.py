"""What a network of the user's must hold before anything is trained with it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from oat.models.building import build
from oat.models.config import Conditioning, ModelConfig
from oat.models.norm import Condition
from oat.models.own import KIND, OwnNetwork, PlacedNorm
from oat.own_code import OwnCodeError, failure

ROWS = 4
SAME = 1e-4
"""How far logits may lie apart by rounding alone."""


def check_own_network(
    config: ModelConfig,
    conditioning: Conditioning,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> None:
    """Build a network of the user's twice; run, train and fold it on a few random images.

    Args:
        config: The network.
        conditioning: What a method asks of it.
        image_shape: Channels, height and width of the study's images.
        num_classes: Of the study's data.

    Raises:
        OwnCodeError: One sentence that says what does not hold.
    """
    said = f"The {KIND} '{config.name}'"
    with torch.random.fork_rng(devices=[]):
        first, second = (_built(config, conditioning, image_shape, num_classes, s) for s in (0, 1))
        if not any(True for _ in first.body.parameters()):
            raise OwnCodeError(f"{said} has no parameters, so that nothing of it can be trained.")
        images = torch.rand(ROWS, *image_shape, generator=torch.Generator().manual_seed(0))
        images = images.contiguous(memory_format=torch.channels_last)  # as training has them
        logits = _run(first, images)
        if not isinstance(logits, Tensor) or logits.shape != (ROWS, num_classes):
            raise OwnCodeError(
                f"{said} must give logits of shape ({ROWS}, {num_classes}) for {ROWS} images of "
                f"shape {image_shape}, got {_shape(logits)}."
            )
        if not bool(logits.isfinite().all()):
            raise OwnCodeError(f"{said} gives logits that are not finite.")
        alone = torch.cat([_run(first, image.unsqueeze(0)) for image in images])
        if not torch.allclose(logits, alone, rtol=SAME, atol=SAME):
            raise OwnCodeError(
                f"{said} must judge each image by itself in eval mode: alone, an image has other "
                "logits."
            )
        if not torch.equal(_run(first, images), logits):
            raise OwnCodeError(f"{said} must give the same logits twice in eval mode.")
        second.load_state_dict(first.state_dict())
        if not torch.allclose(_run(second, images), logits, rtol=SAME, atol=SAME):
            raise OwnCodeError(
                f"{said} must be the same once its weights are loaded: something that decides its "
                "logits is in no parameter and no buffer."
            )
        _check_gradient(first, images, said)
        _check_folded(first, images, said)


def _built(
    config: ModelConfig,
    conditioning: Conditioning,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
) -> OwnNetwork:
    torch.manual_seed(seed)
    network = build(
        config,
        in_channels=image_shape[0],
        num_classes=num_classes,
        conditioning=conditioning,
    )
    assert isinstance(network, OwnNetwork)
    return network.to(memory_format=torch.channels_last).eval()


@contextmanager
def _theirs(network: OwnNetwork) -> Iterator[None]:
    """Tell whatever their code raises as theirs."""
    try:
        yield
    except OwnCodeError:
        raise
    except (Exception, SystemExit) as error:
        raise failure(network.config.name, KIND, error) from error


def _run(network: OwnNetwork, images: Tensor) -> Tensor:
    cond = _condition(network)
    with _theirs(network):
        return network.logits(images, cond).detach()


def _condition(network: OwnNetwork) -> Condition:
    """Return a condition under which the network can be folded."""
    return Condition(_code(network), None, None if network.encoding is None else 0)


def _code(network: OwnNetwork) -> Tensor | None:
    return None if network.encoding is None else network.encoding.table[:1]


def _check_gradient(network: OwnNetwork, images: Tensor, said: str) -> None:
    """Check in train mode that an attack can see the images, and training the weights."""
    images = images.clone().requires_grad_()
    code = _code(network)
    zeros = None if code is None else ROWS // 2  # so that both of two batch norms have images
    with _theirs(network), _rows_of_norms(network) as rows:
        logits = network.train()(images, code, num_zero_lam=zeros)
    if rows - {ROWS}:
        raise OwnCodeError(
            f"{said} has batch norms that see {max(rows - {ROWS})} rows for {ROWS} images, so that "
            "λ cannot be told to each image; pgd_at and trades can train it, oat cannot."
        )
    if logits.shape != (ROWS, network.num_classes):
        raise OwnCodeError(
            f"{said} must give logits of the same shape in train mode, got {_shape(logits)}."
        )
    total = logits.square().sum()
    if not total.requires_grad:
        raise OwnCodeError(f"{said} gives no gradient: neither images nor weights decide it.")
    with _theirs(network):
        total.backward()
    if images.grad is None or not bool(images.grad.any()):
        raise OwnCodeError(f"{said} gives no gradient to its images, so that no attack sees them.")
    if not all(bool(grad.isfinite().all()) for grad in _gradients(network, images)):
        raise OwnCodeError(
            f"{said} gives a gradient that is no number, so that no attack can climb it; a square "
            "root or a norm at 0 does so: add a small number below it."
        )
    left = [name for name, value in network.body.named_parameters() if value.grad is None]
    if left:
        raise OwnCodeError(f"{said} never uses its parameter '{left[0]}'; leave it out.")


@contextmanager
def _rows_of_norms(network: OwnNetwork) -> Iterator[set[int]]:
    """Collect how many rows the norms see that take λ."""
    rows = set[int]()
    norms = [module for module in network.modules() if isinstance(module, PlacedNorm)]
    handles = [
        norm.register_forward_pre_hook(lambda _, inputs: rows.add(len(inputs[0]))) for norm in norms
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def _gradients(network: OwnNetwork, images: Tensor) -> Iterator[Tensor]:
    """Yield the gradients of the images and of the parameters that have one."""
    for value in (images, *network.parameters()):
        if value.grad is not None:
            yield value.grad


def _check_folded(network: OwnNetwork, images: Tensor, said: str) -> None:
    """Check that the network, which has been trained a step, is itself when it is folded."""
    logits = _run(network.eval(), images)
    try:
        plain = network.folded(_condition(network))
    except (Exception, SystemExit) as error:  # whatever their modules do when they are copied
        raise OwnCodeError(
            f"{said} must allow `copy.deepcopy` after a pass in train mode, which fails: {error}"
        ) from error
    if not torch.allclose(_run(plain, images), logits, rtol=SAME, atol=SAME):
        raise OwnCodeError(
            f"{said} has other logits once its batch norms are folded into scales and shifts, as "
            "evaluation does; one of its modules looks at a batch norm, or changes it."
        )


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
