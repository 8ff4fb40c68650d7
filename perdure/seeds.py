"""Random draws with owners: every stream of numbers is named by what it is for.

A draw is identified by (seed, owner...), for example `(plan.seed, "teapot", "noise", 17)`. Nothing depends on
what was drawn before, so a resumed run continues bit for bit.
"""

import hashlib

import torch


def derive(seed: int, *owner: str | int) -> int:
    """A 63-bit seed for one owner: the head of SHA-256 over the seed and the owner's parts."""
    text = "\x1f".join(str(part) for part in (seed, *owner))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *owner: str | int) -> torch.Generator:
    """A CPU generator that belongs to one owner, in the same state each time it is asked for."""
    return torch.Generator().manual_seed(derive(seed, *owner))
