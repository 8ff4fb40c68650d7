"""Fusions by least squares: beside numpy's joint solutions of all rows, and in three lessons of a real network."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_formulas import adapter_of, context

from perdure import method
from perdure.bases import attaching, loading
from perdure.errors import TrainingError
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Wanted
from perdure.parts import regression, zipping

DRAW = np.random.default_rng(5)
INPUTS = [DRAW.normal(size=(7 + 5 * k, 6)) * (1 + 3 * k) for k in range(3)]
"""Rows (n, in) of three concepts, of different numbers and sizes."""
FACTORS = [(DRAW.normal(size=(2, 6)), DRAW.normal(size=(3, 2))) for _ in range(3)]


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


class Rows:
    """A model of whose two projections both get the given rows."""

    def __init__(self, rows):
        self.gram = torch.tensor(rows.T @ rows).float()

    def grams(self, run):
        return {"p": self.gram}


def by_lessons(order, epsilon=1e-3):
    chosen, memory = method.get("least_squares", {"rank": 2, "epsilon": epsilon}), Memory()
    for number, k in enumerate(order, 1):
        own = replace(context(number), model=Rows(INPUTS[k]))
        a, b = (torch.nn.Parameter(torch.tensor(factor).float()) for factor in FACTORS[k])
        memory = chosen.consolidate.remember(adapter_of((a, b)), memory, own)
    return memory


def joint(order, epsilon):
    """All rows under each other, each concept's scaled to a mean square of 1, and the ridge as rows of its own."""
    rows = [INPUTS[k] / np.sqrt((INPUTS[k] ** 2).sum(axis=0).mean()) for k in order]
    wanted = [row @ (FACTORS[k][1] @ FACTORS[k][0]).T for row, k in zip(rows, order, strict=True)]
    stacked = np.concatenate([*rows, np.sqrt(epsilon) * np.eye(6)])
    return np.linalg.lstsq(stacked, np.concatenate([*wanted, np.zeros((6, 3))]), rcond=None)[0].T


@pytest.mark.parametrize("order", [(0,), (0, 1), (0, 1, 2), (2, 0, 1)])
def test_least_squares_in_lessons_is_the_joint_solution(order):
    for epsilon in (1e-3, 0.5):
        found = by_lessons(order, epsilon).delta()["p"].matrix().numpy()
        np.testing.assert_allclose(found, joint(order, epsilon), atol=2e-4, rtol=2e-4)


def test_least_squares_does_not_depend_on_the_order():
    one, other = (by_lessons(order).delta()["p"].matrix() for order in ((0, 1, 2), (2, 1, 0)))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_what_least_squares_carries_does_not_grow():
    sizes = [by_lessons(order).bytes_by_name() for order in ((0,), (0, 1), (0, 1, 2))]
    assert sizes[0] == sizes[1] == sizes[2] == {"delta": 3 * 6 * 4, "grams": 6 * 6 * 4}
    kept = method.get("least_squares", {}).consolidate
    assert kept.carries == set(sizes[0]) and kept.strict


