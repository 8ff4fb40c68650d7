"""A frozen network's linear layers in few bits, by torchao: made once, read ever after, never again.

What is learnt is never put into such weights: a memory's changes lie beside them as branches of their own precision.
"""

import re
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.errors import PlanError
from perdure.plan.training import BasePrecision


def quantise(network: Any, kind: BasePrecision) -> None:
    """Every linear layer but those that the network's class names as sensitive, in place.

    int8: whole numbers and a scale a row; fp8: 8-bit floating-point numbers (e4m3) and a scale. Raises PlanError where
    torchao is missing.
    """
    try:
        library = import_module("torchao.quantization")
    except ImportError:
        raise PlanError(
            f"training.base_precision: {kind} needs torchao; pip install 'perdure[torchao]', or leave it null"
        ) from None
    kept = getattr(network, "_skip_layerwise_casting_patterns", None) or ()
    layers = {
        name
        for name, layer in network.named_modules()
        if type(layer) is nn.Linear and not any(re.search(pattern, name) for pattern in kept)
    }
    config = library.Int8WeightOnlyConfig() if kind == "int8" else library.Float8WeightOnlyConfig()
    library.quantize_(network, config, filter_fn=lambda layer, name: name in layers)


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
