"""The entries under `methods` of a study file: what each trains, and what it asks of a node.

The keys of an entry are the fields of the dataclass that it configures, in `oat` and `baselines`;
nothing is said twice. A list where a dedicated method takes one value makes one trial of each.
"""

import dataclasses
import itertools
from functools import cached_property, reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from baselines import Checkpoint, Pairing, Untrained
from oat.method import Method
from oat.own_code import allow, is_own
from oat.recipe import SHARED, TrainConfig
from studies.known_methods import METHODS, begins_in_words, describe, method_class
from studies.study_file.own_blocks import by_own_name, check_fields
from studies.study_file.tune_block import STRICT, SWEPT

SMALLEST_SHARE = 1e-4
"""Smallest share of a GPU; Ray counts in these."""
AUTO: Literal["auto"] = "auto"
"""``resources.gpu`` that is to be measured; see `studies.measuring.packing`."""


FileBlock = dict[str, Any]
"""A block of a study file, or the whole of it, as plain values: `Study` says which keys it has."""


class Resources(BaseModel):
    """What one trial asks of a node.

    Attributes:
        cpu: Cores; also the number of threads of its process.
        gpu: GPUs: 0, a share such as 1/3 or 0.3, a whole number, or ``auto``: the share is chosen
            before the run by a measurement of how many trials one GPU serves best.
        device: ``auto`` computes on the GPU if one is asked for; ``cpu`` does not, to rehearse on
            a cluster whose GPUs are made up how trials are packed.
    """

    model_config = STRICT
    cpu: int = Field(1, ge=1)
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = 0.0
    device: Literal["auto", "cpu"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> "Resources":
        shared = self.gpu == AUTO or SMALLEST_SHARE <= self.gpu <= 1
        if not shared and self.share != int(self.share):
            raise ValueError(
                "`gpu` must be 0, a share of a GPU from 0.0001 to 1, a whole number or 'auto', "
                f"got {self.gpu:g}; a trial that needs more than one GPU takes whole ones."
            )
        return self

    @property
    def share(self) -> float:
        """GPUs to reckon with: one as long as the share is not chosen."""
        return gpus(self.gpu)


def gpus(gpu: float | Literal["auto"]) -> float:
    """Return the GPUs to reckon with for a value of ``resources.gpu``: one for ``auto``."""
    return 1.0 if gpu == AUTO else gpu


class OwnSettings(BaseModel):
    """Training settings of one entry under ``methods``; its fields are made from `TrainConfig`.

    Only those that are given count. What all models of a study share (`oat.recipe.SHARED`) cannot
    be given, so that they can be compared.
    """

    model_config = STRICT

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in handler(self).items() if k in self.model_fields_set}

    def given(self) -> FileBlock:
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
        given = {"train", "start"}
        return {k: v for k, v in handler(self).items() if k not in given or v is not None}

    @model_validator(mode="after")
    def _expands(self) -> "MethodBlock":
        for key in SWEPT.get(self.name, {}).values():
            if getattr(self, key) == ():
                raise ValueError(f"`{key}` must name at least one value, got an empty list.")
        for method in self.expand():  # the methods check their values themselves
            if isinstance(method, Checkpoint):
                method.check_file()
        if self.train is not None and not self.trains:
            raise ValueError(f"`train` must be left out of {self.name}, which trains nothing.")
        return self

    @property
    def trains(self) -> bool:
        """Whether the method trains a network."""
        return not issubclass(method_class(self.name), Untrained)

    def entry(self) -> FileBlock:
        """Return the entry as a study file may say it, without what is at its default."""
        entry: FileBlock = self.model_dump(mode="json", exclude_defaults=True)
        if self.train is not None:  # what is given counts, also where it is `TrainConfig`'s default
            entry["train"] = self.train.model_dump(mode="json")
        return entry

    def expand(self) -> list[Method]:
        """Return the methods that the block stands for, one for each value of its lists."""
        swept = SWEPT.get(self.name, {})
        fields = [field.name for field in dataclasses.fields(method_class(self.name))]
        values = [getattr(self, swept.get(field, field)) for field in fields]
        lists = [
            value if field in swept and isinstance(value, tuple) else (value,)
            for field, value in zip(fields, values, strict=True)
        ]
        # the last field varies slowest: all values of λ at one width, then at the next
        return [
            method_class(self.name)(**dict(zip(reversed(fields), some, strict=True)))
            for some in itertools.product(*reversed(lists))
        ]


