"""The block `evaluate` of a study file: what the finished models are judged by."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, field_validator, model_validator

from oat.adversaries import EvaluationAttack
from oat.lambdas import check_choices
from oat.recipe import RULES, CheckpointRule
from studies.naming import radius_text
from studies.study_file.attack_blocks import ATTACK_BLOCKS, AnyAttackBlock
from studies.study_file.tune_block import STRICT

PLAIN_ATTACK = "pgd"
"""What an attack of the evaluation is if it has no name."""


class Evaluate(BaseModel):
    """How the finished models are evaluated.

    Attributes:
        lams: λ to evaluate conditional networks at; None is the union of their own choices.
        attacks: Attacks, each evaluated by itself. At several radii the report has RA at each.
        checkpoints: Which weights of each training; see `oat.recipe.CheckpointRule`. `oat run`
            reports the first.
        images: Use only the first so many test images; None is all of them. An attack may have
            fewer, of its own.
        held_out_images: Images held out of training, at most, on which a comparison chooses the λ
            and width of OAT that it sets beside a retrained model; 0 evaluates none.
        masking_images: Test images of the checks for masked gradients; 0 makes none.
        batch_size: Images at a time.
        tf32: Whether a GPU may round the inputs of products to TF32 here. Faster; what it does to
            robust accuracy was not measured.
    """

    model_config = STRICT
    lams: tuple[float, ...] | None = None
    attacks: tuple[AnyAttackBlock, ...] = (ATTACK_BLOCKS[PLAIN_ATTACK](name=PLAIN_ATTACK),)
    checkpoints: tuple[CheckpointRule, ...] = ("last",)
    images: int | None = Field(None, ge=1)
    held_out_images: int = Field(1000, ge=0)
    masking_images: int = Field(100, ge=0)
    batch_size: int = Field(500, ge=1)
    tf32: bool = False

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
        attacks = self.each_attack()
        names = Counter((attack.label, attack.eps) for attack in attacks)
        for (label, eps), count in names.items():
            if count > 1:
                where = "" if eps is None else f" at `eps` {radius_text(eps)}"
                alike = len({a for a in attacks if (a.label, a.eps) == (label, eps)}) == 1
                odd = "" if alike else ", which differ in `images` alone"
                raise ValueError(
                    f"`attacks` has {count} attacks named '{label}'{where}{odd}; keep one."
                )
        if not self.checkpoints or len(set(self.checkpoints)) < len(self.checkpoints):
            raise ValueError(
                f"`checkpoints` must name {', '.join(RULES)} once each at most and at least one, "
                f"got {list(self.checkpoints)}."
            )
        if self.lams is not None:
            check_choices(self.lams, "lams")
        return self

    def each_attack(self) -> list[EvaluationAttack]:
        """Return the attacks, lists of radii expanded, in the order of the file."""
        return [attack for block in self.attacks for attack in block.expand()]
