"""What a storage raises, as one sentence with its cure."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from studies.errors import StorageError
from studies.storage.addresses import without_credentials

DENIED = "ACCESS_DENIED"
"""How pyarrow calls an answer of 403."""

REFUSED = (DENIED, "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN")
GOOGLE = "google::cloud::Status("
FULL = (errno.ENOSPC, errno.EDQUOT)
CURE = (
    "; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may list, read, write and "
    "delete there"
)


@contextmanager
def in_one_sentence(verb: str, place: object, always: bool = False) -> Iterator[None]:
    """Turn what a storage raises into one sentence.

    Args:
        verb: What was to be done with the place.
        place: The file or folder.
        always: Whether also that something is not there is an error.
    """
    try:
        yield
    except FileNotFoundError as error:
        if always:
            raise failure(verb, place, error) from error
        raise
    except NotADirectoryError as error:
        if always:
            raise failure(verb, place, error) from error
        raise FileNotFoundError(str(error)) from error
    except OSError as error:
        raise failure(verb, place, error) from error


def failure(verb: str, place: object, error: OSError) -> StorageError:
    """Return the error to raise: what cannot be done with which place, why, and the cure."""
    said = words_of(error)
    if any(code in said for code in REFUSED):
        said += CURE
    if error.errno in FULL:
        said += "; free some room there"
    failure = StorageError(f"'{without_credentials(str(place))}' cannot be {verb}: {said}.")
    failure.errno = error.errno
    return failure


def words_of(error: Exception) -> str:
    """Return what an error says, in one line and without credentials."""
    said = getattr(error, "strerror", None) or str(error)
    if said.startswith(GOOGLE):  # a page, with what has failed at its end
        said = said.partition(" error_info=")[0].rpartition("error message was: ")[2]
    return without_credentials(" ".join(said.split())).rstrip(".")
