"""Continual-learning figures: by hand on a 3 x 3, then properties that hold for every matrix."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perdure.score import matrix

NAN = float("nan")
# row: after lesson 0 (base), 1, 2, 3; column: concept. Concept 1 is best one lesson late, concept 2 in its
# own.
S = np.array(
    [
        [0.1, 0.2, 0.3],
        [0.6, 0.3, 0.2],
        [0.7, 0.8, 0.4],
        [0.4, 0.5, 0.9],
    ]
)


def lower(S):
    """S as a run leaves it that scores only the concepts seen so far (and all of them on the base)."""
    S = S.copy()
    for i in range(1, len(S)):
        S[i, i:] = NAN
    return S


BY_HAND = {
    "average": (0.4 + 0.5 + 0.9) / 3,
    "running_average": (0.6 + (0.7 + 0.8) / 2 + (0.4 + 0.5 + 0.9) / 3) / 3,
    "forgetting": ((0.7 - 0.4) + (0.8 - 0.5)) / 2,
    "forgetting_reference": ((0.7 - 0.4) + (0.8 - 0.5) + 0) / 3,
    "backward_transfer": ((0.4 - 0.6) + (0.5 - 0.8)) / 2,
    "forward_transfer": ((0.3 - 0.2) + (0.4 - 0.3)) / 2,
    "learning": (0.6 + 0.8 + 0.9) / 3,
    "retention": (0.4 / 0.6 + 0.5 / 0.8) / 2,
    "intransigence": ((0.9 - 0.6) + (0.9 - 0.8) + (0.9 - 0.9)) / 3,
    "shift": (0.2 + 0.6) / 2,
    "gain_over_base": ((0.4 - 0.1) + (0.5 - 0.2) + (0.9 - 0.3)) / 3,
}


@pytest.mark.parametrize("name", matrix.FORMULAS)
def test_by_hand(name):
    moved = np.array([[NAN] * 3, [NAN] * 3, [0.5, NAN, NAN], [0.2, 0.6, NAN]])
    figures = matrix.summary(S, reference=np.full(3, 0.9), distances=moved)
    assert list(figures) != [] and set(figures) == set(matrix.FORMULAS) == set(BY_HAND)
    assert figures[name] == pytest.approx(BY_HAND[name], abs=1e-12)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_figures_are_those_of_plain_loops(T):
    """Letters as in the formulas: R[k][j], both from 1, all of it measured and above zero."""
    rng = np.random.default_rng(T)
    S, moved, best = rng.uniform(0.1, 1, (T + 1, T)), rng.uniform(0, 1, (T + 1, T)), rng.uniform(0.1, 1, T)
    R, D, R_star = ([[NAN, *row] for row in table.tolist()] for table in (S, moved, best[None]))
    one, lost = range(1, T + 1), [max(R[k][j] for k in range(j, T + 1)) - R[T][j] for j in range(1, T + 1)]
    by_loops = {
        "average": sum(R[T][j] for j in one) / T,
        "running_average": sum(sum(R[k][j] for j in range(1, k + 1)) / k for k in one) / T,
        "forgetting": sum(lost[:-1]) / (T - 1),
        "forgetting_reference": sum(lost) / T,
        "backward_transfer": sum(R[T][j] - R[j][j] for j in range(1, T)) / (T - 1),
        "forward_transfer": sum(R[j - 1][j] - R[0][j] for j in range(2, T + 1)) / (T - 1),
        "learning": sum(R[j][j] for j in one) / T,
        "retention": sum(R[T][j] / R[j][j] for j in range(1, T)) / (T - 1),
        "gain_over_base": sum(R[T][j] - R[0][j] for j in one) / T,
        "shift": sum(D[T][j] for j in range(1, T)) / (T - 1),
        "intransigence": sum(R_star[0][j] - R[j][j] for j in one) / T,
    }
    assert matrix.summary(S, "higher", best, moved) == pytest.approx(by_loops, abs=1e-12)


def test_whole_numbers_are_scores_too():
    counted = matrix.summary(np.array([[0, 0], [4, 1], [1, 3]]), reference=np.array([5, 5]))
    assert (counted["average"], counted["forgetting"], counted["retention"]) == (2, 3, 0.25)
    assert counted["intransigence"] == 1.5


def test_only_forward_transfer_needs_the_upper_part():
    full, part = matrix.summary(S), matrix.summary(lower(S))
    assert math.isnan(part.pop("forward_transfer")) and full.pop("forward_transfer") > 0
    assert full == part


def test_unfinished_runs_count_the_lessons_so_far():
    two = matrix.summary(S[:3, :2])
    assert matrix.summary(lower(S)[:3]) == pytest.approx(two | {"forward_transfer": NAN}, nan_ok=True)
    padded = lower(S)
    padded[3] = NAN
    assert matrix.summary(padded) == pytest.approx(matrix.summary(lower(S)[:3]), nan_ok=True)
    assert matrix.average(S[:1]) != matrix.average(S[:1])


def test_before_the_first_lesson_there_is_nothing_to_say():
    for rows in (1, 4):
        nothing = np.full((rows, 3), NAN)
        for base in (S[0], np.full(3, NAN)):
            nothing[0] = base
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert all(map(math.isnan, matrix.summary(nothing).values()))
            assert matrix.final(nothing).shape == (0,) and not matrix.is_joint(nothing)


def test_one_lesson_has_nothing_to_forget():
    one = matrix.summary(np.array([[0.1], [0.6]]))
    assert (one["average"], one["learning"]) == (0.6, 0.6) and one["forgetting_reference"] == 0
    assert all(math.isnan(one[name]) for name in ("forgetting", "backward_transfer", "retention"))


def test_joint_runs_have_an_average_and_no_sequence():
    joint = np.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]])
    figures = matrix.summary(joint)
    assert matrix.is_joint(joint) and not matrix.is_joint(S) and not matrix.is_joint(lower(S)[:2])
    assert figures["average"] == pytest.approx(0.6) and figures["gain_over_base"] == pytest.approx(0.4)
    assert math.isnan(figures["forgetting"]) and math.isnan(figures["learning"])
    assert matrix.is_joint(joint[:, :2]) and not matrix.is_joint(joint[:, :1]) and not matrix.is_joint(joint[:1])
    assert matrix.intransigence(S, matrix.final(joint)) == pytest.approx((-0.1 - 0.2 - 0.2) / 3)


def test_a_lesson_that_was_not_scored_is_looked_past():
    gap = lower(S)
    gap[2] = NAN
    assert matrix.forgetting(gap[:, :2][:3]) != matrix.forgetting(gap[:, :2][:3])
    gap[2, 1] = 0.8
    assert matrix.forgetting(gap) == pytest.approx(((0.6 - 0.4) + (0.8 - 0.5)) / 2)


def test_lower_is_better_turns_differences_and_keeps_averages():
    figures = matrix.summary(-S, direction="lower")
    for name in (
        "forgetting",
        "forgetting_reference",
        "backward_transfer",
        "forward_transfer",
        "gain_over_base",
    ):
        assert figures[name] == pytest.approx(BY_HAND[name])
    assert figures["average"] == pytest.approx(-BY_HAND["average"]) and math.isnan(figures["retention"])
    assert math.isnan(matrix.summary(S, "lower")["retention"])
    assert matrix.summary(-S, "lower", np.full(3, -0.9))["intransigence"] == pytest.approx(BY_HAND["intransigence"])


@pytest.mark.parametrize("shape", [(3,), (5, 3), (0, 3), (2, 0), (1, 0), (2, 2, 2)])
def test_what_is_no_score_matrix_is_refused(shape):
    with pytest.raises(ValueError, match="score matrix"):
        matrix.average(np.zeros(shape))


def test_a_reference_of_other_concepts_is_refused():
    with pytest.raises(ValueError, match=r"one score a concept, shape \(3,\), not \(2,\)"):
        matrix.intransigence(S, np.zeros(2))
    with pytest.raises(ValueError, match=r"not \(1, 3\)"):
        matrix.intransigence(S, np.zeros((1, 3)))


def test_retention_of_nothing_is_undefined():
    nothing = S.copy()
    nothing[1, 0] = 0
    assert math.isnan(matrix.retention(nothing))


scores = st.integers(2, 6).flatmap(
    lambda T: arrays(np.float64, (T + 1, T), elements=st.floats(-1, 1, allow_nan=False, width=32))
)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@quick
@given(scores)
def test_reference_reading_is_a_fraction_of_the_textbook(S):
    T = S.shape[1]
    assert matrix.forgetting_reference(S) == pytest.approx((T - 1) / T * matrix.forgetting(S), abs=1e-9)


@quick
@given(scores)
def test_best_in_its_own_lesson_means_forgetting_is_minus_bwt(S):
    for j in range(S.shape[1]):
        S[j + 1, j] = S[j + 1 :, j].max()
    assert matrix.forgetting(S) == pytest.approx(-matrix.backward_transfer(S), abs=1e-9)


@quick
@given(scores, st.floats(-1, 1))
def test_a_shift_moves_averages_and_no_difference(S, shift):
    before, after = matrix.summary(S), matrix.summary(S + shift)
    for name in (
        "forgetting",
        "forgetting_reference",
        "backward_transfer",
        "forward_transfer",
        "gain_over_base",
    ):
        assert after[name] == pytest.approx(before[name], abs=1e-9)
    for name in ("average", "running_average", "learning"):
        assert after[name] == pytest.approx(before[name] + shift, abs=1e-9)


@quick
@given(scores)
def test_forgetting_is_never_negative_and_bounds_bwt(S):
    assert matrix.forgetting(S) >= 0 and matrix.forgetting(S) >= -matrix.backward_transfer(S) - 1e-9


@quick
@given(scores)
def test_the_input_is_left_alone(S):
    before = S.copy()
    S.flags.writeable = False
    matrix.summary(S, reference=np.zeros(S.shape[1]))
    assert np.array_equal(S, before)
