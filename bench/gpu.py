"""What a GPU does with lessons and pictures, by setting: one command, a table and a JSON file; see README.md.

python bench/gpu.py --out gpu.json        within ten minutes; called again it goes on with what is missing
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import processes
import shapes
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from perdure import method, plan
from perdure.bases import families, loading, performing, spending
from perdure.bases.backbone import Backbone
from perdure.bases.footprint import Estimate
from perdure.bases.hollow import Hollow
from perdure.drawing import sample
from perdure.errors import PerdureError
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.photos.pictures import Picture
from perdure.plan import Performance

BASES = {"sdxl": (shapes.sdxl, 1024), "flux2-klein": (shapes.klein, 1024)}
STEPS = {"train": 6, "draw": 4}
"""Of a measurement; the first two of training warm up."""
TRAINING = {"plain": {}, "checkpointing": {"gradient_checkpointing": True}, "2 accumulated": {"accumulate": 2}}
DRAWING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    **{f"attention {name}": ({"attention": name}, {}) for name in performing.KERNELS},
    "tf32": ({"tf32": True}, {}),
    "guidance_until 0.5": ({}, {"guidance_until": 0.5}),
    "precision fp32": ({}, {"precision": "fp32"}),
    "decoding bf16": ({}, {"decoding": "bf16"}),
    "batch 4": ({}, {"batch_size": 4, "images_per_prompt": 4}),
    "channels_last": ({"channels_last": True}, {}),  # last: it stays
}
"""Setting -> `performance` and `sampling` that differ from a plain run's."""


