"""Families of bases, one file each; its name is the family's name."""
