"""The whole story: plans carried out, models taught."""

from perdure.run.drive import retry, run, score, teach

__all__ = ["retry", "run", "score", "teach"]
