"""The same plan through the reference code, diffusers' training script and this project, in turn; see README.md.

python bench/peers.py --reference FOLDER --diffusers FOLDER

FOLDER: checkouts of github.com/luk-st/continual-lora and github.com/huggingface/diffusers; either may be left out. They
run in environments of their own, --reference-python and --diffusers-python. Linux only; one thread each; no network.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from furnishing import BASE, CLIP, DINO, VAE, furnish

CLOCKED = Path(__file__).with_name("clocked.py")
OURS, AS_SET = "perdure", "perdure as set"
THEIRS = {
    "naive": "naive_cl", "merge_init": "merge_and_init", "merge_ortho": "ortho_init", "magmax": "mag_max_light",
}  # fmt: skip
"""Methods here -> there."""
AS_THERE: dict[str, dict[str, Any]] = {"merge_ortho": {"merge": "factor_sum"}, "magmax": {"operand": "delta"}}
"""Options by which a method does what the reference code does."""
ONE_FILE = ("naive", "merge_ortho")
"""Methods that leave the untouched base and one LoRA file for all lessons, and are drawn from these."""
PROMPTS = ("a {} in a purple wizard outfit", "a {} in a jail")
WORDS = ("sks", "zwz", "sbu", "uwu", "pdw", "twt", "zsn", "ofl", "psq", "cws")
PHASES = ("rest", "training", "sampling", "scoring")


@dataclass
class Took:
    """What a way took: seconds of the processor and of the wall by phase, counts, and of the whole."""

    phases: dict[str, list[float]] = field(default_factory=dict)
    peak: int = 0
    written: int = 0
    kept: int = 0

    def add(self, told: dict[str, Any]) -> None:
        """One process more."""
        rest = [told["processor"], told["wall"], 0]
        for phase, spent in told["phases"].items():
            known = self.phases.setdefault(phase, [0.0, 0.0, 0])
            self.phases[phase] = [a + b for a, b in zip(known, spent, strict=True)]
            rest = [rest[0] - spent[0], rest[1] - spent[1], 0]
        known = self.phases.setdefault("rest", [0.0, 0.0, 0])
        self.phases["rest"] = [known[0] + rest[0], known[1] + max(0.0, rest[1]), 0]
        self.peak, self.written = max(self.peak, told["peak"]), self.written + told["written"]

    @property
    def whole(self) -> list[float]:
        """Seconds of the processor and of the wall."""
        return [sum(spent[k] for spent in self.phases.values()) for k in (0, 1)]


@dataclass(frozen=True)
class Bench:
    """The sizes of a comparison, and the folder where it is made."""

    given: argparse.Namespace
    house: Path

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The lessons as the reference code is told them."""
        words = WORDS[: self.given.lessons]
        return [{"index": k, "prompt": f"{w} thing", "path": f"data/{w}"} for k, w in enumerate(words, start=1)]

    def run(self, took: Took, python: str, part: str, *words: str, path: Path | None = None) -> None:
        """A part in a process of its own. Exits with the end of what it said where it fails."""
        told = self.house / "told.json"
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        own = {**os.environ, **threads, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(path or "")}
        if path is None:
            own["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        command = [python, str(CLOCKED), str(told), part, *words]
        done = subprocess.run(command, cwd=self.house, env=own, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{part} failed, called as\n{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
        took.add(json.loads(told.read_text()))

    def trained(self, base: str, task: dict[str, Any], out: str) -> list[str]:
        """The words of diffusers' training script and of the one made from it, for one lesson."""
        how = {
            "pretrained_model_name_or_path": base, "instance_data_dir": task["path"], "output_dir": out,
            "instance_prompt": f"a photo of {task['prompt']}", "rank": self.given.rank, "resolution": self.given.side,
            "train_batch_size": 1, "learning_rate": 1e-4, "lr_scheduler": "constant", "lr_warmup_steps": 0,
            "max_train_steps": self.given.steps, "seed": 0,
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in how.items()]

    # --- ways -------------------------------------------------------------------------------------------------------

    def reference(self) -> Took:
        """Each method, lesson by lesson; every picture; the scores."""
        took, python, code = Took(), self.given.reference_python, self.given.reference.absolute()
        models = [["base", "", "reference/drawn/base"]]
        for name in self.given.methods:
            base, lora, there = BASE, "", f"reference/models/{name}"
            for task in self.tasks:
                words = self.trained(base, task, out := f"{there}/{task['index']}")
                words += [f"--pretrained_vae_model_name_or_path={VAE}", f"--experiment_name={THEIRS[name]}"]
                words += [f"--lora_path={lora}"] if lora else []
                self.run(took, python, "script", str(code / "lora/train_dreambooth_lora_sdxl.py"), *words, path=code)
                base, lora = (base, out) if name in ONE_FILE else (out, "")
            drawn_as = THEIRS[
                "naive" if name in ONE_FILE else name
            ]  # of ortho_init its code asks for what it has not kept
            models.append([drawn_as, there, f"reference/drawn/{name}"])
        job = {"tasks": self.tasks, "models": models, "prompts": PROMPTS, **self._drawn}
        self._write("job.json", job)
        self.run(took, python, "reference-draw", "job.json", path=code)
        self.run(took, python, "reference-score", "job.json", path=code)
        return self._kept(took, "reference")

    def diffusers(self) -> Took:
        """Merge and go on, by hand: train, fuse, draw every concept so far, keep the pipeline for the next lesson."""
        took, python = Took(), self.given.diffusers_python
        script = self.given.diffusers.absolute() / "examples/dreambooth/train_dreambooth_lora_sdxl.py"
        self._diffusers_drawn(took, BASE, None, 0)
        base = BASE
        for task in self.tasks:
            words = self.trained(base, task, out := f"diffusers/lora/{task['index']}")
            self.run(took, python, "script", str(script), *words)
            base = self._diffusers_drawn(took, base, out, task["index"])
        return self._kept(took, "diffusers")

    def _diffusers_drawn(self, took: Took, base: str, lora: str | None, lesson: int) -> str:
        keep = f"diffusers/models/{lesson}" if lesson else ""
        drawn = self.tasks[:lesson] if lesson else self.tasks
        cells = {str(task["index"]): [p.format(task["prompt"]) for p in PROMPTS] for task in drawn}
        job = {"base": base, "lora": lora, "keep": keep, "cells": cells, "out": f"diffusers/drawn/{lesson}"}
        self._write("job.json", job | self._drawn)
        self.run(took, self.given.diffusers_python, "diffusers-draw", "job.json")
        return keep

    def ours(self) -> Took:
        """The plan, run."""
        return self._ours("ours", [])

    def as_set(self) -> Took:
        """The plan with the settings that were named, run anew from nothing."""
        return self._ours("ours-as-set", self.given.set)

    def _ours(self, out: str, settings: list[str]) -> Took:
        took = Took()
        Path(self.house, "plan.yaml").write_text(yaml.safe_dump(self.plan()))
        self.run(took, sys.executable, "ours", "plan.yaml", out, *(f"--set={word}" for word in settings))
        return self._kept(took, out)

    def plan(self) -> dict[str, Any]:
        """The published protocol's settings at the comparison's size."""
        concepts = [
            {"name": task["prompt"].split()[0], "images": task["path"], "token": task["prompt"].split()[0]}
            | {"class": "thing"}
            for task in self.tasks
        ]
        return {
            "name": "peers", "base": BASE, "concepts": concepts, "seed": 0,
            "methods": [{"name": n, "rank": self.given.rank, **AS_THERE.get(n, {})} for n in self.given.methods],
            "training": {
                "resolution": self.given.side, "resize": "bilinear", "crop": "random", "posterior": "each_step",
                "steps": self.given.steps, "batch_size": 1, "learning_rate": 1e-4, "seed_per_lesson": False,
            },
            "sampling": {
                "images_per_prompt": self.given.each, "steps": self.given.draw, "guidance": 5.0, "seed": 42,
                "prompts": {"subject": [prompt.format("{concept}") for prompt in PROMPTS]},
            },
            "scoring": {"subject": ["clip_i", "dino"], "models": {"clip_i": CLIP, "dino": DINO}, "drift": 0},
        }  # fmt: skip

    @property
    def _drawn(self) -> dict[str, int]:
        return {"each": self.given.each, "side": self.given.side, "steps": self.given.draw}

    def _write(self, name: str, value: Any) -> None:
        (self.house / name).write_text(json.dumps(value))

    def _kept(self, took: Took, folder: str) -> Took:
        files = [path.stat() for path in (self.house / folder).rglob("*") if path.is_file()]
        took.kept = sum({stat.st_ino: stat.st_size for stat in files}.values())
        return took


# --- the table ------------------------------------------------------------------------------------------------------

WORTH = {"training": "step", "sampling": "picture", "scoring": "picture"}
"""Phase -> what a ratio is of, where ways may do different amounts."""


def table(found: dict[str, Took]) -> str:
    """Seconds of each way, and beside those of others how many times ours they are, for as much work."""
    names = list(found)
    rows = [
        ["", *(f"{name}, {unit}" for name in names for unit in ("CPU s", "wall s"))],
        ["---"] * (1 + 2 * len(names)),
    ]
    for phase in PHASES:
        one = f"{phase}, a {WORTH[phase]}" if phase in WORTH else "start-up and all else"
        rows.append([one, *_seconds({n: took.phases.get(phase, [0.0, 0.0, 0]) for n, took in found.items()})])
    rows.append(["end to end", *_seconds({name: [*took.whole, 0] for name, took in found.items()})])
    counted = [[f"{took.phases.get(p, [0, 0, 0])[2]:,.0f}" for p in WORTH] for took in found.values()]
    for label, told in (
        ("steps, pictures, scored", [" / ".join(own) for own in counted]),
        ("memory at most, MB", [f"{took.peak / 1e6:,.0f}" for took in found.values()]),
        ("written, MB", [f"{took.written / 1e6:,.0f}" for took in found.values()]),
        ("left on disk, MB", [f"{took.kept / 1e6:,.0f}" for took in found.values()]),
    ):
        rows.append([label, *(cell for one in told for cell in (one, ""))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def beside_set(found: dict[str, Took]) -> str:
    """End to end, how many times the seconds of this project as it was set each other way takes; empty without that."""
    if AS_SET not in found:
        return ""
    times = {n: [a / b for a, b in zip(t.whole, found[AS_SET].whole, strict=True)] for n, t in found.items()}
    told = "\n{}: {:.2g} x the CPU seconds of {}, {:.2g} x the wall's"
    return "".join(told.format(n, t[0], AS_SET, t[1]) for n, t in times.items() if n != AS_SET)


def _seconds(spent: dict[str, list[float]]) -> list[str]:
    """Cells of a phase: seconds of the processor and of the wall, and ratios to ours, a piece where that is counted."""
    own, cells = spent[OURS], []
    for name, (*seconds, count) in spent.items():
        for mine, theirs in zip(own, seconds, strict=False):
            share = (own[2] / count) if count else 1.0
            ratio = f" ({theirs * share / mine:.2g} x)" if name != OURS and mine and theirs else ""
            cells.append(f"{theirs:.1f}{ratio}" if theirs else "-")
    return cells


def main(words: Sequence[str] | None = None) -> dict[str, Took]:
    """Go each way in turn and print the table; what each took, by way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of the reference code")
    parser.add_argument("--diffusers", type=Path, help="a checkout of diffusers")
    for peer in ("reference", "diffusers"):
        parser.add_argument(f"--{peer}-python", default=sys.executable, help=f"the Python that {peer} runs in")
    parser.add_argument("--base", type=Path, help="a folder of SDXL; a small one of random weights by default")
    parser.add_argument(
        "--methods", default="merge_init", help=f"some of {', '.join(THEIRS)}; diffusers has merge_init"
    )
    parser.add_argument("--set", action="append", default=[], help="a setting of a further run of this project")
    for name, usual in {"lessons": 3, "steps": 20, "each": 8, "draw": 50, "side": 64, "rank": 16}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--tiny", action="store_true", help="networks of a few thousand weights: tries the command")
    given = parser.parse_args(words)
    given.methods = given.methods.split(",")
    if unknown := sorted(set(given.methods) - set(THEIRS)):
        sys.exit(f"--methods: {unknown[0]!r} is none of {', '.join(THEIRS)}")
    found: dict[str, Took] = {}
    with TemporaryDirectory() as folder:
        bench = Bench(given, Path(folder))
        furnish(bench.house, given.base, list(WORDS[: given.lessons]), given.tiny)
        ways = {OURS: bench.ours} | ({AS_SET: bench.as_set} if given.set else {})
        ways |= {"reference": bench.reference} if given.reference else {}
        ways |= {"diffusers": bench.diffusers} if given.diffusers else {}
        try:
            for name, way in ways.items():
                print(f"{name} ...", file=sys.stderr)
                found[name] = way()
        finally:  # one that fails, or is stopped, takes nothing from those before it
            if found:
                print(table(found) + beside_set(found), flush=True)
    return found


if __name__ == "__main__":
    main()
