"""Runs one part of a comparison in a process of its own, and writes down what it took; see peers.py, which calls it.

python bench/clocked.py TOLD.json PART WORDS...    in the environment of the code that is run: needs torch alone

Seconds of the processor are those of the thread that works: everything has one thread. What is in no phase is `rest`.
"""

import importlib
import json
import pickle
import runpy
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim import optimizer


class Clock:
    """Seconds of the processor and of the wall, and how many steps or pictures, by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, list[float]] = {}
        self._within = threading.local()
        self._steps: list[tuple[float, float]] = []
        optimizer.register_optimizer_step_post_hook(lambda *rest: self._steps.append(_now()))

    def add(self, phase: str, processor: float, wall: float, count: int) -> None:
        """So much more of a phase."""
        known = self.phases.get(phase, [0.0, 0.0, 0])
        self.phases[phase] = [known[0] + processor, known[1] + wall, known[2] + count]

    @contextmanager
    def during(self, phase: str, count: int = 0) -> Iterator[None]:
        """What happens now is of this phase, unless it happens within one."""
        if getattr(self._within, "one", False):
            yield
            return
        self._within.one, before = True, _now()
        try:
            yield
        finally:
            self._within.one, after = False, _now()
            self.add(phase, after[0] - before[0], after[1] - before[1], count)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Steps are taken: from the end of the first to the end of the last, and as much for the first as for each."""
        self._steps.clear()
        yield
        count = len(self._steps)
        if count > 1:
            (processor, wall), (later, ended) = self._steps[0], self._steps[-1]
            whole = count / (count - 1)
            self.add("training", whole * (later - processor), whole * (ended - wall), count)

    def told(self) -> dict[str, Any]:
        """All of it, with the process's own."""
        return {
            "phases": self.phases, "processor": time.process_time(), "wall": time.time() - _began(),
            "peak": _field("/proc/self/status", "VmHWM", 1024), "written": _field("/proc/self/io", "wchar", 1),
        }  # fmt: skip


def _now() -> tuple[float, float]:
    return time.thread_time(), time.perf_counter()


def _began() -> float:
    """When this process was started, in seconds since the epoch."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return int(boot.split()[1]) + ticks / 100


def _field(file: str, name: str, unit: int) -> int:
    lines = (line.split() for line in Path(file).read_text().splitlines())
    return next(unit * int(words[1]) for words in lines if words[0] == f"{name}:")


# --- the reference code ----------------------------------------------------------------------------------------------


def script(clock: Clock, path: str, *words: str) -> None:
    """A training script with its words."""
    sys.argv = [path, *words]
    with clock.training():
        runpy.run_path(path, run_name="__main__")


def reference_draw(clock: Clock, job: str) -> None:
    """Its pictures of every concept so far after every lesson, and by the base, of the side, number and steps asked."""
    wanted = json.loads(Path(job).read_text())
    own = importlib.import_module("eval.sample_images")
    each, side, steps = wanted["each"], wanted["side"] // 8, wanted["steps"]
    drawn = own.sample_ranked_batched

    def noise(device: Any, n_prompts: int) -> torch.Tensor:
        made = torch.randn((each, 4, side, side), generator=torch.Generator(device=device).manual_seed(42))
        return torch.cat([made] * n_prompts)

    def draw(**how: Any) -> Any:
        with clock.during("sampling", len(how["prompts"])):
            return drawn(**how, num_inference_steps=steps)

    own.N_SAMPLES_PER_PROMPT, own.prepare_noise, own.sample_ranked_batched = each, noise, draw
    for method, models, out in wanted["models"]:
        tasks = {task["index"]: task for task in wanted["tasks"]}
        own.sample_cl_models(models, tasks, method, Path(out), wanted["prompts"], "object")


def reference_score(clock: Clock, job: str) -> None:
    """Its scores of all those pictures."""
    wanted = json.loads(Path(job).read_text())
    own = importlib.import_module("eval.eval_method")
    for _, _, out in wanted["models"]:
        for file in sorted(Path(out).glob("after_task_*/on_task_*.pkl")):
            task = wanted["tasks"][int(file.stem.rpartition("_")[2]) - 1]
            with file.open("rb") as opened:
                pictures = pickle.load(opened)["samples"]  # which the part before wrote
            with clock.during("scoring", len(pictures)), torch.no_grad():
                own.calculate_metrics(pictures, task["path"], "object")


# --- diffusers --------------------------------------------------------------------------------------------------------


def diffusers_draw(clock: Clock, job: str) -> None:
    """A base with a LoRA file fused into it, or without: pictures of some prompts; the fused base, where it is kept."""
    from diffusers import StableDiffusionXLPipeline

    wanted = json.loads(Path(job).read_text())
    pipe = StableDiffusionXLPipeline.from_pretrained(wanted["base"])
    pipe.set_progress_bar_config(disable=True)
    if wanted["lora"]:
        pipe.load_lora_weights(wanted["lora"])
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    size = {"height": wanted["side"], "width": wanted["side"], "num_inference_steps": wanted["steps"]}
    for name, prompts in wanted["cells"].items():
        Path(wanted["out"], name).mkdir(parents=True)
        for number, prompt in enumerate(prompts):
            with clock.during("sampling", wanted["each"]):
                generator = torch.Generator().manual_seed(42)
                images = pipe(prompt, num_images_per_prompt=wanted["each"], generator=generator, **size).images
            for k, image in enumerate(images):
                image.save(Path(wanted["out"], name, f"{number}-{k}.png"))
    if wanted["keep"]:
        pipe.save_pretrained(wanted["keep"])


# --- this project -----------------------------------------------------------------------------------------------------


def ours(clock: Clock, plan: str, out: str, *words: str) -> None:
    """`perdure run`, its steps, pictures and scores told apart."""
    from perdure import cli
    from perdure.drawing import judging, sample
    from perdure.run import teaching

    learn = teaching.learn

    def learnt(*values: Any, **named: Any) -> Any:
        with clock.training():
            return learn(*values, **named)

    teaching.learn = learnt
    _watch(clock, sample.Recall, "images", "sampling", lambda values: len(values[2]) * values[3].images_per_prompt)
    _watch(clock, judging, "judged", "scoring", lambda values: len(values[4]))
    _watch(clock, judging, "unlike_any", "scoring", lambda values: 0)
    _watch(clock, judging, "kept_features", "scoring", lambda values: 0)
    sys.argv = ["perdure", "run", plan, "--out", out, *words]
    cli.app(standalone_mode=False)


def _watch(clock: Clock, owner: Any, name: str, phase: str, count: Callable[[tuple[Any, ...]], int]) -> None:
    function = getattr(owner, name)

    def watched(*values: Any, **named: Any) -> Any:
        with clock.during(phase, count(values)):
            return function(*values, **named)

    setattr(owner, name, watched)


PARTS: dict[str, Callable[..., None]] = {
    "script": script, "reference-draw": reference_draw, "reference-score": reference_score,
    "diffusers-draw": diffusers_draw, "ours": ours,
}  # fmt: skip

if __name__ == "__main__":
    told, part, *rest = sys.argv[1:]
    sys.path.pop(0)  # this folder's modules are none of theirs
    clocked = Clock()
    PARTS[part](clocked, *rest)
    Path(told).write_text(json.dumps(clocked.told()))
