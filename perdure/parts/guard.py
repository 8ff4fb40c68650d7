"""Slot 3: what protects the past while learning."""

from perdure.method import Guard

nothing = Guard()
"""No protection."""
