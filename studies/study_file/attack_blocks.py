"""The entries under `evaluate.attacks` of a study file: an attack, at one radius or at several.

The keys of an entry are the fields of the dataclass that it configures, in `oat.adversaries`;
nothing is said twice. A list of radii makes one attack of each.
"""

import dataclasses
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BaseModel, Discriminator, SerializeAsAny, create_model, model_validator

from oat.adversaries import ATTACKS, EvaluationAttack
from oat.own_attack import attack_class
from oat.own_code import allow, is_own
from studies.study_file.own_blocks import by_own_name
from studies.study_file.tune_block import STRICT

RADIUS = "eps"
"""The key whose list makes one attack of each value."""


class AttackBlock(BaseModel):
    """One entry under ``attacks``; its subclasses are made from the attacks' own fields."""

    model_config = STRICT
    name: str

    @model_validator(mode="after")
    def _check(self) -> "AttackBlock":
        attacks = self.expand()  # the attacks check their values themselves
        if not attacks:
            raise ValueError("`eps` must name at least one radius, got an empty list.")
        if any(attack.eps == 0 for attack in attacks):
            raise ValueError(
                "`eps` must be above 0, got 0: there RA is SA, which every point has; leave it out."
            )
        return self

    def expand(self) -> list[EvaluationAttack]:
        """Return the attacks that the block stands for, one for each of its radii."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        radii = values.pop(RADIUS)
        kind: Any = attack_class(values["name"])
        return [kind(eps=eps, **values) for eps in (radii if isinstance(radii, tuple) else [radii])]


CODE = "code"
"""Field of an attack of the user's that follows from its file, and stands in no study file."""


def _attack_block(kind: type[EvaluationAttack]) -> type[AttackBlock]:
    """Make the schema of an attack's block from the fields of its config."""
    hints = get_type_hints(kind)
    keys: dict[str, Any] = {
        field.name: (
            hints[field.name] | tuple[float, ...] if field.name == RADIUS else hints[field.name],
            field.default,
        )
        for field in dataclasses.fields(kind)
        if field.name != CODE
    }
    return create_model(f"{kind.__name__}Block", __base__=AttackBlock, **keys)


ATTACK_BLOCKS = {name: _attack_block(kind) for name, kind in ATTACKS.items()}


def attack_block_of(name: str) -> type[AttackBlock]:
    """Return the schema of an attack's entry; that of one of the user's is made here.

    Raises:
        OwnCodeError: There is no such function, or its arguments do not fit.
    """
    if name not in ATTACK_BLOCKS and is_own(name):
        allow([name])
        ATTACK_BLOCKS[name] = _attack_block(attack_class(name))
    return ATTACK_BLOCKS[name]


if TYPE_CHECKING:
    AnyAttackBlock = AttackBlock
else:
    AnyAttackBlock = Annotated[
        Annotated[reduce(or_, ATTACK_BLOCKS.values()), Discriminator("name")],
        by_own_name(attack_block_of),
        SerializeAsAny(),
    ]
