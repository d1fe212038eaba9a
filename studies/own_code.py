"""What users bring to a study, by name: methods as classes; the digest of all their code."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypedDict

from baselines import Checkpoint
from oat.method import Method
from oat.models.config import ModelConfig
from oat.own_code import OwnCodeError, check_code, digest_of, imported, is_own
from studies.errors import StudyError

PARTS = ("conditioning", "losses", "fixed_shapes", "operating_points", "work")
"""Functions that a method must have: see `oat.method.Method`."""
VALUES = ("lam", "beta")
"""Fields of which a dedicated method must have one: its trade-off value."""

METHOD, NETWORK, ATTACK, DATA = "method", "network", "attack", "data"
"""What code of the user's is, in sentences."""
CODE = "code"
"""Key of a trial's config with the digest of code of the user's."""


def own_method(name: str) -> type[Any]:
    """Import a method, and name it as the study file does.

    Args:
        name: ``module:Class``.

    Raises:
        StudyError: There is no such module or class, its import fails, or it is no method: one
            sentence that says what is missing. Or no study names it.
    """
    try:
        found = imported(name, METHOD)
    except OwnCodeError as error:
        raise StudyError(str(error)) from error
    check_parts(name, found)
    check_value(name, found)
    # a class of the same fields, so that its name is the one that everybody knows it by
    return type(found.__name__, (found,), {"name": name, "__doc__": found.__doc__})


def check_parts(name: str, found: Any) -> None:
    """Check that what a name is of is a method, as far as its class tells.

    Raises:
        StudyError: It is none: one sentence that says what is missing.
    """
    odd = []
    if not isinstance(found, type) or not is_dataclass(found):
        odd.append("must be a frozen dataclass")
    elif not found.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        odd.append("must be frozen: `@dataclass(frozen=True)`")
    missing = [part for part in PARTS if not callable(getattr(found, part, None))]
    if isinstance(found, type) and missing:
        odd.append(
            f"lacks {', '.join(f'`{part}`' for part in missing)}; inherit from "
            "`oat.dedicated.Dedicated`, which has all but `losses`"
        )
    if odd:
        raise StudyError(f"The method '{name}' {' and '.join(odd)}.")


def check_value(name: str, found: Any) -> None:
    """Check that a method has a trade-off value.

    Raises:
        StudyError: It has none.
    """
    if not any(field.name in VALUES for field in fields(found)):
        raise StudyError(
            f"The method '{name}' needs a field `lam` or `beta`: the trade-off value that places "
            "its models on the front."
        )


class WithModel(TypedDict):
    """A trial's config, as far as it says which network that is.

    Attributes:
        model: Fields of `oat.models.ModelConfig`; of one of the user's also `CODE`.
    """

    model: dict[str, Any]


def model_of(config: WithModel) -> ModelConfig:
    """Return the network of a trial's config.

    Raises:
        StudyError: It is one of the user's, and its code is not there or is not the same.
    """
    values = dict(config["model"])
    code = values.pop(CODE, None)
    model = ModelConfig(**values)
    if model.own:
        try:
            check_code(model.name, NETWORK, str(code))
        except OwnCodeError as error:
            raise StudyError(str(error)) from error
    return model


def codes(named: Mapping[str, str]) -> dict[str, str]:
    """Return the digest of all code of the user's here, or why it is not there.

    Args:
        named: What each name is: `METHOD`, `NETWORK`, `ATTACK` or `DATA`.
    """
    found = {}
    for name, kind in named.items():
        try:
            if kind == METHOD:
                own_method(name)
            found[name] = digest_of(name, kind)
        except (OwnCodeError, StudyError) as error:
            found[name] = str(error)
    return found


def code_of(method: Method) -> str | None:
    """Return 12 hex digits of the file that defines a method of the user's; None of one of ours.

    Of a checkpoint those of its weights.

    Raises:
        StudyError: The file has changed since it was imported, so that what runs here is not what
            it says.
    """
    if isinstance(method, Checkpoint):
        return method.digest() or None
    return code_named(method.name, METHOD)


def code_named(name: str, kind: str) -> str | None:
    """Return 12 hex digits of the file that defines what a name is of; None of what is ours.

    Raises:
        StudyError: As `code_of`.
    """
    if not is_own(name):
        return None
    try:
        return digest_of(name, kind)
    except OwnCodeError as error:
        raise StudyError(str(error)) from error
