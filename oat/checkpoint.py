"""Checkpoints: checked on load, and unable to execute anything."""

import hashlib
import io
import pickle
import struct
from typing import Any

import torch

MAGIC = b"oat-checkpoint-1\n"
DIGEST_BYTES = 32

UNREADABLE = (
    RuntimeError,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
)
"""What torch raises on bytes that `torch.save` did not write."""


class CheckpointError(Exception):
    """A checkpoint is cut off, changed, or none of ours."""


def dumps(state: dict[str, Any]) -> bytes:
    """Serialise tensors, numbers, strings and containers of them, with their SHA-256 in front."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return MAGIC + hashlib.sha256(payload).digest() + payload


def loads(data: bytes, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `dumps` wrote; nothing but plain values and tensors can come out.

    Raises:
        CheckpointError: The bytes are not a whole, unchanged checkpoint.
    """
    head = len(MAGIC) + DIGEST_BYTES
    if data[: len(MAGIC)] != MAGIC or len(data) < head:
        raise CheckpointError("not a checkpoint of this format.")
    payload = data[head:]
    if hashlib.sha256(payload).digest() != data[len(MAGIC) : head]:
        raise CheckpointError("its SHA-256 does not match: it is cut off or was changed.")
    try:
        state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(f"it holds more than tensors and plain values ({error}).") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"it holds no state but a {type(state).__name__}.")
    return state
