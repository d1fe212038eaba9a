"""A network from outside: trained elsewhere, attacked here, and never part of a verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from baselines.untrained import Untrained
from oat.models.config import Conditioning, ModelConfig
from oat.operating import OperatingPoint
from oat.own_code import NO_ARGS, frozen_args
from oat.paths import local_path


@dataclass(frozen=True)
class Checkpoint(Untrained):
    """A network that was trained elsewhere: a point on the front, by the same attacks.

    It is marked as not trained like OAT, and no verdict counts it.

    Attributes:
        path: File of its weights: ``.safetensors``, or what ``torch.save`` wrote of a state dict.
            None where the function of a network of your own brings the weights itself.
        model: Which network: the keys of the study's block `model`, such as ``{name: resnet18}``.
        title: Its name in tables and figures; empty is the name of the file, or of the network.

    Raises:
        ValueError: A value is out of its range.
    """

    name: ClassVar[str] = "checkpoint"
    path: str | None = None
    model: dict[str, Any] = NO_ARGS
    title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", frozen_args(self.model))
        if not isinstance(self.model.get("name"), str):
            raise ValueError("`model` must name the network, as in `model: {name: resnet18}`.")
        try:
            config = self.network()
        except TypeError as error:
            raise ValueError(f"`model` has a key that no network has ({error}).") from error
        except ValueError as error:
            raise ValueError(f"`model`: {error}") from error
        if self.path is None and not config.own:
            raise ValueError(
                f"`path` must name the file of the weights of '{config.name}'; only the function "
                "of a network of your own can bring them itself."
            )

    def check_file(self) -> None:
        """Check that the file of its weights is there.

        Raises:
            ValueError: It is not.
        """
        if self.path is not None and not self.file().is_file():
            raise ValueError(f"`path` must be a file of weights; there is none at '{self.path}'.")

    def network(self) -> ModelConfig:
        """Return which network it is."""
        return ModelConfig(**self.model)

    def file(self) -> Path:
        """Return the file of its weights."""
        assert self.path is not None
        return local_path(self.path)

    @property
    def label(self) -> str:
        """Name for tables, one word after ``checkpoint``."""
        bare = self.network().name.rpartition(":")[2] if self.path is None else self.file().stem
        return f"{self.name} {'-'.join((self.title or bare).split())}"

    def digest(self) -> str:
        """Return 12 hex digits of SHA-256 over the file of the weights; empty without one.

        Raises:
            OSError: It cannot be read.
        """
        if self.path is None:
            return ""
        return _digest(self.file())

    def conditioning(self) -> Conditioning:
        """Return a plain network."""
        return Conditioning()

    def operating_points(self, lams: Sequence[float]) -> list[OperatingPoint]:
        """Return its one point."""
        return [OperatingPoint(None)]


def weights_digest(path: str) -> str:
    """Return 12 hex digits of SHA-256 over a file of weights; or why it cannot be read."""
    try:
        return _digest(local_path(path))
    except OSError as error:
        return error.strerror or type(error).__name__


def _digest(file: Path) -> str:
    state = file.stat()
    return _digest_as_of(file, state.st_mtime_ns, state.st_size)


@cache
def _digest_as_of(file: Path, modified: int, size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
