"""Count the operations that a network would spend on an image, without computing anything.

`torch.utils.flop_counter.FlopCounterMode` counts the same, and imports torch's compiler, which
takes 2 s of a CPU in every process that plans or evaluates a trial. So do meta tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry


class Unfilled(TorchFunctionMode):
    """Leaves tensors that would be given initial values as they are."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one function, unless it gives initial values."""
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas over batches of no image, as if each held one.

    Attributes:
        total: Multiply-adds so far, times two.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch (2.15) asks this to wrap the method below, and the wrapper imports the compiler
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation and count it."""
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            one, more, result = tree_map(_shape_of_one, (args, kwargs or {}, out))
            self.total += formula(*one, **more, out_val=result)
        return out


def _shape_of_one(value: Any) -> Any:
    """Replace a tensor of no rows by one of one row, which only its shape is asked of."""
    if not isinstance(value, torch.Tensor) or not value.ndim:
        return value
    rows, *rest = value.shape
    return torch.empty(rows or 1, *rest, device="meta")
