from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import oat.models.norm as norm
from baselines import PgdAt
from oat import choice as probing
from oat.attacks import Attack
from oat.choice import Probe, choose, choose_precision, disagreement
from oat.data import DataConfig, Dataset, Split
from oat.execution import Execution, as_asked, numerics
from oat.method import Oat
from oat.models import ModelConfig
from oat.models.compute import finish, normalise
from oat.recipe import TrainConfig
from oat.training import Training

CPU = torch.device("cpu")


def _split(rows: int) -> Split:
    draw = torch.Generator().manual_seed(rows)
    return Split(torch.rand(rows, 1, 8, 8, generator=draw), torch.arange(rows) % 10)


DATA = Dataset(_split(40), _split(12), _split(12), 10, "made up")


def _probe(flops: float = 1e6, **settings: Any) -> Probe:
    train = TrainConfig(**{"epochs": 1, "batch_size": 16, **settings})

    def make(execution: Execution) -> Training:
        model, data = ModelConfig("resnet8", 4), DataConfig("digits")
        attack = Attack(steps=1)
        return Training(Oat(), model, DATA, data, train, attack, seed=0, execution=execution)

    return Probe(make, train, CPU, fixed_shapes=True, steps=2, units=1.0, flops=flops)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets a threshold of the measurement, which itself is real."""

    def set_to(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(probing, name, value)

    return set_to


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_not_measured(precision: str) -> None:
    chosen = choose(_probe(precision=precision))
    assert chosen.precision == precision
    assert chosen.reasons[0] == f"{precision} as asked"


def test_a_short_training_on_a_cpu_is_float32_whatever_the_cpu_can(
    pretend: Callable[..., None],
) -> None:
    pretend(has_bfloat16=lambda device: True)
    assert choose_precision(_probe(flops=probing.LEAST_CPU_FLOPS / 2))[0] == "float32"


def test_a_cpu_without_bfloat16_is_not_measured(pretend: Callable[..., None]) -> None:
    pretend(has_bfloat16=lambda device: False, seconds_per_step=pytest.fail)
    precision, why = choose_precision(_probe(flops=1e20))
    assert precision == "float32"
    assert "no arithmetic in bfloat16" in why


@pytest.mark.parametrize(("worth", "chosen"), [(0.0, "bfloat16"), (1e9, "float32")])
def test_a_long_training_takes_the_precision_that_is_clearly_faster(
    worth: float, chosen: str, pretend: Callable[..., None]
) -> None:
    pretend(has_bfloat16=lambda device: True, WORTH=worth)
    precision, why = choose_precision(_probe(flops=1e20))
    assert precision == chosen
    assert "ms a step in bfloat16" in why
    assert "in float32" in why


def test_a_precision_that_cannot_be_measured_is_not_taken(pretend: Callable[..., None]) -> None:
    def broken(training: Training) -> float:
        if training.execution.precision == "bfloat16":
            raise RuntimeError("no such kernel\nat line 7")
        return 1.0

    pretend(has_bfloat16=lambda device: True, seconds_per_step=broken)
    precision, why = choose_precision(_probe(flops=1e20))
    assert precision == "float32"
    assert "no such kernel" in why
    assert "line 7" not in why


def test_what_other_models_of_a_study_have_is_taken_without_asking(
    pretend: Callable[..., None],
) -> None:
    pretend(choose_precision=pytest.fail)
    assert choose(_probe(flops=1e20), "bfloat16").precision == "bfloat16"


def test_on_a_cpu_nothing_is_compiled_or_captured_unless_asked() -> None:
    chosen = choose(_probe(capture=True))
    assert not chosen.compiled
    assert not chosen.captured
    assert "not compiled: the kernels are for a GPU" in chosen.sentence()


@pytest.fixture
def as_if_kernels_ran_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Take a CPU for a device that has kernels, and a namespace for the kernels."""

    def install(kernels: Callable[[], Any]) -> None:
        monkeypatch.setattr(probing, "has_kernels", lambda device: True)
        for user in (norm, probing):
            monkeypatch.setattr(user, "gpu_kernels", kernels)

    return install


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("No working C compiler found.\nmore"), "RuntimeError: No working C compiler"),
        (ModuleNotFoundError("No module named 'triton'"), "ModuleNotFoundError: No module named"),
    ],
)
def test_no_compiler_costs_a_sentence_and_no_training(
    as_if_kernels_ran_here: Callable[[Any], None], error: Exception, said: str
) -> None:
    def none() -> Any:
        raise error

    as_if_kernels_ran_here(none)
    chosen = choose(_probe(compile=True))
    assert not chosen.compiled
    assert f"not compiled: {said}" in chosen.sentence()
    assert "more" not in chosen.sentence()


