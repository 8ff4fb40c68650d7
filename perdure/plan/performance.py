"""How a run uses its machine: settings that change how results are rounded, and not what is computed."""

import re
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from perdure.plan.catalogue import MethodCard
from perdure.plan.fields import Section
from perdure.plan.training import Training

Attention = Literal["default", "cudnn", "flash", "efficient", "math"]
Precision = Literal["training", "fp32", "bf16", "fp16"]
Decoding = Literal["fp32", "bf16", "fp16"]
CALLED = re.compile(r"\w+(?=\()")
"""What an expression calls."""


class Performance(Section):
    """How the machine is used. No part of the fingerprint: a run may go on elsewhere; each cell records what it had.

    What changes more than the last digits of a picture is no key here but of `sampling`.
    """

    QUIET: ClassVar[tuple[str, ...]] = ("offload",)
    engine: Literal["torch", "onnx"] = "torch"
    """`onnx`: pictures are drawn by ONNX Runtime (`perdure[onnx]`), for UNets in float32 on a CPU."""
    compile: bool = False
    """Pictures are drawn by compiled code (torch.compile), in float32; minutes go by before the first."""
    compile_training: bool = False
    """The steps of a lesson are taken by compiled code too, in float32, for adapters of plain low-rank pairs."""
    attention: Attention = "default"
    """Kernel of scaled dot product attention while pictures are drawn; `default`: torch's own choice."""
    channels_last: bool = False
    """Weights of convolutions with channels last, as tensor cores read them; does nothing for transformers."""
    tf32: bool = False
    """On CUDA, products of float32 matrices with 10 bits of mantissa instead of 23, in training too."""
    checkpoint_seconds: float = Field(default=60, ge=0)
    """An unfinished lesson is saved before so many seconds have passed since it was last, so that a stop costs no more;
    0: only as `training.checkpoint_every` says.
    """
    batch: Literal["plan", "auto"] = "plan"
    """`auto`: as many pictures at once as fit into the memory of a CUDA device, instead of `sampling.batch_size`."""

    offload: Literal["blocks"] | None = None
    """`blocks`: those of a transformer wait in main memory, and are copied to the device each time that they run."""

    @model_validator(mode="after")
    def _one(self) -> "Performance":
        if self.compile and self.engine == "onnx":
            raise ValueError("compile is of engine torch; take one of them")
        if self.offload and (self.compile or self.engine == "onnx"):
            raise ValueError(
                "offload: blocks moves weights that compile and engine onnx take for granted; take one of them"
            )
        return self

    def unfit(self, task: str | None, training: Training, method: MethodCard) -> list[str]:
        """Why the steps of a method's lessons cannot be compiled, a sentence each."""
        told = "performance.compile_training: {}; take compile_training: false"
        problems = {
            "a classifier is taught by plain steps only": task is not None,
            f"{method.name} trains what hangs on layers, where compiled code would not see it change; `adapter: lora` "
            "can be compiled": "lora" not in CALLED.findall(method.adapter),
            "steps are compiled in fp32, where a memory lies in the weights, not in "
            f"{training.precision}": training.precision != "fp32",
            "performance.offload moves weights that compiled code takes for granted": bool(self.offload),
            f"a base in {training.base_precision} is not compiled": training.base_precision is not None,
            "code is made for each size of picture, and training.buckets has many": training.buckets is not None,
        }
        return [told.format(why) for why, found in problems.items() if found]