@pytest.mark.parametrize("rows", [INPUTS, [x[:2] for x in INPUTS]], ids=["full", "few"])
def test_both_solvers_of_gradient_fusion_find_the_least_minimum(rows):
    """numpy's least squares over all rows; where they leave directions free, both leave those at zero."""
    targets = [b @ a for a, b in FACTORS]
    wanted = np.concatenate([x @ d.T for x, d in zip(rows, targets, strict=True)])
    expected = np.linalg.lstsq(np.concatenate(rows), wanted, rcond=None)[0]
    gram = torch.tensor(sum(x.T @ x for x in rows))
    rhs = torch.tensor(sum(x.T @ x @ d.T for x, d in zip(rows, targets, strict=True)))
    np.testing.assert_allclose(regression.exact(gram, rhs).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(regression.lbfgs(gram, rhs, 200).numpy(), expected, atol=1e-4)
    early = regression.lbfgs(gram, rhs, 2).numpy()
    assert np.abs(early - expected).max() > np.abs(regression.lbfgs(gram, rhs, 200).numpy() - expected).max()


def test_lbfgs_goes_as_it_does_on_the_rows():
    """The code's own loss, the mean square over all rows, but for a factor: the same path."""
    rows, targets = torch.tensor(np.concatenate(INPUTS)), [b @ a for a, b in FACTORS]
    wanted = torch.tensor(np.concatenate([x @ d.T for x, d in zip(INPUTS, targets, strict=True)]))
    found = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    scale = (rows**2).sum(0).mean()
    descent = torch.optim.LBFGS(
        [found], lr=1, max_iter=4, history_size=25, line_search_fn="strong_wolfe", tolerance_grad=1e-16,
        tolerance_change=1e-16,
    )  # fmt: skip

    def loss():
        descent.zero_grad()
        value = (rows @ found - wanted).square().sum() / scale
        value.backward()
        return value

    descent.step(loss)
    gram, rhs = rows.T @ rows, rows.T @ wanted
    torch.testing.assert_close(regression.lbfgs(gram, rhs, 4), found.detach(), atol=1e-6, rtol=1e-6)


def test_lbfgs_takes_no_step_where_no_input_goes():
    """Nine tokens of 128 numbers, some of them faint: of float32 sums it went to infinity, for these are no squares."""
    draw = np.random.default_rng(0)
    rows = (draw.normal(size=(9, 128)) * np.logspace(0, -3, 9)[:, None]).astype(np.float32)
    deltas, exact = draw.normal(size=(32, 128)), rows.astype(float)
    wanted = np.linalg.pinv(exact, rcond=1e-5) @ (exact @ deltas.T)
    for gram, rounded in ((exact.T @ exact, False), ((rows.T @ rows).astype(float), True)):
        found = regression.lbfgs(torch.tensor(gram), torch.tensor(gram @ deltas.T), 500).numpy()
        assert np.linalg.norm(found) < 2 * np.linalg.norm(wanted)
        np.testing.assert_allclose(exact @ found, exact @ wanted, atol=0.01 if rounded else 1e-5)


def test_gram_matrices_are_sums_of_squares():
    """What a layer sees in two calls, as numpy sums it in float64; float32 sums are off by 1e-7 of them."""
    layer, rows = torch.nn.Linear(64, 2), torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    (found,) = attaching.grams(lambda: [layer(row) for row in rows], {"p": layer}).values()
    wanted = rows.flatten(0, 1).numpy().astype(float)
    np.testing.assert_allclose(found.numpy(), wanted.T @ wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_the_constrained_merge_solves_its_kkt_system(epsilon):
    """[[2 H, C^T], [C, 0]] [D^T, multipliers] = [0, V] by numpy, with fewer captions than inputs too."""
    for usual in (INPUTS[2], INPUTS[0][:4]):
        words, values = INPUTS[1][:3], DRAW.normal(size=(3, 2))
        gram = usual.T @ usual
        gram = gram + epsilon * np.diag(gram).mean() * np.eye(6)
        system = np.block([[2 * gram, words.T], [words, np.zeros((3, 3))]])
        expected = np.linalg.solve(system, np.concatenate([np.zeros((6, 2)), values]))[:6]
        found = regression.least_change(torch.tensor(words), torch.tensor(usual), epsilon).numpy() @ values
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(words @ found, values, atol=1e-8)


# --- beside loops by hand, on a model of rows -------------------------------------------------------------------------


class Watched:
    """A model of three projections whose inputs are what was predicted or drawn: `p` and `q` have one input, `r` has
    its own; and of prompts, whose words say something else at each place of each prompt.
    """

    told, calibration = ("r", "q"), ("some usual words", "and others", "x")

    def __init__(self, number, text):
        self.number, self.text, self.asked, self.seen = number, text, [], []

    def batches(self, *asked):
        self.asked.append(asked)
        return [f"{asked[0]} {k}" for k in range(asked[1])]

    def predict(self, batch):
        self.seen.append((batch, 0.0))

    def draw(self, prompts, count, under, **sampling):
        self.asked.append((count, sampling))
        self.seen.append((*prompts, float(under["p"].matrix().sum())))

    def rows(self, key, wide):
        """Rows (3, wide) that entered for one of what was seen, of sizes unlike each other."""
        draw = np.random.default_rng(list(f"{self.number} {key} {wide}".encode()))
        return draw.normal(size=(3, wide)) * np.arange(1, wide + 1)

    def grams(self, run):
        self.seen.clear()
        run()
        both, own = (np.concatenate([self.rows(key, wide) for key in self.seen]) for wide in (4, 5))
        first = torch.tensor(both.T @ both)
        return {"p": first, "r": torch.tensor(own.T @ own), "q": first}

    def tokens(self, prompts):
        return [torch.tensor(said(prompt, self.text)).float() for prompt in prompts]


def said(prompt, wide):
    """Features (words + 1, wide) of a prompt and its end."""
    draw = np.random.default_rng(list(prompt.encode()))
    return draw.normal(size=(len(prompt.split()) + 1, wide)) * np.arange(1, wide + 1)


OF_OWN = np.random.default_rng(6)
OWN = {name: [OF_OWN.normal(size=(2, wide)) for _ in range(3)] for name, wide in (("p", 4), ("r", 5), ("q", 4))}
"""Changes (out, in) of three concepts."""
PHRASES = ("xa dog", "a very old cat", "clock")


def remembering(consolidate, changes=OWN, phrases=PHRASES, text=4):
    """Memories after a lesson for each phrase, and the models that these asked."""
    memory, found = Memory(), []
    for k, phrase in enumerate(phrases):
        own = Delta({name: Change.full(torch.tensor(matrices[k])) for name, matrices in changes.items()})
        adapter, model = SimpleNamespace(weights=SimpleNamespace(delta=lambda own=own: own)), Watched(k, text)
        memory = consolidate.remember(adapter, memory, replace(context(k + 1), phrase=phrase, model=model))
        found.append((memory, model))
    return found


def solved(rows, wanted):
    """D (out, in) of least squares over rows (n, in) and what they are to give (n, out)."""
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)[0].T


def test_least_squares_of_projections_that_share_an_input():
    """Three lessons in rows: a Gram matrix is kept once, under the first of those that have the input."""
    epsilon, rows = 0.05, {"p": [0.05**0.5 * np.eye(4)], "r": [0.05**0.5 * np.eye(5)]}
    chosen = regression.least_squares(epsilon, 3, 2)
    wanted = {name: [np.zeros((matrices[0].shape[1], 2))] for name, matrices in OWN.items()}
    for k, (memory, model) in enumerate(remembering(chosen)):
        assert model.asked == [("grams", 3, 2)] and [batch for batch, _ in model.seen] == [
            "grams 0",
            "grams 1",
            "grams 2",
        ]
        for leader, wide in (("p", 4), ("r", 5)):
            new = np.concatenate([model.rows((f"grams {n}", 0.0), wide) for n in range(3)])
            rows[leader].append(new / np.sqrt((new**2).sum() / wide))
        kept = memory.under("grams")
        assert list(kept) == ["p", "r"] and list(memory.delta()) == ["p", "q", "r"]
        for name, leader in (("p", "p"), ("q", "p"), ("r", "r")):
            wanted[name].append(rows[leader][-1] @ OWN[name][k].T)
            found = memory.delta()[name].matrix().numpy()
            np.testing.assert_allclose(found, solved(rows[leader], wanted[name]), atol=1e-5)
            stacked = np.concatenate(rows[leader])
            np.testing.assert_allclose(kept[leader].numpy(), stacked.T @ stacked, atol=1e-5)
        assert {t.dtype for t in memory.tensors.values()} == {torch.float32}
        assert memory.bytes_by_name().keys() == chosen.carries and chosen.strict
        assert list(chosen.recall(memory, Wanted("c1"))) == ["p", "q", "r"]


def test_gradient_fusion_reads_text_where_text_goes_and_pictures_elsewhere():
    """Three lessons in rows; `q` reads text features, and `r`, though it is told of them, something made of them."""
    chosen = regression.gradient_fusion("exact")
    assert not chosen.strict and chosen.carries == {"own", "delta"}
    for k, (memory, model) in enumerate(remembering(chosen)):
        phrases = dict(zip(("c1", "c2", "c3")[: k + 1], PHRASES, strict=False))
        assert memory.facts == {"phrases": phrases}
        for number, concept in enumerate(phrases):
            kept = memory.delta(f"own/{concept}")
            assert all(np.allclose(kept[name].matrix().numpy(), OWN[name][number]) for name in OWN)
        assert list(chosen.recall(memory, Wanted())) == ["p", "r", "q"]
        if not k:
            assert model.asked == [], "one concept alone stays as it is"
            assert all(torch.equal(memory.delta()[name].matrix(), kept[name].matrix()) for name in OWN)
            continue
        assert model.asked == [(1, {"steps": 20, "guidance": 1.0})] * (k + 1)
        for name, matrices in OWN.items():
            rows = [entered(model, name, phrase, number) for number, phrase in enumerate(PHRASES[: k + 1])]
            wanted = [x @ matrix.T for x, matrix in zip(rows, matrices, strict=False)]
            np.testing.assert_allclose(memory.delta()[name].matrix().numpy(), solved(rows, wanted), atol=1e-5)


def entered(model, name, phrase, number):
    """Rows of one concept's inputs of a projection: of a drawing under its own change, or of words."""
    if name == "q":  # "photo of a" has three words
        return np.concatenate([said(f"photo of a {phrase}", 4)[3:], said(phrase, 4)]).astype(np.float32)
    moved = float(torch.tensor(OWN["p"][number]).float().sum())
    return model.rows((f"photo of a {phrase}", moved), OWN[name][0].shape[1])


@pytest.mark.parametrize("solver", ["exact", "lbfgs"])
def test_the_solver_that_was_asked_for_and_the_steps_of_mix_of_shows_code(monkeypatch, solver):
    """500 for what is told of text, 50 for the others."""
    taken = []
    for name in ("exact", "lbfgs"):
        told = lambda gram, rhs, steps, name=name: taken.append((name, len(gram), steps)) or rhs  # noqa: E731
        monkeypatch.setattr(regression, name, told)
    remembering(regression.gradient_fusion(solver), phrases=PHRASES[:2])
    assert taken == [(solver, 4, 50), (solver, 5, 500), (solver, 4, 500)]


def test_lbfgs_has_the_settings_of_mix_of_shows_code(monkeypatch):
    made = []

    class Kept(torch.optim.LBFGS):
        def __init__(self, *given, **settings):
            super().__init__(*given, **settings)
            made.append(self.defaults)

    monkeypatch.setattr(torch.optim, "LBFGS", Kept)
    regression.lbfgs(torch.eye(2).double(), torch.ones(2, 1).double(), 7)
    wanted = {
        "lr": 1, "max_iter": 7, "history_size": 25, "line_search_fn": "strong_wolfe", "tolerance_grad": 1e-16,
        "tolerance_change": 1e-16,
    }  # fmt: skip
    assert {key: made[0][key] for key in wanted} == wanted


def test_directions_that_are_rounding_are_left_out_by_their_share_of_the_largest():
    """A share of 1e-10, whatever the largest is; by hand on diagonals."""
    for size in (1e6, 1.0, 1e-6):
        gram = torch.diag(torch.tensor([size, size * 1e-12, size * 1e-6], dtype=torch.float64))
        rhs = size * torch.tensor([[2.0], [1.0], [1e-6]], dtype=torch.float64)
        for solve in (regression.exact, regression.lbfgs):
            np.testing.assert_allclose(solve(gram, rhs, 50).flatten().numpy(), [2, 0, 1], rtol=1e-6, atol=1e-12)
    words = torch.diag(torch.tensor([1.0, 1e-6, 1e-4], dtype=torch.float64))
    found = regression.least_change(words, torch.eye(3).double(), 0.3).numpy()
    np.testing.assert_allclose(found, np.diag([1, 0, 1e4]), rtol=1e-9, atol=1e-9)


def test_the_least_change_for_one_word_and_one_caption_by_hand():
    """H = diag(1.1, 0.1): c^T H^-1 c = 10 + 1 / 1.1, of which the second input has eleven twelfths; in float64."""
    found = regression.least_change(torch.ones(1, 2).double(), torch.tensor([[1.0, 0.0]]).double(), 0.2)
    np.testing.assert_allclose(found.numpy(), [[1 / 12], [11 / 12]], rtol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-3, 0.4])
