"""The part of a condition that MLflow's own filter can decide, in its language."""

import ast
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

from studies.results.masking import CHECK_COLUMNS
from studies.results.points import COLUMNS, TAGS

OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}

PLAIN = re.compile(r"[A-Za-z0-9_ .:=@/+-]{1,200}")
"""Texts that cannot be anything but themselves in MLflow's filter."""

EXACT = 2**53
"""MLflow compares as floats: larger whole numbers have no float of their own."""

MOST_CLAUSES = 20
"""Each is a join of tables, of which SQLite takes 64."""

PRICE = ("train_units", "train_gradients", "train_device_seconds")
"""Columns that networks from outside do not have."""
ALWAYS_THERE = COLUMNS.keys() - {"lam", "beta", "step_size", *PRICE, *CHECK_COLUMNS}
"""Columns without missing values, so ``!=`` means the same in MLflow and in pandas."""


def clauses_of(node: ast.expr, columns: Mapping[str, str]) -> Iterator[str]:
    """Yield the filters of MLflow that a condition implies."""
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            for value in values:
                yield from clauses_of(value, columns)
        case ast.Compare():
            terms = [node.left, *node.comparators]
            for left, op, right in zip(terms, node.ops, terms[1:], strict=False):
                sign = OPERATORS.get(type(op))
                if isinstance(right, ast.Name):
                    left, right = right, left
                    sign = FLIPPED.get(sign or "", sign)
                if sign is not None and isinstance(left, ast.Name):
                    yield from _clause(left.id, sign, constant(right), columns)


def _clause(
    column: str, sign: str, value: str | float | None, columns: Mapping[str, str]
) -> Iterator[str]:
    """Yield the filter that says of a column what pandas would, if there is one."""
    if value is None or (sign == "!=" and column not in ALWAYS_THERE):
        return
    if isinstance(value, str):
        if sign in {"=", "!="} and PLAIN.fullmatch(value):
            place = f"tags.`{TAGS[column]}`" if column in TAGS else f"params.`{column}`"
            yield f"{place} {sign} '{value}'"
    elif abs(value) <= EXACT and columns[column] != "str":
        # MLflow's parser does not know an exponent's plus sign
        yield f"metrics.`{column}` {sign} {Decimal(repr(value)):f}"


def constant(node: ast.expr) -> str | float | None:
    """Return the value of a constant, None for anything else and for what is no number."""
    match node:
        case ast.Constant(value=str() | int() | float() as value) if not isinstance(value, bool):
            return None if isinstance(value, float) and math.isnan(value) else value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = constant(operand)
            if isinstance(number, int | float):
                return -number if isinstance(sign, ast.USub) else number
    return None
