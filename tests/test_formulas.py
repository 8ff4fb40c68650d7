"""What each method carries, against the published definitions written out by hand on small matrices."""

import pytest
import torch

from perdure import method
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Context, Wanted
from perdure.parts.adapter import LowRank

A1 = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.0, 1.0, -3.0, 0.5]])
B1 = torch.tensor([[1.0, 0.0], [0.5, -1.0], [2.0, 1.0]])
A2 = torch.tensor([[-2.0, 1.0, 0.5, -1.0], [0.0, 0.5, 4.0, -0.5]])
B2 = torch.tensor([[0.5, 3.0], [-0.5, 0.0], [-1.0, -2.0]])
A3 = torch.tensor([[0.25, -2.0, 1.5, 1.0], [-1.0, 0.5, 3.0, 0.5]])
B3 = torch.tensor([[-1.0, 2.5], [0.5, 1.0], [2.0, -0.5]])


def adapter_of(pair):
    return Adapter(LowRank({"p": pair}))


def context(number, generator=None):
    """A lesson whose model is of no interest."""
    draw = lambda *owner: generator or torch.Generator().manual_seed(7)  # noqa: E731
    return Context(f"c{number}", number, 10, "", "", None, draw, draw)


def lessons(name, *pairs, **options):
    """The memory after lessons that ended with the given factors, whatever training did."""
    chosen, memory = method.get(name, {"rank": 2, **options}), Memory()
    for number, (a, b) in enumerate(pairs, start=1):
        adapter = adapter_of((torch.nn.Parameter(a.clone()), torch.nn.Parameter(b.clone())))
        memory = chosen.consolidate.remember(adapter, memory, context(number))
    return chosen, memory


def weight(name, *pairs, concept=None, **options):
    chosen, memory = lessons(name, *pairs, **options)
    return chosen.consolidate.recall(memory, Wanted(concept))["p"].matrix()


def larger(x, y):
    """The entry of larger magnitude; ties to the second."""
    pairs = [zip(r, s, strict=True) for r, s in zip(x.tolist(), y.tolist(), strict=True)]
    return torch.tensor([[u if abs(u) > abs(v) else v for u, v in row] for row in pairs])


def test_naive_carries_the_last_pair():
    torch.testing.assert_close(weight("naive", (A1, B1), (A2, B2)), B2 @ A2)


def test_merge_init_carries_the_sum_of_products():
    torch.testing.assert_close(weight("merge_init", (A1, B1), (A2, B2)), B1 @ A1 + B2 @ A2)


def test_merge_ortho_product_is_merge_init_after_training():
    torch.testing.assert_close(weight("merge_ortho", (A1, B1), (A2, B2)), B1 @ A1 + B2 @ A2)


def test_merge_ortho_factor_sum_has_the_reference_codes_cross_terms():
    expected = B1 @ A1 + B2 @ A2 + B1 @ A2 + B2 @ A1
    torch.testing.assert_close(weight("merge_ortho", (A1, B1), (A2, B2), merge="factor_sum"), expected)


def test_the_reference_codes_operands_over_three_lessons():
    """methods.md a.6, 1 and 2: factor sums, and element-wise maxima of whole differences that ties leave to the new."""
    three = ((A1, B1), (A2, B2), (A3, B3))
    expected = sum(b @ a for _, b in three for a, _ in three)  # nine products, six of them cross terms
    torch.testing.assert_close(weight("merge_ortho", *three, merge="factor_sum"), expected)
    expected = larger(larger(B1 @ A1, B2 @ A2), B3 @ A3)
    torch.testing.assert_close(weight("magmax", *three, operand="delta"), expected)
    again = weight("magmax", (A1, B1), (A2, B2), (-A2, B2), operand="delta")  # the third ties where the second won
    won = (B2 @ A2).abs() >= (B1 @ A1).abs()
    torch.testing.assert_close(again, torch.where(won, -(B2 @ A2), B1 @ A1))


