"""What a trial leaves each time it lives; imports nothing heavy, as every worker reads it."""

from pathlib import Path


def tell(place: Path, line: str) -> int:
    """Add a line to what trials leave behind; return how many there are."""
    with (place / "lives").open("a") as file:
        file.write(f"{line}\n")
    return len((place / "lives").read_text().splitlines())
