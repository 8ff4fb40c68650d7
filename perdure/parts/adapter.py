"""Slot 1: which weights may move, and in what form."""

from perdure.method import Lora, Targets


def lora(rank: int, targets: Targets) -> Lora:
    """Low-rank pairs on the target projections (Hu et al. 2021, arXiv 2106.09685)."""
    return Lora(rank, targets)