def test_custom_diffusions_merge_of_three_lessons_by_its_kkt_system(epsilon):
    """Words of all lessons so far say what their own changes say, and what usual words say is changed least."""
    chosen, wide, phrases = regression.constrained(epsilon), 16, ("dog", "cat", "clock")
    assert not chosen.strict and chosen.carries == {"delta", "targets"}
    own = {name: [OF_OWN.normal(size=(2, wide)) for _ in phrases] for name in ("p", "q")}
    usual = np.concatenate([said(prompt, wide) for prompt in Watched.calibration])
    gram = usual.T @ usual
    system = 2 * (gram + epsilon * np.trace(gram) / wide * np.eye(wide))
    words, values = np.zeros((0, wide)), {name: np.zeros((0, 2)) for name in own}
    for k, (memory, _) in enumerate(remembering(chosen, own, phrases, wide)):
        new = np.concatenate([said(f"photo of a {phrases[k]}", wide)[3:], said(phrases[k], wide)])
        words = np.concatenate([words, new])
        np.testing.assert_allclose(memory.tensors["targets/words"].numpy(), words, rtol=1e-6)
        whole = np.block([[system, words.T], [words, np.zeros((len(words), len(words)))]])
        for name, matrices in own.items():
            values[name] = np.concatenate([values[name], new @ matrices[k].T])
            np.testing.assert_allclose(memory.tensors[f"targets/{name}"].numpy(), values[name], rtol=1e-4)
            expected = np.linalg.solve(whole, np.concatenate([np.zeros((wide, 2)), values[name]]))[:wide].T
            np.testing.assert_allclose(memory.delta()[name].matrix().numpy(), expected, atol=1e-3)
        assert set(memory.under("targets")) == {"words", "p", "q"} and list(memory.delta()) == ["p", "q"]
        assert {t.dtype for t in memory.tensors.values()} == {torch.float32}
        assert list(chosen.recall(memory, Wanted())) == ["p", "q"]


