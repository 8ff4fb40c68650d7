"""Steps of lessons by compiled code beside plain ones, turn by turn in one process; see README.md.

python bench/compiled.py --steps 30 --turns 4
"""

import argparse
import time
from collections.abc import Sequence
from statistics import median

import torch

from perdure import method, plan
from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.lesson import examples
from perdure.lesson.train import Done, Lesson, learn
from perdure.memory import Memory
from perdure.photos import pictures
from perdure.plan import Performance, Plan


def steps(backbone: Backbone, made: Plan, memory: Memory, number: int) -> tuple[Memory, list[float], list[float]]:
    """A lesson: the memory after it, seconds of the processor at the end of each step, and each step's loss."""
    concept = made.concepts[number % len(made.concepts)]
    encoded = examples.encode(backbone, pictures.of(concept).training, made.training, made.seed, concept.name)
    ended, losses = [time.process_time()], []

    def watch(done: Done) -> None:
        ended.append(time.process_time())
        losses.append(done.loss)

    lesson = Lesson(concept.name, number + 1, encoded, concept.token, concept.noun, concept.phrase)
    return learn(backbone, method.of(made.methods[0]), memory, lesson, made, watch), ended, losses


def main(words: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Measure and print; the median seconds of a step of each lesson, plain and compiled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in {"steps": 30, "turns": 4, "batch": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    wanted = {"steps": given.steps, "batch_size": given.batch}
    made = plan.build({"methods": ["merge_init"], "concepts": {"toybox": {"subjects": 4}}, "training": wanted})
    ways = {
        name: loading.load(made.base, device="cpu", performance=Performance(compile_training=name == "compiled"))
        for name in ("plain", "compiled")
    }
    memories, found, first = dict.fromkeys(ways, Memory()), {name: [] for name in ways}, {}
    for number in range(given.turns):
        losses = {}
        for name, backbone in ways.items():
            memories[name], ended, losses[name] = steps(backbone, made, memories[name], number)
            each = [after - before for before, after in zip(ended, ended[1:], strict=False)]
            first.setdefault(name, each[0])
            found[name].append(median(each[1:]))
        apart = max(abs(a / b - 1) for a, b in zip(losses["compiled"], losses["plain"], strict=True))
        told = ", ".join(f"{name} {found[name][-1]:.4f} s" for name in ways)
        ratio = found["plain"][-1] / found["compiled"][-1]
        print(f"lesson {number + 1}: a step {told}: {ratio:.2f} x; losses apart by {apart:.1e}", flush=True)
    ratios = [plain / compiled for plain, compiled in zip(*found.values(), strict=True)]
    print(f"a plain step / a compiled one         {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
    print(f"first step, the code's making in it   {first['compiled']:.1f} s of the processor")
    return found


if __name__ == "__main__":
    main()
