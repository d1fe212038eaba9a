"""The methods by name: built from a config, and named for people."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NotRequired, TypedDict

from baselines import Checkpoint, Interpolate, Mix, PgdAt, Trades
from oat.method import Method, Oat, Oats
from oat.names import number_text
from oat.own_code import is_own
from oat.recipe import SHARED, TrainConfig
from studies.errors import StudyError
from studies.own_code import code_of, own_method

RESULTS_VERSION = 2
"""Part of every run key; raised by a commit that changes the numbers that a config leads to."""

METHODS: dict[str, type[Any]] = {
    "oat": Oat,
    "oats": Oats,
    "pgd_at": PgdAt,
    "trades": Trades,
    "mix": Mix,
    "interpolate": Interpolate,
    "checkpoint": Checkpoint,
}
RIVALS = ("mix", "interpolate")
"""Methods that train nothing but pair two dedicated models; α stands in the place of λ."""
CONDITIONAL = ("oat", "oats")
"""Methods with λ as an input: OAT, and with width OATS."""

ONCE = (*CONDITIONAL, *RIVALS)
"""Methods of which one model serves every λ."""

OUTSIDE = ("checkpoint",)
"""Networks that were trained elsewhere: shown beside the others, and in no verdict."""

VALUES = {"lam": "λ", "beta": "β"}
"""The trade-off value of a dedicated method, and its sign."""

VALUES_AND_WIDTH = (*VALUES, "width_mult")
"""Fields that place a dedicated model on the front; all others make another variant."""

EVALUATED_AT = {name: ("alphas",) for name in RIVALS}
"""Fields that say where a model is evaluated and nothing else: neither its weights nor its name."""


def is_dedicated(name: str) -> bool:
    """Tell whether a method retrains a model for each value; those of users do."""
    return name not in (*ONCE, *OUTSIDE)


def tuples(values: Mapping[str, object]) -> dict[str, Any]:
    """Return keyword arguments with lists as tuples, as JSON has lost them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


class Start(TypedDict):
    """What a training begins with instead of random weights.

    Attributes:
        source: Label of the model whose last weights it takes.
        run_key: Of the trial of that model.
        epochs: Of the training from there.
    """

    source: str
    run_key: str
    epochs: int


class WithMethod(TypedDict):
    """A trial's config, as far as it says which method that is.

    Attributes:
        method: ``name``, and the fields of that method; of one of the user's also ``code``.
        start: Not there where the training begins with random weights.
    """

    method: dict[str, Any]
    start: NotRequired[Start]


def method_class(name: str) -> type[Any]:
    """Return the class of a method by its name; one of the user's is imported.

    Raises:
        StudyError: There is none, or it is no method.
    """
    if name not in METHODS and is_own(name):
        METHODS[name] = own_method(name)
    return METHODS[name]


def method_of(config: WithMethod) -> Method:
    """Build the method of a trial's config.

    The file of a checkpoint need not be there: who takes it into a trial asks for it.

    Raises:
        StudyError: It is one of the user's, and its code is not there or is not the same.
    """
    values = tuples(config["method"])
    name, code = values.pop("name"), values.pop("code", None)
    try:
        method: Method = method_class(name)(**values)
    except ValueError as error:
        if name not in OUTSIDE:
            raise
        raise StudyError(f"{name}: {error}") from error
    if not isinstance(method, Checkpoint) and code_of(method) != code:
        raise StudyError(
            f"The code of the method '{name}' is not that of the trial ({code_of(method)} here, "
            f"{code} there); give every node the same file, or run the study anew."
        )
    return method


def variant(method: Method, begins: Sequence[str] = ()) -> str:
    """Name a method with what differs from its default, its trade-off value and width apart.

    Such as ``oat``, or ``oat encoding=dct dual_bn=False``: what is one line of a figure.

    Args:
        method: The method.
        begins: How its training begins, if not with random weights; see `begins_in_words`.
    """
    if isinstance(method, Checkpoint):
        return method.label
    odd = [
        f"{field.name}={_as_word(getattr(method, field.name))}"
        for field in fields(method)  # type: ignore[arg-type]
        if field.name not in (*VALUES_AND_WIDTH, *EVALUATED_AT.get(method.name, ()))
        and getattr(method, field.name) != field.default
    ]
    return " ".join([method.name, *odd, *begins])


def _as_word(value: object) -> str:
    """Write a value without blanks; labels of models as in ``pgd_at:λ=0+pgd_at:λ=1``."""
    if isinstance(value, tuple) and value and all(isinstance(one, str) for one in value):
        return "+".join(one.replace(" ", ":") for one in value)
    return str(value).replace(" ", "")


def variant_of(config: WithMethod) -> str:
    """Name the variant of a trial's config."""
    begins: tuple[str, ...] = ()
    if "start" in config:
        begins = begins_in_words(config["start"]["source"], config["start"]["epochs"])
    return variant(method_of(config), begins)


def begins_in_words(source: str, epochs: int) -> tuple[str, ...]:
    """Say from which model a training begins: ``start=pgd_at:λ=1 epochs=5``."""
    return f"start={source.replace(' ', ':')}", f"epochs={epochs}"


def describe(
    method: Method, settings: Mapping[str, object] | None = None, begins: Sequence[str] = ()
) -> str:
    """Name a method with its trade-off value and width, such as ``pgd_at λ=0.2 width=0.5``.

    Args:
        method: The method.
        settings: Training settings of its own, to be named as well: ``lr=0.2``.
        begins: How its training begins, if not with random weights.
    """
    values = [
        f"{sign}={number_text(getattr(method, k))}"
        for k, sign in VALUES.items()
        if hasattr(method, k)
    ]
    width = method.conditioning().base_width
    widths = [f"width={number_text(width)}"] if width != 1 else []
    return " ".join([variant(method, begins), *values, *widths, *in_words(settings or {})])


def in_words(settings: Mapping[str, object]) -> list[str]:
    """Write settings as words, such as ``lr=0.2``."""
    return [
        f"{key}={number_text(value) if isinstance(value, float) else value}".replace(" ", "")
        for key, value in settings.items()
    ]


def recipe(train: Mapping[str, object]) -> str:
    """Write the training settings that a model may have to itself, as far as they are not default.

    Such as ``lr=0.2 label_smoothing=0.1``: two models of one recipe differ in nothing of these.
    """
    odd = {
        field.name: tuples(train)[field.name]
        for field in fields(TrainConfig)
        if field.name not in SHARED
        and tuples(train).get(field.name, field.default) != field.default
    }
    return " ".join(f"{key}={value}".replace(" ", "") for key, value in odd.items())
