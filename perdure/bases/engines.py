"""What runs a network while pictures are drawn: torch, torch's compiled code, or ONNX Runtime. In float32."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from perdure.errors import ModelError
from perdure.plan.performance import Performance

BACKEND = "inductor"
"""Of torch.compile."""
_compiled: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_exported: WeakKeyDictionary[nn.Module, tuple[object, Any]] = WeakKeyDictionary()


@contextmanager
def running(performance: Performance, network: nn.Module, laid: object) -> Iterator[None]:
    """The network run as the plan says. `laid`: what lies under it now, one object as long as it does."""
    if performance.engine == "onnx":
        swapped = {network: _session(network, laid)}
    elif performance.compile:
        swapped = {part: _code(part) for part in parts(network)}
    else:
        swapped = {}
    for module, forward in swapped.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in swapped:
            del module.forward


def parts(network: nn.Module) -> list[nn.Module]:
    """What of a network is compiled: a UNet as a whole, of a transformer the blocks that repeat, once for all."""
    kinds = () if isinstance(network, UNet2DConditionModel) else getattr(network, "_repeated_blocks", None) or ()
    return [module for module in network.modules() if type(module).__name__ in kinds] or [network]


def _code(module: nn.Module) -> Any:
    """Compiled code of a module's forward, kept: other weights of the same shapes are only other inputs to it."""
    if module not in _compiled:
        mode = "max-autotune-no-cudagraphs" if BACKEND == "inductor" and torch.cuda.is_available() else None
        _compiled[module] = torch.compile(module.forward, fullgraph=True, mode=mode, backend=BACKEND)
    return _compiled[module]


class _Plain(nn.Module):
    """A UNet of positional inputs: latents (n, c, h, w), time (1,), text, and of SDXL pooled text and sizes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, text: Tensor, pooled: Tensor | None, ids: Tensor | None) -> Tensor:
        """What the UNet predicts."""
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": ids}
        forward: Any = self.network.forward  # not what hangs on it, which counts its calls
        said: Tensor = forward(x, time, text, added_cond_kwargs=added, return_dict=False)[0]
        return said


def _session(network: nn.Module, laid: object) -> Any:
    """A forward by ONNX Runtime: made anew where other weights lie there, since they are part of what is exported.

    Raises ModelError where that is not installed, or the network is no UNet.
    """
    known = _exported.get(network)
    if known is not None and known[0] is laid:
        return known[1]
    if not isinstance(network, UNet2DConditionModel):
        raise ModelError("performance.engine: onnx draws with UNets only; take torch")
    try:
        onnxruntime = import_module("onnxruntime")
        import_module("onnx")  # which torch's exporter asks for
    except ImportError:
        raise ModelError(
            "performance.engine: onnx is not installed; pip install 'perdure[onnx]', or take torch"
        ) from None
    made: dict[tuple[Any, ...], Any] = {}

    def forward(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **options: Any) -> tuple[Tensor]:
        added = options.get("added_cond_kwargs") or {}
        given = [sample, timestep.reshape(1).float(), encoder_hidden_states]
        given += [added[name] for name in ("text_embeds", "time_ids") if name in added]
        shape = tuple(tensor.shape[1:] for tensor in given)
        if shape not in made:
            made[shape] = _export(onnxruntime, network, given)
        names = [node.name for node in made[shape].get_inputs()]
        fed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        return (torch.from_numpy(made[shape].run(None, fed)[0]),)

    _exported[network] = laid, forward
    return forward


def _export(onnxruntime: Any, network: nn.Module, given: list[Tensor]) -> Any:
    """A session for any number of rows."""
    names = ["x", "time", "text", "pooled", "ids"][: len(given)]
    forward = network.__dict__.pop("forward", None)  # the network's own is exported, not the one that calls this
    written: Any = io.BytesIO()  # which the exporter by tracing takes as well as a path
    try:
        with warnings.catch_warnings():  # of what tracing takes for constants: shapes, by which a session is told apart
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Plain(network), (*given, *[None] * (5 - len(given))), written, dynamo=False, opset_version=17,
                input_names=names, dynamic_axes={name: {0: "rows"} for name in names if name != "time"},
            )  # fmt: skip
    finally:
        if forward is not None:
            network.forward = forward
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(written.getvalue(), options, providers=["CPUExecutionProvider"])
