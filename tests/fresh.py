"""One job (a lesson, or a drawing) per line of standard input, each in a process that has done nothing but import.

Importing takes seconds, so it is done once, in a parent that never touches a model; a fork of it is a fresh process.
"""

import json
import os
import sys
from pathlib import Path

import torch

from perdure import memory as memories
from perdure import method, plan
from perdure.bases import classifier, loading
from perdure.drawing import sample
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.photos import pictures

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


def drawing(data: dict, name: str, memory: str, store: str, called: str, out: str) -> None:
    """Draw a concept from a stored memory, every prompt and latent of a plan, and store the raw pixels."""
    torch.rand(7)
    made = plan.build(data)
    backbone = loading.load(made.base, device="cpu")
    remembered = memories.load(Path(memory), Path(store))
    concept = next(c for c in made.concepts if c.name == called)
    images = sample.images(
        backbone, method.get(name), remembered, called, made.prompts_for(concept), made.sampling, 32
    )  # fmt: skip
    Path(out).write_bytes(b"".join(image.tobytes() for image in images))


def class_lesson(data: dict, number: int, name: str, before: str, after: str, store: str) -> None:
    """Learn task `number` (from 1) of a classifier's plan after the memory stored at `before`, and store it."""
    torch.rand(number + 5)
    made = plan.build(data)
    concept = made.concepts[number - 1]
    base = classifier.load(made.base, device=torch.device("cpu"))
    encoded = examples.encode_classes(base, pictures.of(concept).training, made.training)
    start = memories.load(Path(before), Path(store)) if before else Memory()
    todo = Lesson(concept.name, number, encoded, classes={concept.name: concept.classes})
    memories.save(learn(base, method.get(name), start, todo, made), Path(after), Path(store))


JOBS = {"lesson": lesson, "class_lesson": class_lesson, "drawing": drawing}


if __name__ == "__main__":
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            job, arguments = json.loads(line)
            JOBS[job](*arguments)
            os._exit(0)
        print("failed" if os.waitpid(child, 0)[1] else "done", flush=True)
