"""A seed for each purpose, from the run's one: what is drawn for one does not move what is drawn for another."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit seed for one purpose at one step of the run with root seed `seed`."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
