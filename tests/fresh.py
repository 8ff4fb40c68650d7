"""One lesson per line of standard input, each in a process of its own that has done nothing but import.

Importing takes seconds, so it is done once, in a parent that never touches a model; a fork of it is a fresh process.
"""

import json
import os
import sys
from pathlib import Path

import torch

from perdure import examples, method, pictures, plan
from perdure import memory as memories
from perdure.backbones import loading
from perdure.memory import Memory
from perdure.train import Lesson, learn

torch.set_num_threads(1)


def lesson(data: dict, number: int, name: str, before: str, after: str, store: str) -> None:
    """Learn concept `number` (from 1) of a plan after the memory stored at `before` (or nothing), and store it."""
    torch.rand(number + 5)  # whatever the global generator has been used for must not matter
    made = plan.build(data)
    concept = made.concepts[number - 1]
    backbone = loading.load(made.base, device="cpu")
    encoded = examples.encode(backbone, pictures.of(concept).training, made.training, made.seed, concept.name)
    start = memories.load(Path(before), Path(store)) if before else Memory()
    todo = Lesson(concept.name, number, encoded, concept.token, concept.noun, concept.phrase)
    memories.save(learn(backbone, method.get(name), start, todo, made), Path(after), Path(store))


if __name__ == "__main__":
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            lesson(*json.loads(line))
            os._exit(0)
        print("failed" if os.waitpid(child, 0)[1] else "done", flush=True)
