"""The study file: what is run. Checked whole before anything starts.

The keys of a block are the fields of the dataclass that the block configures, in `oat` and
`baselines`; nothing is said twice. A list where a dedicated method takes one value makes one
trial of each.
"""

import copy
import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from importlib.resources import files
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from oat.adversaries import ATTACKS, AnyAttack, EvaluationAttack, Pgd, Transfer
from oat.attacks import Attack
from oat.data import DataConfig
from oat.encodings import BY_VALUE
from oat.lambdas import SAME_LAM, check_choices
from oat.method import Method, Oat
from oat.models import ModelConfig
from oat.models.slimmable import scaled
from oat.names import unknown
from oat.recipe import RULES, SHARED, CheckpointRule, TrainConfig
from studies.errors import StudyError
from studies.explain import explain
from studies.methods import METHODS, describe
from studies.plain_yaml import read_yaml
from studies.space import SWEPT, Tune, check_space, tune_keys

STRICT = ConfigDict(extra="forbid", frozen=True)
PLAIN_ATTACK = "pgd"
"""What an attack of the evaluation is if it has no name."""

FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")
GPU_SHARES = (0.0, 0.25, 1 / 3, 0.5)

for _block in (Attack, DataConfig, ModelConfig, TrainConfig, *ATTACKS.values()):
    # pydantic's own attribute for the settings of a standard dataclass
    setattr(_block, "__pydantic_config__", STRICT)  # noqa: B010 -- mypy has no such attribute


class Resources(BaseModel):
    """What one trial asks of a node.

    Attributes:
        cpu: Cores; also the number of threads of its process.
        gpu: GPUs: 0, 1/4, 1/3, 1/2, or a whole number.
        device: ``auto`` computes on the GPU if one is asked for; ``cpu`` does not, to rehearse on
            a cluster whose GPUs are made up how trials are packed.
    """

    model_config = STRICT
    cpu: int = Field(1, ge=1)
    gpu: float = Field(0.0, ge=0, allow_inf_nan=False)
    device: Literal["auto", "cpu"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> "Resources":
        shared = any(abs(self.gpu - share) < 1e-3 for share in GPU_SHARES)
        if not shared and self.gpu != int(self.gpu):
            raise ValueError(f"`gpu` must be 0, 1/4, 1/3, 1/2 or a whole number, got {self.gpu:g}.")
        return self


class OwnSettings(BaseModel):
    """Training settings of one entry under ``methods``; its fields are made from `TrainConfig`.

    Only those that are given count. What all models of a study share (`oat.recipe.SHARED`) cannot
    be given, so that they can be compared.
    """

    model_config = STRICT

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in handler(self).items() if k in self.model_fields_set}

    def given(self) -> dict[str, Any]:
        """Return what is given, in the order of `TrainConfig`."""
        return {k: getattr(self, k) for k in type(self).model_fields if k in self.model_fields_set}

    @model_validator(mode="after")
    def _check(self) -> "OwnSettings":
        TrainConfig(**{"eps_warmup": 0, **self.given()})
        return self


def _own_settings() -> type[OwnSettings]:
    hints = get_type_hints(TrainConfig)
    keys: dict[str, Any] = {
        field.name: (hints[field.name], field.default)
        for field in dataclasses.fields(TrainConfig)
        if field.name not in SHARED
    }
    return create_model("Settings", __base__=OwnSettings, **keys)


if TYPE_CHECKING:
    Settings = OwnSettings
else:
    Settings = _own_settings()


