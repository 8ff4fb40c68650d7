"""A base without its weights: its modules as their configurations describe them, run on shapes alone.

What runs are torch's own kernels' shape rules (FakeTensorMode), so that what a step allocates is known to the byte
where those allocate what kernels do, and nothing of the base's size is.
"""

import json
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from perdure.bases import checking, converting, families, outline, single
from perdure.bases.family import Condition, Family, hushed
from perdure.bases.performing import DTYPES
from perdure.errors import ModelError
from perdure.plan import EMBEDDED, Plan
from perdure.score.sources import Reading

WIDE = ("layer_norm", "group_norm")
"""What autocast computes in float32 on CUDA, of what these networks are made of, and leaves as it is on a CPU."""


class Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that tensors made inside it held at once; of what was there before, nothing is counted."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._now, self.most = 0, 0
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in _tensors(before)}

    def __torch_dispatch__(self, run: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        made = run(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (key := (storage := tensor.untyped_storage())._cdata) not in self._known:
                self._known[key] = storage.nbytes()
                self._now += storage.nbytes()
                self.most = max(self.most, self._now)
                weakref.finalize(storage, self._gone, key)
        return made

    def _gone(self, key: int) -> None:
        self._now -= self._known.pop(key, 0)


@contextmanager
def _as_on_cuda() -> Iterator[None]:
    """Norms in float32, also where they are computed again in the backward pass, which modes of torch do not see."""
    before = {name: getattr(F, name) for name in WIDE}

    def wide(name: str) -> Callable[..., Tensor]:
        def norm(*args: Any, **kwargs: Any) -> Tensor:
            given = [a.float() if isinstance(a, Tensor) else a for a in args]
            told = {k: v.float() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
            return torch.as_tensor(before[name](*given, **told))

        return norm

    try:
        for name in WIDE:
            setattr(F, name, wide(name))
        yield
    finally:
        for name, usual in before.items():
            setattr(F, name, usual)


@dataclass
class Hollow:
    """A pipeline whose modules hold shapes; `cuda`: whether it is to behave as on a CUDA device."""

    pipe: Any
    family: Family
    precision: str
    cuda: bool = True
    _mode: FakeTensorMode = field(default_factory=lambda: FakeTensorMode(allow_non_fake_inputs=True))

    def __post_init__(self) -> None:
        for module in self.modules.values():
            module.requires_grad_(False).eval()
            module.to(torch.float32 if module is self.pipe.vae else DTYPES[self.precision])

    @property
    def modules(self) -> dict[str, Any]:
        """Every part that has weights, by name."""
        return {name: part for name, part in self.pipe.components.items() if isinstance(part, nn.Module)}

    @property
    def network(self) -> Any:
        """What is taught."""
        return self.pipe.components[self.family.network]

    @contextmanager
    def running(self, module: nn.Module, dtype: torch.dtype | None = None) -> Iterator[Held]:
        """While a module runs as in that precision: what it holds beside its weights. `dtype`: of autocast, if any."""
        casting = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype not in (None, torch.float32))
        with self._mode:
            _fill(module)
            wide = _as_on_cuda() if self.cuda and dtype not in (None, torch.float32) else nullcontext()
            with Held(module) as held, casting, wide:
                yield held

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of that shape, inside `running`."""
        return torch.zeros(shape, dtype=dtype)

    def condition(self, rows: int, dtype: torch.dtype) -> Condition:
        """What so many prompts say, inside `running`."""
        told = self.family.like(self.pipe) if self.family.like else {}
        return {
            name: torch.zeros((rows, *t.shape[1:]), dtype=dtype) if t.is_meta else t.expand(rows, *t.shape[1:])
            for name, t in told.items()
        }

    def made(self, build: Callable[[], Any]) -> Any:
        """What is built of shapes."""
        with self._mode:
            return build()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def nbytes(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in _tensors(module)}.values())


def _fill(module: nn.Module) -> None:
    """Shapes without a device as shapes on one; what two layers share stays one."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        for name, own in part._parameters.items():
            if own is not None and own.is_meta:
                if own not in made:
                    made[own] = nn.Parameter(torch.empty(own.shape, dtype=own.dtype), own.requires_grad)
                part._parameters[name] = made[own]
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_meta:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def of(plan: Plan, cuda: bool = True) -> Hollow | str:
    """A plan's base without its weights, or why that cannot be: a clause to follow "memory is not estimated: ".

    Raises ModelError for what is no base.
    """
    if plan.base in EMBEDDED:
        return "the embedded bases need little"
    found = outline.source(plan.base)
    if os.path.isfile(found):
        with tempfile.TemporaryDirectory() as made:
            converting.outline(Path(found), single.read(Path(found)), Path(made))
            return _hollow(plan, Path(made), cuda)
    folder = outline.here(found)
    if folder is None:
        return f"base {plan.base} is not on this machine; give its folder, or fetch it once"
    return _hollow(plan, folder, cuda)


def _hollow(plan: Plan, found: Path, cuda: bool) -> Hollow | str:
    told = json.loads((found / families.INDEX).read_text(encoding="utf-8"))
    checking.check_index(told, plan.base)
    family = families.get(plan.family) if plan.family else families.of_pipeline(told["_class_name"], plan.base)
    if family.like is None:
        return f"the family {family.name} does not say what its prompts become (Family.like)"
    with hushed(), Reading(lambda why: f"base {plan.base}: its configuration cannot be read ({why})"):
        return Hollow(_pipeline(found, told, family), family, plan.training.precision, cuda)


def _pipeline(folder: Path, index: Mapping[str, Any], family: Family) -> Any:
    """The pipeline of an index, its modules on the meta device, without tokenizers."""
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if not isinstance(value, list):
            continue
        library, kind = value
        known = name in checking.WEIGHED or name == "scheduler"
        parts[name] = _part(folder / name, getattr(import_module(library), kind)) if known and library else None
    extra = {k: v for k, v in index.items() if k[0] != "_" and not isinstance(v, list)}
    return getattr(diffusers, str(index["_class_name"]))(**{**parts, **extra, **family.loading})


def _part(folder: Path, kind: Any) -> Any:
    if not any(folder.glob("*config.json")):
        raise ModelError(f"its folder {folder.name}/ has no configuration")
    with torch.device("meta"):
        if issubclass(kind, transformers.PreTrainedModel):
            return kind(kind.config_class.from_pretrained(str(folder)))
        if issubclass(kind, nn.Module):
            return kind.from_config(kind.load_config(str(folder)))
    return kind.from_config(kind.load_config(str(folder)))
