"""The optimiser of every training: torch's SGD, without torch's compiler."""

from collections.abc import Callable
from typing import Any

import torch
from torch import optim


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method below torch's wrapper, if there is one."""
    wrapped: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return wrapped


class Sgd(optim.SGD):
    """Stochastic gradient descent, bit for bit `torch.optim.SGD`.

    torch (2.15) wraps these methods so that its compiler leaves them alone. Each process
    that trains would import the compiler, which takes 2 s of a CPU. No optimiser is compiled here.
    """

    add_param_group = _plain(optim.SGD.add_param_group)
    load_state_dict = _plain(optim.SGD.load_state_dict)
    state_dict = _plain(optim.SGD.state_dict)
    step = torch.no_grad()(_plain(optim.SGD.step))
    zero_grad = _plain(optim.SGD.zero_grad)
