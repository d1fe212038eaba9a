"""How large an expression over columns of points can be: most columns are fractions."""

import ast
import math

from studies.results.masking import CHECK_COLUMNS

RADII = {"eps", "step_size"}
"""Columns in units of pixel values, which lie from 0 to 1."""

FRACTIONS = {"lam", "width_mult", *RADII, *CHECK_COLUMNS} - {"check_images"}
"""Columns from 0 to 1, or from -1 where they are differences; SA and RA as well, by their names."""

ACCURACIES = ("sa", "ra")


def names_in(node: ast.expr) -> list[str]:
    """Return the names in an expression, in order."""
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and part.id != "abs"]


def largest(node: ast.expr) -> float:
    """Return the largest absolute value that an expression can have; infinite if not known."""
    match node:
        case ast.Name(id=name) if name in FRACTIONS or name.partition("_")[0] in ACCURACIES:
            return 1.0
        case ast.Constant(value=int() | float() as value):
            return abs(value)
        case ast.UnaryOp(operand=inner) | ast.Call(args=[inner]):
            return largest(inner)
        case ast.BinOp(op=ast.Add() | ast.Sub(), left=left, right=right):
            return largest(left) + largest(right)
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            return largest(left) * largest(right)
        case ast.BinOp(op=ast.Div(), left=left, right=right) if not names_in(right):
            by = largest(right)
            return largest(left) / by if by else math.inf
    return math.inf
