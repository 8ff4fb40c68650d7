"""The whole story: plans carried out, models taught."""

from perdure.run.drive import retry, run, score, teach
from perdure.run.removal import remove

__all__ = ["remove", "retry", "run", "score", "teach"]