def test_custom_diffusion_names_the_projection_that_reads_no_text():
    own = {"p": [np.ones((2, 5))], "q": [np.ones((2, 7))]}
    with pytest.raises(TrainingError) as told:
        remembering(regression.constrained(0.1), own, ("dog",), 5)
    assert str(told.value).startswith("q reads 7 numbers and text features have 5: this base changes them on the way")
    assert str(told.value).endswith("closed form is for text features; take least_squares")


# --- three lessons of a network ---------------------------------------------------------------------------------------


def entering(backbone, names, run):
    """Rows that enter some projections while something runs, by hooks of one's own."""
    seen = {name: [] for name in names}
    hooks = [
        backbone.network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen[name].append(inputs[0].detach().flatten(0, -2).double())
        )
        for name in names
    ]
    run()
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows) for name, rows in seen.items()}


def watched(chosen, look):
    """The method, and what `look(adapter, memory, context)` says before each lesson is remembered."""
    told = []

    def remember(adapter, memory, context):
        told.append(look(adapter, memory, context))
        return chosen.consolidate.remember(adapter, memory, context)

    return replace(chosen, consolidate=replace(chosen.consolidate, remember=remember)), told


def test_gram_matrices_are_those_of_the_rows_and_shared_where_the_rows_are(backbone, taught):
    names = list(backbone.projections("attention"))

    def look(adapter, memory, context):
        batches = context.model.batches("mine", 2, 2)
        run = lambda: [context.model.predict(batch) for batch in batches]  # noqa: E731
        with torch.no_grad():
            return context.model.grams(run), entering(backbone, names, run)

    chosen, told = watched(method.get("merge_init", {"rank": 2}), look)
    taught(chosen, 2)
    for grams, rows in told:
        for name in names:
            torch.testing.assert_close(grams[name].double(), rows[name].T @ rows[name], atol=1e-3, rtol=1e-4)
        shared = {frozenset(n for n in names if grams[n] is grams[m]) for m in names}
        text = {n for n in names if "attn2.to_k" in n or "attn2.to_v" in n}
        blocks = {n.partition(".attn1.")[0] for n in names if ".attn1." in n}
        inner = {frozenset(f"{block}.attn1.to_{part}" for part in "qkv") for block in blocks}
        alone = {frozenset({n}) for n in names if ".to_out" in n or "attn2.to_q" in n}
        assert shared == {frozenset(text), *inner, *alone} and len(text) > 2


