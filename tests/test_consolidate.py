"""What is remembered and how it is called back, by hand on small matrices of whole numbers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_formulas import adapter_of, context
from torch import nn

from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Consolidate, Wanted
from perdure.parts import consolidate as parts
from perdure.parts.adapter import LowRank, masked_lora

A = torch.tensor([[[1.0, -2], [3, 4]], [[-1.0, 5], [2, -4]], [[0.0, 1], [6, 1]]])
B = torch.tensor([[[2.0, 1], [0, -3]], [[1.0, -1], [5, 3]], [[4.0, 0], [-5, 2]]])
"""Factors of three lessons, (3, 2, 2) each: as pairs they are larger than their products."""
PRODUCTS = B @ A


def larger(one, two):
    """Entry by entry, ties to the second."""
    rows = zip(one.tolist(), two.tolist(), strict=True)
    return [[x if abs(x) > abs(y) else y for x, y in zip(*pair, strict=True)] for pair in rows]


def after(part, count, memory=None, adapter=None):
    """The memory after the first lessons, whose factors go on being trained."""
    memory = memory or Memory()
    for k in range(count):
        pair = nn.Parameter(A[k].clone()), nn.Parameter(B[k].clone())
        memory = part.remember(adapter or adapter_of(pair), memory, context(k + 1))
        with torch.no_grad():
            [t.zero_() for t in pair]
    return memory


def whole(matrix, name="p"):
    return Delta({name: Change.full(torch.as_tensor(matrix, dtype=torch.float32))})


# --- the delta --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected", "rank"),
    [
        ("add", PRODUCTS.sum(0).tolist(), None),
        ("add_apart", PRODUCTS.sum(0).tolist(), None),
        ("replace", PRODUCTS[2].tolist(), 2),
        ("add_factors", (B.sum(0) @ A.sum(0)).tolist(), 2),
        ("max_delta", larger(torch.tensor(larger(PRODUCTS[0], PRODUCTS[1])), PRODUCTS[2]), None),
    ],
)
def test_what_is_carried_of_three_lessons(name, expected, rank):
    part = getattr(parts, name)
    memory = after(part, 3)
    change = part.recall(memory, Wanted("c1"))["p"]
    assert change.matrix().tolist() == expected and change.rank == rank
    assert memory.tensors.keys() <= {"delta/p/dense", "delta/p/0.A", "delta/p/0.B"}
    assert not any(t.requires_grad for t in memory.tensors.values())


def test_the_larger_entries_of_each_factor_are_carried():
    memory = after(parts.max_factors, 3)
    a, b = memory.delta()["p"].stacked()
    for found, own in ((a, A), (b, B)):
        assert found.tolist() == larger(torch.tensor(larger(own[0], own[1])), own[2])


def test_of_entries_of_one_size_the_new_one_is_taken():
    old, new = torch.tensor([1.0, -2.0, 3.0, 0.0]), torch.tensor([-1.0, 2.0, -2.0, -1.0])
    assert parts.larger(old, new).tolist() == [-1.0, 2.0, 3.0, -1.0]


def test_each_concepts_own_change_is_called_by_its_name():
    memory = after(parts.keep, 3)
    for k in range(3):
        assert parts.keep.recall(memory, Wanted(f"c{k + 1}"))["p"].matrix().tolist() == PRODUCTS[k].tolist()
    assert parts.keep.recall(memory, Wanted()) == Delta() and not memory.delta()
    assert parts.keep.forget(memory, Memory(), Memory()) is memory


def test_a_lesson_is_taken_out_of_the_sum():
    memories = [after(parts.add, count) for count in range(4)]
    left = parts.add.forget(memories[3].with_facts(kept=1), memories[1], memories[2])
    assert left.delta()["p"].matrix().tolist() == (PRODUCTS[0] + PRODUCTS[2]).tolist() and left.facts == {"kept": 1}
    with_first = parts.add.forget(memories[3], memories[0], memories[1]).delta()["p"].matrix()
    assert with_first.tolist() == (PRODUCTS[1] + PRODUCTS[2]).tolist()


def test_a_running_maximum_lies_beside_the_delta_and_is_scaled_when_recalled():
    part = parts.running_max(0.5)
    memory = after(part, 3, Memory().with_delta(whole([[0.0, 0.0], [99.0, 0.0]], "other"), "max"))
    most = larger(torch.tensor(larger(PRODUCTS[0], PRODUCTS[1])), PRODUCTS[2])
    assert memory.delta("max")["p"].matrix().tolist() == most
    assert memory.delta()["p"].matrix().tolist() == PRODUCTS[2].tolist() and list(memory.delta()) == ["p"]
    recalled = part.recall(memory, Wanted())
    assert recalled["p"].matrix().tolist() == (torch.tensor(most) / 2).tolist()
    assert recalled["other"].matrix().tolist() == [[0.0, 0.0], [49.5, 0.0]]
    assert part.carries == set(memory.bytes_by_name()) == {"delta", "max"} and not part.strict


# --- one part before another ------------------------------------------------------------------------------------------


def noting(word):
    """What writes a word behind those that a memory has."""
    return lambda *given: next(m for m in given if isinstance(m, Memory)).with_facts(
        said=next(m for m in given if isinstance(m, Memory)).facts.get("said", "") + word
    )


def test_what_is_carried_beside_the_delta_is_remembered_first_and_forgotten_last():
    seen = []

    def extra(*given):
        seen.append(given)
        return noting("b")(given[1])

    def last(memory, before, later):
        seen.append((before, later))
        return noting("d")(memory)

    def remember(adapter, memory, context):
        assert (adapter, context) == ("adapter", "context")
        return noting("c")(memory)

    def forget(memory, *lesson):
        assert lesson == (before, later)
        return noting("C")(memory)

    given, before, later = ("adapter", Memory({}, {"said": "a"}), "context"), Memory(facts={"no": 1}), Memory()
    base = Consolidate(remember, parts.whole, forget=forget, brings=True, lasting=frozenset({"old"}))
    one = parts.carrying(base, extra, "x", "y", forget=last)
    assert one.remember(*given).facts == {"said": "abc"} and seen.pop() == given
    assert one.forget(given[1], before, later).facts == {"said": "aCd"} and seen.pop() == (before, later)
    assert one.recall is parts.whole and one.carries == {"delta", "x", "y"} and one.lasting == {"old"}
    two = parts.carrying(base, extra, "x", "y")
    assert two.forget(given[1], before, later).facts == {"said": "aC"} and two.lasting == {"old", "x", "y"}
    assert parts.carrying(replace(base, forget=None), extra, "x", forget=last).forget is None


def test_what_two_parts_keep_to_is_what_both_keep_to():
    for of_base in (True, False):
        for of_extra in (True, False):
            base = Consolidate(noting("b"), parts.whole, strict=of_base, brings=of_base)
            both = parts.carrying(base, noting("a"), strict=of_extra, brings=of_extra)
            assert both.strict == both.brings == (of_base and of_extra)
    usual = parts.carrying(Consolidate(noting("b"), parts.whole, brings=True), noting("a"))
    assert usual.strict is True and usual.brings is False


# --- what is carried beside the delta ---------------------------------------------------------------------------------


def moving(k, *names):
    """An adapter with a lesson's factors on some projections."""
    return Adapter(LowRank({name: (nn.Parameter(A[k].clone()), nn.Parameter(B[k].clone())) for name in names}))


