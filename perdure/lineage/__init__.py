"""A model's folder: its lessons, their memories, pictures and scores."""

from perdure.lineage.lineage import Lineage

__all__ = ["Lineage"]