def test_what_lies_under_lessons_two_and_three_of_the_reference_codes_merge_ortho():
    """The next task fuses (sum B)(sum A): the model jumps from W_1 + B_2 A_2, where training ended, to that."""
    for past in (((A1, B1),), ((A1, B1), (A2, B2))):
        _, memory = lessons("merge_ortho", *past, merge="factor_sum")
        (a, b), under = start("merge_ortho", memory, len(past) + 1, merge="factor_sum")
        sum_a, sum_b = sum(a for a, _ in past), sum(b for _, b in past)
        torch.testing.assert_close(under["p"].matrix(), sum_b @ sum_a)
        assert b.abs().max() == 0
        for c in range(4):
            torch.testing.assert_close(a[:, c], torch.linalg.svd(sum_a[:, c].reshape(1, 2)).Vh[-1])


def test_the_orthogonal_start_is_as_degenerate_as_the_reference_codes():
    """methods.md a.6, 6: unit columns, nearly all in one row, the last and the first by turns; sqrt(r) as large."""
    r, wide = 16, 64
    chosen, memory, rows = method.get("merge_ortho", {"rank": r, "merge": "factor_sum"}), Memory(), []
    for number in (1, 2, 3):
        adapter = adapter_of((torch.nn.Parameter(torch.zeros(r, wide)), torch.nn.Parameter(torch.ones(3, r))))
        chosen.start(adapter, memory, context(number))
        a = adapter.weights.factors["p"][0].detach()
        rows.append(a.square().mean(dim=1))
        assert a.norm() == pytest.approx(wide**0.5 if number > 1 else (wide / r) ** 0.5, rel=0.1)
        memory = chosen.consolidate.remember(adapter, memory, context(number))
    assert rows[0].max() < 0.01 and (rows[1].argmax(), rows[2].argmax()) == (r - 1, 0)
    assert rows[1].max() > 0.8 and rows[2].max() > 0.8


def test_magmax_delta_keeps_the_larger_entry_of_the_products():
    torch.testing.assert_close(weight("magmax", (A1, B1), (A2, B2), operand="delta"), larger(B1 @ A1, B2 @ A2))


def test_magmax_factors_keeps_the_larger_entry_of_each_factor():
    torch.testing.assert_close(weight("magmax", (A1, B1), (A2, B2)), larger(B1, B2) @ larger(A1, A2))


@pytest.mark.parametrize("operand", ["factors", "delta"])
def test_magmax_ties_and_identity(operand):
    torch.testing.assert_close(weight("magmax", (A1, B1), operand=operand), B1 @ A1)
    torch.testing.assert_close(weight("magmax", (A1, B1), (A1, B1), operand=operand), B1 @ A1)
    with_tie = weight("magmax", (A1, B1), (-A1, B1), operand="delta")
    torch.testing.assert_close(with_tie, -(B1 @ A1))  # equal magnitude: the new lesson's entry


def test_independent_keeps_each_concept():
    torch.testing.assert_close(weight("independent", (A1, B1), (A2, B2), concept="c1"), B1 @ A1)
    torch.testing.assert_close(weight("independent", (A1, B1), (A2, B2), concept="c2"), B2 @ A2)


@pytest.mark.parametrize("name", ["naive", "merge_init", "merge_ortho", "magmax", "independent"])
def test_one_concept_is_the_identity_of_each_merge(name):
    torch.testing.assert_close(weight(name, (A1, B1), concept="c1"), B1 @ A1)


def start(name, memory, number, **options):
    """Factors as the method's start leaves them, and what lies under."""
    chosen = method.get(name, {"rank": 2, **options})
    adapter = adapter_of((torch.nn.Parameter(torch.zeros(2, 4)), torch.nn.Parameter(torch.ones(3, 2))))
    return adapter.weights.factors["p"], chosen.start(adapter, memory, context(number))


@pytest.mark.parametrize(
    ("name", "options"),
    [("naive", {}), ("merge_init", {}), ("merge_ortho", {}), ("magmax", {"operand": "delta"}), ("magmax", {})],
)
def test_a_lesson_starts_at_the_carried_model(name, options):
    """methods.md a.7, invariant (i): at the start of a lesson the model is the carried model."""
    chosen, memory = lessons(name, (A1, B1), (A2, B2), **options)
    (a, b), under = start(name, memory, 3, **options)
    below = under["p"].matrix() if "p" in under else torch.zeros(3, 4)
    torch.testing.assert_close(below + b @ a, chosen.consolidate.recall(memory, Wanted())["p"].matrix())