def test_the_sum_of_all_a_and_the_same_without_a_lesson():
    lessons = (moving(0, "p"), moving(1, "p", "q"), moving(2, "p", "q"))
    memories = [Memory().with_facts(kept=1)]
    for number, adapter in enumerate(lessons, 1):
        memories.append(parts.past_a(adapter, memories[-1], context(number)))
    found = memories[3].under("past_a")
    assert {name: a.tolist() for name, a in found.items()} == {"p": A.sum(0).tolist(), "q": (A[1] + A[2]).tolist()}
    left = parts.less_a(memories[3], memories[1], memories[2])
    assert {name: a.tolist() for name, a in left.under("past_a").items()} == {
        "p": (A[0] + A[2]).tolist(), "q": A[2].tolist()
    }  # fmt: skip
    assert memories[3].facts == left.facts == {"kept": 1}


def test_an_orthonormal_basis_of_all_rows_grows_behind_what_it_held():
    """Beside numpy's projector on all rows; rows nearly inside the old ones stay orthogonal to them."""
    draw = np.random.default_rng(0)
    rows = {name: [draw.normal(size=(2, 7)) for _ in range(3)] for name in "pq"}
    rows["p"][1] = rows["p"][0] + 1e-3 * draw.normal(size=(2, 7))
    memory = Memory()
    for number, names in enumerate(("p", "pq", "pq")):
        pairs = {
            n: (nn.Parameter(torch.tensor(rows[n][number]).float()), nn.Parameter(torch.ones(3, 2))) for n in names
        }
        old = memory.under("past_rows")
        memory = parts.past_rows(Adapter(LowRank(pairs)), memory, context(number + 1))
        for name, basis in memory.under("past_rows").items():
            given = np.concatenate([own.astype(np.float32) for own in rows[name][(name == "q") : number + 1]])
            np.testing.assert_allclose(basis.T @ basis, np.linalg.pinv(given) @ given, atol=1e-3)
            np.testing.assert_allclose(basis @ basis.T, np.eye(len(given)), atol=1e-6)
            assert basis.dtype == torch.float32
            assert name not in old or torch.equal(basis[: len(old[name])], old[name])
    assert {name: len(basis) for name, basis in memory.under("past_rows").items()} == {"p": 6, "q": 4}


