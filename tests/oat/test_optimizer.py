import copy

import torch
from torch import Tensor, nn, optim

from oat.optimizer import Sgd

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def _steps(optimizer: optim.SGD, net: nn.Module, count: int) -> None:
    inputs = torch.linspace(-1, 1, 12).reshape(4, 3)
    for _ in range(count):
        net(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _weights(net: nn.Module) -> list[Tensor]:
    return [p.detach() for p in net.parameters()]


def test_steps_and_state_are_those_of_torch_bit_for_bit() -> None:
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    first, second = Sgd(ours.parameters(), **SETTINGS), optim.SGD(theirs.parameters(), **SETTINGS)
    _steps(first, ours, 3)
    _steps(second, theirs, 3)
    # and each goes on from the other's state
    ours_state, theirs_state = copy.deepcopy(first.state_dict()), second.state_dict()
    assert ours_state["param_groups"] == theirs_state["param_groups"]
    first.load_state_dict(copy.deepcopy(theirs_state))
    second.load_state_dict(ours_state)
    for optimizer, net in ((first, ours), (second, theirs)):
        optimizer.param_groups[0]["lr"] = 0.02
        _steps(optimizer, net, 2)
    assert all(map(torch.equal, _weights(ours), _weights(theirs)))
    assert all(p.grad is None for p in ours.parameters())