def test_a_compiled_step_that_does_something_else_is_not_taken(
    as_if_kernels_ran_here: Callable[[Any], None],
) -> None:
    wrong = SimpleNamespace(
        finish=lambda x, *rest: 1.3 * finish(x, *rest),
        normalise=lambda x, *rest: 1.3 * normalise(x, *rest),
    )
    as_if_kernels_ran_here(lambda: wrong)
    chosen = choose(_probe(compile=True))
    assert not chosen.compiled
    assert "not compiled: a kernel's finish of 16x4x8x8 is off by 0.3" in chosen.sentence()


def test_kernels_that_are_right_but_wrongly_put_together_are_not_taken(
    as_if_kernels_ran_here: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_kernels_ran_here(lambda: SimpleNamespace(finish=finish, normalise=normalise))
    plain = norm.normalise_by

    def astray(compute: Any) -> Any:
        def without_film(x: Any, norms: Any, zeros: Any, film: Any, *rest: Any) -> Any:
            return normalise(x, norms[::-1], zeros, film, *rest)

        return without_film if compute.compiled else plain(compute)

    monkeypatch.setattr(norm, "normalise_by", astray)
    chosen = choose(_probe(compile=True))
    assert not chosen.compiled
    assert "not compiled: its" in chosen.sentence()
    assert "part by" in chosen.sentence()


@pytest.mark.parametrize("lr", [0.01, 0.5])
def test_what_differs_by_rounding_alone_is_taken_at_any_learning_rate(
    as_if_kernels_ran_here: Callable[[Any], None], lr: float
) -> None:
    def rounded_once(function: Any) -> Any:
        # as kernels do it: all in float32, and one rounding at the end
        def run(x: Any, *rest: Any) -> Any:
            *middle, add, relu = rest
            return function(x.float(), *middle, None if add is None else add.float(), relu).to(
                x.dtype
            )

        return run

    kernels = SimpleNamespace(finish=rounded_once(finish), normalise=rounded_once(normalise))
    as_if_kernels_ran_here(lambda: kernels)
    chosen = choose(_probe(compile=True, lr=lr, precision="bfloat16"))
    assert chosen.compiled, chosen.sentence()


def test_a_compiled_step_that_agrees_is_taken_if_asked(
    as_if_kernels_ran_here: Callable[[Any], None],
) -> None:
    as_if_kernels_ran_here(lambda: SimpleNamespace(finish=finish, normalise=normalise))
    chosen = choose(_probe(compile=True))
    assert chosen.compiled
    assert "compiled as asked" in chosen.sentence()


def test_equal_trainings_agree_and_other_seeds_do_not() -> None:
    probe = _probe()
    assert disagreement(probe.make(Execution()), probe.make(Execution())) is None
    other = Training(
        PgdAt(0.0), ModelConfig("resnet8", 4), DATA, DataConfig("digits"), probe.train,
        Attack(steps=1), seed=0,
    )  # fmt: skip
    plain = Training(
        PgdAt(1.0), ModelConfig("resnet8", 4), DATA, DataConfig("digits"), probe.train,
        Attack(steps=1), seed=0,
    )  # fmt: skip
    assert disagreement(plain, other) is not None


def test_weights_that_are_no_numbers_agree_with_nothing() -> None:
    probe = _probe()
    broken = probe.make(Execution())
    broken.generator.manual_seed(0)
    with torch.no_grad():
        next(iter(broken.model.parameters())).fill_(torch.nan)
    assert disagreement(probe.make(Execution()), broken) is not None


@pytest.mark.parametrize("compile_", [True, False, "auto"])
def test_without_a_measurement_settings_mean_what_they_say(compile_: Any) -> None:
    train = TrainConfig(compile=compile_, precision="bfloat16")
    assert as_asked(train, CPU) == Execution("bfloat16")
    assert as_asked(train, torch.device("cuda")).compiled == (compile_ is True)


def test_numerics_are_put_back() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic
    with numerics(tf32=not before[0], deterministic=not before[2]):
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (not before[0], not before[0])
        assert cudnn.deterministic is not before[2]
    assert before == (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic)
