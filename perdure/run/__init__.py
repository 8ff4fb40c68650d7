"""The whole story: plans carried out, models taught."""

from perdure.run.drive import run, teach

__all__ = ["run", "teach"]
