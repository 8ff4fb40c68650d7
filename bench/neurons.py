"""How many base neurons are general, and how far the choices of two concepts coincide, by reading; see README.md."""

from collections.abc import Iterator
from functools import partial
from itertools import combinations, permutations, product
from statistics import mean

import torch
from torch import Tensor

from perdure import plan, seeds
from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.lesson import examples
from perdure.lesson.model import LessonModel
from perdure.memory.delta import Delta
from perdure.method import WordSpec
from perdure.parts import neurons
from perdure.parts.neurons import CALIBRATION, NOISES, SAMPLES, Choice, Masks, Scores, concept_masks
from perdure.photos import pictures

CONCEPTS = range(3, 9)
"""Subjects of the embedded base's `dev` split."""
PROMPTS = (1, 4, 16)
"""Counts of calibration prompts that general neurons are found on."""
KINDS = ("fisher", "saliency", "wanda")


def models(backbone: Backbone, shapes: list[str]) -> Iterator[LessonModel]:
    """The untouched base at the start of each concept's lesson, its word at the class noun."""
    names = {"base": "toybox", "methods": ["cns"]}
    made = plan.build({**names, "concepts": {"toybox": {"subjects": max(CONCEPTS) + 1, "split": "dev"}}})
    for concept in made.concepts[CONCEPTS[0] :]:
        encoded = examples.encode(backbone, pictures.of(concept).training, made.training, made.seed, concept.name)
        draw = partial(seeds.generator, made.seed, concept.name)
        word = backbone.vocabulary.begin(WordSpec(("class",)), concept.token, concept.noun, draw("word"))
        with backbone.speaking({concept.token: word}):
            yield LessonModel(backbone, encoded, Delta(), made, shapes, draw, word=True)


def overlap(one: Tensor, two: Tensor) -> float:
    """Entries in both masks over those in the smaller one."""
    return float((one & two).sum() / min(one.sum(), two.sum()).clamp(min=1))


def line(halves: list[tuple[Scores, Scores]], prompts: list[Scores], choice: Choice) -> str:
    """General share of the base neurons by count of prompts; then, of the masks: density, own halves, two concepts."""

    def masks(own: Scores, count: int) -> tuple[Tensor, Tensor]:
        found: tuple[Masks, Masks] = concept_masks(own, prompts[:count], choice)
        return tuple(torch.cat([mask.flatten() for mask in one.values()]) for one in found)  # type: ignore[return-value]

    general = []
    for count in PROMPTS:
        pairs = [masks(neurons.mean(pair), count) for pair in halves]
        general.append(mean(1 - float(kept.sum() / base.sum()) for base, kept in pairs))
    base = mean(overlap(one[0], two[0]) for one, two in combinations(pairs, 2))
    split = [tuple(masks(half, PROMPTS[-1])[1] for half in pair) for pair in halves]
    density = mean(float(kept.float().mean()) for _, kept in pairs)
    own = mean(overlap(one, two) for one, two in split)
    other = mean(overlap(one[0], two[1]) for one, two in permutations(split, 2))
    return "".join(f"{share:7.2f}" for share in general) + f"{base:12.2f}{density:12.3f}{own:10.2f}{other:8.2f}"


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    backbone = loading.load("toybox", device="cpu")
    shapes = list(backbone.projections("cross_kv"))
    weights = {name: backbone.weight(name) for name in shapes}
    halves: dict[str, list[tuple[Scores, Scores]]] = {kind: [] for kind in KINDS}
    for model in models(backbone, shapes):
        batches = model.batches("importance", SAMPLES, 1)
        for kind in KINDS:
            scores = [neurons.pick(kind)(model, weights, batch) for batch in batches]
            halves[kind].append((neurons.mean(scores[::2]), neurons.mean(scores[1::2])))
    noised = model.general(CALIBRATION, NOISES)
    print(f"{'general at':>41} {' '.join(f'{count:6}' for count in PROMPTS)}  base, two   density       own   other")
    for kind in KINDS:
        prompts = [neurons.mean(neurons.pick(kind)(model, weights, b) for b in copies) for copies in noised]
        rules = [("vote", 0.5), ("vote", 1.0), ("difference", 0.5)]
        for among, (general, vote) in product(("layer", "row", "all"), rules):
            choice = Choice(kind, among, "element", 0.12, general, vote, None)  # type: ignore[arg-type]
            print(f"{kind:10}{among:8}{general:12}{vote if general == 'vote' else '':>6}", end="     ")
            print(line(halves[kind], prompts, choice), flush=True)


if __name__ == "__main__":
    main()
