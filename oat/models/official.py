"""The authors' published networks, read from their checkpoints.

Names and shapes are those of VITA-Group/Once-for-All-Adversarial-Training; the plain, the
conditional (OAT) and the slimmable conditional (OATS) form of each family are recognised.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from oat.encodings import ENCODINGS
from oat.models.codes import encoding_matrix
from oat.models.config import BOTTLENECKS, STAGES, Conditioning, ModelConfig
from oat.models.network import Network
from oat.models.resnet import ResNet
from oat.models.wide_resnet import WideResNet

PAPER_LAMS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
BLOCK = re.compile(r"(?:bundle|layer|block)(\d)\.(?:layer\.)?(\d+)\.(.+)")
BN_SIDES = {"BN_c": "clean", "BN_a": "adv"}

# what a name inside a block is called here; longest first where one begins another
RESNET_PARTS = (
    (r"conv(\d)\.", r"layers.{}.conv."),
    (r"bn(\d)\.", r"layers.{}.norm.bn."),
    (r"film(\d)\.", r"layers.{}.norm.film."),
    (r"(?:shortcut\.0|conv_sc)\.", "shortcut.conv."),
    (r"(?:shortcut\.1|bn_sc)\.", "shortcut.norm.bn."),
)
WRN_PARTS = (
    (r"bn1\.", "norm.bn."),
    (r"film1\.", "norm.film."),
    (r"conv1\.", "first.conv."),
    (r"bn2\.", "first.norm.bn."),
    (r"film2\.", "first.norm.film."),
    (r"conv2\.", "second.conv."),
    (r"convShortcut\.", "shortcut.conv."),
)
RESNET_ENDS = (
    (r"conv1\.", "stem.conv."),
    (r"bn1\.", "stem.norm.bn."),
    (r"film1\.", "stem.norm.film."),
    (r"linear\.", "head."),
)
WRN_ENDS = ((r"conv1\.", "stem.conv."), (r"bn1\.", "last_norm.bn."), (r"fc\.", "head."))


class OfficialError(ValueError):
    """A state dict is none of the authors' networks, or only a part of one."""


