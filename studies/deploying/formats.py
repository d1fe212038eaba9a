"""How a module is written to a file, and read back: safetensors, torch's pt2, ONNX."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studies.errors import ModelError

Run = Callable[..., Tensor]
"""What was read back: images, and λ where it has a knob, to logits; on the CPU."""

INPUTS, OUTPUT = ("images", "lam"), "logits"
"""Names of an exported model's inputs (the second where it has a knob) and of its output."""


def write_pt2(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Write a module as `torch.export` has it, for any number of images.

    Raises:
        ModelError: torch cannot export it.
    """
    buffer = io.BytesIO()
    with _quiet():
        try:
            program = torch.export.export(module, example, dynamic_shapes=_any(example))
        except Exception as error:  # of any class: the network's own code may raise as well
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ModelError(
                f"torch.export cannot write this network as one program ({said})."
            ) from error
        torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())


def read_pt2(path: Path) -> Run:
    """Read what `write_pt2` wrote; it needs torch alone."""
    with _quiet():
        module: Run = torch.export.load(str(path)).module()
    return module


def write_onnx(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Write a module as ONNX, for any number of images.

    Raises:
        ModelError: The packages for it are missing, or torch cannot write the module so.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"`--to onnx` needs the package {error.name}: pip install 'oat-studies[onnx]'."
        ) from error
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                dynamic_shapes=_any(example),
                input_names=list(INPUTS[: len(example)]),
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            said = str(error).strip().splitlines()[-1][:200]
            raise ModelError(f"torch cannot write this network as ONNX ({said}).") from error
        assert program is not None
        program.save(str(path))


def read_onnx(path: Path) -> Run:
    """Read what `write_onnx` wrote, into onnxruntime.

    Raises:
        ModelError: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "What is exported to ONNX is checked by onnxruntime: pip install 'oat-studies[onnx]'."
        ) from error
    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        named = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=False)}
        return torch.from_numpy(session.run([OUTPUT], named)[0])

    return run


def _any(example: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Say that the first axis of every input is the number of images, which is free."""
    images = torch.export.Dim("images", min=1)
    return tuple({0: images} for _ in example)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporters say of themselves from the user: it is about their insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