def test_the_rows_that_a_lesson_has_added_are_taken_out():
    rows = torch.eye(4)

    def holding(**counts):
        return Memory().with_tensors("past_rows", {name: rows[:count] for name, count in counts.items()})

    left = parts.fewer_rows(holding(p=4, q=2).with_facts(kept=1), holding(p=1), holding(p=3, q=2))
    assert left.under("past_rows")["p"].tolist() == rows[[0, 3]].tolist() and left.facts == {"kept": 1}
    assert left.under("past_rows")["q"].shape == (0, 4) and left.under("past_rows").keys() == {"p", "q"}


def test_captions_are_kept_once_each_and_some_images_beside_them():
    model = SimpleNamespace(captions=("a", "b", "a", "c"), latents=torch.arange(8.0).view(4, 2))
    own = replace(context(2), model=model)
    memory = Memory().with_facts(captions={"c1": ["z"]}, replay={"c1": ["z"]})
    memory = memory.with_tensors("replay", {"c1": torch.ones(1, 2)}).with_delta(whole([[1.0]]))
    assert parts.captions(None, memory, own).facts == {
        "captions": {"c1": ["z"], "c2": ["a", "b", "c"]}, "replay": {"c1": ["z"]}
    }  # fmt: skip
    assert parts.captions(None, Memory(), own).facts == {"captions": {"c2": ["a", "b", "c"]}}
    kept = parts.keep_images(3)(None, memory, own)
    assert {name: t.tolist() for name, t in kept.under("replay").items()} == {
        "c1": [[1.0, 1.0]], "c2": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    }  # fmt: skip
    assert kept.facts == {"captions": {"c1": ["z"]}, "replay": {"c1": ["z"], "c2": ["a", "b", "a"]}}
    assert kept.delta().keys() == {"p"}
    assert parts.keep_images(1)(None, Memory(), own).facts == {"replay": {"c2": ["a"]}}


def test_fisher_information_is_a_running_mean_of_squared_gradients():
    """Of single noised images, of the lesson's own loss unless another is named; what was told before it decays."""
    asked = []

    class Model:
        def batches(self, purpose, count, size):
            asked.append((purpose, count, size))
            return [1.0, 2.0, 4.0]

        def gradients(self, loss):
            return {"p": loss() * torch.tensor([1.0, -2.0]), "q": loss() * torch.ones(1)}

        def loss(self, batch):
            return torch.tensor(batch)

    def other(memory, context, batch):
        asked.append((memory, context, batch))
        return torch.tensor(10 * batch)

    own, memory = replace(context(2), model=Model()), Memory().with_tensors("fisher", {"p": torch.tensor([8.0, 16.0])})
    found = parts.online_fisher(0.5, 3)(None, memory, own).under("fisher")
    assert asked == [("fisher", 3, 1)]
    torch.testing.assert_close(found, {"p": torch.tensor([4.0 + 7, 8 + 28]), "q": torch.tensor([7.0])})
    found = parts.online_fisher(1.0, 3, other)(None, Memory(), own).under("fisher")
    assert asked[1:] == [("fisher", 3, 1), *[(Memory(), own, batch) for batch in (1.0, 1.0, 2.0, 2.0, 4.0, 4.0)]]
    torch.testing.assert_close(found, {"p": torch.tensor([700.0, 2800.0]), "q": torch.tensor([700.0])})


def test_the_share_of_open_entries_is_told_of_each_concept():
    """The mean of the projections' shares, 1/2 and 1/3."""
    weights = masked_lora(1, 1, "cross_kv", 0.8).weights({"p": (2, 4), "q": (1, 3)}, torch.device("cpu"))
    for name, row in (("p", [9.0, -9.0, 9.0, -9.0]), ("q", [-9.0, 9.0, -9.0])):
        v, u = weights.logits[name]
        v.data, u.data = torch.tensor([row]), torch.ones_like(u)
    memory = parts.density(Adapter(weights), Memory().with_facts(density={"c1": 0.25}), context(2))
    assert memory.facts == {"density": {"c1": 0.25, "c2": 0.416667}}
    del weights.low.factors["q"], weights.logits["q"]
    assert parts.density(Adapter(weights), Memory(), context(1)).facts == {"density": {"c1": 0.5}}
    bare = masked_lora(1, 1, "cross_kv", 0.8).weights({}, torch.device("cpu"))
    assert parts.density(Adapter(bare), Memory(), context(1)).facts == {"density": {"c1": 0}}
