"""What a study file may say beside its methods, and what must hold of the whole.

The keys of a block are the fields of the dataclass that the block configures, in `oat`; nothing
is said twice. Everything is checked before anything starts.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from pydantic import (
    BaseModel,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from baselines import Checkpoint, Pairing
from oat.adversaries import EvaluationAttack, Pgd, Transfer
from oat.attacks import Attack
from oat.data import DataConfig
from oat.method import Method
from oat.models import ModelConfig
from oat.names import refuse
from oat.own_code import allow, imported, is_own
from oat.recipe import TrainConfig
from studies.known_methods import METHODS, is_dedicated
from studies.own_code import ATTACK, DATA, METHOD, NETWORK
from studies.study_file.evaluate_block import Evaluate
from studies.study_file.method_blocks import AnyMethodBlock, Entry, FileBlock, Resources
from studies.study_file.method_checks import check_method, check_radii
from studies.study_file.sources import check_sources
from studies.study_file.tracking_block import Tracking
from studies.study_file.tune_block import STRICT, Tune
from studies.study_file.tune_checks import check_same_lams, check_space

FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")

for _block in (Attack, DataConfig, ModelConfig, TrainConfig):
    # pydantic's own attribute for the settings of a standard dataclass
    setattr(_block, "__pydantic_config__", STRICT)  # noqa: B010 -- mypy has no such attribute


class Study(BaseModel):
    """A study: methods, data, seeds and evaluations. `oat init` writes a commented file.

    Attributes:
        name: Name of the study, its folder and its experiment in MLflow; letters a-z, digits and
            ``._-``.
        seeds: Every method is trained once with each.
        methods: What is trained. One OAT network serves every λ; each value of a retrained model
            has a network of its own.
    """

    model_config = STRICT
    name: str
    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    attack: Attack = Attack()
    seeds: tuple[int, ...] = (0,)
    methods: tuple[AnyMethodBlock, ...]
    evaluate: Evaluate = Evaluate()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    tune: Tune | None = None

    @model_serializer(mode="wrap")
    def _without_blocks_left_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = {"tune"} if self.tune is None else set[str]()
        unused |= {"tracking"} if self.tracking == Tracking() else set()
        return {k: v for k, v in handler(self).items() if k not in unused}

    @model_validator(mode="before")
    @classmethod
    def _fractions(cls, data: Any) -> Any:
        return parse_fractions(data)

    @model_validator(mode="after")
    def _check(self) -> "Study":
        refuse(self._faults())
        self._import_own()
        trials = [(entry.method, entry.train, entry.start) for entry in self.entries()]
        labels = dict(zip(trials, (entry.label for entry in self.entries()), strict=True))
        methods = [(labels[trial], count) for trial, count in Counter(trials).items()]
        seeds = [(f"seed {seed}", count) for seed, count in Counter(self.seeds).items()]
        for what, count in methods + seeds:
            if count > 1:
                raise ValueError(f"Duplicate trial: {what} is listed {count} times.")
        outside = Counter(e.label for e in self._entries if isinstance(e.method, Checkpoint))
        for label, count in outside.items():
            if count > 1:
                raise ValueError(f"{count} networks are called '{label}'; give each a `title`.")
        check_sources(self._entries)
        self._check_evaluation()
        union = " (the union of all λ sets, as `evaluate.lams` is not given)"
        came = "" if self.evaluate.lams is not None else union
        for method in self.all_methods():
            check_method(method, self.model, self.train.batch_size, self.lams(), came)
        if self.tune is not None:
            check_space(self.tune.space, self.methods, self.train)
            if self.evaluate.lams is None:
                check_same_lams(self.tune.space, self.method_names())
        return self

    def _faults(self) -> Iterator[str]:
        """Yield what is wrong with the study's name, methods and seeds."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", self.name):
            yield (
                "`name` must be 1 to 64 of a-z, 0-9, '.', '_' and '-', not starting with a mark, "
                f"got '{self.name}'."
            )
        if self.name in TAKEN:
            yield (f"`name` must not be '{self.name}': a storage folder has a file of that name.")
        if not self.methods:
            known = ", ".join(sorted(METHODS))
            yield (f"`methods` must name at least one method, got an empty list ({known}).")
        if not self.seeds:
            yield "`seeds` must name at least one seed, got an empty list."
        if bad := [seed for seed in self.seeds if not 0 <= seed < 2**31]:
            yield f"`seeds` must be from 0 to 2147483647, got {bad[0]}."

    def _check_evaluation(self) -> None:
        """Refuse weights and attacks that cannot be evaluated as the file says."""
        for entry in self.entries():
            if missing := sorted(set(self.evaluate.checkpoints) - set(entry.train.rules())):
                raise ValueError(
                    f"`evaluate.checkpoints` '{missing[0]}' needs `train.ema`, the decay of the "
                    "average (such as 0.999)."
                )
        named = Counter(self.label_of(attack) for attack in self.attacks())
        for label, count in named.items():
            if count > 1:
                raise ValueError(
                    f"`evaluate.attacks` has {count} attacks named '{label}' once `eps` is that "
                    "of `attack` where none is given; keep one."
                )
        check_radii((self.attack.eps, *(attack.radius() for attack in self.attacks())))
        dedicated = sum(is_dedicated(method.name) for method in self.all_methods())
        if dedicated < 2 and any(isinstance(a, Transfer) for a in self.attacks()):
            raise ValueError(
                "`evaluate.attacks` 'transfer' needs at least two retrained models (pgd_at, "
                f"trades), so that each has another to be attacked from; got {dedicated}."
            )
        labels = {e.label for e in self._entries if is_dedicated(e.method.name)}
        pairs = [e for e in self._entries if isinstance(e.method, Pairing)]
        if any(isinstance(a, Transfer) for a in self.attacks()):
            for entry in pairs:
                if not labels - set(entry.sources()):
                    raise ValueError(
                        f"`evaluate.attacks` 'transfer' needs a retrained model that {entry.label} "
                        "is not made of, so that it has another to be attacked from."
                    )

    def _import_own(self) -> None:
        """Import the network and the data of the user's, so that faults are told at once."""
        for name, kind in self.own_code().items():
            allow([name])
            imported(name, kind)

    def all_methods(self) -> list[Method]:
        """Return every method config of the study, lists expanded, in the order of the file."""
        return [entry.method for entry in self._entries]

    def entries(self) -> list[Entry]:
        """Return what each trial of a seed trains, lists expanded, in the order of the file."""
        return list(self._entries)

    @cached_property
    def _entries(self) -> tuple[Entry, ...]:
        entries = []
        for block in self.methods:
            settings = {} if block.train is None else block.train.given()
            start = getattr(block, "start", None)
            epochs = {} if start is None else {"epochs": start.length}
            try:
                train = dataclasses.replace(self.train, **settings, **epochs)
            except ValueError as error:
                where = "start" if epochs else "train"
                raise ValueError(f"In `{where}` of {block.name}: {error}") from error
            need = block.resources or self.resources
            entries += [Entry(method, train, settings, need, start) for method in block.expand()]
        return tuple(entries)

    def trials(self) -> list[tuple[int, Entry]]:
        """Return seed and entry of each trial; a checkpoint has one trial, of seed 0."""
        return [
            (0 if isinstance(entry.method, Checkpoint) else seed, entry)
            for seed in self.seeds
            for entry in self._entries
            if not isinstance(entry.method, Checkpoint) or seed == self.seeds[0]
        ]

    def own_code(self) -> dict[str, str]:
        """Return the names of the user's code in the study, and what each is."""
        named = [
            *((name, METHOD) for name in self.method_names()),
            (self.model.name, NETWORK),
            *((block.model["name"], NETWORK) for block in self.methods if hasattr(block, "model")),
            *((attack.name, ATTACK) for attack in self.evaluate.attacks),
            (self.data.name, DATA),
        ]
        return {name: kind for name, kind in named if is_own(name)}

    def weights_outside(self) -> tuple[str, ...]:
        """Return the files of networks from outside, by their absolute paths."""
        methods = [m for m in self.all_methods() if isinstance(m, Checkpoint)]
        return tuple(str(m.file()) for m in methods if m.path is not None)

    def method_names(self) -> list[str]:
        """Return the name of each entry's method, in the order of the file."""
        return [block.name for block in self.methods]

    def lams(self) -> tuple[float, ...]:
        """Return the λ at which conditional networks are judged, in ascending order."""
        return self._lams

    @cached_property
    def _lams(self) -> tuple[float, ...]:
        if self.evaluate.lams is not None:
            return tuple(sorted(set(self.evaluate.lams)))
        choices = [method.conditioning().lambda_choices for method in self.all_methods()]
        return tuple(sorted({lam for chosen in choices for lam in chosen}))

    def attacks(self) -> list[EvaluationAttack]:
        """Return the attacks of the evaluation with the study's ``eps`` filled in."""
        return [
            dataclasses.replace(a, eps=self.attack.eps if a.eps is None else a.eps)
            for a in self.evaluate.each_attack()
        ]

    def choosing_attacks(self) -> list[Pgd]:
        """Return the attacks on held-out images: at each radius of `attacks` one plain PGD.

        It is the first of the study's own at that radius, or else PGD at its defaults. λ is chosen
        by it, so that no attack that takes hours is needed for that.
        """
        found: dict[float, Pgd] = {}
        for attack in self.attacks():
            if isinstance(attack, Pgd) and not attack.every_lam:
                found.setdefault(attack.radius(), dataclasses.replace(attack, images=None))
        radii = dict.fromkeys(attack.radius() for attack in self.attacks())
        return [found.get(eps, Pgd(eps=eps)) for eps in radii]

    def label_of(self, attack: EvaluationAttack) -> str:
        """Name one of `attacks` for tables, with its radius if that is not the one of training."""
        odd = "" if attack.eps == self.attack.eps else f"@{attack.eps:.4g}"
        return attack.label + odd

    def dump(self) -> FileBlock:
        """Return the resolved study as plain values, such as YAML and JSON hold."""
        return self.model_dump(mode="json")

    def without_tuning(self) -> FileBlock:
        """Return `dump` without how the study is tuned, which decides nothing of its trials."""
        return {key: value for key, value in self.dump().items() if key != "tune"}


TAKEN = frozenset({"mlflow.db", "mlflow-artifacts", "optuna.db"})
"""What lies beside the studies of a storage folder."""

TEXTS = frozenset({"args", "name", "path", "root", "title"})
"""Keys whose texts are no numbers whatever they look like; ``args`` are the user's altogether."""


def parse_fractions(value: Any) -> Any:
    """Replace texts such as ``8/255`` by the numbers that they are, but below `TEXTS`."""
    if isinstance(value, str) and (match := FRACTION.fullmatch(value)):
        top, bottom = float(match[1]), float(match[2])
        return top / bottom if bottom else value
    if isinstance(value, Mapping):
        return {key: item if key in TEXTS else parse_fractions(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [parse_fractions(item) for item in value]
    return value
