"""What must hold between a method of a study and the study's network, batches and λ."""

from collections.abc import Iterable, Sequence

from oat.encodings import BY_VALUE
from oat.lambdas import SAME_LAM
from oat.method import Method, Oat
from oat.models import ModelConfig
from oat.widths import scaled


def check_method(
    method: Method, model: ModelConfig, batch_size: int, lams: Sequence[float], came: str
) -> None:
    """Refuse a method that cannot be trained or evaluated as its study says.

    Args:
        method: A method of the study.
        model: The study's network.
        batch_size: Rows of a training batch.
        lams: The λ of the evaluation.
        came: Where these come from, as a clause for an error; empty if the study names them.

    Raises:
        ValueError: The method cannot.
    """
    _check_lams(method, lams, came)
    asked = method.conditioning()
    for width in (asked.base_width, *asked.widths):
        _check_width(method, model, width)
    if isinstance(method, Oat) and method.dual_bn:
        check_rows(method, batch_size, f"`train.batch_size` {batch_size}")


def _check_width(method: Method, model: ModelConfig, width: float) -> None:
    """Refuse a width that leaves no whole number of channels."""
    if not model.own:
        scaled(model.first_width, width)
    elif width != 1:
        raise ValueError(
            f"{method.name} has the width {width:g}, and `model` '{model.name}' has no "
            "widths, as it is a network of your own; leave `oats` and `width_mults` out."
        )


def check_rows(method: Oat, size: int, batch: str) -> None:
    """Refuse batches of which one of two batch norms would see a single row.

    Args:
        method: OAT or OATS.
        size: Rows of a batch.
        batch: What such a batch is called.

    Raises:
        ValueError: One would.
    """
    zeros = method.sampler().num_zero_rows(size)
    for rows, where in ((zeros, "= 0"), (size - zeros, "≠ 0")):
        if rows == 1 and not method.batchwise:
            raise ValueError(
                f"{batch} leaves {method.name} 1 row with λ {where}, and a batch norm needs "
                "2; raise it, give another `zero_share`, or set `dual_bn: false`."
            )


def _check_lams(method: Method, lams: Sequence[float], came: str) -> None:
    """Refuse a λ of the evaluation that the method never trains."""
    conditioning = method.conditioning()
    known = conditioning.lambda_choices
    if not known:
        return
    for lam in lams:
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


def check_radii(radii: Iterable[float]) -> None:
    """Refuse radii that are alike but not equal: as two they would be compared with nothing."""
    known: dict[str, float] = {}
    for eps in radii:
        other = known.setdefault(f"{eps:.4g}", eps)
        if other != eps:
            raise ValueError(
                f"`evaluate.attacks` and `attack` have the radii {other!r} and {eps!r}, which "
                "are the same to four digits; write them alike (8 grey levels are 8/255)."
            )
