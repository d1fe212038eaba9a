"""What many tests share: one thread, a seeded generator, small batches and networks."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from oat.models import Network

settings.register_profile("repository", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("repository")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Twelve images of shape (3, 8, 8) in [0, 1], and their labels of five classes."""
    source = torch.Generator().manual_seed(2)
    images = torch.rand(12, 3, 8, 8, generator=source)
    return images, torch.randint(5, (12,), generator=source)


@pytest.fixture
def randomise() -> Callable[[Network], Network]:
    """Give every norm statistics and a FiLM that nobody could take for the identity."""

    @torch.no_grad()
    def apply(network: Network) -> Network:
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            elif name.endswith("film.out"):
                assert isinstance(module, nn.Linear)
                module.weight.normal_(0, 0.7 * module.in_features**-0.5)
                module.bias.normal_(0.5, 0.5)
        return network

    return apply


@pytest.fixture
def passes() -> Iterator[Callable[[Network], list[int]]]:
    """Record the batch size of every pass through a network's head, frozen or not."""
    handles = []

    def watch(network: Network) -> list[int]:
        sizes: list[int] = []
        handles.append(
            network.head.register_forward_hook(lambda _m, args, _out: sizes.append(len(args[0])))
        )
        return sizes

    yield watch
    for handle in handles:
        handle.remove()


def pytest_configure() -> None:
    """Collect without looking for garbage: there is none among modules, and they are many."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from now on, among what tests make alone."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let what modules made be freed; some of them complain otherwise."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files of slow tests first, so that no worker is left alone with one at the end."""
    count = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path] / count[item.path])