def test_least_squares_after_three_lessons_of_a_network(backbone, taught):
    """Everything that entered, under each other, and numpy."""

    def look(adapter, memory, context):
        batches = context.model.batches("grams", 2, 2)
        with torch.no_grad():
            rows = entering(backbone, adapter.weights.projections, lambda: [context.model.predict(b) for b in batches])
        return adapter.weights.delta(), rows

    options = {"rank": 2, "epsilon": 0.01, "batches": 2, "batch_size": 2}
    chosen, told = watched(method.get("least_squares", options), look)
    fused = taught(chosen, 3).delta()
    for name in list(fused)[::3]:
        rows = [own[name] / own[name].square().sum(0).mean().sqrt() for _, own in told]
        wanted = [x @ delta[name].matrix().double().T for x, (delta, _) in zip(rows, told, strict=True)]
        wide = rows[0].shape[1]
        stacked = torch.cat([*rows, 0.1 * torch.eye(wide).double()])
        target = torch.cat([*wanted, torch.zeros(wide, wanted[0].shape[1]).double()])
        expected = torch.linalg.lstsq(stacked, target).solution.T.float()
        torch.testing.assert_close(fused[name].matrix(), expected, atol=2e-5, rtol=1e-3)


def test_mix_of_show_looks_again_at_every_concept_under_its_own_delta(backbone, taught):
    """In the third lesson, for text and for what is drawn: the gradient over all rows is zero."""

    def look(adapter, memory, context):
        owns = {c: memory.delta(f"own/{c}") for c in memory.facts.get("phrases", {})}
        owns[context.concept] = adapter.weights.delta()
        phrases = {**memory.facts.get("phrases", {}), context.concept: context.phrase}

        def draw(delta, phrase):
            return context.model.draw([f"photo of a {phrase}"], 1, delta, steps=20, guidance=1.0)

        drawn = [
            entering(backbone, adapter.weights.projections, partial(draw, delta, phrase))
            for delta, phrase in zip(owns.values(), phrases.values(), strict=True)
        ]
        text = [by_position(context.model, p) for p in phrases.values()]
        return list(owns.values()), drawn, text

    chosen, told = watched(method.get("mix_of_show", {"rank": 2, "solver": "exact"}), look)
    memory = taught(chosen, 3)
    assert {*memory.bytes_by_name()} - {"words"} == chosen.consolidate.carries == {"own", "delta"}
    owns, drawn, text = told[-1]
    reading = backbone.projections("cross_kv")
    for name in list(memory.delta())[::3]:
        slope = 0
        for own, rows, words in zip(owns, drawn, text, strict=True):
            x = words if name in reading else rows[name]
            slope = slope + x.T @ x @ (memory.delta()[name].matrix() - own[name].matrix()).double().T
        size = sum(float((x.T @ x @ own[name].matrix().double().T).norm()) for own in owns[:1])
        assert float(slope.norm()) < 1e-3 * size