class MethodBlock(BaseModel):
    """One entry under ``methods``; its subclasses are made from the methods' own fields.

    Attributes:
        name: A key of `METHODS`.
        resources: What its trials ask of a node; None is what the study says.
        train: Training settings of its trials that differ from the study's, such as those that
            tuning has found best for the method.
    """

    model_config = STRICT
    name: str
    resources: Resources | None = None
    train: Settings | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in handler(self).items() if k != "train" or v is not None}

    @model_validator(mode="after")
    def _expands(self) -> "MethodBlock":
        for key in SWEPT.get(self.name, {}).values():
            if getattr(self, key) == ():
                raise ValueError(f"`{key}` must name at least one value, got an empty list.")
        self.expand()  # the methods check their values themselves
        return self

    def entry(self) -> dict[str, Any]:
        """Return the entry as a study file may say it, without what is at its default."""
        entry: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        if self.train is not None:  # what is given counts, also where it is `TrainConfig`'s default
            entry["train"] = self.train.model_dump(mode="json")
        return entry

    def expand(self) -> list[Method]:
        """Return the methods that the block stands for, one for each value of its lists."""
        swept = SWEPT.get(self.name, {})
        fields = [field.name for field in dataclasses.fields(METHODS[self.name])]
        values = [getattr(self, swept.get(field, field)) for field in fields]
        lists = [
            value if field in swept and isinstance(value, tuple) else (value,)
            for field, value in zip(fields, values, strict=True)
        ]
        # the last field varies slowest: all values of λ at one width, then at the next
        return [
            METHODS[self.name](**dict(zip(reversed(fields), some, strict=True)))
            for some in itertools.product(*reversed(lists))
        ]


def _method_block(name: str) -> type[MethodBlock]:
    """Make the schema of a method's block from the fields of its config."""
    hints = get_type_hints(METHODS[name])
    keys: dict[str, Any] = {"name": (Literal[name], ...)}
    many: Any = tuple
    for field in dataclasses.fields(METHODS[name]):
        kind, key = hints[field.name], SWEPT.get(name, {}).get(field.name)
        keys[key or field.name] = (kind | many[kind, ...] if key else kind, field.default)
    return create_model(f"{METHODS[name].__name__}Block", __base__=MethodBlock, **keys)


METHOD_BLOCKS = {name: _method_block(name) for name in METHODS}
if TYPE_CHECKING:
    AnyMethodBlock = MethodBlock
