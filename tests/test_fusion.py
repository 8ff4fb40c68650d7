"""Fusions of deltas that were trained apart, beside peft's merges, numpy, and the published definitions by hand."""

import time

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
from perdure.method import Adapter, Wanted
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


def test_what_fusing_costs_is_measured():
    """Memory that is given back before the end counts; what was held before does not."""
    held = np.ones(10_000_000)
    with spending.spent(torch.device("cpu")) as cost:
        more = np.ones(20_000_000)
        time.sleep(0.1)
        del more
    assert cost.memory == pytest.approx(160e6, rel=0.2) and cost.seconds >= 0.1 and cost.device_memory == 0
    assert held.nbytes == 80e6
