"""The updates of a lineage's lessons, one projection at a time, read from disk as they are needed.

A model like SDXL has 560 projections with 955 M weights: all memories of a lineage at once would not fit, all of one
projection do. Factors stay factors: an update is made dense in blocks of rows, never as a whole.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from perdure import memory as memories
from perdure.errors import LineageError
from perdure.memory import Memory, tensors
from perdure.memory.delta import Change
from perdure.method import Consolidate, Wanted

NEGLIGIBLE = 1e-4
"""Directions whose singular value is below this share of the largest are left out: a 10^-8 of the energy."""
Place = tuple[str, str]
"""Digest of a tensor, and the pack that holds it."""
_CHANGE = re.compile(r"(?:^|/)([^/]+)/(?:dense|\d+\.[AB])$")
"""A tensor of some projection's change, as `Memory.with_delta` names it."""


@dataclass(frozen=True)
class Update:
    """What one lesson changed of one projection (out, in): down (r, in) and up (out, r), or a dense matrix; float64."""

    down: Tensor | None = None
    up: Tensor | None = None
    dense: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        if self.down is not None and self.up is not None:
            return self.up.shape[0], self.down.shape[1]
        assert self.dense is not None
        return self.dense.shape[0], self.dense.shape[1]

    def rows(self, first: int, last: int) -> Tensor:
        """Rows first..last-1 as numbers (rows, in)."""
        if self.down is not None and self.up is not None:
            return self.up[first:last] @ self.down
        assert self.dense is not None
        return self.dense[first:last]

    def directions(self, most: int) -> tuple[Tensor, Tensor]:
        """Leading singular vectors, at most `most`: of the inputs (in, k) and of the outputs (out, k)."""
        if self.down is not None and self.up is not None:
            right, of_down = torch.linalg.qr(self.down.T)
            left, of_up = torch.linalg.qr(self.up)
            u, s, vh = torch.linalg.svd(of_up @ of_down.T)
            kept = _kept(s, most)
            return right @ vh[:kept].T, left @ u[:, :kept]
        assert self.dense is not None
        tall = self.dense.shape[0] >= self.dense.shape[1]
        gram = self.dense.T @ self.dense if tall else self.dense @ self.dense.T
        values, vectors = torch.linalg.eigh(gram)  # of the smaller side: far cheaper than a whole decomposition
        s = values.flip(0).clamp(min=0).sqrt()
        kept = _kept(s, most)
        own = vectors.flip(1)[:, :kept]
        other = (self.dense if tall else self.dense.T) @ own / s[:kept]
        return (own, other) if tall else (other, own)


def difference(before: Change | None, after: Change | None) -> Update | None:
    """After minus before, exactly; factors that both have cancel. None where nothing was changed.

    What a dense change was rounded to when it was summed is what is seen: the memory holds no more.
    """
    if (before is None or before.dense is None) and (after is None or after.dense is None):
        old, new = (list(change.pairs) if change else [] for change in (before, after))
        while old and new and all(torch.equal(a, b) for a, b in zip(old[0], new[0], strict=True)):
            old, new = old[1:], new[1:]
        if not old and not new:
            return None
        down = torch.cat([a.double() for a, _ in (*new, *old)])
        up = torch.cat([*(b.double() for _, b in new), *(-b.double() for _, b in old)], dim=1)
        return Update(down=down, up=up)
    dense = sum(sign * change.matrix().double() for sign, change in ((-1, before), (1, after)) if change is not None)
    assert isinstance(dense, Tensor)
    return Update(dense=dense) if dense.any() else None


