"""All that survives a lesson."""

from perdure.memory.memory import Memory, load, packs_of, read_index, read_pack, save

__all__ = ["Memory", "load", "packs_of", "read_index", "read_pack", "save"]
