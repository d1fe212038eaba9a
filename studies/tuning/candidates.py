"""What tuning may try of one method: its dimensions, where it starts, and the study of one trial.

A candidate is a mapping of parameter names to values, as Optuna keeps it: ``train.lr`` for a
training setting, ``beta`` for an option of the method.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from baselines import Untrained
from studies.errors import StudyError, TuningError
from studies.known_methods import RESULTS_VERSION, VALUES_AND_WIDTH, variant
from studies.own_code import CODE
from studies.planning.costs import training_units
from studies.planning.run_keys import key_config
from studies.study_file.loading import load_study
from studies.study_file.method_blocks import FileBlock, MethodBlock
from studies.study_file.study import Study
from studies.study_file.tune_block import SWEPT, TRAIN, Dimension, Tune, number_type, swept_key
from studies.study_file.tune_checks import check_searched

DIGITS = 4
"""Significant digits of a value from a range, so that a study file reads well."""

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Tunable:
    """One entry of a study file whose settings are searched.

    Attributes:
        study: The study.
        block: The entry.
        name: The variant, which names its search.
        dimensions: What is searched, by parameter name; empty if there is nothing to tune.
        listed: Whether its trade-off values are those that the study lists, and no range.
    """

    study: Study
    block: MethodBlock
    name: str
    dimensions: Mapping[str, Dimension]
    listed: bool

    @property
    def settings(self) -> Tune:
        """How the study is tuned."""
        assert self.study.tune is not None, "`tuned_methods` has checked it"
        return self.study.tune

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the search space as Optuna takes it."""
        return {name: self._distribution(name, d) for name, d in self.dimensions.items()}

    def _distribution(self, name: str, dimension: Dimension) -> BaseDistribution:
        if dimension.choices is not None:
            return CategoricalDistribution([_plain(value) for value in dimension.choices])
        assert dimension.low is not None
        assert dimension.high is not None
        config = self.study.train if name.startswith(f"{TRAIN}.") else self.block.expand()[0]
        if number_type(config, name.rpartition(".")[2]) is int:
            return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)

    def size(self) -> float:
        """Return how many candidates there are; infinite with a range of real numbers."""
        count = 1.0
        for distribution in self.distributions().values():
            if isinstance(distribution, CategoricalDistribution):
                count *= len(distribution.choices)
            elif isinstance(distribution, IntDistribution):
                count *= distribution.high - distribution.low + 1
            else:
                return math.inf
        return count

    def starts(self) -> list[Params]:
        """Return the study's own settings as candidates, one for each value of its lists."""
        own = {} if self.block.train is None else self.block.train.given()
        found: list[Params] = []
        for method in self.block.expand():
            start = {}
            for name in self.dimensions:
                group, _, key = name.rpartition(".")
                value = (
                    own.get(key, getattr(self.study.train, key)) if group else getattr(method, key)
                )
                start[name] = self._own(name, value)
            found.append(start)
        return found

    def _own(self, name: str, value: Any) -> Any:
        """Return a value of the study as the search has it: of equal choices, that of the list."""
        choices = self.dimensions[name].choices
        if choices is None:
            return value
        alike = Dimension(choices=(value,))
        return next(_plain(choice) for choice in choices if alike.holds(choice))

    def entry(self, params: Params) -> FileBlock:
        """Return the entry of a study file that a candidate stands for."""
        entry = self.block.entry()
        for name, value in params.items():
            group, _, key = name.rpartition(".")
            value = self._value(name, value)
            if group:
                entry.setdefault(TRAIN, {})[key] = value
            else:
                entry[swept_key(self.block, key)] = value
        return entry

    def _value(self, name: str, value: Any) -> Any:
        choices = self.dimensions[name].choices
        if choices is not None:
            return next(_listed(choice) for choice in choices if _plain(choice) == value)
        if not isinstance(value, float) or any(value == start[name] for start in self.starts()):
            return value
        dimension = self.dimensions[name]
        assert dimension.low is not None
        assert dimension.high is not None
        # more digits where these would leave few values of a narrow range, as near 1
        step = (dimension.high - dimension.low) * 10.0**-DIGITS
        shorter = (float(f"{value:.{digits}g}") for digits in range(DIGITS, 17))
        short = next((one for one in shorter if abs(one - value) <= step), value)
        return short if dimension.holds(short) else value

    def candidate(self, params: Params) -> Study:
        """Return the study of one candidate: one trial, judged on held-out images.

        Raises:
            StudyError: The values do not go together, or not with the rest of the study, so that
                they could not win.
        """
        entry = self.entry(params)
        checkpoints = self.study.dump()["evaluate"]["checkpoints"]
        others = [entry if b is self.block else b.entry() for b in self.study.methods]
        whole = {**_validation(self.study), "checkpoints": checkpoints}
        load_study({**self.study.without_tuning(), "methods": others, "evaluate": whole})
        return self.judged(entry)

    def dearest_units(self) -> float:
        """Return the units of work of the dearest candidate.

        Which it is tell the study's own settings, and those with one value moved: to an end of its
        range or to the middle (λ = 0 runs no attack, and λ = 1 no clean pass), or to a choice.
        """
        found = 0.0
        for start in self.starts():
            moved = [
                {**start, name: value}
                for name, distribution in self.distributions().items()
                for value in _probes(distribution)
            ]
            for params in (start, *moved):
                try:
                    found = max(found, training_units(self.candidate(params)))
                except StudyError:  # such a candidate is never trained
                    continue
        return found

    def judged(self, entry: FileBlock) -> Study:
        """Return the study of one entry: one trial, judged on held-out images.

        Raises:
            StudyError: Its values do not go together.
        """
        return load_study(
            {
                **self.study.without_tuning(),
                "seeds": [self.study.seeds[0]],
                "methods": [entry],
                "evaluate": _validation(self.study),
            }
        )

    def decides(self) -> dict[str, object]:
        """Return all that decides what a candidate's values are, by what it concerns."""
        study = self.study.without_tuning()
        first = self.judged(self.entry(self.starts()[0]))
        key = key_config(first, first.entries()[0].method, 0, first.train)
        data = {k: v for k, v in study["data"].items() if k not in {"root", "download"}}
        return {
            "results version": RESULTS_VERSION,
            "data": data,
            "model": study["model"],
            "train": study["train"],
            "attack": study["attack"],
            "seed": study["seeds"][0],
            "method": self.block.model_dump(mode="json", exclude={"resources"}),
            "evaluation": _validation(self.study),
            "space": {name: d.model_dump(mode="json") for name, d in self.dimensions.items()},
            # of ours it has none, so that their searches go on
            **{f"code of the {p}": key[p][CODE] for p in ("model", "method") if CODE in key[p]},
        }


