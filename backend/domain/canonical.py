"""Canonical JSON and SHA-256: every digest of the project is made here, so that two places can never disagree."""

import hashlib
import json
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """Serialise with sorted keys, no spaces, UTF-8; NaN and infinities are refused (ValueError)."""
    return _ENCODER.encode(value).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of the bytes as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value."""
    return sha256_hex(canonical_json(value))