else:
    AnyMethodBlock = Annotated[reduce(or_, METHOD_BLOCKS.values()), Discriminator("name")]


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one trial of each seed trains.

    Attributes:
        method: The method.
        train: How, settings of its own included.
        settings: Those settings.
        need: What its trials ask of a node.
    """

    method: Method
    train: TrainConfig
    settings: Mapping[str, Any]
    need: Resources

    @property
    def label(self) -> str:
        """The method with its values and settings, for people."""
        return describe(self.method, self.settings)


class Evaluate(BaseModel):
    """What the finished models are judged by.

    Attributes:
        lams: λ to judge conditional networks at; None is the union of their own choices.
        attacks: Attacks, each judged apart.
        checkpoints: Which weights of each training; see `oat.recipe.CheckpointRule`. The first
            is what `oat run` reports.
        images: Use only the first so many test images; None is all of them. An attack may have
            fewer, of its own.
        masking_images: Test images of the checks for masked gradients; 0 makes none.
        batch_size: Images at a time.
    """

    model_config = STRICT
    lams: tuple[float, ...] | None = None
    attacks: tuple[Annotated[AnyAttack, Discriminator("name")], ...] = (Pgd(),)
    checkpoints: tuple[CheckpointRule, ...] = ("last",)
    images: int | None = Field(None, ge=1)
    masking_images: int = Field(100, ge=0)
    batch_size: int = Field(500, ge=1)

    @field_validator("attacks", mode="before")
    @classmethod
    def _plain(cls, attacks: Any) -> Any:
        """Take an attack without a name for PGD."""
        if not isinstance(attacks, list | tuple):
            return attacks
        return [{"name": PLAIN_ATTACK, **a} if isinstance(a, Mapping) else a for a in attacks]

    @model_validator(mode="after")
    def _check(self) -> "Evaluate":
        if not self.attacks:
            raise ValueError("`attacks` must name at least one attack, got an empty list.")
        if len(set(self.attacks)) < len(self.attacks):
            raise ValueError("`attacks` must not repeat an attack.")
        names = Counter((attack.label, attack.eps) for attack in self.attacks)
        for (label, _), count in names.items():
            if count > 1:
                raise ValueError(
                    f"`attacks` has {count} attacks named '{label}', which differ in `images` "
                    "alone; keep one."
                )
        if not self.checkpoints or len(set(self.checkpoints)) < len(self.checkpoints):
            raise ValueError(
                f"`checkpoints` must name {', '.join(RULES)} once each at most and at least one, "
                f"got {list(self.checkpoints)}."
            )
        if self.lams is not None:
            check_choices(self.lams, "lams")
        return self


class Study(BaseModel):
    """A study: methods, data, seeds and evaluations. `oat init` writes a commented file.

    Attributes:
        name: Of its folder and of its experiment in MLflow; letters a-z, digits and ``._-``.
        seeds: Every method is trained once with each.
        methods: What is trained. One OAT model serves every λ; dedicated ones have one each.
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
    tune: Tune | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in handler(self).items() if k != "tune" or v is not None}

    @model_validator(mode="before")
    @classmethod
    def _fractions(cls, data: Any) -> Any:
        return _parse_fractions(data)

    @model_validator(mode="after")
    def _check(self) -> "Study":
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", self.name):
            raise ValueError(
                "`name` must be 1 to 64 of a-z, 0-9, '.', '_' and '-', not starting with a mark, "
                f"got '{self.name}'."
            )
        if not self.methods:
            known = ", ".join(sorted(METHODS))
            raise ValueError(
                f"`methods` must name at least one method, got an empty list ({known})."
            )
        if not self.seeds:
            raise ValueError("`seeds` must name at least one seed, got an empty list.")
        if bad := [seed for seed in self.seeds if not 0 <= seed < 2**31]:
            raise ValueError(f"`seeds` must be from 0 to 2147483647, got {bad[0]}.")
        labels = {(entry.method, entry.train): entry.label for entry in self.entries()}
        trials = Counter((entry.method, entry.train) for entry in self.entries())
        methods = [(labels[trial], count) for trial, count in trials.items()]
        seeds = [(f"seed {seed}", count) for seed, count in Counter(self.seeds).items()]
        for what, count in methods + seeds:
            if count > 1:
                raise ValueError(f"Duplicate trial: {what} is listed {count} times.")
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
        dedicated = sum(not method.conditioning().lambda_choices for method in self.all_methods())
        if dedicated < 2 and any(isinstance(a, Transfer) for a in self.evaluate.attacks):
            raise ValueError(
                "`evaluate.attacks` 'transfer' needs at least two dedicated models (pgd_at, "
                f"trades), so that each has another to be attacked from; got {dedicated}."
            )
        for method in self.all_methods():
            self._check_lams(method)
            asked = method.conditioning()
            for width in (asked.base_width, *asked.widths):
                scaled(self.model.first_width, width)
            if isinstance(method, Oat) and method.dual_bn:
                self._check_rows(method)
        if self.tune is not None:
            check_space(self.tune.space, self.methods, self.train)
            self._check_searched_lams(self.tune)
        return self

    def _check_searched_lams(self, tune: Tune) -> None:
        """Refuse to judge candidates at different λ: of more points, a front has more area."""
        if self.evaluate.lams is not None:
            return
        for name, dimensions in tune.space.items():
            if "lambda_choices" in dimensions:
                raise ValueError(
                    f"`tune.space.{name}.lambda_choices` needs `evaluate.lams`, so that all "
                    "candidates are judged at the same λ."
                )

    def _check_rows(self, method: Oat) -> None:
        """Refuse batches of which one of two batch norms would see a single row."""
        size = self.train.batch_size
        zeros = method.sampler().num_zero_rows(size)
        for rows, where in ((zeros, "= 0"), (size - zeros, "≠ 0")):
            if rows == 1 and not method.batchwise:
                raise ValueError(
                    f"`train.batch_size` {size} leaves {method.name} 1 row with λ {where}, and a "
                    "batch norm needs 2; raise it, or set `dual_bn: false`."
                )

    def _check_lams(self, method: Method) -> None:
        conditioning = method.conditioning()
        known = conditioning.lambda_choices
        if not known:
            return
        union = " (the union of all λ sets, as `evaluate.lams` is not given)"
        came = "" if self.evaluate.lams is not None else union
        for lam in self.lams():
            listed = any(abs(lam - other) < SAME_LAM for other in known)
            if conditioning.encoding not in BY_VALUE and not listed:
                raise ValueError(
                    f"`evaluate.lams` must be among the `lambda_choices` of {method.name} with the "
                    f"encoding '{conditioning.encoding}', got {lam:g}{came}."
                )
            trained = 0 in known if lam == 0 else any(other != 0 for other in known)
            if conditioning.dual_bn and not trained:
                where = "λ = 0" if lam == 0 else "λ above 0"
                raise ValueError(
                    f"`evaluate.lams` has {lam:g}{came}, but {method.name} never trains its batch "
                    f"norm of {where} with the `lambda_choices` {list(known)}."
                )

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
            try:
                train = dataclasses.replace(self.train, **settings)
            except ValueError as error:
                raise ValueError(f"In `train` of {block.name}: {error}") from error
            need = block.resources or self.resources
            entries += [Entry(method, train, settings, need) for method in block.expand()]
        return tuple(entries)

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
            for a in self.evaluate.attacks
        ]

    def label_of(self, attack: EvaluationAttack) -> str:
        """Name one of `attacks` for tables, with its radius if that is not the one of training."""
        odd = "" if attack.eps == self.attack.eps else f"@{attack.eps:.4g}"
        return attack.label + odd

    def dump(self) -> dict[str, Any]:
        """Return the resolved study as plain values, such as YAML and JSON hold."""
        return self.model_dump(mode="json")

    def without_tuning(self) -> dict[str, Any]:
        """Return `dump` without how the study is tuned, which decides nothing of its trials."""
        return {key: value for key, value in self.dump().items() if key != "tune"}


