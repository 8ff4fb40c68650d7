"""Memory: the only thing that lesson t + 1 may know of lessons 1..t.

A frozen value: named tensors and JSON facts. On disk it is a small JSON file of references to tensors that are stored
by their content, so that what a lesson did not change is not written again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_tensors
from torch import Tensor

from perdure import files, records
from perdure.errors import LineageError
from perdure.memory import tensors
from perdure.memory.delta import Change, Delta

FORMAT = 1
SHARED = ("delta", "words")
"""What stands under these names goes by projections and by tokens, not by concepts."""


@dataclass(frozen=True)
class Memory:
    """`tensors`: flat names such as "delta/mid.attn.to_k/0.A"; `facts`: plain JSON values."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def delta(self, name: str = "delta") -> Delta:
        """The delta stored under a name; empty if there is none."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self.under(name).items():
            projection, _, part = key.rpartition("/")
            parts.setdefault(projection, {})[part] = tensor
        return Delta({projection: Change.from_tensors(tensors) for projection, tensors in parts.items()})

    def with_delta(self, delta: Delta, name: str = "delta") -> "Memory":
        """A memory in which `name` holds this delta and nothing else."""
        kept = {key: tensor for key, tensor in self.tensors.items() if not key.startswith(f"{name}/")}
        new = {f"{name}/{p}/{part}": t for p, change in delta.items() for part, t in change.tensors().items()}
        return replace(self, tensors={**kept, **new})

    def under(self, name: str) -> dict[str, Tensor]:
        """The tensors below a name, with the name cut off."""
        return {key[len(name) + 1 :]: t for key, t in self.tensors.items() if key.startswith(f"{name}/")}

    def with_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> "Memory":
        """A memory in which the tensors below `name` are these: detached copies on the CPU, in their own dtype."""
        kept = {key: tensor for key, tensor in self.tensors.items() if not key.startswith(f"{name}/")}
        new = {f"{name}/{key}": t.detach().cpu().contiguous().clone() for key, t in tensors.items()}
        return replace(self, tensors={**kept, **new})

    def with_facts(self, **facts: Any) -> "Memory":
        """A memory with some facts added or replaced."""
        return replace(self, facts={**self.facts, **facts})

    def without(self, concept: str) -> "Memory":
        """A memory without what is kept under a concept's own name: tensors `<name>/<concept>`, entries of facts."""

        def own(key: str) -> bool:
            name, _, rest = key.partition("/")
            return name not in SHARED and rest.partition("/")[0] == concept

        kept = {key: tensor for key, tensor in self.tensors.items() if not own(key)}
        facts = {key: value if key in SHARED else _left(value, concept) for key, value in self.facts.items()}
        return Memory(kept, facts)

    @property
    def nbytes(self) -> int:
        """Bytes that the method carries from one lesson to the next."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def bytes_by_name(self) -> dict[str, int]:
        """Bytes carried under each name (the part before the first slash)."""
        sizes: dict[str, int] = {}
        for key, tensor in self.tensors.items():
            name = key.partition("/")[0]
            sizes[name] = sizes.get(name, 0) + tensor.numel() * tensor.element_size()
        return sizes

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each tensor."""
        return {key: tensors.digest_of(tensor) for key, tensor in self.tensors.items()}

    @property
    def digest(self) -> str:
        """SHA-256 over names, contents and facts: equal digests mean bit-equal memories."""
        return _digest(self.digests, self.facts)


def _left(value: Any, concept: str) -> Any:
    """A fact that is told for each concept, without one."""
    if isinstance(value, Mapping):
        return {key: one for key, one in value.items() if key != concept}
    return [one for one in value if one != concept] if isinstance(value, list) else value


def _digest(index: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([dict(index), dict(facts)], sort_keys=True).encode()).hexdigest()


def save(memory: Memory, path: Path, store: Path) -> int:
    """Write `path` (JSON) and, into the folder `store`, one pack with the tensors that are not there yet.

    Returns the bytes newly stored. Both files appear whole or not at all.
    """
    known = _packed(store)
    digests = memory.digests
    new = {digests[key]: tensor for key, tensor in memory.tensors.items() if digests[key] not in known}
    stored = 0
    if new:
        data = save_tensors({digest: new[digest].contiguous() for digest in sorted(new)})
        pack = f"{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
        files.write_bytes(store / pack, data)
        known |= dict.fromkeys(new, pack)
        stored = len(data)
    index = {key: [digest, known[digest]] for key, digest in digests.items()}
    files.write_json(path, {"format": FORMAT, "digest": memory.digest, "tensors": index, "facts": dict(memory.facts)})
    return stored


def load(path: Path, store: Path) -> Memory:
    """Read a memory back and verify every byte. Raises LineageError naming the damaged or missing file."""
    record = read_index(path)
    packs = {pack: read_pack(store / pack) for pack in {pack for _, pack in record["tensors"].values()}}
    try:
        held = {key: packs[pack][digest] for key, (digest, pack) in record["tensors"].items()}
    except KeyError as missing:
        lost = f"{path} refers to tensor {missing}, which its pack in {store} does not hold"
        raise LineageError(f"{lost}; restore it from a copy") from None
    return Memory(held, record["facts"])


def read_index(path: Path) -> dict[str, Any]:
    """A stored memory's references and facts, no tensors. Raises LineageError naming the file where it is damaged."""
    record = records.read(path, records.Memory, FORMAT)
    if _digest({key: digest for key, (digest, _) in record["tensors"].items()}, record["facts"]) != record["digest"]:
        raise LineageError(f"{path} is damaged (its content does not match its digest); restore it from a copy")
    return record


def read_pack(path: Path) -> dict[str, Tensor]:
    """A pack's tensors by digest, every byte verified. Raises LineageError naming the file."""
    try:
        data = files.read_bytes(path)
    except LineageError as error:
        raise LineageError(f"{error}; restore it from a copy") from None
    if hashlib.sha256(data).hexdigest()[:32] != path.stem:
        raise LineageError(f"{path} is damaged (its content does not match its name); restore it from a copy")
    return tensors.parsed(data, path)


def _packed(store: Path) -> dict[str, str]:
    """Digest -> pack for every tensor in the store; only the headers are read."""
    packs = sorted(store.glob("*.safetensors"))
    return {digest: pack.name for pack in packs for digest in tensors.header(pack) if digest != tensors.META}
