"""Methods that differ in where a lesson starts and what is remembered, beside plain loops."""

import pytest
import torch
from plain import Plain, flat, larger, leaves, plus, preserved, products, still, train, trained_pairs
from tape import FULL, PLAIN, agree


def lesson(model, tapes, number, under, before=None):
    """A pair trained on top of `under`; the teacher, where there is one, is `before`, or else the same."""
    pairs = trained_pairs(tapes[number].weights)
    now = lambda step: plus(under, products(pairs))  # noqa: E731
    penalties = preserved(model, tapes, number, under if before is None else before, now)
    return pairs, train(model, tapes[number], flat(pairs), now, penalties)


def naive(model, tapes):
    """One pair, trained on and on, on the base."""
    past, pairs = {}, {}
    for number, tape in enumerate(tapes):
        if number:
            for start, carried in zip(flat(tape.weights), flat(pairs), strict=True):
                assert torch.allclose(start, carried, atol=1e-5)
        pairs, done = lesson(model, tapes, number, {}, past)
        past = still(products(pairs))
        yield done, {None: past}


def merge_init(model, tapes):
    """A new pair each time on the sum of all products."""
    past = {}
    for number in range(len(tapes)):
        pairs, done = lesson(model, tapes, number, past)
        past = plus(past, still(products(pairs)))
        yield done, {None: past}


def merge_ortho(model, tapes, factors=False, rows=False):
    """The same, started orthogonal to the past A: column by column in R^r, or row space by row space."""
    past, history = {}, []
    for number, tape in enumerate(tapes):
        noise = tape.draw("adapter")
        for name, (a, b) in tape.weights.items():
            gaussian = torch.randn(a.shape, generator=noise) / len(a)
            if not history:
                assert torch.equal(a, gaussian)
            elif rows:
                seen = torch.cat([pairs[name][0] for pairs in history]).detach().double()
                outside = gaussian - (gaussian.double() @ torch.linalg.pinv(seen) @ seen).float()
                assert torch.allclose(a, outside * gaussian.norm() / outside.norm(), atol=1e-4)
            else:
                total = sum(pairs[name][0].detach() for pairs in history)
                assert torch.allclose((a * total).sum(dim=0), torch.zeros(a.shape[1]), atol=1e-5)
                assert torch.allclose(a.norm(dim=0), torch.ones(a.shape[1]))
            assert not b.any()
        pairs, done = lesson(model, tapes, number, past)
        history.append(pairs)
        if factors:
            sums = {n: tuple(sum(p[n][k].detach() for p in history) for k in (0, 1)) for n in pairs}
            past = products(sums)
        else:
            past = plus(past, still(products(pairs)))
        yield done, {None: past}


def magmax(model, tapes, on_products=False):
    """A new pair on the merged past, then each entry the larger one so far: of the factors, or of the products."""
    past, merged = {}, {}
    for number in range(len(tapes)):
        pairs, done = lesson(model, tapes, number, past)
        if on_products:
            past = {n: larger(past.get(n, torch.zeros(())), new) for n, new in still(products(pairs)).items()}
        else:
            zero = torch.zeros(())
            merged = {
                n: tuple(larger(old, new.detach()) for old, new in zip(merged.get(n, (zero, zero)), pair, strict=True))
                for n, pair in pairs.items()
            }
            past = products(merged)
        yield done, {None: past}


def magmax_full(model, tapes):
    """All weights go on being trained; recalled is half of each entry's largest difference from the base so far."""
    largest, carried = {}, {n: torch.zeros(w.shape) for n, w in model.base.items()}
    for number, tape in enumerate(tapes):
        free = dict(zip(carried, leaves(list(carried.values())), strict=True))
        before = {name: 0.5 * matrix for name, matrix in largest.items()}
        now = lambda step, free=free: free  # noqa: E731
        done = train(model, tape, list(free.values()), now, preserved(model, tapes, number, before, now))
        done.gradients = [[gradient.flatten() for gradient in step] for step in done.gradients]
        done.parameters = [parameter.flatten() for parameter in done.parameters]
        carried = still(free)
        largest = {n: larger(largest.get(n, torch.zeros(())), matrix) for n, matrix in carried.items()}
        yield done, {None: {name: 0.5 * matrix for name, matrix in largest.items()}}


def independent(model, tapes):
    """A new pair on the base each time, each recalled by its concept's name."""
    kept = {}
    for number, tape in enumerate(tapes):
        pairs, done = lesson(model, tapes, number, {})
        kept[tape.concept] = still(products(pairs))
        yield done, dict(kept)


def orthogonal_adaptation(model, tapes):
    """On the base, A fixed to rows that are orthonormal and orthogonal to all earlier ones; products are summed."""
    past, rows = {}, {name: a[:0] for name, (a, _) in tapes[0].weights.items()}
    for number, tape in enumerate(tapes):
        ups = {name: leaves([b])[0] for name, (_, b) in tape.weights.items()}
        now = lambda step, tape=tape, ups=ups: {n: ups[n] @ a for n, (a, _) in tape.weights.items()}  # noqa: E731
        done = train(model, tape, list(ups.values()), now, preserved(model, tapes, number, past, now))
        past = plus(past, still(now(0)))
        rows = {name: torch.cat([rows[name], a]) for name, (a, _) in tape.weights.items()}
        assert all(torch.allclose(a @ a.T, torch.eye(len(a)), atol=1e-5) for a in rows.values())
        yield done, {None: past}


CASES = {
    "naive": ({}, naive),
    "merge_init": ({}, merge_init),
    "merge_ortho": ({}, merge_ortho),
    "merge_ortho sums, rows": (
        {"merge": "factor_sum", "orthogonality": "rowspace"}, lambda *given: merge_ortho(*given, True, True)
    ),
    "magmax": ({"operand": "factors"}, magmax),
    "magmax delta": ({"operand": "delta"}, lambda *given: magmax(*given, on_products=True)),
    "magmax_full": ({}, magmax_full),
    "independent": ({}, independent),
    "orthogonal_adaptation": ({}, orthogonal_adaptation),
}  # fmt: skip


def options_of(case):
    own = CASES[case][0]
    return own if case == "magmax_full" else {"rank": 2, **own}


@pytest.mark.parametrize("case", CASES)
def test_three_lessons(case, pico):
    agree(pico, case.split()[0], options_of(case), PLAIN, CASES[case][1], Plain(pico))


@pytest.mark.parametrize("case", ["naive", "magmax_full"])
def test_three_lessons_with_everything_on(case, pico):
    agree(pico, case, options_of(case), FULL, CASES[case][1], Plain(pico))


def test_a_base_that_predicts_velocity(pico_v):
    agree(pico_v, "merge_init", {"rank": 2}, FULL.model_copy(update={"preserve": None}), merge_init, Plain(pico_v))
