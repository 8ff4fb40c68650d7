"""The forecast of bench/: its dangers by hand, its ranks and planner by plain loops, all of it on small models."""

import importlib.util
import math
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from perdure import memory as memories
from perdure import plan, run
from perdure.bases import loading
from perdure.drawing.tools import Tools
from perdure.memory import Memory

spec = importlib.util.spec_from_file_location("forecast", Path(__file__).parent.parent / "bench" / "forecast.py")
forecast = importlib.util.module_from_spec(spec)
sys.modules["forecast"] = forecast
spec.loader.exec_module(forecast)


def test_dangers_by_hand():
    gradient = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    new = forecast.Probe({"p": gradient, "q": torch.zeros(2, 2)}, {"p": torch.tensor([1.0, 2.0]), "q": torch.ones(2)})
    undone, kept = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, -1.0]])
    found = forecast.dangers(new, {"undone": {"p": undone}, "kept": {"p": kept}, "elsewhere": {"q": undone}})
    assert found["against"] == pytest.approx({"undone": 3 / 5, "kept": -4 / 5, "elsewhere": 0})
    assert found["overlap"] == pytest.approx({"undone": 9 / 25, "kept": 16 / 25, "elsewhere": 0})
    assert found["response"] == pytest.approx({"undone": 1, "kept": 2, "elsewhere": 1})


def test_what_is_inside_a_change_is_projected_on_both_sides():
    torch.manual_seed(0)
    change, gradient = torch.randn(6, 2) @ torch.randn(2, 5), torch.randn(6, 5)
    left, right = change @ torch.linalg.pinv(change), torch.linalg.pinv(change) @ change
    torch.testing.assert_close(
        forecast.within(gradient, change, 1 - 1e-6), left @ gradient @ right, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_the_formula(seed):
    """Without ties: 1 - 6 sum d^2 / (n (n^2 - 1))."""
    values = np.random.default_rng(seed).permutation(6).astype(float)
    real = {str(k): float(k) for k in range(6)}
    by_hand = 1 - 6 * sum((values[k] - k) ** 2 for k in range(6)) / (6 * 35)
    assert forecast.rank_correlation({str(k): values[k] for k in range(6)}, real) == pytest.approx(by_hand)
    assert math.isnan(forecast.rank_correlation({"0": 1.0}, real))
    assert math.isnan(forecast.rank_correlation({"0": 1.0, "1": 1.0}, real))
    assert math.isnan(forecast.rank_correlation({"0": 1.0, "1": 2.0}, {"0": math.nan, "1": 1.0}))


def test_the_planner_finds_the_cheapest_order(monkeypatch):
    names = "abcde"
    rng = np.random.default_rng(3)
    danger = {(late, early): float(rng.random()) for late in names for early in names if late != early}

    def price(order):
        return sum(danger[order[j], order[i]] for i in range(5) for j in range(i + 1, 5))

    assert forecast.cost(danger, "bdace") == pytest.approx(price("bdace"))
    best = min(permutations(names), key=price)
    assert forecast.planned(danger, list(names)) == best
    monkeypatch.setattr(forecast, "MOST", 2)
    clear = {(late, early): 1.0 if late < early else 0.0 for late in names for early in names if late != early}
    assert forecast.planned(clear, list(names)) == tuple("abcde"), "who harms the others goes first"


def test_only_a_forecast_above_both_guesses_beats_them():
    def lesson(good, shift):
        return {
            "last": 0.1 + shift,
            "alike": 0.2 + shift,
            "against": good + shift,
            "overlap": 0.2,
            "response": math.nan,
        }

    lines = forecast.table([[lesson(0.8 + 0.01 * k, 0.02 * k), lesson(0.7, 0)] for k in range(4)])
    told = {line.split(" | ")[0].removeprefix("| "): line for line in lines[2:]}
    assert told["against"].endswith("| yes |") and told["overlap"].endswith("| no |") and told["last"].endswith("| – |")
    assert "| +0.7" in told["against"] and told["response"].startswith("| response | +nan")


@pytest.fixture(scope="module")
def taught(pico, pico_clip, photos, tmp_path_factory):
    """Two models of three concepts in two orders, and the tools of the first."""
    listed = [{"name": n, "images": str(photos / n), "token": t, "class": n}
              for n, t in (("dog", "zwz"), ("cat", "sbu"), ("clock", "uwu"))]  # fmt: skip
    made = {
        "base": str(pico), "methods": ["merge_init"], "concepts": listed,
        "training": {"resolution": 32, "steps": 2, "learning_rate": 1e-2},
        "sampling": {"steps": 1, "images_per_prompt": 2, "prompts": {"subject": ["{concept} in snow"]}},
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}, "drift": 0},
    }  # fmt: skip
    out = tmp_path_factory.mktemp("orders")
    lineages = [run.run(plan.build({**made, "order": o}), out / str(o[0]))[0] for o in ([1, 2, 3], [3, 1, 2])]
    return lineages, Tools(lineages[0].plan(), loading.of(lineages[0].plan()))


def test_a_gradient_is_that_of_the_loss_before_the_lesson(taught):
    (lineage, _), tools = taught
    memory = memories.load(lineage.lessons[0].memory, lineage.store)
    found = forecast.probe(tools, lineage, memory, "clock")
    again, bare = forecast.probe(tools, lineage, memory, "clock"), forecast.probe(tools, lineage, Memory(), "clock")
    name = next(iter(found.gradient))
    assert all(torch.equal(found.gradient[p], again.gradient[p]) for p in found.gradient), "its draws have owners"
    assert not torch.equal(found.gradient[name], bare.gradient[name])
    assert found.gradient[name].shape == tuple(tools.backbone.projections("attention")[name])


def test_a_lessons_change_is_what_it_added(taught):
    (lineage, _), tools = taught
    changes = forecast.carried(tools, lineage, 2)
    stored = [memories.load(row.memory, lineage.store) for row in lineage.lessons[:2]]
    recall = tools.method.consolidate.recall
    first, second = (recall(memory, forecast.Wanted("x")) for memory in stored)
    for name in first:
        torch.testing.assert_close(changes["dog"][name], first[name].matrix(), atol=1e-6, rtol=1e-4)
        added = second[name].matrix() - first[name].matrix()
        torch.testing.assert_close(changes["cat"][name], added, atol=1e-6, rtol=1e-4)


def test_it_is_measured_on_lineages(taught):
    lineages, tools = taught
    found = [list(forecast.lessons(tools, lineage)) for lineage in lineages]
    assert [len(one) for one in found] == [1, 1], "only the third lesson has two older concepts"
    (scores,) = found[0]
    assert scores.keys() == {*forecast.GUESSES, *forecast.FORECASTS} and abs(scores["last"]) == pytest.approx(1)
    S = lineages[0].matrix("clip_i")
    lost = S[2, :2] - S[3, :2]
    assert scores["last"] == pytest.approx(1.0 if lost[1] > lost[0] else -1.0)
    assert len(forecast.table(found)) == 2 + 5
    (line,) = forecast.orders(tools, lineages)
    assert "over 2 models; planned: " in line and all(name in line for name in ("dog", "cat", "clock"))