def _parse_fractions(value: Any) -> Any:
    if isinstance(value, str) and (match := FRACTION.fullmatch(value)):
        top, bottom = float(match[1]), float(match[2])
        return top / bottom if bottom else value
    if isinstance(value, Mapping):
        return {key: _parse_fractions(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_parse_fractions(item) for item in value]
    return value


def presets() -> list[str]:
    """Return the names of the studies that ship."""
    folder = files("studies") / "presets"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_study(
    source: "str | Path | Mapping[str, Any] | Study", overrides: Sequence[str] = ()
) -> Study:
    """Read and check a study.

    Args:
        source: A preset's name, a YAML file, a mapping, or a study.
        overrides: ``path.to.key=value`` each, the value in YAML; lists are indexed by number.

    Returns:
        The study, every value checked.

    Raises:
        StudyError: The source is unknown or the study is faulty; one sentence a fault.
    """
    if isinstance(source, Study):
        data: Any = source.dump()
    elif isinstance(source, Mapping):
        data = copy.deepcopy(dict(source))
    else:
        data = _read_yaml(str(source))
    if not isinstance(data, dict):
        came = "nothing" if data is None else type(data).__name__
        raise StudyError(f"A study must be a mapping of keys to values, got {came}.")
    for override in overrides:
        _override(data, override)
    return explain(Study, data, _known_keys)


def _read_yaml(source: str) -> Any:
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or "/" in source:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"The study file '{source}' cannot be read: {error}.") from error
    elif source in presets():
        text = (files("studies") / "presets" / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        raise StudyError(
            unknown("preset", source, presets()) + " A file of your own ends in .yaml."
        )
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise StudyError(f"The study file '{source}' is not valid YAML: {said}.") from error


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise StudyError(f"`--set` takes path.to.key=value, got '{override}'.")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise StudyError(f"`--set {path}` needs a YAML value, got '{text}'.") from error
    *parents, last = path.split(".")
    target: Any = data
    try:
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target.setdefault(key, {})
        target[int(last) if isinstance(target, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise StudyError(f"`--set {path}`: there is no such place in the study.") from error


def _known_keys(path: Sequence[str | int], data: Any) -> list[str]:
    """Return the keys that the block at a path may have."""
    match path:
        case []:
            return list(Study.model_fields)
        case ["resources"] | ["methods", int(), "resources"]:
            return list(Resources.model_fields)
        case ["methods", int(), "train"]:
            return list(Settings.model_fields)
        case ["tune", *inner]:
            return tune_keys(inner)
        case ["methods", int(i), *_]:
            return list(METHOD_BLOCKS[data["methods"][i]["name"]].model_fields)
        case ["evaluate"]:
            return list(Evaluate.model_fields)
        case ["evaluate", "attacks", int(i), *_]:
            kind = ATTACKS[data["evaluate"]["attacks"][i].get("name", PLAIN_ATTACK)]
            return [field.name for field in dataclasses.fields(kind)]
    blocks: dict[Any, Any] = {
        "data": DataConfig,
        "model": ModelConfig,
        "train": TrainConfig,
        "attack": Attack,
    }
    return [field.name for field in dataclasses.fields(blocks[path[0]])]
