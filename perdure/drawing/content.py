"""What decides the pictures of a cell: cells that agree in it would come out alike, and are drawn and scored once."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perdure import files
from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.bases.words import words_of
from perdure.drawing.sample import Recall, in_force
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.lineage.commons import Commons, of_content
from perdure.lineage.rows import Cell
from perdure.memory import tensors
from perdure.plan import Concept, Plan, fingerprint, portable
from perdure.score.measure import Measure

NOT_DRAWN = ("methods", "training", "scoring", "seed")
"""Sections of a plan that say nothing of how a picture is drawn from a memory."""
NOT_OF_A_CELL = ("prompts", "unseen", "rows", "scenes")
"""Keys of `sampling` that say which cells are drawn, not how."""
REVISION = 1
"""Raised when the same memory is drawn otherwise than before."""
KEPT = 256
"""Sets of features that are kept, a few hundred kilobytes each at most."""


def of(
    plan: Plan, lineage: Lineage, backbone: Backbone, recall: Recall, concept: str | None, prompts: Sequence[str],
    enough: Sequence[Any] = (),
) -> str:  # fmt: skip
    """16 hex digits of all that the pictures of some prompts come from.

    The base's files, what is laid under each projection, the words spoken, prompts, sampling, precision, how the
    machine is used, libraries, the device, and the number of threads, which decides the last bits; `enough`: what
    decides how many there are, where that is not settled beforehand. Nothing while it is not known how many pictures at
    once fit into memory: then no other cell is taken for this one.
    """
    if backbone.performance.batch == "auto" and not backbone.drawn_in(plan.sampling.precision).fits:
        return ""
    settings, side = portable(plan.settings()), plan.sampling.resolution or plan.training.resolution
    sampling = {key: value for key, value in settings["sampling"].items() if key not in NOT_OF_A_CELL}
    kept = {key: value for key, value in settings.items() if key not in NOT_DRAWN}
    words = {token: _word(word.vectors, word.dropped) for token, word in words_of(recall.memory).items()}
    return fingerprint([
        REVISION, lineage.facts["base_identity"], {**kept, "sampling": sampling}, recall.digests(concept, prompts),
        words, list(prompts), list(enough), plan.training.precision, in_force(backbone, plan.sampling, side), side,
        loading.versions(), _engine(backbone.device),
    ])  # fmt: skip


def _word(vectors: Mapping[int, Tensor], dropped: str) -> list[Any]:
    return [dropped, {str(number): tensors.digest_of(vector) for number, vector in vectors.items()}]


def _engine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.get_num_threads()}"


@dataclass(frozen=True)
class Drawn:
    """A cell that was drawn before, and its pictures."""

    cell: Cell
    pictures: tuple[Image.Image, ...]

    @property
    def looked(self) -> dict[str, Any]:
        """What is recorded of the looks after which the pictures were enough."""
        return {"budget": self.cell.record["budget"]} if "budget" in self.cell.record else {}


@dataclass
class Known:
    """What was drawn before, here and in the lineages beside: found by content. Features are kept for this process."""

    commons: Commons | None = None
    alone: AbstractContextManager[Any] = field(default_factory=RLock)
    """Held by the thread that asks a measure's model: one at a time."""
    _features: "OrderedDict[tuple[str, str], Tensor]" = field(default_factory=OrderedDict)

    def cell(self, lineage: Lineage, concept: Concept, content: str) -> Drawn | None:
        """A cell of this content with its pictures; None where there is none, or it cannot be read."""
        if not content:
            return None
        try:
            if self.commons is not None:
                found = self.commons.cell(content)
            else:
                own = (of_content(row, concept.name, content) for row in lineage.rows)
                found = next(filter(None, own), None)
            return None if found is None else Drawn(found, tuple(files.read_png(path) for path in found.images))
        except LineageError:
            return None

    def note(self, content: str, lineage: Lineage, cell: Path) -> None:
        """Keep where a new cell lies."""
        if self.commons is not None and content:
            self.commons.note(content, lineage, cell)

    def features(self, content: str, measure: Measure, images: Sequence[Image.Image]) -> Tensor:
        """A measure's features of the pictures of this content."""
        key = content, f"{measure.name} {fingerprint({k: str(v) for k, v in measure.spec.items()})}"
        with self.alone:
            found = self._features.get(key) if content else None
            self._features[key] = found = measure.features(images) if found is None else found
            self._features.move_to_end(key)
            while len(self._features) > KEPT:
                self._features.popitem(last=False)
        return found