@dataclass
class Bench:
    """What is measured, where the numbers go, and until when."""

    device: torch.device
    tiny: bool
    until: float
    out: Path
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure and write down, unless that was done, or time is over; what fails is written down as that."""
        if name in self.found or time.monotonic() > self.until:
            return
        try:
            told = measure()
        except (PerdureError, RuntimeError, ValueError, OSError) as error:  # out of memory is a RuntimeError
            told = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:160]}
        self.found[name] = told
        self.out.write_text(json.dumps(self.found, indent=1) + "\n")
        print(f"| {name} | " + " | ".join(f"{key} {value}" for key, value in told.items()) + " |", flush=True)

    def missing(self, names: list[str]) -> bool:
        """Whether any of some measurements is still to be taken, and there is time."""
        return time.monotonic() < self.until and not set(names) <= set(self.found)

    def wait(self) -> None:
        """Until the device has done what it was told to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """How long the device works."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started


def card(bench: Bench) -> dict[str, Any]:
    """The device, and the rate at which it multiplies large matrices: what shares are shares of."""
    side = 64 if bench.tiny else 8192
    rates = {}
    for name in ("bf16", "fp32"):
        a = torch.randn(side, side, device=bench.device, dtype=performing.DTYPES[name])
        bench.seconds(lambda a=a: a @ a)
        rates[f"{name} TFLOP/s"] = round(
            2 * side**3 / min(bench.seconds(lambda a=a: a @ a) for _ in range(3)) / 1e12, 4
        )
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, **rates}


@dataclass
class Base:
    """A base of random weights, one lesson's examples, and the plan around them."""

    bench: Bench
    name: str
    backbone: Backbone
    plan: plan.Plan
    lesson: Lesson
    estimate: Estimate
    drawn: dict[str, Tensor] = field(default_factory=dict)

    def train(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Steps a second of rank 16 on all attention, and the most memory that was held."""
        steps, backbone = STEPS["train"], self.backbone
        how = self.plan.training.model_copy(update={"steps": steps, **changes})
        ended: list[float] = []
        _reset(self.bench.device)
        backbone.gradient_checkpointing(how.gradient_checkpointing)
        chosen, made = method.get("merge_init", {"rank": 16}), self.plan.model_copy(update={"training": how})
        reckoned = {"estimated GB": _round(sum(self.estimate.of(made).training.values()) / 1e9)}
        learn(backbone, chosen, Memory(), self.lesson, made, lambda done: ended.append(time.perf_counter()))
        backbone.gradient_checkpointing(False)
        each = median(b - a for a, b in zip(ended[1:], ended[2:], strict=False))
        told = {"steps/s": _round(1 / each), **self._share(3 * how.accumulate, each)}
        return {**told, **_peak(self.bench.device), **reckoned}

    def draw(self, setting: str, performance: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
        """Pictures a second of `STEPS` steps, decoded; how far latents are from the plain setting's."""
        backbone = self.backbone
        backbone.performance = Performance(**performance)
        performing.settle(backbone.performance, backbone.network, backbone.pipe.vae)
        wanted = self.plan.sampling.model_copy(update={"steps": STEPS["draw"], **sampling})
        drawer, side = backbone.drawn_in(wanted.precision), self.plan.training.resolution
        latents = sample.draw_latents(drawer, ["a photo"], wanted, side)
        self.drawn[setting] = latents.cpu()
        _reset(self.bench.device)
        each = min(self.bench.seconds(lambda: sample.draw(drawer, ["a photo"], wanted, side)) for _ in range(2))
        backbone.performance = Performance()
        rows = wanted.steps * (1 + wanted.guidance_until) * wanted.images_per_prompt
        told = {"pictures/s": _round(wanted.images_per_prompt / each), **self._share(rows, each)}
        if (plain := self.drawn.get("plain")) is not None:
            gap = (latents.cpu()[:1] - plain[:1]).abs()
            told |= {
                "moved (of a deviation)": _round(float(gap.mean() / plain.std())),
                "bit-equal": not gap.any().item(),
            }
        made = self.plan.model_copy(update={"sampling": wanted})
        reckoned = {"estimated GB": _round(sum(self.estimate.of(made).drawing.values()) / 1e9)}
        return {**told, **_peak(self.bench.device), **reckoned}

    def _share(self, forwards: float, seconds: float) -> dict[str, Any]:
        """Share of the card's rate that the network's products make, of so many forwards of one picture."""
        if "flop" not in self.bench.found.get(f"{self.name}: one forward", {}):
            return {}
        rate = self.bench.found["card"]["bf16 TFLOP/s"] * 1e12
        flop = self.bench.found[f"{self.name}: one forward"]["flop"]
        return {"share of bf16 rate": f"{forwards * flop / seconds / rate:.0%}"}

    @torch.no_grad()
    def forward(self) -> dict[str, Any]:
        """Products of one picture through the network, as torch counts them."""
        draw = lambda *owner: torch.Generator().manual_seed(0)  # noqa: E731
        batch = self.lesson.examples.batch(self.backbone, 1, draw, 0)
        with FlopCounterMode(display=False) as counter:
            self.backbone.predict(batch)
        weights = sum(p.numel() for p in self.backbone.network.parameters())
        return {"flop": counter.get_total_flops(), "weights": weights}

    def resumed(self) -> dict[str, Any]:
        """A lesson that is stopped after its checkpoint and goes on, beside one that ran through."""
        how = self.plan.training.model_copy(update={"steps": 4, "checkpoint_every": 2})
        made, chosen = self.plan.model_copy(update={"training": how}), method.get("merge_init", {"rank": 16})
        whole = learn(self.backbone, chosen, Memory(), self.lesson, made)

        def stop(done: Any) -> None:
            if done.step == 3:
                raise KeyboardInterrupt

        with TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.safetensors"
            try:
                learn(self.backbone, chosen, Memory(), self.lesson, made, stop, path)
            except KeyboardInterrupt:
                pass
            rest = learn(self.backbone, chosen, Memory(), self.lesson, made, checkpoint=path)
        return {"bit-equal": rest.digest == whole.digest}


def base(bench: Bench, name: str, precision: str = "bf16") -> Base:
    """A base on the device, with four pictures of noise to learn."""
    make, side = BASES[name]
    side = 64 if bench.tiny else side
    with loading.quiet():
        pipe = shapes.made(make, bench.tiny, bench.device, performing.DTYPES[precision])
    family = families.of_pipeline(type(pipe).__name__, name)
    backbone = Backbone(pipe, family, precision, bench.device)
    training = {"resolution": side, "batch_size": 1, "learning_rate": 1e-4, "precision": precision}
    sampling = {"images_per_prompt": 1, "guidance": 4.0, "batch_size": 1}
    methods = [{"name": "merge_init", "rank": 16}]
    data = {"methods": methods, "base": "owner/random", "training": training, "sampling": sampling}
    made = plan.build(data)
    noise = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    pictures = [Picture(Image.fromarray(pixels), "a photo") for pixels in noise]
    encoded = examples.encode(backbone, pictures, made.training, 0, "noise")
    estimate = Estimate(partial(_hollow, make, bench, family))
    return Base(bench, name, backbone, made, Lesson("noise", 1, encoded), estimate)


def _hollow(make: Callable[[bool], Any], bench: Bench, family: Any, precision: str) -> Hollow:
    """The base as shapes."""
    with loading.quiet(), torch.device("meta"):
        return Hollow(make(bench.tiny), family, precision, bench.device.type == "cuda")


def measurements(one: Base) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """All of a base, by name."""
    yield "one forward", one.forward
    yield "a lesson stopped and gone on with", one.resumed
    for setting, changes in TRAINING.items():
        yield f"train, {setting}", partial(one.train, changes)
    for setting, (performance, sampling) in DRAWING.items():
        yield f"draw, {setting}", partial(one.draw, setting, performance, sampling)


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> dict[str, Any]:
    return {"peak GB": _round(spending.peak_memory(device) / 1e9)}


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def main(words: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Measure what is missing, print it, and return all that is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="where numbers are kept, and gone on from")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=9.5, help="after which nothing more is begun")
    parser.add_argument("--tiny", action="store_true", help="networks of a few thousand weights: tries the command")
    parser.add_argument("--bases", default=",".join(BASES), help="some of them, with commas between")
    given = parser.parse_args(words)
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --device cpu --tiny tries the command")
    if unknown := sorted(set(given.bases.split(",")) - set(BASES)):
        sys.exit(f"--bases: {unknown[0]!r} is none of {', '.join(BASES)}")
    until = time.monotonic() + 60 * given.minutes
    known = json.loads(given.out.read_text()) if given.out.is_file() else {}
    bench = Bench(torch.device(given.device), given.tiny, until, given.out, known)
    bench.take("card", lambda: card(bench))
    for name in given.bases.split(","):
        names = [f"{name}: {what}" for what, _ in measurements(Base(bench, name, None, None, None, None))]  # type: ignore[arg-type]
        if bench.missing(names):
            one = base(bench, name)
            for what, measure in measurements(one):
                bench.take(f"{name}: {what}", measure)
            del one, measure
            _reset(bench.device)
    if not bench.tiny:
        bench.take("a run killed and started again", lambda: processes.killed(bench.device.type))
    if torch.cuda.device_count() > 1:
        bench.take("two cards", processes.shared)
    return bench.found


if __name__ == "__main__":
    main()
