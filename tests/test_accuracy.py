"""Figures of class-incremental learning, beside the definitions of mammoth, PILOT and CODA-Prompt as plain loops."""

import numpy as np
import pytest

from perdure.score import accuracy, matrix


def mammoth(results):
    """utils/metrics.py of aimagelab/mammoth: backward transfer and forgetting of a list of rows of growing length."""
    tasks = len(results)
    backward = [results[-1][i] - results[i][i] for i in range(tasks - 1)]
    padded = [row + [0.0] * (tasks - len(row)) for row in results]
    best = [max(row[i] for row in padded) for i in range(tasks)]
    return sum(backward) / len(backward), sum(best[i] - padded[-1][i] for i in range(tasks - 1)) / (tasks - 1)


def pilot(results):
    """trainer.py of LAMDA-PILOT: forgetting of a matrix (task, after task), zero where not yet learnt."""
    task = len(results) - 1
    table = np.zeros((len(results), len(results)))
    for after, row in enumerate(results):
        table[: len(row), after] = row
    return float(np.mean((np.max(table, axis=1) - table[:, task])[:task]))


def coda(results):
    """calc_forgetting.py of CODA-Prompt: the mean drop of earlier tasks from one task to the next, over the steps."""
    steps = []
    for t in range(1, len(results)):
        steps.append(sum(results[t - 1][i] - results[t][i] for i in range(t)) / t)
    return sum(steps) / len(steps)


@pytest.fixture
def predicted():
    """(what was predicted: task t -> pictures of tasks 1..t -> (true class, its task, prediction), S, sizes)."""
    rng = np.random.default_rng(0)
    sizes, classes, story = [7, 4, 9, 5], 3, []
    S = np.full((5, 4), np.nan)
    for t in range(1, 5):
        row = []
        for i in range(1, t + 1):
            truth = [f"c{(i - 1) * classes + k % classes}" for k in range(sizes[i - 1])]
            said = [name if rng.random() < 0.6 else f"c{rng.integers(t * classes)}" for name in truth]
            counted = accuracy.counts(truth, said)
            assert accuracy.size(counted) == sizes[i - 1]
            S[t, i - 1] = accuracy.of(counted)
            row.append(list(zip(truth, said, strict=True)))
        story.append(row)
    return story, S, sizes


def test_figures_are_those_of_the_public_codes(predicted):
    story, S, sizes = predicted
    shares = [[sum(a == b for a, b in pictures) / len(pictures) for pictures in row] for row in story]
    found = accuracy.figures(S, sizes)
    curve = [np.mean([a == b for pictures in row for a, b in pictures]) for row in story]  # over all pictures seen
    assert found["average"] == pytest.approx(curve[-1])
    assert found["running_average"] == pytest.approx(sum(curve) / len(curve))  # PILOT's Average Accuracy
    backward, forgetting = mammoth(shares)
    assert matrix.forgetting(S) == pytest.approx(forgetting) == pytest.approx(pilot(shares))
    assert matrix.backward_transfer(S) == pytest.approx(backward)
    assert found["forgetting_own"] == pytest.approx(-backward)
    assert found["forgetting_per_step"] == pytest.approx(coda(shares))
    assert abs(found["forgetting_per_step"]) < forgetting  # the same word, another size


def test_with_equal_tasks_the_last_accuracy_is_the_mean_of_the_last_row(predicted):
    _, S, _ = predicted
    assert accuracy.last(S, [5, 5, 5, 5]) == pytest.approx(np.mean(S[-1])) == pytest.approx(matrix.average(S))
    assert accuracy.incremental(S, [5, 5, 5, 5]) == pytest.approx(matrix.running_average(S))


def test_what_has_no_sequence_has_no_forgetting():
    joint = np.array([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]])
    found = accuracy.figures(joint, [1, 1, 2])
    assert found["average"] == pytest.approx((0.9 + 0.8 + 1.4) / 4)
    assert all(np.isnan(found[key]) for key in found if key != "average")
    first = accuracy.figures(np.array([[0.1], [0.9]]), [4])
    assert first["average"] == first["running_average"] == 0.9
    assert np.isnan(first["forgetting_per_step"]) and np.isnan(first["forgetting_own"])


def test_every_figure_that_is_shown_has_a_formula():
    from perdure.report import summary

    assert {f.key for f in summary.CLASS_FIGURES} <= accuracy.FORMULAS.keys() | matrix.FORMULAS.keys()


def test_figures_by_hand_and_of_runs_that_have_none():
    """Two tasks of sizes 1 and 3; a joint run of two tasks; the base alone; a run that was cut off after one of two."""
    nan = np.nan
    S = np.array([[0.1, 0.2], [0.8, nan], [0.5, 0.6]])
    found = accuracy.figures(S, [1, 3])
    assert found == pytest.approx({
        "average": (0.5 + 3 * 0.6) / 4, "running_average": (0.8 + (0.5 + 3 * 0.6) / 4) / 2,
        "forgetting_per_step": 0.3, "forgetting_own": 0.3,
    })  # fmt: skip
    joint = accuracy.figures(np.array([[0.1, 0.2], [0.5, 0.6]]), [1, 3])
    assert joint.pop("average") == pytest.approx((0.5 + 3 * 0.6) / 4) and np.isnan(list(joint.values())).all()
    base = accuracy.figures(np.array([[0.1, 0.2]]), [1, 3])
    assert len(base) == 4 and np.isnan(list(base.values())).all() and set(map(type, base.values())) == {float}
    cut = np.array([[0.1, 0.2, 0.3], [0.8, nan, nan], [0.5, 0.6, nan]])
    assert accuracy.last(cut, [1, 3, 9]) == pytest.approx((0.5 + 3 * 0.6) / 4)
    assert accuracy.counts(["a", "b", "a"], ["b", "b", "b"]) == {"a": {"b": 2}, "b": {"b": 1}}
    assert accuracy.of({"a": {"b": 2, "a": 1}, "b": {"b": 1}}) == 0.5
    with pytest.raises(ValueError, match="shorter"):
        accuracy.counts(["a", "b"], ["a"])
