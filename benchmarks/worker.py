"""One side of a benchmark, in a process of its own; `benchmarks.timing` starts it and asks.

A side may be an earlier checkout, which has no such file. So this file runs by its path, from the
folder of the side and with that folder's packages, and imports nothing of `benchmarks` but the
plain way. Requests and replies are lines of JSON on standard input and output:

    {"open": {…}}                 -> {"parts": […], …}        build and warm up a case
    {"run": n, "part": name}      -> {"seconds": [n values]}   one value for each step or call
    {"profile": rows}             -> {"kernels": [[name, calls, milliseconds], …]}

A reply of {"error": "…"} says what went wrong; the process is then of no more use. All that is
known of the library's training loop, judging and deployment stands in `training_case`,
`judging_case` and `inference_case`.
"""

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import oat
from baselines import PgdAt, Trades
from oat.adversaries import Pgd
from oat.attacks import Attack
from oat.data import DataConfig, Dataset, Split, augment, unit
from oat.deploy import condition, fold
from oat.evaluation import evaluate
from oat.method import Method, Oat, Oats
from oat.models import Conditioning, ModelConfig, Network, build
from oat.recipe import TrainConfig
from oat.training import Training

try:
    from oat import choice
    from oat.memory import keep_freed_memory
except ImportError:  # an earlier checkout
    choice = None

METHODS: dict[str, Method] = {
    "oat": Oat(),
    "oats": Oats(),
    "pgd_at": PgdAt(1.0),
    "trades": Trades(6.0),
    "standard": PgdAt(0.0),
}
SIDE, CLASSES = 32, 10
LR = 0.01
LAM = 0.2
"""Of OAT's own λ, at which it is timed."""
SAME_LOGITS = 1e-3
"""The most that logits of a file may be off; those of these networks are of the order of 1."""


@dataclass
class Case:
    """What is timed.

    Attributes:
        parts: By name, what to call and how many steps or calls of the thing it is.
        facts: What to tell of it besides.
    """

    parts: dict[str, tuple[Callable[[], object], int]]
    facts: dict[str, Any] = field(default_factory=dict)


def device() -> torch.device:
    """Return the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def model_config(asked: dict[str, Any]) -> ModelConfig:
    """Return the network of a case: its name, and its width if one is given."""
    return ModelConfig(asked["network"], asked.get("width"))


def synthetic(count: int, seed: int = 0) -> Split:
    """Draw images of CIFAR's shape, the same on every side."""
    source = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=source)
    return Split(images, torch.randint(CLASSES, (count,), generator=source)).to(device())


def as_the_product_does() -> None:
    """Set up the process as a trial of a study does."""
    if choice is not None and device().type == "cpu":
        keep_freed_memory()


# --- what depends on the library's interface, today's and that of earlier checkouts


def training_case(asked: dict[str, Any]) -> Case:
    """Pass over ``steps`` batches of training images, as the library does in an epoch."""
    method, steps, batch = METHODS[asked["method"]], asked["steps"], asked["batch"]
    images = synthetic(steps * batch)
    few = images.head(2)
    dataset = Dataset(images, few, few, CLASSES, "synthetic")
    train = TrainConfig(epochs=100, batch_size=batch, lr=LR, precision=asked["precision"])
    arguments = (method, model_config(asked), dataset, DataConfig("cifar10"), train, Attack())
    if choice is None:
        training = Training(*arguments, seed=0)
    else:
        as_the_product_does()

        def make(execution: Any) -> Training:
            return Training(*arguments, seed=0, execution=execution)

        # as of a training that is long enough for every measurement
        long = choice.Probe(make, train, device(), method.fixed_shapes(), 10**6, 1.0, 1e20)
        training = make(choice.choose(long))

    def one_pass() -> None:
        loss, seen = training._train()
        check_pass(loss, seen, steps * batch)

    if choice is None:
        return Case({"step": (one_pass, steps)}, {"bfloat16": training.bfloat16})
    chosen = training.execution
    facts = {"bfloat16": chosen.precision == "bfloat16", "execution": chosen.sentence()}
    return Case({"step": (one_pass, steps)}, facts)


def judging_case(asked: dict[str, Any]) -> Case:
    """Judge a network at each λ of OAT by PGD-20, folded first, as the library's evaluation is.

    Labels are the network's own predictions at that λ, so that all are right; of those of the case
    ``falls`` every seventh is another, as in a network of 86 % accuracy.
    """
    as_the_product_does()
    model = network(Oat(), asked)
    assert model.encoding is not None
    split = synthetic(asked["images"], seed=1)
    attack = Pgd(steps=asked["steps"], eps=asked["eps"])
    parts: dict[str, tuple[Callable[[], object], int]] = {}
    judged: dict[str, list[float]] = {}

    def judge(name: str, lam: float, labelled: Split) -> None:
        found = evaluate(fold(model, lam), labelled, attack)
        judged[name] = [found.sa, found.ra]

    for lam in model.encoding.choices.tolist():
        name, labels = f"lam {lam:g}", predictions(fold(model, lam), split.images)
        if asked["case"] == "falls":
            labels[::7] = (labels[::7] + 1) % CLASSES
        labelled = Split(split.images, labels)
        parts[name] = partial(judge, name, lam, labelled), 1
    return Case(parts, {"judged": judged})


