"""Fusions of deltas that were trained apart, beside peft's merges, numpy, and the published definitions by hand."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_formulas import context, lessons, weight
from torch import nn

from perdure import method
from perdure.bases import spending
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Consolidate, Wanted
from perdure.parts import fusion
from perdure.parts.adapter import LowRank

SEED = torch.Generator().manual_seed(2)
PAIRS = [(torch.randn(2, 4, generator=SEED), torch.randn(3, 2, generator=SEED)) for _ in range(3)]
"""A (r, in) and B (out, r) of three concepts; no two entries of their products are of one size."""
MATRICES = [b @ a for a, b in PAIRS]
COUNTS = (1, 2, 3)
"""Lessons after which a method is looked at."""


@pytest.mark.parametrize(
    "name",
    ["sum", "mean", "ties", "ties_running", "knots", "iso_c", "iso_cts", "svd"],
)
def test_one_concept_is_the_identity_of_each_fusion(name):
    torch.testing.assert_close(weight(name, PAIRS[0]), MATRICES[0])


@pytest.mark.parametrize("count", COUNTS)
def test_sum_and_mean(count):
    total = sum(MATRICES[:count])
    torch.testing.assert_close(weight("sum", *PAIRS[:count]), total)
    torch.testing.assert_close(weight("mean", *PAIRS[:count]), total / count)


# --- peft -------------------------------------------------------------------------------------------------------------


def by_peft(pairs, kind, **options):
    """The change that peft's merge of the pairs makes of one linear layer."""
    model = nn.Sequential()
    model.add_module("p", nn.Linear(4, 3, bias=False))
    names = [f"c{number}" for number in range(len(pairs))]
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["p"])
    wrapped = get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        wrapped.add_adapter(name, config)
    layer = wrapped.base_model.model.p
    with torch.no_grad():
        for name, (a, b) in zip(names, pairs, strict=True):
            layer.lora_A[name].weight.copy_(a)
            layer.lora_B[name].weight.copy_(b)
        wrapped.add_weighted_adapter(names, [1.0] * len(names), "merged", kind, **options)
        return layer.get_delta_weight("merged")