def by_position(model, phrase):
    """Text features at a concept's words and the end, by counting words: each of them is one token."""
    count = 1 + len(phrase.split())
    one, two = model.features([f"photo of a {phrase}", phrase]).double()
    return torch.cat([one[4 : 4 + count], two[1 : 1 + count]])


def test_custom_diffusion_says_to_each_concepts_words_what_its_own_weights_say(backbone, taught):
    def look(adapter, memory, context):
        return by_position(context.model, context.phrase), adapter.weights.delta()

    chosen, told = watched(method.get("custom_diffusion", {}), look)
    for lessons in (1, 3):
        told.clear()
        memory = taught(chosen, lessons)
        for words, own in told:
            for name in own:
                answers, wanted = (words @ delta[name].matrix().double().T for delta in (memory.delta(), own))
                torch.testing.assert_close(answers, wanted, atol=1e-4, rtol=1e-3)
    assert memory.bytes_by_name()["targets"] < memory.bytes_by_name()["delta"]
    assert {*memory.bytes_by_name()} - {"words"} == chosen.consolidate.carries and not chosen.consolidate.strict


def test_custom_diffusion_on_a_base_that_changes_text_on_the_way():
    class Narrow(Rows):
        def tokens(self, prompts):
            return [torch.ones(3, 5) for _ in prompts]

    own = replace(context(1), model=Narrow(INPUTS[0]))
    pair = [torch.nn.Parameter(torch.tensor(factor).float()) for factor in FACTORS[0]]
    with pytest.raises(TrainingError, match="p reads 6 numbers and text features have 5"):
        method.get("custom_diffusion", {}).consolidate.remember(adapter_of(pair), Memory(), own)