def inference_case(asked: dict[str, Any]) -> Case:
    """Classify a batch by the folded network, a plain one, and the one conditioned in place."""
    model = network(Oats(), asked)
    parts: dict[str, tuple[Callable[[], object], int]] = {}
    assert model.encoding is not None
    for width in asked["widths"]:
        shape = Conditioning(base_width=width)
        ways: dict[str, Callable[[Tensor], object]] = {
            "folded": fold(model, LAM, width),
            "plain network": on_device(build_network(asked, shape)).eval(),
            "conditioned in place": in_place(model, width),
        }
        if asked.get("exported"):
            ways |= exported(asked, model, width)
        for batch in asked["batches"]:
            images = unit(synthetic(batch).images).contiguous(memory_format=torch.channels_last)
            for name, way in ways.items():
                call = partial(torch.no_grad()(way), images)
                parts[f"{name}, width {width:g}, batch {batch}"] = call, 1
    return Case(parts)


def exported(
    asked: dict[str, Any], model: Network, width: float
) -> dict[str, Callable[[Tensor], object]]:
    """Return what `oat export` makes of a network, read back, and a dedicated network folded.

    Raises:
        ValueError: A file does not give the logits of the folded network.
    """
    from oat.knob import Knob

    folded, knob = fold(model, LAM, width), Knob(model, width).eval()
    images = unit(synthetic(3, seed=3).images)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "pt2 of the point": _pt2(folded, images, folder),
            "pt2 of the knob": _pt2(knob, images, folder),
            "ONNX of the point": _onnx(folded, images, folder),
            "ONNX of the knob": _onnx(knob, images, folder),
        }
    for name, way in ways.items():
        apart = (torch.as_tensor(way(images)) - folded(images)).abs().max().item()
        if not apart <= SAME_LOGITS:
            raise ValueError(f"The logits of '{name}' are {apart:.2g} off.")
    plain = on_device(build_network(asked, Conditioning(base_width=width))).eval()
    return {**ways, "dedicated, folded": fold(plain, None)}


