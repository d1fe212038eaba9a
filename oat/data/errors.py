"""What is wrong with data, for the user."""


class DataError(Exception):
    """The data are not there, or not what was asked for."""

    def __init__(self, said: str) -> None:
        super().__init__(printable(said))


def printable(text: str) -> str:
    """Return a text that any console takes: names of files need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
