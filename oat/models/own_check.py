"""What a network of the user's must hold before anything is trained with it."""

import torch
from torch import Tensor

from oat.models.building import build
from oat.models.config import Conditioning, ModelConfig
from oat.models.own import KIND, OwnNetwork
from oat.own_code import OwnCodeError, failure

ROWS = 3
SAME = 1e-4
"""How far logits may lie apart by rounding alone."""


def check_own_network(
    config: ModelConfig,
    conditioning: Conditioning,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> None:
    """Build a network of the user's twice, and run it on a few random images.

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
        images = torch.rand(ROWS, *image_shape, generator=torch.Generator().manual_seed(0))
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
    return network.eval()


def _run(network: OwnNetwork, images: Tensor) -> Tensor:
    code = None if network.encoding is None else network.encoding.table[:1]
    zeros = None if code is None else 0
    try:
        return network(images, code, num_zero_lam=zeros).detach()  # type: ignore[no-any-return]
    except OwnCodeError:
        raise
    except Exception as error:  # whatever theirs does
        raise failure(network.config.name, KIND, error) from error


def _check_gradient(network: OwnNetwork, images: Tensor, said: str) -> None:
    """Check that an attack can see the images, and training the weights."""
    images = images.clone().requires_grad_()
    code = None if network.encoding is None else network.encoding.table[:1]
    zeros = None if code is None else 1  # so that both of two batch norms have images
    total = network(images, code, num_zero_lam=zeros).square().sum()
    if not total.requires_grad:
        raise OwnCodeError(f"{said} gives no gradient: neither images nor weights decide it.")
    total.backward()
    if images.grad is None or not bool(images.grad.any()):
        raise OwnCodeError(f"{said} gives no gradient to its images, so that no attack sees them.")
    left = [name for name, value in network.body.named_parameters() if value.grad is None]
    if left:
        raise OwnCodeError(f"{said} never uses its parameter '{left[0]}'; leave it out.")


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
