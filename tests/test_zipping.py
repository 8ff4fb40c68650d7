"""ZipLoRA's pair, beside matrices by hand and a plain loop over a network of two layers."""

from contextlib import contextmanager
from dataclasses import replace

import torch
from test_formulas import context

from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Wanted
from perdure.parts.adapter import LowRank
from perdure.parts.zipping import Zipped, zipped

SHAPES = {"p": (3, 4), "q": (2, 3)}
"""Projection -> (out, in): what comes out of the first goes into the second."""


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def deltas(seed):
    return {name: drawn(seed + number, *shape) for number, (name, shape) in enumerate(SHAPES.items())}


BASE, ONE, TWO = deltas(0), deltas(10), deltas(20)


class Toy:
    """x -> tanh(x p^T) q^T with the base's matrices; what it is asked for is written down."""

    captions = ("a new cat", "a cat", "a new cat")

    def __init__(self):
        self.live, self.asked = None, []

    @contextmanager
    def replaced(self, weights):
        assert self.live is None
        self.live = weights
        yield
        self.live = None

    def predict(self, batch):
        p, q = (BASE[name] + self.live.change(name) for name in SHAPES)
        return torch.tanh(batch @ p.T) @ q.T

    def draw(self, texts, count):
        self.asked.append(("draw", texts, count))
        return drawn(1, len(texts) * count, 4)

    def batch_of(self, latents, captions, purpose, step):
        self.asked.append((latents.tolist(), captions, purpose, step))
        return latents + 0.1 * drawn(100 + step, 1, 4)

    def batches(self, purpose, count, size):
        self.asked.append((purpose, count, size))
        return [drawn(200 + step, size, 4) for step in range(count)]


def by_a_plain_loop(picked, weight, rate):
    """The factors after one step for each picked image, by Adam on the written-out loss."""
    factors = {name: [torch.ones(shape[1], requires_grad=True) for _ in range(2)] for name, shape in SHAPES.items()}
    descent = torch.optim.Adam([m for pair in factors.values() for m in pair], lr=rate)

    def predicted(batch, changes):
        return torch.tanh(batch @ (BASE["p"] + changes["p"]).T) @ (BASE["q"] + changes["q"]).T

    def merged():
        return {name: ONE[name] * one + TWO[name] * two for name, (one, two) in factors.items()}

    for step, k in enumerate(picked):
        past, own = drawn(1, 8, 4)[k : k + 1] + 0.1 * drawn(100 + step, 1, 4), drawn(200 + step, 1, 4)
        loss = (predicted(past, merged()) - predicted(past, ONE)).square().mean()
        loss = loss + (predicted(own, merged()) - predicted(own, TWO)).square().mean()
        loss = loss + weight * sum((one * two).abs().mean() for one, two in factors.values())
        descent.zero_grad()
        loss.backward()
        descent.step()
    return {name: matrix.detach() for name, matrix in merged().items()}


def full(matrices):
    return Delta({name: Change.full(matrix) for name, matrix in matrices.items()})


def remembered(number, memory, steps=3, lesson_steps=10):
    """What a lesson leaves whose own change is TWO, the model that it asked, and whom it asked for random numbers."""
    owners, model, part = [], Toy(), zipped(0.3, steps, 0.05)

    def generator(*owner):
        owners.append(owner)
        return torch.Generator().manual_seed(5)

    own = replace(context(number), model=model, steps=lesson_steps, generator=generator)
    trained = LowRank({name: (torch.eye(matrix.shape[1]), matrix) for name, matrix in TWO.items()})
    with torch.no_grad():  # as the loop calls it
        return part, part.remember(Adapter(trained), memory, own), model, owners


def past():
    told = {"c1": ["a dog", "a wet dog"], "b": ["a hat"]}
    return Memory().with_delta(full(ONE)).with_facts(captions=told, other=1)


def test_the_first_lesson_leaves_its_own_change_and_its_captions():
    part, memory, model, owners = remembered(1, Memory())
    assert not model.asked and not owners
    assert {name: change.matrix().tolist() for name, change in part.recall(memory, Wanted()).items()} == {
        name: matrix.tolist() for name, matrix in TWO.items()
    }
    assert memory.facts == {"captions": {"c1": ["a new cat", "a cat"]}}
    assert part.strict and part.carries == set(memory.bytes_by_name()) == {"delta"}


def test_a_later_lesson_trains_the_factors_as_a_plain_loop_does():
    """Each step on one drawn image of a past concept under its first caption, and one of the lesson's own."""
    for lesson, steps, lesson_steps, taken in ((2, 3, 10, 3), (3, 9, 4, 4)):
        part, memory, model, owners = remembered(lesson, past(), steps, lesson_steps)
        picked = torch.randint(8, (taken,), generator=torch.Generator().manual_seed(5)).tolist()
        assert owners == [("zip", lesson)] and len({k // 4 for k in picked}) == 2
        images = drawn(1, 8, 4).tolist()
        draws = [([images[k]], [("a dog", "a hat")[k // 4]], "zip past", step) for step, k in enumerate(picked)]
        assert model.asked == [("draw", ["a dog", "a hat"], 4), *draws, ("zip", taken, 1)]
        wanted, found = by_a_plain_loop(picked, 0.3, 0.05), part.recall(memory, Wanted())
        for name in SHAPES:
            torch.testing.assert_close(found[name].matrix(), wanted[name], atol=1e-5, rtol=1e-5)
            assert (wanted[name] - ONE[name] - TWO[name]).abs().max() > 0.05
        told = {"c1": ["a dog", "a wet dog"], "b": ["a hat"], f"c{lesson}": ["a new cat", "a cat"]}
        assert memory.facts == {"captions": told, "other": 1}


def test_a_pair_of_two_projections_by_hand():
    """Every factor is a leaf that learns, named by its place; alone, one of the two stands as it is and is fixed."""
    pair = Zipped.of(full(ONE), full({name: TWO[name] for name in ("q", "p")}), torch.device("cpu"))
    assert pair.projections == ["q", "p"]
    assert {name: factor.tolist() for name, factor in pair.named().items()} == {
        "merger 1 of q": [1.0] * 3, "merger 2 of q": [1.0] * 3, "merger 1 of p": [1.0] * 4, "merger 2 of p": [1.0] * 4
    }  # fmt: skip
    assert all(factor.requires_grad and factor.is_leaf for factor in pair.named().values())
    for number, matrices in enumerate((ONE, TWO)):
        alone = pair.only(number)
        assert not any(factor.requires_grad for factor in alone.named().values())
        assert all(torch.equal(alone.change(name), matrices[name]) for name in SHAPES)
    factors = {"q": (torch.tensor([1.0, -4, 3]), torch.tensor([2.0, 1, 0])), "p": (torch.ones(4), -torch.ones(4))}
    assert float(Zipped(pair.matrices, factors).alike()) == (2 + 4 + 0) / 3 + 1
