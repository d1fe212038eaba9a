"""Sentences on a console, as they stand: no markup, no colours of its own, no wrapping."""

from rich.console import Console


def say(console: Console, sentence: str) -> None:
    """Print a sentence that may hold names and brackets of the user's."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)
