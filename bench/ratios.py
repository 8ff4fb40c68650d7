"""Ratios of two ways to do the same thing, measured turn by turn in one process; see README.md."""

import time
from collections.abc import Callable
from statistics import median

import torch

from perdure import plan
from perdure.bases import loading
from perdure.drawing import sample
from perdure.lesson import examples
from perdure.memory.delta import Change, Delta
from perdure.photos import pictures

TURNS = 5


def ratio(slow: Callable[[], object], fast: Callable[[], object]) -> float:
    """Median over turns of seconds(slow) / seconds(fast), after one turn to warm up."""
    ratios = []
    for _ in range(TURNS + 1):
        seconds = []
        for work in (slow, fast):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    return median(ratios[1:])


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    made = plan.build({"methods": ["merge_init"], "concepts": {"toybox": {"subjects": 1}}})
    backbone = loading.load(made.base, device="cpu")
    concept = made.concepts[0]
    own = pictures.of(concept).training
    encoded = examples.encode(backbone, own, made.training, made.seed, concept.name)
    batch = encoded.batch(backbone, 4, lambda purpose, step: torch.Generator().manual_seed(step), 0)

    def encode_once() -> None:
        for _ in range(5):
            backbone.loss(batch)

    def encode_every_step() -> None:
        for _ in range(5):
            examples.encode(backbone, own[:2], made.training, made.seed, concept.name)  # the batch's own images
            backbone.loss(batch)

    prompts, settings = ["a photo of a sks bowl on the beach"], made.sampling.model_copy(update={"steps": 4})
    alone, batched = (settings.model_copy(update={"images_per_prompt": 16, "batch_size": size}) for size in (1, 16))
    shapes = backbone.projections("attention")
    lesson = Delta({name: Change.low_rank(torch.randn(16, i), torch.randn(o, 16)) for name, (o, i) in shapes.items()})

    def fold(times: int) -> None:
        for _ in range(times):
            with backbone.laid(lesson):
                pass

    def draw(sampling: plan.Sampling) -> None:
        with torch.no_grad():
            sample.draw(backbone, prompts, sampling, 64)

    dense = sum(4 * o * i for o, i in shapes.values())
    five = lesson + lesson + lesson + lesson + lesson
    print(f"encode every step / encode once       {ratio(encode_every_step, encode_once):.2f}")
    print(f"one image at a time / batches of 16   {ratio(lambda: draw(alone), lambda: draw(batched)):.2f}")
    print(f"fold before every image / fold once   {ratio(lambda: fold(16), lambda: fold(1)):.1f}")
    print(f"dense bytes / carried bytes, 1 lesson {dense / lesson.nbytes:.2f}, 5 lessons {dense / five.nbytes:.2f}")


if __name__ == "__main__":
    main()