@pytest.mark.parametrize("count", (2, 3))
def test_sum_is_pefts_cat_and_svd_is_pefts_svd(count):
    torch.testing.assert_close(weight("sum", *PAIRS[:count]), by_peft(PAIRS[:count], "cat"))
    expected = by_peft(PAIRS[:count], "svd", svd_rank=1)
    torch.testing.assert_close(weight("svd", *PAIRS[:count], merged_rank=1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", (2, 3))
@pytest.mark.parametrize("density", (0.25, 0.6))
def test_ties_by_matrix_is_pefts(count, density):
    expected = by_peft(PAIRS[:count], "ties_svd", svd_rank=3, density=density)
    ours = weight("ties", *PAIRS[:count], density=density, scope="matrix")
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, sum(MATRICES[:count]))


@pytest.mark.parametrize("count", (2, 3))
def test_dare_ties_is_pefts_with_the_same_entries_dropped(count, monkeypatch):
    stays = torch.rand(3, 4, generator=torch.Generator().manual_seed(7)) >= 0.4  # the stub context's generator
    monkeypatch.setattr(torch, "bernoulli", lambda wanted: stays.to(wanted))
    expected = by_peft(PAIRS[:count], "dare_ties_svd", svd_rank=3, density=0.6)
    ours = weight("dare", *PAIRS[:count], drop=0.4, merge="ties", density=1.0)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    plain = by_peft(PAIRS[:count], "dare_linear_svd", svd_rank=3, density=0.6)
    torch.testing.assert_close(weight("dare", *PAIRS[:count], drop=0.4), plain, atol=1e-5, rtol=1e-5)
    assert 0 < stays.sum() < stays.numel()


def test_dare_leaves_the_mean_as_it_is():
    change = Change.full(torch.ones(200, 200))
    thin = fusion.dropped(change, 0.7, torch.Generator().manual_seed(0)).matrix()
    assert thin.unique().tolist() == pytest.approx([0.0, 1 / 0.3])
    assert float(thin.mean()) == pytest.approx(1, abs=0.03)


# --- by hand ----------------------------------------------------------------------------------------------------------


def ties_by_hand(vectors, density):
    """Entry by entry over flat vectors, in plain numbers."""
    trimmed = []
    for vector in vectors:
        line = sorted(map(abs, vector), reverse=True)[int(density * len(vector)) - 1]
        trimmed.append([v if abs(v) >= line else 0.0 for v in vector])
    merged = []
    for entries in zip(*trimmed, strict=True):
        sign = 1 if sum(entries) > 0 else -1
        agreeing = [v for v in entries if v * sign > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return merged


def two_projections(scales):
    """Deltas of two projections, the second of them far larger in some."""
    return [
        Delta({"p": Change.full(matrix), "q": Change.full(matrix.flip(0) * scale)})
        for matrix, scale in zip(MATRICES, scales, strict=True)
    ]


@pytest.mark.parametrize("count", (2, 3))
def test_ties_counts_the_largest_entries_over_the_whole_delta(count):
    deltas = two_projections((1.0, 3.0, 0.5))[:count]
    flat = [[*d["p"].matrix().flatten().tolist(), *d["q"].matrix().flatten().tolist()] for d in deltas]
    expected = torch.tensor(ties_by_hand(flat, 0.25)).view(2, 3, 4)
    found = fusion.ties(deltas, 0.25, scale=2.0)
    torch.testing.assert_close(found["p"].matrix(), 2 * expected[0])
    torch.testing.assert_close(found["q"].matrix(), 2 * expected[1])


def test_ties_where_entries_cancel():
    """By its code the sign that most entries have is elected, and those that agree are averaged: here the positive."""
    one, two = torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[-2.0, 3.0, 1.0]])
    deltas = [Delta({"p": Change.full(one)}), Delta({"p": Change.full(two)})]
    assert fusion.ties(deltas, 1.0)["p"].matrix().tolist() == [[2.0, 3.0, 1.0]]


def test_settings_of_ties_are_those_of_its_fusion():
    deltas = two_projections((1.0, 3.0, 0.5))
    for settings in ((0.25, "matrix", 2.0), (0.5, "whole", 0.3)):
        found, wanted = fusion.ties_of(*settings)(deltas), fusion.ties(deltas, *settings)
        assert all(torch.equal(found[name].matrix(), wanted[name].matrix()) for name in ("p", "q"))


def test_what_is_usual_is_counted_where_the_largest_entries_are():
    """One entry of p cancels: p alone has a positive one beside it, p and q together have more negative ones."""
    rows = {"p": ([2.0, 1.0], [-2.0, 1.0]), "q": ([-1.0] * 3, [-1.0] * 3)}
    deltas = [Delta({name: Change.full(torch.tensor([own[k]])) for name, own in rows.items()}) for k in range(2)]
    for scope, kept in (("whole", -2.0), ("matrix", 2.0)):
        found = fusion.ties(deltas, 1.0, scope)
        assert found["p"].matrix().tolist() == [[kept, 1.0]] and found["q"].matrix().tolist() == [[-1.0] * 3]


def test_running_ties_takes_the_past_as_one_model():
    pair = ties_by_hand([m.flatten().tolist() for m in MATRICES[:2]], 0.5)
    expected = torch.tensor(ties_by_hand([pair, MATRICES[2].flatten().tolist()], 0.5)).view(3, 4)
    torch.testing.assert_close(weight("ties_running", *PAIRS, density=0.5), expected)
    assert not torch.allclose(expected, weight("ties", *PAIRS, density=0.5))


