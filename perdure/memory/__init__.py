"""All that survives a lesson."""

from perdure.memory.memory import Memory, load, read_index, read_pack, save

__all__ = ["Memory", "load", "read_index", "read_pack", "save"]
