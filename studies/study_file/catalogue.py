"""What a study may hold, by name: the methods and the attacks that there are."""

from oat.adversaries import ATTACKS
from studies.study_file.keys import summary
from studies.study_file.method_blocks import METHOD_BLOCKS


def methods() -> dict[str, str]:
    """Return the methods that there are, and a line about each."""
    return {name: summary(block).replace("*", "") for name, block in METHOD_BLOCKS.items()}


def attacks() -> dict[str, str]:
    """Return the attacks that a study may judge by, and a line about each."""
    return {name: summary(block).replace("*", "") for name, block in ATTACKS.items()}