@dataclass(frozen=True)
class Shelf:
    """The tensors of a store, read one by one; each is checked against the digest that is its name."""

    store: Path
    _opened: dict[str, Any] = field(default_factory=dict)

    def tensor(self, digest: str, pack: str) -> Tensor:
        """One tensor of a pack. Raises LineageError naming a file that is missing or damaged."""
        path = self.store / pack
        try:
            tensor: Tensor = self._open(pack).get_tensor(digest)
        except SafetensorError as error:
            raise LineageError(f"{path} is damaged: {error}; restore it from a copy") from None
        if tensors.digest_of(tensor) != digest:
            raise LineageError(f"{path} is damaged (its content does not match its name); restore it from a copy")
        return tensor

    def shape(self, digest: str, pack: str) -> list[int]:
        """The shape of a tensor, from the pack's header. Raises LineageError."""
        try:
            shape: list[int] = self._open(pack).get_slice(digest).get_shape()
        except SafetensorError as error:
            raise LineageError(f"{self.store / pack} is damaged: {error}; restore it from a copy") from None
        return shape

    def _open(self, pack: str) -> Any:
        if pack not in self._opened:
            path = self.store / pack
            if path.exists() and not path.is_file():  # safetensors waits at a pipe, and hears no signal
                raise LineageError(f"cannot read {path}: it is no regular file; restore it from a copy")
            try:
                self._opened[pack] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise LineageError(f"cannot read {path}: {error}; restore it from a copy") from None
        return self._opened[pack]


@dataclass(frozen=True)
class Stored:
    """A memory on disk: where the tensors of each projection lie; what belongs to no projection; its facts."""

    places: dict[str, dict[str, Place]]
    shared: dict[str, Tensor]
    facts: dict[str, Any]

    @classmethod
    def at(cls, path: Path, shelf: Shelf) -> "Stored":
        """Read the index, and what belongs to no projection. Raises LineageError."""
        record = memories.read_index(path)
        index: dict[str, Place] = {key: (digest, pack) for key, (digest, pack) in record["tensors"].items()}
        places: dict[str, dict[str, Place]] = {found[1]: {} for key in index if (found := _CHANGE.search(key))}
        shared = {}
        for key, place in index.items():
            owner = next((part for part in reversed(key.split("/")) if part in places), None)
            if owner is None:
                shared[key] = shelf.tensor(*place)
            else:
                places[owner][key] = place
        return cls(places, shared, record["facts"])

    def slice(self, projection: str, shelf: Shelf, held: dict[str, Tensor]) -> Memory:
        """The memory as if the model had this one projection. `held`: tensors read so far, by digest."""
        chosen = self.places.get(projection, {})
        for digest, pack in chosen.values():
            if digest not in held:
                held[digest] = shelf.tensor(digest, pack)
        return Memory(self.shared | {key: held[digest] for key, (digest, _) in chosen.items()}, self.facts)

    def weights(self, shelf: Shelf) -> int:
        """Entries of all projections that it changes, from the headers of the stored tensors alone."""
        sides: dict[tuple[str, str], int] = {}
        for name, places in self.places.items():
            for key, place in places.items():
                if _CHANGE.search(key):
                    part, shape = key.rpartition("/")[2], shelf.shape(*place)
                    sides |= {(name, "in"): shape[1]} if part != "dense" and part.endswith("A") else {}
                    sides |= {(name, "out"): shape[0]} if part != "dense" and part.endswith("B") else {}
                    sides |= {(name, "out"): shape[0], (name, "in"): shape[1]} if part == "dense" else {}
        return sum(sides[name, "out"] * sides[name, "in"] for name in self.places)


def of_projection(slices: Sequence[Memory], called: Sequence[str], rules: Consolidate, projection: str) -> list[Any]:
    """The update of each lesson in one projection (None where it was not moved), from the memories' slices.

    `called`: the lessons' names. Methods that keep concepts apart have each concept's own change as update.
    """
    return list(_updates(slices, called, rules, projection))


def _updates(
    slices: Sequence[Memory], called: Sequence[str], rules: Consolidate, projection: str
) -> Iterator[Update | None]:
    before: Change | None = None
    for memory, name in zip(slices, called, strict=True):
        after = rules.recall(memory, Wanted(name)).get(projection)
        yield difference(before, after)
        before = after if rules.knows == "nothing" else None


def _kept(values: Tensor, most: int) -> int:
    return int((values[:most] > NEGLIGIBLE * values[:1].clamp(min=1e-300)).sum())