def load_official(
    state: Mapping[str, Any],
    *,
    lambda_choices: Sequence[float] = PAPER_LAMS,
    encoding: Tensor | str | None = None,
) -> Network:
    """Rebuild one of the authors' networks from its state dict.

    Args:
        state: A bare state dict, one with DataParallel's ``module.`` prefix, or the dictionary
            of ``latest.pth`` with the state dict under ``model``.
        lambda_choices: The λ set that the network was trained on.
        encoding: How it encodes λ: the matrix, shape (K or E, E), whose row j is the code of the
            j-th λ; or ``onehot`` or ``dct``. The authors draw a random matrix when training
            and do not store it in the state dict, so a network with FiLM on codes needs it.
            None for a plain network, or one with FiLM on λ itself.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        OfficialError: The names or shapes fit none of the networks, tensors are missing or left
            over, or the encoding does not fit.
    """
    weights = _tensors(state)
    converted = {name: _rename(name, "fc.weight" in weights) for name in weights}
    config = _config(weights)
    conditioning = _conditioning(weights, tuple(lambda_choices), encoding)
    head = weights["fc.weight" if "fc.weight" in weights else "linear.weight"]
    stem = weights["conv1.weight"]
    family = WideResNet if "fc.weight" in weights else ResNet
    net = family(
        config, conditioning, in_channels=int(stem.shape[1]), num_classes=int(head.shape[0])
    )
    _fill(net, {converted[name]: tensor for name, tensor in weights.items()}, converted)
    if net.encoding is not None and net.encoding.encoding != "none":
        net.encoding.table.copy_(_codes(encoding, len(lambda_choices), net.encoding.dim))
    return net.eval()


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Find the state dict, and drop DataParallel's prefix."""
    if not isinstance(state, Mapping):
        raise OfficialError(
            f"A checkpoint must be a mapping of names to tensors, got {type(state).__name__}."
        )
    for key in ("model", "state_dict"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    weights = {
        name.removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    if "conv1.weight" not in weights:
        raise OfficialError("The state dict has no `conv1.weight`: it is none of the networks.")
    if "fc.weight" not in weights and "linear.weight" not in weights:
        raise OfficialError(
            "The state dict has neither `linear.weight` (ResNet) nor `fc.weight` (WRN): it is cut "
            "off, or none of the networks."
        )
    return weights


def _rename(name: str, is_wrn: bool) -> str:
    """Return our name of one of their tensors, a block's number left as ``blocks.S-I``."""
    match = BLOCK.fullmatch(name)
    if match is not None:
        inner = _rename_part(match[3], WRN_PARTS if is_wrn else RESNET_PARTS)
        new = f"blocks.{int(match[1]) - 1}-{match[2]}.{inner}"
    else:
        new = _rename_part(name, WRN_ENDS if is_wrn else RESNET_ENDS)
    new = new.replace("MLP.0.", "hidden.").replace("MLP.2.", "out.")
    return re.sub(r"norm\.bn\.(.+)", lambda m: f"norm.bn.{_bn_name(m[1])}", new)


def _rename_part(name: str, parts: Sequence[tuple[str, str]]) -> str:
    for pattern, ours in parts:
        match = re.match(pattern, name)
        if match is not None:
            number = int(match[1]) - 1 if match.groups() else 0
            return ours.format(number) + name[match.end() :]
    raise OfficialError(f"The state dict has `{name}`, which none of the networks has.")


def _bn_name(name: str) -> str:
    """Return ``<width>.[clean|adv.]<field>`` of ``[BN_c|BN_a.][bn.][<width>.]<field>``."""
    *path, field = name.split(".")
    side = "".join(f"{BN_SIDES[p]}." for p in path if p in BN_SIDES)
    width = next((p for p in path if p.isdigit()), "0")
    return f"{width}.{side}{field}"


def _blocks(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Count the blocks of each stage."""
    found = [m for name in weights if (m := BLOCK.fullmatch(name))]
    stages = max((int(m[1]) for m in found), default=0)
    return tuple(len({m[2] for m in found if int(m[1]) == s + 1}) for s in range(stages))


def _config(weights: Mapping[str, Tensor]) -> ModelConfig:
    """Recognise depth and width."""
    blocks, width = _blocks(weights), int(weights["conv1.weight"].shape[0])
    if "fc.weight" in weights:
        if len(blocks) != 3 or len(set(blocks)) != 1 or not blocks[0]:
            raise OfficialError(
                f"A WRN has three stages of as many blocks each, the state dict has {blocks}."
            )
        inner = (w for n, w in weights.items() if re.match(r"(bundle|block)1\..*conv1\.w", n))
        first = next(inner, None)
        if first is None:
            raise OfficialError("The state dict is cut off: its first stage has no `conv1.weight`.")
        return ModelConfig(f"wrn-{6 * blocks[0] + 4}-{first.shape[0] // width}", width)
    bottleneck = any(re.search(r"\.conv3\.weight$", name) for name in weights)
    for name, stages in STAGES.items():
        if stages == blocks and (name in BOTTLENECKS) == bottleneck:
            return ModelConfig(name, width)
    raise OfficialError(f"No ResNet of ours has stages of {blocks} blocks.")


def _conditioning(
    weights: Mapping[str, Tensor], lams: tuple[float, ...], encoding: Tensor | str | None
) -> Conditioning:
    """Recognise FiLM, dual batch norm and widths."""
    film = next((w for n, w in weights.items() if n.endswith("MLP.0.weight")), None)
    sides = any("BN_c." in name for name in weights)
    norms = {
        m[1]: int(weights[name].shape[0])
        for name in weights
        if (m := re.fullmatch(r"bn1\.(?:BN_c\.)?(?:bn\.)?(\d+)\.weight", name))
    }
    full = max(norms.values(), default=1)
    widths = tuple(norms[i] / full for i in sorted(norms, key=int)) or (1.0,)
    if film is None:
        return Conditioning(dual_bn=sides, widths=widths)
    dim = int(film.shape[1])
    if dim > 1 and encoding is None:
        raise OfficialError(
            f"The network is conditioned on codes of length {dim}: `encoding` must be its matrix, "
            "'onehot' or 'dct'; the state dict does not hold it."
        )
    kind = "none" if dim == 1 else encoding if isinstance(encoding, str) else "random"
    if kind not in ENCODINGS:
        raise OfficialError(f"`encoding` must be a matrix or one of {ENCODINGS}, got {kind!r}.")
    return Conditioning(
        lambda_choices=lams,
        encoding=kind,
        encoding_dim=dim,
        dual_bn=sides,
        film_slices="leading",
        widths=widths,
    )


def _codes(encoding: Tensor | str | None, count: int, dim: int) -> Tensor:
    """Return the rows that encode the λ set."""
    if isinstance(encoding, str):
        return encoding_matrix(encoding, dim)[:count]  # type: ignore[arg-type]
    matrix = torch.as_tensor(encoding)
    if matrix.ndim != 2 or matrix.shape[0] < count or matrix.shape[1] != dim:
        raise OfficialError(
            f"`encoding` must have at least {count} rows of length {dim}, got "
            f"{tuple(matrix.shape)}."
        )
    return matrix[:count].float()


def _fill(net: Network, tensors: dict[str, Tensor], names: Mapping[str, str]) -> None:
    """Copy the tensors, by our names, into the network; every one must have its place."""
    stages = _stage_starts(tensors)
    placed = {
        re.sub(r"blocks\.(\d+)-(\d+)", lambda m: f"blocks.{stages[int(m[1])] + int(m[2])}", n): t
        for n, t in tensors.items()
    }
    theirs = dict(zip(placed, names, strict=True))
    wanted = {n: t for n, t in net.state_dict().items() if not n.startswith("encoding.")}
    missing = [n for n in wanted if n not in placed and not n.endswith("num_batches_tracked")]
    if missing:
        raise OfficialError(
            f"The state dict is cut off: {len(missing)} tensors are missing, such as what is "
            f"`{missing[0]}` here."
        )
    for name, tensor in placed.items():
        if name not in wanted:
            raise OfficialError(f"The state dict has `{theirs[name]}`, which has no place here.")
        if wanted[name].shape != tensor.shape:
            raise OfficialError(
                f"`{theirs[name]}` must have the shape {tuple(wanted[name].shape)}, got "
                f"{tuple(tensor.shape)}."
            )
    net.load_state_dict(placed, strict=False)


def _stage_starts(tensors: Mapping[str, Tensor]) -> list[int]:
    """Return the number of the first block of each stage."""
    found = {m.groups() for name in tensors if (m := re.match(r"blocks\.(\d+)-(\d+)\.", name))}
    counts = [sum(stage == str(s) for stage, _ in found) for s in range(len(STAGES))]
    return [sum(counts[:s]) for s in range(len(counts))]
