"""Whether `oat.models.kernels` is right on this device, for the shapes of a network."""

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

from oat.models import compute
from oat.models.compute import BatchNorm, Film
from oat.models.network import Network

LARGEST = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""How far a kernel may be from float64, as a share of the norm: some roundings of the type."""

Shape = tuple[int, int, int]


def shapes_of(model: Network, passes: Iterable[Callable[[], object]]) -> list[Shape]:
    """Return the distinct shapes (C, H, W) that convolutions give in some passes of a network."""
    found: dict[Shape, None] = {}

    def note(module: nn.Module, given: object, out: Tensor) -> None:
        found[tuple(out.shape[1:])] = None  # type: ignore[index]

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        for one in passes:
            one()
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


def fault(
    kernels: ModuleType,
    shapes: Iterable[Shape],
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> str | None:
    """Say what kernels get wrong; None if they are right.

    Each function, with all that it can do, is held against the plain one in float64, on random
    features.

    Args:
        kernels: What has `finish` and `normalise`.
        shapes: Of features, (C, H, W) each.
        rows: Images of a batch, at least 2.
        dtype: Of the features.
        device: Where they are.
    """
    for shape in shapes:
        exact = dict(_results(compute, shape, rows, dtype, device, torch.float64))
        for name, ours in _results(kernels, shape, rows, dtype, device, dtype):
            off = ((ours.double() - exact[name]).norm() / exact[name].norm()).item()
            if not off <= LARGEST[dtype]:  # what is no number is not
                size = "x".join(map(str, (rows, *shape)))
                return f"a kernel's {name} of {size} is off by {off:.2g}"
    return None


def _results(
    module: ModuleType,
    shape: Shape,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
    computed: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    """Yield outputs and gradients of both functions, on features drawn in one type."""
    draw = torch.Generator(device).manual_seed(0)

    def drawn(*size: int, like: torch.dtype = torch.float32) -> Tensor:
        values = torch.randn(size, generator=draw, device=device).to(like)
        return values.to(computed if like == dtype else torch.promote_types(like, computed))

    def features() -> Tensor:
        return drawn(rows, *shape, like=dtype).contiguous(memory_format=torch.channels_last)

    channels, zeros, codes = shape[0], max(1, rows // 6), 3
    x, add, weights = features(), features(), features()
    film = Film(
        drawn(codes, channels) + 1,
        drawn(codes, channels),
        torch.randint(codes, (rows,), generator=draw, device=device),
    )
    norms = [
        BatchNorm(
            mean=drawn(channels), var=drawn(channels) ** 2,
            weight=drawn(channels), bias=drawn(channels), training=True, momentum=0.1, eps=1e-5,
        )
        for _ in range(2)
    ]  # fmt: skip
    leaves = {"x": x, "add": add}
    for leaf in leaves.values():
        leaf.requires_grad_()
    out = module.finish(x, film, add, False)
    yield "finish", out.detach()
    # without the cut at 0: what rounding moves across it would count as a fault
    for name, grad in zip(leaves, torch.autograd.grad(out, [x, add], weights), strict=True):
        yield f"gradient of {name} in finish", grad
    leaves |= {"scale": film.scale, "shift": film.shift}
    leaves |= {f"{k} {i}": getattr(n, k) for i, n in enumerate(norms) for k in ("weight", "bias")}
    for leaf in leaves.values():
        leaf.requires_grad_()
    out = module.normalise(x, norms, zeros, film, add, False)
    yield "normalise", out.detach()
    gradients = torch.autograd.grad(out, list(leaves.values()), weights)
    for name, grad in zip(leaves, gradients, strict=True):
        yield f"gradient of {name} in normalise", grad
    for i, norm in enumerate(norms):
        yield f"running mean {i}", norm.mean
        yield f"running variance {i}", norm.var
    cut = module.finish(x.detach(), None, add.detach(), True)
    yield "cut finish", cut