class StartBlock(BaseModel):
    """Another retrained model of the study, from whose last weights a training begins.

    Attributes:
        from: Its label, as `oat plan` prints it: `pgd_at λ=1`. The model of the same seed is meant.
        epochs: Passes over the training images from there, instead of the study's.
    """

    model_config = STRICT

    @property
    def source(self) -> str:
        """Label of the model that it begins from."""
        return str(getattr(self, "from"))

    @property
    def length(self) -> int:
        """Epochs of the training from there."""
        return int(getattr(self, "epochs"))  # noqa: B009 -- the class that is made below has it


# `from` is a word of Python, so that no class statement can have the field
_START: dict[str, Any] = {"from": (str, ...), "epochs": (int, Field(ge=1))}
if TYPE_CHECKING:
    Start = StartBlock
else:
    Start = create_model("Start", __base__=StartBlock, **_START)


class DedicatedBlock(MethodBlock):
    """One entry of a dedicated method.

    Attributes:
        start: Begin from the last weights of another retrained model of the study, and train for a
            number of epochs of its own: `{from: pgd_at λ=1, epochs: 5}`.
    """

    start: Start | None = None


RESERVED = {"code", *DedicatedBlock.model_fields, *dir(DedicatedBlock)}
"""Names that no field of a method of the user's may have."""


def _method_block(name: str) -> type[MethodBlock]:
    """Make the schema of a method's block from the fields of its config."""
    kind_of_method = method_class(name)
    hints = get_type_hints(kind_of_method)
    if is_own(name):
        check_fields(name, kind_of_method, RESERVED)
    keys: dict[str, Any] = {"name": (Literal[name], ...)}
    many: Any = tuple
    for field in dataclasses.fields(kind_of_method):
        kind, key = hints[field.name], SWEPT.get(name, {}).get(field.name)
        default = ... if field.default is dataclasses.MISSING else field.default
        keys[key or field.name] = (kind | many[kind, ...] if key else kind, default)
    base = DedicatedBlock if name in SWEPT else MethodBlock
    return create_model(f"{kind_of_method.__name__}Block", __base__=base, **keys)


METHOD_BLOCKS = {name: _method_block(name) for name in METHODS}


def block_of(name: str) -> type[MethodBlock]:
    """Return the schema of a method's entry; that of one of the user's is made here.

    Raises:
        StudyError: There is none, or it is no method.
    """
    if name not in METHOD_BLOCKS and is_own(name):
        allow([name])
        fields = {field.name for field in dataclasses.fields(method_class(name))}
        lists = {"lam": "lam", "beta": "beta", "width_mult": "width_mults"}
        SWEPT[name] = {field: key for field, key in lists.items() if field in fields}
        METHOD_BLOCKS[name] = _method_block(name)
    return METHOD_BLOCKS[name]


if TYPE_CHECKING:
    AnyMethodBlock = MethodBlock
else:
    AnyMethodBlock = Annotated[
        Annotated[reduce(or_, METHOD_BLOCKS.values()), Discriminator("name")],
        by_own_name(block_of),
        SerializeAsAny(),
    ]


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one trial of each seed trains.

    Attributes:
        method: The method.
        train: How, settings of its own included.
        settings: Those settings.
        need: What its trials ask of a node.
        start: The model that it begins from; None where it begins with random weights.
    """

    method: Method
    train: TrainConfig
    settings: FileBlock
    need: Resources
    start: StartBlock | None = None

    @cached_property
    def label(self) -> str:
        """The method with its values and settings, for people."""
        start = self.start
        begins = () if start is None else begins_in_words(start.source, start.length)
        return describe(self.method, self.settings, begins)

    @property
    def label_from_scratch(self) -> str:
        """What the label would be without a start."""
        return describe(self.method, self.settings)

    def sources(self) -> tuple[str, ...]:
        """Return the labels of the models whose weights its trials need."""
        if isinstance(self.method, Pairing):
            return self.method.of
        return () if self.start is None else (self.start.source,)
