"""`oat presets`, `oat methods` and `oat attacks`: what there is, with a line each."""

from collections.abc import Mapping

import studies


def presets() -> None:
    """List the studies that ship."""
    _print(studies.presets())


def methods() -> None:
    """List the methods that a study may train."""
    _print(studies.methods())


def attacks() -> None:
    """List the attacks that a study may evaluate with."""
    _print(studies.attacks())


def _print(lines: Mapping[str, str]) -> None:
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")