@pytest.mark.parametrize("count", (2, 3))
def test_knots_is_ties_in_shared_coordinates(count):
    matrices = [m.double().numpy() for m in MATRICES[:count]]
    u, s, vh = np.linalg.svd(np.concatenate(matrices, axis=1), full_matrices=False)
    parts = [s[:, None] * vh[:, 4 * k : 4 * k + 4] for k in range(count)]
    merged = np.array(ties_by_hand([part.flatten().tolist() for part in parts], 0.5)).reshape(3, 4)
    found = weight("knots", *PAIRS[:count], density=0.5)
    torch.testing.assert_close(found, torch.tensor(u @ merged).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", (2, 3))
def test_iso_c_gives_every_direction_the_mean(count):
    u, s, vh = np.linalg.svd(sum(MATRICES[:count]).double().numpy(), full_matrices=False)
    expected = torch.tensor(s.mean() * (u @ vh)).float()
    torch.testing.assert_close(weight("iso_c", *PAIRS[:count], spectrum="all"), expected, atol=1e-5, rtol=1e-5)
    small = [(a[:1], b[:, :1]) for a, b in PAIRS[:count]]  # of less than full rank: only what is there is evened out
    values = np.linalg.svd(sum(b @ a for a, b in small).double().numpy(), compute_uv=False)
    evened = np.linalg.svd(weight("iso_c", *small).double().numpy(), compute_uv=False)
    own = min(count, 3)
    np.testing.assert_allclose(evened, [values[:own].mean()] * own + [0] * (3 - own), atol=1e-5)


def test_iso_cts_by_numpy():
    """Two directions of the sum, and one of each of three deltas of 8 x 6 outside them."""
    draw = np.random.default_rng(0)
    matrices = [draw.normal(size=(8, 6)) for _ in range(3)]
    u, s, vh = np.linalg.svd(sum(matrices), full_matrices=False)
    lefts, values, rights = [u[:, :3]], list(s[:3]), [vh[:3]]
    for matrix in matrices:
        left, value, right = np.linalg.svd(matrix - u[:, :3] @ u[:, :3].T @ matrix)
        lefts, values, rights = [*lefts, left[:, :1]], [*values, value[0]], [*rights, right[:1]]
    parts = [np.linalg.svd(m, full_matrices=False) for m in (np.hstack(lefts), np.vstack(rights))]
    expected = np.mean(values) * (parts[0][0] @ parts[0][2]) @ (parts[1][0] @ parts[1][2])
    deltas = [Delta({"p": Change.full(torch.tensor(m))}) for m in matrices]
    found = fusion.iso_cts(deltas, 0.5, "own")["p"].matrix()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(found.numpy(), compute_uv=False), [np.mean(values)] * 6, atol=1e-5)
    everything = fusion.iso_cts(deltas, 1.0, "own")["p"].matrix()  # no own directions: Iso-C
    iso = fusion.iso_c(Change.full(torch.tensor(sum(matrices))), "own").matrix()
    torch.testing.assert_close(everything, iso, atol=1e-5, rtol=1e-5)


