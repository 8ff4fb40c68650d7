"""What a lesson on the untouched base has trained, shared by lessons that begin alike: the adapter, not the memory.

Where nothing lies under the adapter, no guard does anything and no word is known, training depends on no method and on
nothing taught before: only on where the factors begin, the examples and the settings. So it is in first lessons, and in
all lessons of methods that teach each concept apart. Each method then remembers the adapter in its own way.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure import files
from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.errors import LineageError
from perdure.lesson.examples import Bucketed, Encoded
from perdure.lineage import Lineage, locks
from perdure.lineage.commons import Commons
from perdure.lineage.rows import Row
from perdure.memory import tensors
from perdure.method import Adapter, Protection
from perdure.parts.adapter import LowRank
from perdure.plan import Plan, fingerprint

PAUSE = 0.2
"""Seconds between two looks whether another process has trained it."""


@dataclass(frozen=True)
class Trained:
    """Adapters that lineages of one folder have trained, by content. `owner`: the lesson that asks, `log`: its log."""

    commons: Commons
    identity: str
    """Of the base."""
    owner: str
    log: Path
    tell: Callable[[Sequence[Mapping[str, Any]]], object] = lambda rows: None
    """Given the log of what is taken over."""

    def once(self, content: str, parameters: Sequence[Tensor], train: Callable[[], object]) -> None:
        """Train, or take over what begins alike and is trained; wait where another process is training it."""
        if not content:
            train()
            return
        path = self.commons.adapter(fingerprint([content, self.identity]))
        while True:
            with locks.holding(path.with_suffix(".lock")) as mine:
                if mine:
                    if not self._taken(path, parameters):
                        train()
                        self._keep(path, parameters)
                    return
            time.sleep(PAUSE)

    def _taken(self, path: Path, parameters: Sequence[Tensor]) -> bool:
        try:
            held = tensors.read(path)
            rows = json.loads(held["log"].numpy().tobytes())
            owner = held["owner"].numpy().tobytes().decode()
            found = [held[str(number)] for number in range(len(parameters))]
        except (LineageError, KeyError, ValueError):
            return False  # it is not there yet; or it is trained, and written, again
        if [t.shape for t in found] != [p.shape for p in parameters]:
            return False
        with torch.no_grad():
            for parameter, tensor in zip(parameters, found, strict=True):
                parameter.copy_(tensor)
        if owner != self.owner:
            rows = [{**row, "shared": owner} for row in rows]
        files.write_text(self.log, "".join(json.dumps(row) + "\n" for row in rows))
        self.tell(rows)
        return True

    def _keep(self, path: Path, parameters: Sequence[Tensor]) -> None:
        rows = files.read_jsonl(self.log)
        told = {"log": _bytes(json.dumps(rows)), "owner": _bytes(self.owner)}
        tensors.write(path, {**{str(number): p for number, p in enumerate(parameters)}, **told})


def _bytes(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())


def beside(
    commons: Commons | None, lineage: Lineage | None, staged: Row, tell: Callable[[Sequence[Mapping[str, Any]]], object]
) -> Trained | None:
    """What lineages beside one have trained, for a lesson of it; nothing where there are none."""
    if commons is None or lineage is None or not commons.adapters:
        return None
    owner = f"{lineage.folder.name}/{staged.number:03d}-{staged.name}"
    return Trained(commons, lineage.facts["base_identity"], owner, staged.log, tell)


def content(
    backbone: Backbone, adapter: Adapter, protection: Protection, told: Any, examples: Sequence[Encoded | None],
    plan: Plan,
) -> str:  # fmt: skip
    """16 hex digits of all that an adapter on the untouched base comes from; nothing where the method has a part in it.

    `told`: what is known of its words, and whose random numbers are drawn; `examples`: the concept's, and its class's.
    """
    weights, guarded = adapter.weights, protection.begin or protection.penalties or protection.project
    if guarded or type(weights) is not LowRank or backbone.processes.joined:
        return ""
    begun = {name: [tensors.digest_of(factor) for factor in pair] for name, pair in weights.factors.items()}
    words = [tensors.digest_of(parameter) for parameter in adapter.word_parameters]
    device = [str(backbone.device), torch.get_num_threads(), backbone.performance.model_dump(mode="json")]
    return fingerprint([
        begun, weights.train_a, words, told, [_digests(one) for one in examples if one is not None], plan.seed,
        plan.training.model_dump(mode="json"), plan.family and plan.family.model_dump(mode="json"), device,
        loading.versions(),
    ])  # fmt: skip


def _digests(examples: Encoded) -> list[Any]:
    if isinstance(examples, Bucketed):
        return [_digests(part) for part in examples.parts]
    parts = {"latents": examples.latents, **{f"condition {n}": t for n, t in examples.condition.items()}}
    if examples.deviation is not None:
        parts["deviation"] = examples.deviation
    return [list(examples.captions), {name: tensors.digest_of(tensor) for name, tensor in parts.items()}]
