"""Conditions over the columns of points or trials, as `oat runs --where` takes them.

MLflow's filters know AND, comparisons with a constant, and no missing value. So the whole
condition is applied in pandas, and what MLflow can say of it only narrows what comes back before.
Whatever a condition may hold judges each row by itself, so narrowing never changes the answer; and
it is written anew from the tree that was checked, so pandas evaluates nothing else.
"""

import ast
import io
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from oat.names import unknown
from studies.errors import QueryError
from studies.tracking.filters import MOST_CLAUSES, OPERATORS, clauses_of, constant
from studies.tracking.reach import RADII, largest, names_in

WHERE = "--where"
EXAMPLE = "method == 'oat' and ra > 0.4"

WORDS = {"&": "and", "|": "or"}
"""pandas' own: a mark binds as loosely as its word, so ``a > 1 & b > 2`` is what it looks like."""

BETWEEN_WORDS = {
    tokenize.NEWLINE,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
}

MISSING = {"isna", "notna"}
TEXT_TESTS = {"contains", "startswith", "endswith"}

Kind = Literal["a number", "text", "a condition"]


@dataclass(frozen=True)
class Condition:
    """A condition that was checked.

    Attributes:
        expression: The whole of it, for pandas.
        clauses: Filters of MLflow, each of which holds wherever the condition does.
        option: Who was told it, for errors.
    """

    expression: str
    clauses: tuple[str, ...]
    option: str = WHERE

    def apply(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a frame for which the condition holds.

        Raises:
            QueryError: pandas refuses it, such as for a faulty regular expression.
        """
        try:
            found = table.query(self.expression, engine="python")
        except Exception as error:  # pandas raises whatever its parts meet
            said = " ".join(str(error).split())
            words = _Words(self.expression, self.option)
            raise words.refuse(f"cannot be applied ({said})") from error
        assert isinstance(found, pd.DataFrame)
        return found.reset_index(drop=True)


def parse_condition(
    text: str, columns: Mapping[str, str], option: str = WHERE, example: str = EXAMPLE
) -> Condition:
    """Read and check a condition.

    It may hold ``and``, ``or``, ``not``, parentheses, comparisons (also ``0.1 <= lam <= 0.3``),
    ``in`` and ``not in`` with a list of values, ``+ - * /``, ``abs(x)``, ``x.isna()``,
    ``x.notna()``, and ``x.str.contains('t')``, ``startswith`` and ``endswith``.

    Args:
        text: The condition.
        columns: Types of the columns, as in `studies.results.points.COLUMNS`.
        option: Who is told it, for errors.
        example: Of a condition over these columns, likewise.

    Raises:
        QueryError: It is not a condition over these columns; one sentence says why.
    """
    words = _Words(text, option)
    try:
        tree = _parse(words, example)
        kind = _Check(words, columns).kind(tree)
        expression = ast.unparse(tree)
    except (RecursionError, MemoryError) as error:
        raise words.refuse("is nested too deeply") from error
    if kind != "a condition":
        raise words.refuse(f'must be a condition such as "{example}", not {kind}')
    clauses = list(dict.fromkeys(clauses_of(tree, columns)))
    return Condition(expression, tuple(clauses[:MOST_CLAUSES]), option)


class _Words(NamedTuple):
    """A condition as it came, and the option that it came by."""

    text: str
    option: str

    def refuse(self, why: str) -> QueryError:
        return QueryError(f'`{self.option}` {why}, got "{" ".join(self.text.split())}".')


def _parse(said: _Words, example: str) -> ast.expr:
    """Read a condition as Python reads an expression, with ``&`` and ``|`` as words."""
    text = said.text
    if not text.strip():
        raise said.refuse(f'must be a condition such as "{example}"')
    if "`" in text:
        raise said.refuse("needs no backticks, as no column has a space in its name")
    marks: set[str] = set()
    try:
        words = []
        for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
            if token.type == tokenize.OP:
                marks.add(token.string)
            if token.type not in BETWEEN_WORDS:
                words.append(WORDS.get(token.string, token.string))
        if "@" in marks:
            raise said.refuse("must spell its values out, as there are no variables for `@`")
        return ast.parse(" ".join(words), mode="eval").body
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        if "=" in marks:
            raise said.refuse("must compare with `==`, not with `=`") from error
        why = f'must be a condition such as "{example}" (this cannot be read: {error.args[0]})'
        raise said.refuse(why) from error


class _Check:
    """What each part of a condition stands for; everything that is not listed is refused."""

    def __init__(self, words: _Words, columns: Mapping[str, str]) -> None:
        self.option = words.option
        self.refuse = words.refuse
        self.columns = columns

    def kind(self, node: ast.expr) -> Kind:
        """Return what an expression stands for, after checking all of it."""
        match node:
            case ast.BoolOp(values=values):
                for value in values:
                    self.expect(value, "a condition")
                return "a condition"
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return self.expect(operand, "a condition")
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return self.expect(operand, "a number")
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
                self.expect(node.left, "a number")
                return self.expect(node.right, "a number")
            case ast.Compare():
                return self.comparison(node)
            case ast.Name(id=name):
                return self.column(name)
            case ast.Constant(value=str()):
                return "text"
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return "a number"
            case ast.Call():
                return self.call(node)
        hint = "; what is missing is found by `x.isna()`" if "None" in ast.unparse(node) else ""
        raise self.refuse(
            f"knows columns, numbers, 'text' and comparisons, not `{ast.unparse(node)}`{hint}"
        )

    def expect(self, node: ast.expr, expected: Kind) -> Kind:
        kind = self.kind(node)
        if kind != expected:
            raise self.refuse(f"needs {expected} where `{ast.unparse(node)}` is {kind}")
        return kind

    def column(self, name: str) -> Kind:
        if name not in self.columns:
            raise QueryError(f"`{self.option}`: {unknown('column', name, self.columns)}")
        return "text" if self.columns[name] == "str" else "a number"

    def comparison(self, node: ast.Compare) -> Kind:
        """Check a comparison, pair by pair where it is a chain."""
        terms = [node.left, *node.comparators]
        for left, op, right in zip(terms, node.ops, terms[1:], strict=False):
            if isinstance(op, ast.In | ast.NotIn):
                self.membership(left, right)
            elif type(op) in OPERATORS:
                self.pair(left, right)
            else:
                raise self.refuse("compares with `==`, not with `is`; a missing x is `x.isna()`")
        return "a condition"

    def pair(self, left: ast.expr, right: ast.expr) -> None:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, ast.List | ast.Tuple):
                raise self.refuse(f"needs `in` before the list `{ast.unparse(one)}`")
            if (
                isinstance(one, ast.Name)
                and isinstance(other, ast.Name)
                and one.id not in self.columns
                and self.columns.get(other.id) == "str"
            ):
                raise self.refuse(f"must have text in quotes (`{other.id} == '{one.id}'`)")
        kinds = self.kind(left), self.kind(right)
        if kinds == ("a number", "a number"):
            self.within_reach(left, right)
        if "a condition" in kinds or kinds[0] != kinds[1]:
            said = f"`{ast.unparse(left)}`, {kinds[0]}, with `{ast.unparse(right)}`"
            raise self.refuse(f"cannot compare {said}, {kinds[1]}")
        self.about_a_column(left, right)

    def membership(self, left: ast.expr, right: ast.expr) -> None:
        kind = self.kind(left)
        if not isinstance(right, ast.List | ast.Tuple):
            raise self.refuse(f"needs a list of values after `in`, not `{ast.unparse(right)}`")
        for value in right.elts:
            if constant(value) is None:
                raise self.refuse(f"needs a list of values after `in`, not `{ast.unparse(right)}`")
            self.expect(value, kind)
            if kind == "a number":
                self.within_reach(left, value)
        self.about_a_column(left)

    def within_reach(self, *terms: ast.expr) -> None:
        """Refuse to compare a fraction with a number that it never reaches, such as a percent."""
        for one, other in (terms, terms[::-1]):
            columns = names_in(one)
            if not columns or names_in(other) or largest(other) <= largest(one):
                continue
            radii = [name for name in columns if name in RADII]
            hint = "8/255 for a radius of 8" if radii else "0.5 for 50 %"
            raise self.refuse(
                f"compares `{ast.unparse(one)}` with `{ast.unparse(other)}`, which it never "
                f"reaches, as `{(radii or columns)[0]}` is a fraction from 0 to 1 (write {hint})"
            )

    def about_a_column(self, *terms: ast.expr) -> None:
        if not any(isinstance(part, ast.Name) for term in terms for part in ast.walk(term)):
            said = " and ".join(f"`{ast.unparse(term)}`" for term in terms)
            raise self.refuse(f"must be about columns, and there is none in {said}")

    def call(self, node: ast.Call) -> Kind:
        """Check a call: these few, each of which looks at one row alone."""
        match node:
            case ast.Call(func=ast.Name(id="abs"), args=[inner], keywords=[]):
                self.about_a_column(inner)
                return self.expect(inner, "a number")
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr=test), args=[], keywords=[]
            ) if test in MISSING:
                self.column(name)
                return "a condition"
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Attribute(value=ast.Name() as column, attr="str"), attr=test
                ),
                args=[ast.Constant(value=str())],
                keywords=[],
            ) if test in TEXT_TESTS:
                self.expect(column, "text")
                return "a condition"
        raise self.refuse(
            "knows `abs(x)`, `x.isna()`, `x.notna()` and `x.str.contains('text')`, `startswith`, "
            f"`endswith` of a column x, not `{ast.unparse(node)}`"
        )
