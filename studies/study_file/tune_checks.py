"""Check a search space against the methods and the settings of the study."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from oat.names import unknown
from oat.recipe import SHARED, TrainConfig
from studies.known_methods import METHODS
from studies.study_file.tune_block import TRAIN, Dimension, as_text, number_type, swept_key


def check_space(
    space: Mapping[str, Mapping[str, Dimension]],
    blocks: Sequence[Any],
    train: TrainConfig,
) -> None:
    """Check a search space against the methods and the settings of the study.

    What is searched for a method that the study lacks is left alone; `check_searched` asks for it.

    Args:
        space: By method or `TRAIN`, then by option.
        blocks: The entries under ``methods``, as `studies.study_file.method_blocks.MethodBlock`.
        train: The settings of the study.

    Raises:
        ValueError: Nobody knows a method, a method does not have what is searched, or not such
            values, or the values of the study itself are not among them.
    """
    for group, dimensions in space.items():
        if group not in (TRAIN, *METHODS):
            raise ValueError("`tune.space`: " + unknown("method", group, (TRAIN, *METHODS)))
        for block in blocks:
            if group == block.name or (group == TRAIN and block.trains):
                for key, dimension in dimensions.items():
                    _check_dimension(group, key, dimension, block, train)


def check_same_lams(space: Mapping[str, Mapping[str, Dimension]], methods: Sequence[str]) -> None:
    """Refuse to evaluate candidates at different λ: of more points, a front has more area.

    Args:
        space: See `check_space`; the study names no λ to evaluate at.
        methods: The names of the study's methods.

    Raises:
        ValueError: The λ set of a method is searched.
    """
    for name in dict.fromkeys(methods):
        if "lambda_choices" in space.get(name, {}):
            raise ValueError(
                f"`tune.space.{name}.lambda_choices` needs `evaluate.lams`, so that all "
                "candidates are judged at the same λ."
            )


def check_searched(space: Mapping[str, Mapping[str, Dimension]], methods: Sequence[str]) -> None:
    """Check that the study has each method for which something is searched.

    Raises:
        ValueError: It lacks one.
    """
    names = [TRAIN, *dict.fromkeys(methods)]
    for group in space:
        if group not in names:
            raise ValueError(
                f"`tune.space.{group}`: the study has no method of this name; take it out of the "
                f"space, which may hold {', '.join(names)}, or add the method."
            )


def _check_dimension(
    group: str, key: str, dimension: Dimension, block: Any, train: TrainConfig
) -> None:
    """Check one dimension for one entry."""
    where = f"tune.space.{group}.{key}"
    method = block.expand()[0]
    config: Any = train if group == TRAIN else method
    options = [field.name for field in dataclasses.fields(config)]
    if group == TRAIN and key in SHARED:
        raise ValueError(
            f"`{where}` cannot be searched: all models of a study share `train.{key}`, so that "
            "they can be compared."
        )
    if key not in options:
        owner = "training setting" if group == TRAIN else f"option of {block.name}"
        known = [option for option in options if group != TRAIN or option not in SHARED]
        raise ValueError(f"`{where}`: " + unknown(owner, key, known))
    if dimension.choices is None and number_type(config, key) is None:
        raise ValueError(f"`{where}` is no number and needs `choices`.")
    own = {} if block.train is None else block.train.given()
    for value in dimension.ends():
        if group == TRAIN:
            candidate = {"train": {**own, key: value}}
        else:
            candidate = {swept_key(block, key): value}
        try:
            checked = type(block).model_validate({**block.model_dump(), **candidate})
            if group == TRAIN:
                dataclasses.replace(train, **checked.train.given())
            _check_plain(
                value, getattr(checked.train if group == TRAIN else checked, swept_key(block, key))
            )
        except ValueError as error:  # pydantic's is one
            raise ValueError(f"`{where}` may not be {value!r}: {_first_fault(error)}") from error
    starts = (
        [own.get(key, getattr(train, key))]
        if group == TRAIN
        else [getattr(other, key) for other in block.expand()]
    )
    for start in starts:
        if not dimension.holds(start):
            shown = list(start) if isinstance(start, tuple) else start
            raise ValueError(
                f"`{where}` must hold the study's own value {shown!r}: tuning starts from the "
                "study as it is, so that what it gains is known."
            )


def _check_plain(value: Any, taken: Any) -> None:
    """Refuse text for what it stands for: a search compares values as they are written.

    Raises:
        ValueError: It is another value than the one that a method would have.
    """
    if as_text(value) != as_text(taken):
        raise ValueError(f"it would be taken for {json.dumps(taken)}; write that.")


def _first_fault(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors()[0]
    said = fault.get("ctx", {}).get("error")
    return str(said) if said is not None else f"{fault['msg']}."