def test_two_deltas_zipped_or_each_alone():
    """A factor for each input column, by hand."""
    one, two = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    both = zipping.Zipped.of(*(Delta({"p": Change.full(m)}) for m in (one, two)), torch.device("cpu"))
    assert torch.equal(both.change("p"), one + two) and both.alike().item() == 1
    assert torch.equal(both.only(0).change("p"), one) and torch.equal(both.only(1).change("p"), two)
    factors = zipping.Zipped(both.matrices, {"p": (torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 3.0]))})
    assert factors.delta()["p"].matrix().tolist() == [[-3.0, 18.0], [-1.0, 24.0]] and factors.alike().item() == 1


def test_ziplora_trains_what_a_plain_loop_trains(backbone, taught):
    """Lessons 2 and 3 with the whole weights written out, by autograd through functional_call."""
    steps, expected, plain = 3, {}, deepcopy(backbone.network)

    def look(adapter, memory, context):
        if context.lesson == 1:
            return
        new, past = adapter.weights.delta(), memory.delta()
        base = {name: plain.get_submodule(name).weight for name in new}
        pairs = {n: [torch.ones(weight.shape[1], requires_grad=True) for _ in range(2)] for n, weight in base.items()}
        descent = torch.optim.Adam([m for own in pairs.values() for m in own], lr=0.05)
        batches = zipping._batches(memory, context, steps)

        def predicted(batch, changes):
            noisy = backbone.objective.noised(batch.latents, batch.noise, batch.timesteps)
            weights = {f"{n}.weight": base[n] + change for n, change in changes.items()}
            given = (noisy, batch.timesteps, batch.condition["text"])
            return torch.func.functional_call(plain, weights, given).sample

        for pair in batches:
            merged = {n: m[0] * past[n].matrix() + m[1] * new[n].matrix() for n, m in pairs.items()}
            loss = 0.5 * sum((m[0] * m[1]).abs().mean() for m in pairs.values())
            for batch, alone in zip(pair, (past, new), strict=True):
                wanted = predicted(batch, {n: alone[n].matrix() for n in new}).detach()
                loss = loss + F.mse_loss(predicted(batch, merged), wanted)
            descent.zero_grad()
            loss.backward()
            descent.step()
        expected[context.lesson] = {
            n: (m[0] * past[n].matrix() + m[1] * new[n].matrix()).detach() for n, m in pairs.items()
        }

    options = {"rank": 2, "weight": 0.5, "steps": steps, "rate": 0.05}
    chosen, _ = watched(method.get("ziplora", options), look)
    for lessons in (2, 3):
        fused = taught(chosen, lessons).delta()
        for name, matrix in expected[lessons].items():
            torch.testing.assert_close(fused[name].matrix(), matrix, atol=1e-4, rtol=1e-3)
