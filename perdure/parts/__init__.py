"""Fillers of the four slots of a method: pure functions of tensors, shared by the files in `methods/`."""