def _inputs(module: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Return what a module is given: a knob takes λ beside the images."""
    knob = not isinstance(module, Network)
    return (images, torch.full((len(images),), LAM)) if knob else (images,)


def _pt2(module: nn.Module, images: Tensor, folder: str) -> Callable[[Tensor], object]:
    """Write a module as pt2 and read it back."""
    from studies.deploying.formats import read_pt2, write_pt2

    path = Path(folder) / "network.pt2"
    write_pt2(module, _inputs(module, images), path)
    run = read_pt2(path)
    return lambda given: run(*_inputs(module, given))


def _onnx(module: nn.Module, images: Tensor, folder: str) -> Callable[[Tensor], object]:
    """Write a module as ONNX and read it into onnxruntime, with as many threads as torch has."""
    import onnxruntime

    from studies.deploying.formats import INPUTS, write_onnx

    path = Path(folder) / "network.onnx"
    write_onnx(module, _inputs(module, images), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )

    def run(given: Tensor) -> object:
        inputs = _inputs(module, given.contiguous())
        named = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=False)}
        return session.run(None, named)[0]

    return run


def in_place(model: Network, width: float) -> Callable[[Tensor], object]:
    """Return the network that is told another λ with each batch."""
    assert model.encoding is not None
    lams = cycle(model.encoding.choices.tolist())
    return lambda images: model.logits(images, condition(model, next(lams), width))


def network(method: Method, asked: dict[str, Any]) -> Network:
    """Build a network in eval mode, each of its batch norms with statistics of its own."""
    model = on_device(build_network(asked, method.conditioning()))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # of the last batch alone
    images = unit(synthetic(64, seed=2).images).contiguous(memory_format=torch.channels_last)
    assert model.encoding is not None
    code = model.encoding.table[:1]
    with torch.no_grad():
        for width in model.conditioning.widths:
            for zeros in (0, len(images)):
                model(images, code, num_zero_lam=zeros, width_mult=width)
    return model.eval()


def build_network(asked: dict[str, Any], conditioning: Conditioning) -> Network:
    """Build the network of a case with the same initial weights on every side."""
    torch.manual_seed(0)
    return build(model_config(asked), in_channels=3, num_classes=CLASSES, conditioning=conditioning)


def on_device(model: Network) -> Network:
    """Bring a network to the device, as the library lays it out in memory."""
    moved: Network = model.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


# --- the plain way, of today's checkout only


def plain_case(asked: dict[str, Any]) -> Case:
    """Pass over as many batches the plain way: float32, default memory layout."""
    from benchmarks.plain import plain_step

    torch.backends.cudnn.benchmark = True  # as published code has it
    method, steps, batch = METHODS[asked["method"]], asked["steps"], asked["batch"]
    train, attack = synthetic(steps * batch), Attack()
    model = build_network(asked, method.conditioning()).to(device())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator(device()).manual_seed(0)

    def one_pass() -> None:
        model.train()
        total = torch.zeros((), device=device())
        order = torch.randperm(len(train), generator=generator, device=device())
        for rows in order.split(batch):
            images = augment(unit(train.images[rows]), 4, True, generator=generator).contiguous()
            total += plain_step(
                model, optimizer, method, images, train.labels[rows],
                attack=attack, generator=generator,
            )  # fmt: skip
        check_pass(total.item(), len(train), steps * batch)

    return Case({"step": (one_pass, steps)}, {"bfloat16": False})


# --- the same for all


def check_pass(loss: float, seen: int, wanted: int) -> None:
    """Refuse a pass that broke off, as a training does that diverges.

    Raises:
        ValueError: As above.
    """
    if seen != wanted or not loss - loss == 0:  # neither infinite nor NaN
        raise ValueError(f"The pass saw {seen} of {wanted} images, with a loss of {loss}.")


@torch.no_grad()
def predictions(logits_fn: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the classes that a network takes images for, shape (N,)."""
    return torch.cat([logits_fn(unit(part)).argmax(dim=1) for part in images.split(500)])


def convolutions_in_tf32() -> bool:
    """Tell whether a GPU's convolutions of float32 round to TF32."""
    now = getattr(torch.backends.cudnn, "conv", None)  # torch 2.9; the old flag may be refused then
    return bool(torch.backends.cudnn.allow_tf32 if now is None else now.fp32_precision == "tf32")


CASES: dict[str, Callable[[dict[str, Any]], Case]] = {
    "training": training_case,
    "plain": plain_case,
    "judging": judging_case,
    "inference": inference_case,
}


class Worker:
    """Answers requests; holds one case at a time."""

    def __init__(self) -> None:
        self.case: Case | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to one request."""
        if "open" in request:
            return self.open(request["open"])
        if "run" in request:
            return {"seconds": self.run(request["part"], request["run"])} | self.facts()
        if "profile" in request:
            return {"kernels": self.profile(request["profile"])}
        raise ValueError(f"Unknown request {sorted(request)}.")

    def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Build a case and call each of its parts once: what is made on first use is made now.

        What the last case held is freed before.
        """
        self.case = None
        gc.collect()
        if asked.get("threads"):
            torch.set_num_threads(asked["threads"])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        self.case = CASES[asked["kind"]](asked)
        for call, _ in self.case.parts.values():
            call()
        synchronize()
        return {
            "parts": list(self.case.parts),
            "first_pass_seconds": time.perf_counter() - started,
        } | self.facts()

    def facts(self) -> dict[str, Any]:
        """Return what is known of the case besides its times."""
        assert self.case is not None
        facts = dict(self.case.facts)
        if torch.cuda.is_available():
            facts["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
            facts["convolutions_in_tf32"] = convolutions_in_tf32()
        return {"facts": facts}

    def run(self, part: str, count: int) -> list[float]:
        """Call a part so many times; return seconds for each step or call in it."""
        assert self.case is not None
        call, units = self.case.parts[part]
        seconds = []
        for _ in range(count):
            synchronize()
            started = time.perf_counter()
            call()
            synchronize()
            seconds.append((time.perf_counter() - started) / units)
        return seconds

    def profile(self, rows: int) -> list[list[Any]]:
        """Return what one step or call spends its time on: name, calls, own milliseconds."""
        assert self.case is not None
        from torch.profiler import ProfilerActivity, profile

        cuda = torch.cuda.is_available()
        call, units = next(iter(self.case.parts.values()))
        kind = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
        with profile(activities=[kind]) as watched:
            call()
            synchronize()
        found = [
            (
                event.key,
                event.count,
                event.self_device_time_total if cuda else event.self_cpu_time_total,
            )
            for event in watched.key_averages()
        ]
        found.sort(key=lambda row: -row[2])
        return [
            [name[:90], round(calls / units, 1), round(micro / units / 1e3, 3)]
            for name, calls, micro in found[:rows]
        ]


def greeting() -> dict[str, Any]:
    """Say that the process is up, and whether the packages are those of its folder."""
    own = Path(oat.__file__).resolve().is_relative_to(Path.cwd().resolve())
    return {"ready": own} if own else {"error": "The packages are not those of the folder."}


def main() -> None:
    """Answer requests until there are no more."""
    # what else is printed must not come between the replies
    replies, sys.stdout = sys.stdout, sys.stderr
    worker = Worker()

    def reply(content: dict[str, Any]) -> None:
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    reply(greeting())
    for line in sys.stdin:
        try:
            reply(worker.answer(json.loads(line)))
        except Exception as error:  # a side that fails must not take the others along
            said = str(error).strip().splitlines() or [""]
            reply({"error": f"{type(error).__name__}: {said[0][:300]}"})


if __name__ == "__main__":
    main()