def _validation(study: Study) -> FileBlock:
    """Return the evaluation block of a candidate."""
    tune = study.tune
    assert tune is not None, "`tuned_methods` has checked it"
    evaluate = study.dump()["evaluate"]
    attack = {"name": "pgd", **study.dump()["tune"]["attack"]}
    return {
        "lams": evaluate["lams"],
        "attacks": [attack],
        "checkpoints": evaluate["checkpoints"][:1],
        "images": tune.images,
        "masking_images": 0,
        "batch_size": evaluate["batch_size"],
    }


def tuned_methods(study: Study) -> list[Tunable]:
    """Return what tuning has to do for a study, an item for each entry under ``methods``.

    Raises:
        TuningError: The study does not say how it is tuned, lacks a method for which something is
            searched, has two entries of one variant, which would have twice the budget, or one
            that is made from another model or trained elsewhere.
    """
    if study.tune is None:
        raise TuningError(
            "`tune` is missing: the study file must say what is searched, and under which "
            "`tune.budget`."
        )
    made = [
        entry.label
        for entry in study.entries()
        if entry.sources() or isinstance(entry.method, Untrained)
    ]
    if made:
        raise TuningError(
            f"`methods` must hold models that are trained from scratch to be tuned, got {made[0]}; "
            "tune a study without it, and add it to `tuned.yaml`."
        )
    try:
        check_searched(study.tune.space, [block.name for block in study.methods])
    except ValueError as error:
        raise TuningError(str(error)) from error
    found: dict[str, Tunable] = {}
    for block in study.methods:
        methods = block.expand()
        name = variant(methods[0])
        if name in found:
            raise TuningError(
                f"`methods` has two entries of {name}, which would be tuned on twice the budget; "
                "make them one, with a list of values."
            )
        dimensions = _dimensions(study.tune, block, methods)
        listed = not any(
            field in study.tune.space.get(block.name, {}) for field in VALUES_AND_WIDTH
        )
        found[name] = Tunable(study, block, name, dimensions, listed)
    return list(found.values())


def _dimensions(tune: Tune, block: MethodBlock, methods: list[Any]) -> dict[str, Dimension]:
    own = dict(tune.space.get(block.name, {}))
    for field in SWEPT.get(block.name, {}):
        values = tuple(dict.fromkeys(getattr(method, field) for method in methods))
        if field not in own and len(values) > 1:
            own[field] = Dimension(choices=values)
    everyone = tune.space.get(TRAIN, {})
    return {**{f"{TRAIN}.{key}": d for key, d in everyone.items()}, **own}


def _probes(distribution: BaseDistribution) -> list[Any]:
    """Return values that stand for all: every choice, or the ends of a range and its middle."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    middle = (distribution.low + distribution.high) / 2
    whole = isinstance(distribution, IntDistribution)
    return [distribution.low, round(middle) if whole else middle, distribution.high]


def _plain(value: Any) -> Any:
    """Write a choice as Optuna's databases take it: lists as JSON."""
    return json.dumps(_listed(value)) if isinstance(value, list | tuple) else value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def name_of(study: Study, tuned: Tunable) -> str:
    """Return the name of a method's search in Optuna's storage."""
    return f"{study.name}/{tuned.name}"
