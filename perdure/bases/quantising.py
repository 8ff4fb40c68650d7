"""A frozen network's linear layers in few bits, by torchao or bitsandbytes: made once, read ever after, never again.

What is learnt is never put into such weights: a memory's changes lie beside them as branches of their own precision.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.errors import PlanError
from perdure.plan.training import BasePrecision

BITS: Mapping[BasePrecision, tuple[str, float, float]] = {
    "int8": ("torchao", 1, 5), "fp8": ("torchao", 1, 4), "nf4": ("bitsandbytes", 0.5 + 1 / 64 + 4 / (64 * 256), 0),
}  # fmt: skip
"""Kind -> its library, bytes of a weight, and of a row beside them: scales; of nf4 a scale for each 64, in 8 bits."""


def quantise(network: Any, kind: BasePrecision) -> None:
    """Every linear layer but those that the network's class names as sensitive, in place.

    int8: whole numbers and a scale a row; fp8: 8-bit floating-point numbers (e4m3) and a scale; nf4: 16 values that
    normal numbers take alike often, and a scale for each 64 (Dettmers et al. 2023, QLoRA, section 3). Raises PlanError
    where the library for it is missing.
    """
    library = BITS[kind][0]
    try:
        module = import_module("torchao.quantization" if library == "torchao" else "bitsandbytes.nn")
    except ImportError:
        extra = "8bit" if library == "bitsandbytes" else library
        raise PlanError(
            f"training.base_precision: {kind} needs {library}; pip install 'perdure[{extra}]', or leave it null"
        ) from None
    layers = _coarse(network)
    if kind == "nf4":
        for name, layer in layers.items():
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _in_four_bits(layer, module))
        return
    config = module.Int8WeightOnlyConfig() if kind == "int8" else module.Float8WeightOnlyConfig()
    module.quantize_(network, config, filter_fn=lambda layer, name: name in layers)


def _in_four_bits(layer: nn.Linear, library: Any) -> nn.Linear:
    """A layer of bitsandbytes in the place of one of torch."""
    weight = layer.weight
    made: Any = library.Linear4bit(
        layer.in_features, layer.out_features, compute_dtype=weight.dtype, quant_type="nf4", device="meta"
    )
    made.weight, made.bias = library.Params4bit(weight.data, requires_grad=False, quant_type="nf4"), layer.bias
    made.support_avx512bf16_for_cpu = False  # repacks weights on the way, which then have no gradient
    placed: nn.Linear = made.to(weight.device).eval()
    return placed


def nbytes_of(network: Any, kind: BasePrecision | None) -> float:
    """Bytes of a network that would be in few bits."""
    whole: float = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if kind is None:
        return whole
    _, each, row = BITS[kind]
    coarse = _coarse(network).values()
    saved: float = sum(
        layer.weight.numel() * (layer.weight.element_size() - each) - row * layer.out_features for layer in coarse
    )
    return whole - saved


def unpacked(network: Any, kind: BasePrecision | None) -> int:
    """Bytes of the largest layer's weight as it is made for a moment, each time it is needed."""
    if kind is None:
        return 0
    sizes: list[int] = [layer.weight.numel() * layer.weight.element_size() for layer in _coarse(network).values()]
    return max(sizes)


def _coarse(network: Any) -> dict[str, nn.Linear]:
    """The layers that are put in few bits, by name."""
    kept = getattr(network, "_skip_layerwise_casting_patterns", None) or ()
    return {
        name: layer
        for name, layer in network.named_modules()
        if type(layer) is nn.Linear and not any(re.search(pattern, name) for pattern in kept)
    }


def quantised(layer: nn.Module) -> bool:
    """Whether a layer's weight is in few bits."""
    return type(layer.weight) is not nn.Parameter


def shape_of(layer: nn.Linear | nn.Conv2d) -> tuple[int, ...]:
    """The shape of a layer's weight, (out, in) or (out, in, k, k), in however many bits it is."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return tuple(layer.weight.shape)


def weight_of(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """A layer's weight (out, in), or (out, in k k), float32; of one in few bits, what the layer makes of it for inputs
    of a dtype.
    """
    if not (isinstance(layer, nn.Linear) and quantised(layer)):
        return layer.weight.detach().float().flatten(1)
    with torch.no_grad():
        unit = torch.eye(layer.in_features, dtype=dtype, device=layer.weight.device)
        said: Tensor = type(layer).forward(layer, unit).float()
    return (said if layer.bias is None else said - layer.bias.float()).T.contiguous()


def beside(layer: nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Any]:
    """A change (out, in) of zeros beside a layer, whose gradient is that of its weight, and the hook that adds it."""
    size, device = (layer.out_features, layer.in_features), layer.weight.device
    free = torch.zeros(size, dtype=dtype, device=device, requires_grad=True)

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(inputs[0], free.to(inputs[0].dtype))

    return free, layer.register_forward_hook(add)