def test_cutting_to_a_rank_does_not_add_up():
    """The third lesson's cut is that of the exact sum of three."""
    u, s, vh = np.linalg.svd(sum(MATRICES).double().numpy())
    expected = torch.tensor(s[0] * np.outer(u[:, 0], vh[0])).float()
    chosen, memory = lessons("svd", *PAIRS, merged_rank=1)
    found = chosen.consolidate.recall(memory, Wanted())["p"]
    assert found.rank == 1 and memory.delta()["p"].shape == (3, 4)
    torch.testing.assert_close(found.matrix(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ties", "knots", "iso_cts"])
def test_what_is_kept_is_every_delta_and_the_fused_one(name):
    """Fused once a lesson: recall reads, and does not fuse."""
    chosen, memory = lessons(name, *PAIRS)
    assert memory.facts["kept"] == ["c1", "c2", "c3"] and not chosen.consolidate.strict
    for number, matrix in enumerate(MATRICES, 1):
        torch.testing.assert_close(memory.delta(f"own/c{number}")["p"].matrix(), matrix)
    recalled = chosen.consolidate.recall(memory.with_delta(Delta(), "own/c1"), Wanted())
    assert torch.equal(recalled["p"].matrix(), memory.delta()["p"].matrix())


def test_dare_draws_anew_in_each_lesson():
    asked = []

    def generator(*owner):
        asked.append(owner)
        return torch.Generator().manual_seed(len(asked))

    chosen, memory = method.get("dare", {"rank": 2}), Memory()
    for number, (a, b) in enumerate(PAIRS, 1):
        own = context(number)
        own = type(own)(**{**vars(own), "generator": generator})
        adapter = Adapter(LowRank({"p": (nn.Parameter(a.clone()), nn.Parameter(b.clone()))}))
        memory = chosen.consolidate.remember(adapter, memory, own)
    assert asked == [("dare", 1), ("dare", 2), ("dare", 3)] and chosen.consolidate.strict
    masks = [torch.rand(3, 4, generator=torch.Generator().manual_seed(k)) >= 0.5 for k in (1, 2, 3)]
    expected = sum(2 * m * mask for m, mask in zip(MATRICES, masks, strict=True))
    torch.testing.assert_close(memory.delta()["p"].matrix(), expected)


# --- what is carried, and formulas on matrices of whole numbers -------------------------------------------------------


def full(**rows):
    """A delta of dense matrices."""
    return Delta({name: Change.full(torch.tensor(own, dtype=torch.float32)) for name, own in rows.items()})


def lists(delta):
    return {name: change.matrix().tolist() for name, change in delta.items()}


def after(part, *deltas):
    """The memory after lessons that ended with these deltas."""
    memory = Memory()
    for number, delta in enumerate(deltas, 1):
        memory = part.remember(Adapter(SimpleNamespace(delta=lambda delta=delta: delta)), memory, context(number))
    return memory


SIZES = (("p", 1.0), ("q", 1.0))
ONE, TWO, THREE = full(p=[[1, -2]], q=[[3]]), full(p=[[10, 20]], q=[[30]]), full(p=[[100, 200]], q=[[300]])


def test_all_deltas_are_fused_in_the_order_in_which_they_were_learnt():
    seen = []

    def fuse(deltas):
        seen.append([lists(delta) for delta in deltas])
        return deltas[-1]

    part = fusion.all_at_once(fuse)
    memory = after(part, ONE, TWO, THREE)
    assert seen == [[lists(d) for d in (ONE, TWO, THREE)[:count]] for count in COUNTS]
    assert lists(part.recall(memory, Wanted())) == lists(THREE) and memory.facts == {"kept": ["c1", "c2", "c3"]}
    assert part.carries == {"own", "delta"} == set(memory.bytes_by_name()) and not part.strict and not part.brings


@pytest.mark.parametrize("brings", [True, False])
def test_what_is_fused_so_far_is_fused_with_the_next_from_the_second_lesson_on(brings):
    part = fusion.running(lambda fused, new, number: fusion.mean(fused, new, 2 * number), brings)
    # 3 / 4 of the first and 1 / 4 of the second; of that 5 / 6, and 1 / 6 of the third
    first = {name: (0.75 * ONE[name].matrix() + 0.25 * TWO[name].matrix()) for name in "pq"}
    fused = {name: (5 * first[name] + THREE[name].matrix()) / 6 for name in "pq"}
    memory = after(part, ONE, TWO, THREE)
    for name in "pq":
        torch.testing.assert_close(part.recall(memory, Wanted())[name].matrix(), fused[name])
    assert lists(after(part, ONE).delta()) == lists(ONE)
    assert part.strict and part.brings is brings and fusion.running(part.recall).brings is False


def test_the_sum_is_carried_and_what_is_made_of_it_is_recalled():
    part = fusion.of_the_sum(lambda change: Change.full(change.matrix().square()))
    first, memory = after(part, ONE), after(part, ONE, TWO)
    assert lists(part.recall(first, Wanted())) == lists(first.delta()) == lists(ONE)
    assert lists(memory.delta()) == {"p": [[11, 18]], "q": [[33]]}
    assert lists(part.recall(memory, Wanted())) == {"p": [[121, 324]], "q": [[1089]]}
    assert part.carries == {"delta", "fused"} == set(memory.bytes_by_name()) and part.strict and part.brings


@pytest.mark.parametrize("told", [True, False])
def test_what_fuses_thinned_deltas_sees_them_as_an_adapter_and_says_what_is_promised(told):
    """One generator a lesson draws for each projection in turn; a share stays and is scaled up."""
    seen, owners = [], []

    def remember(adapter, memory, context):
        seen.append((adapter.weights, memory, context))
        return memory.with_facts(remembered=1)

    def generator(*owner):
        owners.append(owner)
        return torch.Generator().manual_seed(3)

    then = Consolidate(remember, lambda memory, wanted: ONE, strict=told, brings=told, carries=frozenset({"x"}))
    part, own = fusion.dropping(0.75, then), replace(context(2), generator=generator)
    matrices = {"p": torch.arange(1.0, 13).view(3, 4), "q": torch.arange(1.0, 9).view(2, 4)}
    given = Delta({name: Change.full(matrix) for name, matrix in matrices.items()})
    found = part.remember(Adapter(SimpleNamespace(delta=lambda: given)), Memory(facts={"a": 0}), own)
    ((weights, memory, context_seen),) = seen
    assert found.facts == {"a": 0, "remembered": 1} and memory.facts == {"a": 0} and context_seen is own
    assert owners == [("dare", 2)] and weights.projections == ["p", "q"] and weights.named() == {}
    draws = torch.Generator().manual_seed(3)
    for name, matrix in matrices.items():
        stays = torch.rand(matrix.shape, generator=draws) >= 0.75
        assert torch.equal(weights.change(name), torch.where(stays, 4 * matrix, 0)) and 0 < stays.sum() < matrix.numel()
        assert torch.equal(weights.delta()[name].matrix(), weights.change(name))
    assert part.recall is then.recall and part.carries == {"x"}
    assert part.strict is told and part.brings is told


def test_the_mean_keeps_factors_where_there_are_factors():
    a, b = torch.ones(1, 6), torch.arange(1.0, 7)[:, None]
    pair, dense = Delta({"p": Change.low_rank(a, b)}), full(q=[[4.0, 8.0]])
    found = fusion.mean(Delta({**pair, **dense}), Delta({**pair, **dense}), 4)
    assert found["p"].rank == 2 and found["q"].matrix().tolist() == [[4.0, 8.0]]
    torch.testing.assert_close(found["p"].matrix(), b @ a)
    assert [own.tolist() for _, own in found["p"].pairs] == [(0.75 * b).tolist(), (0.25 * b).tolist()]


def test_ties_keeps_at_least_one_entry_and_takes_what_cancels_as_positive_where_no_sign_is_usual():
    one, two = full(p=[[2.0, 3.0, -1.0]]), full(p=[[-2.0, 3.0, -1.0]])
    assert fusion.ties([one, two], 1.0)["p"].matrix().tolist() == [[2.0, 3.0, -1.0]]
    assert fusion.ties([one, two], 0.01)["p"].matrix().tolist() == [[0.0, 3.0, 0.0]]
    alone = fusion.ties([one], 0.01, scale=5.0)
    assert alone is one and fusion.knots([one], 0.01, 5.0) is one and fusion.iso_cts([one], 0.5, "own", 5.0) is one
    default = fusion.ties([full(p=[[1.0, 2.0]], q=[[3.0, 4.0]])] * 2, 0.5)  # counted over the whole delta, unscaled
    assert lists(default) == {"p": [[0.0, 0.0]], "q": [[3.0, 4.0]]}
    each = fusion.ties([full(p=[[1.0, 2.0]], q=[[3.0, 4.0]])] * 2, 0.5, "matrix")
    assert lists(each) == {"p": [[0.0, 2.0]], "q": [[0.0, 4.0]]}
    outvoted = fusion.ties([full(p=[[2.0, 1.0, 1.0]]), full(p=[[-2.0, -3.0, -3.0]])], 1.0)  # signs of sums are counted
    assert lists(outvoted) == {"p": [[-2.0, -3.0, -3.0]]}


def test_knots_counts_entries_of_the_directions_that_are_there():
    """All deltas in the one direction u: TIES of the vectors v_i that stand beside it, of half their entries."""
    u = torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)
    rows = [[4.0, -3.0, 1.0, 0.5], [2.0, 5.0, -0.5, 1.0]]
    deltas = [
        Delta({n: Change.full(torch.outer(u, size * torch.tensor(row, dtype=torch.float64))) for n, size in SIZES})
        for row in rows
    ]
    merged = torch.tensor([3.0, 5.0, 0.0, 0.0])  # by halves: 4 and -3 of one, 2 and 5 of the other; -3 is outvoted
    for scale in (1.0, 2.0):
        found = fusion.knots(deltas, 0.5, **({} if scale == 1 else {"scale": scale}))
        for name, size in SIZES:
            wanted = scale * size * torch.outer(u.float(), merged)
            torch.testing.assert_close(found[name].matrix(), wanted, atol=1e-5, rtol=1e-5)
    nothing = fusion.knots([full(p=[[0, 0]], q=[[0]])] * 2, 0.5)
    assert lists(nothing) == {"p": [[0, 0]], "q": [[0]]}


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_iso_c_leaves_out_what_is_only_rounding_unless_it_takes_all(size):
    """Rounding of float32 on 2 x 5: up to five times its epsilon, as a share of the largest."""

    def made(small, spectrum, **scale):
        total = torch.zeros(2, 5)
        total[0, 3], total[1, 1] = size, size * small
        evened = fusion.iso_c(Change.full(total), spectrum, **scale).matrix()
        assert evened.count_nonzero() <= 2 and evened[0, 3] >= 0 and evened[1, 1] >= 0
        return [evened[0, 3].item() / size, evened[1, 1].item() / size]

    assert made(5.5e-7, "own") == pytest.approx([1, 0], abs=1e-5)
    assert made(6.5e-7, "own") == pytest.approx([0.5, 0.5], abs=1e-5)
    assert made(6.5e-7, "own", scale=3.0) == pytest.approx([1.5, 1.5], abs=1e-5)
    for small in (5.5e-7, 0.0, 0.5):
        assert made(small, "all", scale=2.0) == pytest.approx([1 + small, 1 + small], abs=1e-5)
    assert not fusion.iso_c(Change.full(torch.zeros(2, 3)), "own").matrix().any()


def test_iso_cts_of_two_projections_each_by_itself():
    """Diagonal matrices: the common direction is the sum's largest, each delta's own the largest of what is left."""
    one, two = torch.diag(torch.tensor([4.0, 2.0, 0.0])), torch.diag(torch.tensor([4.0, 0.0, 1.0]))
    deltas = [Delta({"p": Change.full(m), "q": Change.full(10 * m.flip(0))}) for m in (one, two)]
    for spectrum, scale in (("own", 1.0), ("all", 3.0)):
        found = fusion.iso_cts(deltas, 0.3, spectrum, **({} if scale == 1 else {"scale": scale}))
        even = scale * (8 + 2 + 1) / 3
        torch.testing.assert_close(found["p"].matrix(), even * torch.eye(3), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found["q"].matrix(), 10 * even * torch.eye(3).flip(0), atol=1e-4, rtol=1e-5)
    same = torch.diag(torch.tensor([3.0, 2.0, 1e-8]))  # two directions; `all` has a third
    of_own, of_all = (fusion.iso_cts([full(p=same.tolist())] * 2, 1.0, kind)["p"].matrix() for kind in ("own", "all"))
    torch.testing.assert_close(of_own, torch.diag(torch.tensor([5.0, 5.0, 0.0])), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(of_all, torch.diag(torch.tensor([10 / 3] * 3)), atol=1e-5, rtol=1e-5)


def test_a_change_is_cut_only_where_its_rank_is_larger():
    pairs = Change(((torch.eye(4)[:2], torch.tensor([[3.0, 0], [0, 2], [0, 0]])),))
    assert fusion.truncated(pairs, 2) is pairs and fusion.truncated(pairs, 3) is pairs
    cut = fusion.truncated(pairs, 1)
    wanted = torch.zeros(3, 4)
    wanted[0, 0] = 3
    torch.testing.assert_close(cut.matrix(), wanted)
    assert cut.rank == 1 and cut.pairs[0][0].abs().max() == pytest.approx(3**0.5) == float(cut.pairs[0][1].abs().max())
    dense = Change.full(pairs.matrix())
    torch.testing.assert_close(fusion.truncated(dense, 9).matrix(), dense.matrix())


def test_cidms_pairs_are_mixed_by_how_like_their_words_are_to_the_prompt():
    """Beside numpy: of each concept's two words the best cosine with a token, their mean to the fourth, times 0.8."""
    part, memory, draw = method.get("cidm", {"rank": 2}).consolidate, Memory(), np.random.default_rng(1)
    said = draw.normal(size=(3, 4, 5)).astype(np.float32)  # of each token its start, two words, and its end
    pairs = [{name: (draw.normal(size=(2, 4)), draw.normal(size=(3, 2))) for name in "pq"} for _ in said]
    assert not part.recall(memory, Wanted("c1"))
    for number, (features, own) in enumerate(zip(said, pairs, strict=True), 1):
        texts = {"zwz": torch.from_numpy(features)}
        model = SimpleNamespace(features=lambda prompts, texts=texts: torch.stack([texts[one] for one in prompts]))
        weights = LowRank({name: tuple(nn.Parameter(torch.tensor(f)) for f in pair) for name, pair in own.items()})
        memory = part.remember(Adapter(weights), memory, replace(context(number), token="zwz", model=model))
    products = [{name: b @ a for name, (a, b) in own.items()} for own in pairs]
    for number, own in enumerate(products, 1):
        alone = part.recall(memory, Wanted(f"c{number}"))
        assert all(np.allclose(alone[name].matrix(), matrix) for name, matrix in own.items())
    prompt = draw.normal(size=(6, 5)).astype(np.float32)
    likeness = []
    for words in said[:, 1:3]:
        cosines = [[w @ t / np.sqrt((w @ w) * (t @ t)) for t in prompt] for w in words]
        likeness.append(((max(cosines[0]) + max(cosines[1])) / 2) ** 4)
    shares = 0.8 * np.array(likeness) / sum(likeness)
    mixed = part.recall(memory, Wanted("c1", lambda: torch.from_numpy(prompt)))
    for name in "pq":
        expected = sum(share * own[name] for share, own in zip(shares, products, strict=True))
        np.testing.assert_allclose(mixed[name].matrix().numpy(), expected, rtol=1e-5)
    assert memory.facts["kept"] == ["c1", "c2", "c3"] and not part.strict and part.knows == "prompt"
    assert set(memory.bytes_by_name()) == part.carries == {"own", "features"}


def test_what_fusing_costs_is_measured():
    """Memory that is given back before the end counts; what was held before does not."""
    held = np.ones(10_000_000)
    with spending.spent(torch.device("cpu")) as cost:
        more = np.ones(20_000_000)
        time.sleep(0.1)
        del more
    assert cost.memory == pytest.approx(160e6, rel=0.2) and cost.seconds >= 0.1 and cost.device_memory == 0
    assert held.nbytes == 80e6