def test_merge_starts_with_zero_b_and_spread_1_over_r():
    chosen = method.get("merge_init", {"rank": 8})
    adapter = adapter_of((torch.nn.Parameter(torch.zeros(8, 4000)), torch.nn.Parameter(torch.ones(3, 8))))
    chosen.start(adapter, Memory(), context(1))
    a, b = adapter.weights.factors["p"]
    assert b.abs().max() == 0
    assert a.std().item() == pytest.approx(1 / 8, rel=0.02)


def test_orthogonal_columns_are_unit_vectors_orthogonal_to_the_sum_of_past_columns():
    _, memory = lessons("merge_ortho", (A1, B1), (A2, B2))
    (a, b), _ = start("merge_ortho", memory, 3)
    past = A1 + A2
    for c in range(4):
        assert (a[:, c] @ past[:, c]).abs() < 1e-5
        torch.testing.assert_close(a[:, c].norm(), torch.tensor(1.0))
        reference = torch.linalg.svd(past[:, c].reshape(1, 2)).Vh[-1]  # the paper's wording, one column at a time
        torch.testing.assert_close((a[:, c] @ reference).abs(), torch.tensor(1.0))
    assert b.abs().max() == 0


def test_orthogonal_rows_are_orthogonal_to_all_past_rows_with_the_usual_spread():
    wide1, wide2 = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)), torch.randn(2, 16)
    _, memory = lessons("merge_ortho", (wide1, B1), (wide2, B2), orthogonality="rowspace")
    chosen = method.get("merge_ortho", {"rank": 2, "orthogonality": "rowspace"})
    adapter = adapter_of((torch.nn.Parameter(torch.zeros(2, 16)), torch.nn.Parameter(torch.ones(3, 2))))
    chosen.start(adapter, memory, context(3))
    a = adapter.weights.factors["p"][0]
    assert (torch.cat([wide1, wide2]) @ a.T).abs().max() < 1e-5
    plain = torch.randn(2, 16, generator=torch.Generator().manual_seed(7)) / 2
    torch.testing.assert_close(a.norm(), plain.norm())
    basis = memory.under("past_rows")["p"]
    torch.testing.assert_close(basis @ basis.T, torch.eye(4), atol=1e-5, rtol=0)


def test_column_reading_does_not_separate_input_subspaces():
    """methods.md a.6(6): the reason why `rowspace` exists."""
    generator = torch.Generator().manual_seed(0)
    past = torch.randn(8, 64, generator=generator)
    b = torch.zeros(3, 8)
    chosen = method.get("merge_ortho", {"rank": 8})
    memory = chosen.consolidate.remember(adapter_of((past, b)), Memory(), context(1, generator))
    adapter = adapter_of((torch.zeros(8, 64), b.clone()))
    chosen.start(adapter, memory, context(2, generator))
    rows, old = (torch.linalg.qr(m.T).Q for m in (adapter.weights.factors["p"][0], past))
    assert torch.linalg.svdvals(rows.T @ old).max() > 0.3


def test_delta_is_factors_below_break_even_and_dense_after():
    wide = Change.low_rank(torch.randn(2, 30), torch.randn(30, 2))
    delta = Delta({"p": wide})
    for lesson in range(2, 8):
        delta = delta + Delta({"p": wide})
        assert delta["p"].rank == 2 * lesson
    exact = sum(wide.matrix() for _ in range(7))
    torch.testing.assert_close(delta["p"].matrix(), exact)
    before = delta.nbytes
    delta = delta + Delta({"p": wide})  # rank 16: 16 * 60 >= 900
    assert delta["p"].rank is None and delta.nbytes == 30 * 30 * 4 and delta.nbytes < before * 8 / 7
    torch.testing.assert_close(delta["p"].matrix(), exact + wide.matrix())


NEED_NO_MODEL = ("naive", "merge_init", "merge_ortho", "magmax", "independent", "sum", "mean", "ties",
                 "ties_running", "svd", "iso_c", "iso_cts", "knots")  # fmt: skip


@pytest.mark.parametrize("name", NEED_NO_MODEL)
def test_a_method_declares_what_it_carries(name):
    chosen, memory = lessons(name, (A1, B1), (A2, B2), (A3, B3))
    assert chosen.consolidate.carries == set(memory.bytes_by_name())
