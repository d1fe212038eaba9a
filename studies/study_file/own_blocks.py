"""Entries of a list that name code of the user's instead of something of ours."""

import dataclasses
from collections.abc import Callable, Container, Mapping
from typing import Any

from pydantic import BaseModel, ValidatorFunctionWrapHandler, WrapValidator

from oat.own_code import is_own
from studies.errors import StudyError


def by_own_name(block_of: Callable[[str], type[BaseModel]]) -> WrapValidator:
    """Return a validator that checks an entry by the schema of what it names.

    Args:
        block_of: Returns the schema of a name of the user's.
    """

    def own_or_ours(value: Any, ours: ValidatorFunctionWrapHandler) -> Any:
        name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
        try:
            return block_of(str(name)).model_validate(value) if is_own(name) else ours(value)
        except StudyError as error:  # pydantic takes no other errors
            raise ValueError(str(error)) from error

    return WrapValidator(own_or_ours)


def check_fields(name: str, method: type[Any], reserved: Container[str]) -> None:
    """Refuse a method of the user's with a field that the study file takes for something else.

    Args:
        name: ``module:Class``.
        method: The class, a dataclass.
        reserved: Names that no field may have.

    Raises:
        StudyError: One has.
    """
    for field in dataclasses.fields(method):
        if field.name in reserved:
            raise StudyError(
                f"The method '{name}' may not have a field `{field.name}`, which means something "
                "else in a study file; give it another name."
            )
