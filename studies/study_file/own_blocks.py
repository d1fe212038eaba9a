"""Entries of a list that name code of the user's instead of something of ours."""

from collections.abc import Callable, Mapping
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
