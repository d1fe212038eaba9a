"""The kernels for a GPU against the plain functions: on a GPU, or interpreted on a CPU."""

import inspect
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from oat.models import compute
from oat.models.compute import BatchNorm, Film

triton = pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(5, 6, 5, 5), (4, 16, 4, 4), (2, 48, 16, 16), (6, 20, 3, 7), (2, 64, 16, 48)]
TYPES = [torch.float32, torch.bfloat16]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HALVES = [True, False]
TILE = {"MASKED": False, "BLOCK_P": 64, "BLOCK_C": 64}
SUMS = {"BLOCK_G": 128, "BLOCK_C": 16}
ALL = {"FILM": True, "INDEXED": True, "ADD": True, "RELU": True, **TILE}


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """The kernels; on a CPU they need `TRITON_INTERPRET=1` from the start of the process."""
    if DEVICE.type == "cpu" and not INTERPRETED:
        pytest.skip("a process of its own runs it")
    from oat.models import kernels

    return kernels


@pytest.mark.skipif(INTERPRETED or DEVICE.type == "cuda", reason="runs the others on a CPU")
def test_the_other_tests_of_this_file_pass_where_kernels_are_interpreted() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "passed" in done.stdout


@dataclass
class Case:
    """Inputs of `normalise` or `finish`, with random weights of the outputs as the loss."""

    x: Tensor
    add: Tensor | None
    film: list[Tensor]
    index: Tensor | None
    norms: list[BatchNorm]
    relu: bool

    @property
    def zeros(self) -> int:
        return len(self.x) // 2 if len(self.norms) == 2 else 0

    def to(self, dtype: torch.dtype) -> "Case":
        def cast(t: Tensor) -> Tensor:
            return t.to(dtype)

        norms = [BatchNorm(*map(cast, norm[:4]), *norm[4:]) for norm in self.norms]
        add = None if self.add is None else cast(self.add)
        return Case(cast(self.x), add, list(map(cast, self.film)), self.index, norms, self.relu)

    def normalised(self, module: ModuleType) -> dict[str, Tensor]:
        """Return the result, all gradients, and the running statistics."""
        leaves = {"x": self.x, "add": self.add}
        leaves |= dict(zip(("scale", "shift"), self.film, strict=False))
        leaves |= {
            f"{k}{i}": getattr(n, k) for i, n in enumerate(self.norms) for k in ("weight", "bias")
        }
        own = {k: v.clone().requires_grad_() for k, v in leaves.items() if v is not None}
        norms = [
            BatchNorm(n.mean.clone(), n.var.clone(), own[f"weight{i}"], own[f"bias{i}"], *n[4:])
            for i, n in enumerate(self.norms)
        ]
        film = Film(own["scale"], own["shift"], self.index) if self.film else None
        out = module.normalise(own["x"], norms, self.zeros, film, own.get("add"), self.relu)
        _backward(out)
        found = {"out": out.detach()} | {k: v.grad for k, v in own.items() if v.grad is not None}
        assert len(found) == len(own) + 1
        running = {f"{k}{i}": getattr(n, k) for i, n in enumerate(norms) for k in ("mean", "var")}
        return found | running

    def finished(self, module: ModuleType) -> dict[str, Tensor]:
        """Return the result, and the gradients to the features."""
        own = {"x": self.x.clone().requires_grad_()}
        if self.add is not None:
            own["add"] = self.add.clone().requires_grad_()
        film = Film(*self.film, self.index) if self.film else None
        out = module.finish(own["x"], film, own.get("add"), self.relu)
        _backward(out)
        return {"out": out.detach()} | {k: v.grad for k, v in own.items() if v.grad is not None}


def _backward(out: Tensor) -> None:
    draw = torch.Generator().manual_seed(7)
    (out.double() * torch.randn(out.shape, generator=draw).to(out.device)).sum().backward()


def _case(
    shape: tuple[int, ...], dtype: torch.dtype, film: str, *, two: bool, add: bool, relu: bool
) -> Case:
    draw = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=draw).to(DEVICE)

    def features(scale: float, shift: float) -> Tensor:
        values = (drawn(*shape) * scale + shift).to(dtype)
        return values.contiguous(memory_format=torch.channels_last)

    rows, channels = shape[:2]
    count = {"none": 0, "one": 1, "codes": 4, "rows": rows}[film]
    norms = [
        BatchNorm(drawn(channels), drawn(channels).square(), drawn(channels), drawn(channels),
                  True, 0.1, 1e-5)
        for _ in range(1 + two)
    ]  # fmt: skip
    of_film = list((drawn(count, 2 * channels) + 1).chunk(2, dim=1)) if count else []
    index = torch.randint(count, (rows,), generator=draw).to(DEVICE) if film == "codes" else None
    return Case(features(2, 1), features(1, 0) if add else None, of_film, index, norms, relu)


