"""What runs a network: torch, torch's compiled code, or, to draw, ONNX Runtime. In float32."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
_compiled: WeakKeyDictionary[nn.Module, dict[bool | None, Any]] = WeakKeyDictionary()
_exported: WeakKeyDictionary[nn.Module, tuple[object, Any]] = WeakKeyDictionary()


@contextmanager
def running(performance: Performance, network: nn.Module, laid: object) -> Iterator[None]:
    """Pictures are drawn as the plan says. `laid`: what lies under the network now, one object as long as it does.

    Raises ModelError where the network cannot be compiled, or what the engine needs is not there.
    """
    if performance.engine == "onnx":
        swapped = {network: _session(network, laid)}
    elif performance.compile:
        swapped = {part: _code(part) for part in parts(network)}
    else:
        swapped = {}
    with _swapped(swapped):
        yield


@contextmanager
def learning(performance: Performance, network: nn.Module, muted: Callable[[], bool]) -> Iterator[None]:
    """Steps of a lesson are taken as the plan says, with an adapter attached.

    By compiled code goes what needs gradients of the adapter: not what is asked without gradients, or while the adapter
    is `muted`. Code is made for each size of batch by itself, so that a lesson that goes on has the same. Raises
    ModelError where the network cannot be compiled, or something hangs on its layers: compiled code does not see
    another in its place.
    """
    if not performance.compile_training:
        yield
        return
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        raise ModelError(
            "performance.compile_training: something hangs on the layers of this base; take compile_training: false"
        )

    def either(module: nn.Module) -> Callable[..., Any]:
        plain, code = module.forward, _code(module, dynamic=False)
        return lambda *args, **named: (code if torch.is_grad_enabled() and not muted() else plain)(*args, **named)

    with _swapped({part: either(part) for part in parts(network)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Dynamo detected a call to")  # diffusers asks torch's version in each block
        yield


@contextmanager
def _swapped(forwards: dict[Any, Callable[..., Any]]) -> Iterator[None]:
    """Modules with other forwards than their classes'."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def parts(network: nn.Module) -> list[nn.Module]:
    """What of a network is compiled: a UNet as a whole, of a transformer the blocks that repeat, once for all."""
    kinds = () if isinstance(network, UNet2DConditionModel) else getattr(network, "_repeated_blocks", None) or ()
    return [module for module in network.modules() if type(module).__name__ in kinds] or [network]


def _code(module: nn.Module, dynamic: bool | None = None) -> Callable[..., Any]:
    """Compiled code of a module's forward, kept: other weights of the same shapes are only other inputs to it.

    dynamic: whether sizes are inputs too; None: from the second on. The code raises ModelError where it cannot be made.
    """
    kept = _compiled.setdefault(module, {})
    if dynamic not in kept:
        mode = "max-autotune-no-cudagraphs" if BACKEND == "inductor" and torch.cuda.is_available() else None
        kept[dynamic] = torch.compile(module.forward, fullgraph=True, dynamic=dynamic, mode=mode, backend=BACKEND)
    return partial(_told, kept[dynamic])


def _told(code: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What the code says; its failure to be made as a ModelError."""
    exc = import_module("torch._dynamo.exc")  # late: it takes a second to be imported
    try:
        return code(*args, **named)
    except (exc.TorchDynamoException, exc.FailOnRecompileLimitHit) as error:
        lines = str(error).strip().splitlines()
        found = next((line for line in lines if "raised:" not in line), "no reason told")  # which names the backend
        why = "torch finds no C++ compiler" if "CxxCompiler" in str(error) else found.strip()
        raise ModelError(
            f"performance: this base cannot be compiled here ({why}); take compile: false and compile_training: false"
        ) from None


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