def _off(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Return how far each tensor is from the exact one, as a share of its norm."""
    assert found.keys() == exact.keys()
    return {
        k: ((v.double() - exact[k].double()).norm() / exact[k].double().norm()).item()
        for k, v in found.items()
    }


WAYS: list[Callable[[Case, ModuleType], dict[str, Tensor]]] = [Case.normalised, Case.finished]
EVERYTHING = (True, "codes", True, True)
COMBINATIONS = list(itertools.product(HALVES, ["none", "one", "codes", "rows"], HALVES, HALVES))
CASES = [(SHAPES[i % 5], c) for i, c in enumerate(COMBINATIONS)] + [(s, EVERYTHING) for s in SHAPES]
"""Every shape with a fifth of the combinations, and with all at once."""


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
@pytest.mark.parametrize(("shape", "combination"), CASES, ids=str)
def test_kernels_compute_what_the_plain_functions_do(
    kernels: ModuleType,
    way: Callable[[Case, ModuleType], dict[str, Tensor]],
    dtype: torch.dtype,
    shape: tuple[int, ...],
    combination: tuple[bool, str, bool, bool],
) -> None:
    two, film, add, relu = combination
    case = _case(shape, dtype, film, two=two, add=add, relu=relu)
    exact = way(case.to(torch.float64), compute)
    ours, plain = way(case, kernels), way(case, compute)
    assert {k: v.dtype for k, v in ours.items()} == {k: v.dtype for k, v in plain.items()}
    theirs = _off(plain, exact)
    for name, off in _off(ours, exact).items():
        assert off < (2e-6 if dtype == torch.float32 else max(5e-3, 1.2 * theirs[name])), name


def test_what_is_no_number_stays_none(kernels: ModuleType) -> None:
    x = torch.full((2, 16, 4, 4), torch.nan, device=DEVICE).contiguous(
        memory_format=torch.channels_last
    )
    x.requires_grad_()
    out = kernels.finish(x, None, x.detach(), True)
    out.sum().backward()
    assert out.isnan().all()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_what_kernels_cannot_do_is_done_the_plain_way(kernels: ModuleType) -> None:
    double = _case(SHAPES[0], torch.float64, "rows", two=True, add=True, relu=True)
    assert all(
        off < 1e-15
        for off in _off(
            double.to(torch.float64).normalised(kernels),
            double.to(torch.float64).normalised(compute),
        ).values()
    )
    case = _case(SHAPES[0], torch.float32, "rows", two=False, add=True, relu=True)
    fixed = [norm._replace(training=False) for norm in case.norms]
    args = (case.x, fixed, 0, Film(*case.film), case.add, True)
    assert torch.equal(kernels.normalise(*args), compute.normalise(*args))
    learnt = [t.requires_grad_() for t in case.film]
    kernels.finish(case.x, Film(*learnt), None, True).sum().backward()
    assert all(t.grad is not None for t in learnt)


def test_features_of_another_layout_are_taken(kernels: ModuleType) -> None:
    case = _case(SHAPES[2], torch.float32, "rows", two=True, add=True, relu=True)
    assert case.add is not None
    other = replace(case, x=case.x.contiguous(), add=case.add.contiguous())
    for name, off in _off(other.normalised(kernels), case.normalised(kernels)).items():
        assert off < 1e-6, name


@pytest.mark.skipif(INTERPRETED, reason="what is interpreted is not compiled")
@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("apply", {"NORM": True, **ALL}),
        ("apply", {"NORM": False, **ALL, "MASKED": True}),
        ("apply_backward", ALL),
        ("moments", TILE),
        ("moments", {**TILE, "MASKED": True}),
        ("statistics", SUMS),
        ("gradient_sums", {"RELU": True, **TILE}),
        ("gradient_sums", {"RELU": False, **TILE, "MASKED": True}),
        ("sum_by_code", SUMS),
        ("parameter_gradients", {"FILM": True, "INDEXED": True, **SUMS}),
        ("parameter_gradients", {"FILM": True, "INDEXED": False, **SUMS}),
        ("normalise_backward", ALL),
        ("normalise_backward", {**ALL, "INDEXED": False, "MASKED": True}),
    ],
)
def test_kernels_compile_for_a_gpu_and_move_16_bytes_at_once(
    name: str, constants: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from oat.models import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_kernels, name)
    features = {"x_ptr", "add_ptr", "out_ptr", "grad_ptr", "grad_x_ptr", "grad_add_ptr"}
    whole = {"pixels", "channels", "span", "film_stride"}  # multiples of 16
    signature, values, divisible = {}, {}, {}
    for i, argument in enumerate(inspect.signature(kernel.fn).parameters):
        if argument in constants:
            signature[argument] = "constexpr"
            values[(i,)] = constants[argument]
            continue
        pointer = argument.endswith("ptr")
        number = "fp32" if argument in ("momentum", "eps") else "i32"
        kind = "*bf16" if argument in features else "*i64" if argument == "index_ptr" else "*fp32"
        signature[argument] = kind if pointer else number
        if pointer or argument in whole:
            divisible[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, divisible)
    made = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True}
    )
    assert "ld.global.v4.b32" in made.asm["ptx"]
    assert len(made.asm["cubin"]) > 0
