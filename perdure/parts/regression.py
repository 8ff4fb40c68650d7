"""Fusions by least squares: one matrix that does to each concept's inputs what the concept's own matrix does.

Inputs X_i (rows, in) of a projection enter as Gram matrices G_i = X_i^T X_i (in, in) only: with D_i (out, in) concept
i's change, sum_i ||X_i (D - D_i)^T||^2 is a function of the sums of G_i and of G_i D_i^T.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from perdure.errors import TrainingError
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Consolidate, Context, Model
from perdure.parts.consolidate import whole

Solve = Callable[[Tensor, Tensor, int], Tensor]
"""(sum of G_i, sum of G_i D_i^T, most steps) -> D^T (in, out), float64."""
OPENING = "photo of a"
STEPS, TOLD_STEPS = 50, 500
"""L-BFGS steps of Mix-of-Show's code for a projection, and for keys and values of cross-attention."""
DRAWN_STEPS = 20
"""Steps in which Mix-of-Show's code draws what it takes inputs from."""
ROUNDING = 1e-10
"""Directions of a Gram matrix whose share of the largest is less are nothing but rounding."""


# --- ridge, running ---------------------------------------------------------------------------------------------------


def ridge(gram: Tensor, rhs: Tensor) -> Tensor:
    """D^T (in, out) with gram D^T = rhs, float64; the gram matrix (in, in) has its ridge on it."""
    return torch.cholesky_solve(rhs, torch.linalg.cholesky(gram))


def least_squares(epsilon: float, batches: int, size: int) -> Consolidate:
    """The exact minimum of sum_i ||X_i (D - D_i)^T||^2 / c_i + epsilon ||D||^2 over all lessons so far, no past kept.

    With S_0 = epsilon I and D_0 = 0: S_t = S_{t-1} + G_t / c_t, D_t^T = S_t^-1 (S_{t-1} D_{t-1}^T + G_t D^T / c_t)
    with D the lesson's own change. c_t, the mean of G_t's diagonal, lets every concept count alike and epsilon be a
    share. X_t is what enters the projections in some noised `batches` of `size` examples. Ours, after gradient fusion
    (Gu et al. 2023).
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        past, fused, kept = memory.under("grams"), memory.delta(), {}
        own, solved = adapter.weights.delta(), {}
        for leader, members in _shared(_noised(context.model, batches, size)).items():
            gram = members[0][1].double().cpu()
            gram = gram / gram.diagonal().mean()
            before = past[leader].double() if leader in past else epsilon * torch.eye(len(gram)).double()
            kept[leader] = (before + gram).float()
            for name, _ in members:
                rhs = gram @ own[name].matrix().double().T
                if name in fused:
                    rhs = rhs + before @ fused[name].matrix().double().T
                solved[name] = Change.full(ridge(kept[leader].double(), rhs).T)
        return memory.with_delta(Delta(solved)).with_tensors("grams", kept)

    return Consolidate(remember, whole, carries=frozenset({"delta", "grams"}))


def _noised(model: Model, batches: int, size: int) -> Mapping[str, Tensor]:
    """Gram matrices of what enters the projections while the lesson's own model looks at noised examples."""

    def look() -> None:
        for batch in model.batches("grams", batches, size):
            model.predict(batch)

    return model.grams(look)


def _shared(grams: Mapping[str, Tensor]) -> dict[str, list[tuple[str, Tensor]]]:
    """First projection of each input -> all that have this input, with its Gram matrix."""
    found: dict[int, list[tuple[str, Tensor]]] = {}
    for name, gram in grams.items():
        found.setdefault(id(gram), []).append((name, gram))
    return {members[0][0]: members for members in found.values()}


# --- Mix-of-Show ------------------------------------------------------------------------------------------------------


def gradient_fusion(solver: Literal["exact", "lbfgs"]) -> Consolidate:
    """Keep every concept's delta; after each lesson look at all of them again, and fuse (Gu et al. 2023, section 3.2).

    Inputs as in its code: of keys and values of cross-attention, text features at the concept's words and the end of
    "photo of a C" and "C"; of others, what enters while "photo of a C" is drawn in 20 steps without guidance, under the
    concept's own delta. One concept alone stays as it is.
    """
    solve: Solve = exact if solver == "exact" else lbfgs

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        phrases = {**memory.facts.get("phrases", {}), context.concept: context.phrase}
        now = memory.with_delta(adapter.weights.delta(), f"own/{context.concept}").with_facts(phrases=phrases)
        own = [now.delta(f"own/{concept}") for concept in phrases]
        if len(own) == 1:
            return now.with_delta(own[0])
        seen = [_inputs(context.model, d, p) for d, p in zip(own, phrases.values(), strict=True)]
        told, fused = set(context.model.told), {}
        for name in own[0]:
            grams = [grams[name].double().cpu() for grams in seen]
            rhs = [gram @ delta[name].matrix().double().T for gram, delta in zip(grams, own, strict=True)]
            steps = TOLD_STEPS if name in told else STEPS
            fused[name] = Change.full(solve(torch.stack(grams).sum(0), torch.stack(rhs).sum(0), steps).T)
        return now.with_delta(Delta(fused))

    return Consolidate(remember, whole, strict=False, carries=frozenset({"own", "delta"}))


def _inputs(model: Model, delta: Delta, phrase: str) -> dict[str, Tensor]:
    """Gram matrices of the inputs of one concept, by projection."""
    text = concept_tokens(model, phrase)
    of_text = text.double().cpu().T @ text.double().cpu()
    drawn = model.grams(lambda: model.draw([f"{OPENING} {phrase}"], 1, delta, steps=DRAWN_STEPS, guidance=1.0))
    reads = {name for name in model.told if drawn[name].shape == of_text.shape}
    return {name: of_text if name in reads else gram for name, gram in drawn.items()}


def concept_tokens(model: Model, phrase: str) -> Tensor:
    """Text features (tokens, width) at the concept's words and the end of "photo of a C" and of "C"."""
    opening, longer, alone = model.tokens([OPENING, f"{OPENING} {phrase}", phrase])
    return torch.cat([longer[len(opening) - 1 :], alone])  # the opening's own tokens, without its end


def exact(gram: Tensor, rhs: Tensor, steps: int = 0) -> Tensor:
    """The minimum of least size, D^T = gram^+ rhs: where no input goes nothing is changed."""
    inverse: Tensor = torch.linalg.pinv(gram, rtol=ROUNDING, hermitian=True)
    return inverse @ rhs


def lbfgs(gram: Tensor, rhs: Tensor, steps: int) -> Tensor:
    """The same by L-BFGS with the settings of Mix-of-Show's code, from no change on; the best that it meets.

    Where no input goes the loss is flat on rows, as its code has them; of a Gram matrix rounding can make it fall for
    ever there. So these directions, which no step on rows takes, are left out.
    """
    values, directions = torch.linalg.eigh(gram)
    seen = values > ROUNDING * values.max()
    kept = directions[:, seen]
    gram, rhs = kept * values[seen] @ kept.T, kept @ (kept.T @ rhs)
    found = torch.zeros_like(rhs)
    scale = gram.diagonal().mean()
    best: tuple[float, Tensor] = (0.0, torch.zeros_like(rhs))
    descent = torch.optim.LBFGS(
        [found], lr=1, max_iter=steps, history_size=25, line_search_fn="strong_wolfe", tolerance_grad=1e-16,
        tolerance_change=1e-16,
    )  # fmt: skip

    def loss() -> float:
        nonlocal best
        slope = gram @ found
        value = float(((slope - 2 * rhs) * found).sum() / scale)
        found.grad = 2 * (slope - rhs) / scale
        if value < best[0]:
            best = value, found.clone()
        return value

    descent.step(loss)  # type: ignore[no-untyped-call]
    return best[1]


# --- Custom Diffusion -------------------------------------------------------------------------------------------------


def constrained(epsilon: float) -> Consolidate:
    """Each concept's words keep what its own keys and values say to them; other captions are changed least.

    Kumari et al. 2023, Custom Diffusion, arXiv 2212.04488, equation 4 and its closed form. Carried are text features
    of each concept's words and what its matrices add there: rows, of which there are as many as words. Raises
    TrainingError for a base whose keys and values read something else than text features.
    """

    def remember(adapter: Adapter, memory: Memory, context: Context) -> Memory:
        model, own, past = context.model, adapter.weights.delta(), memory.under("targets")
        words = concept_tokens(model, context.phrase).double().cpu()
        if wrong := next((n for n, change in own.items() if change.shape[1] != words.shape[1]), None):
            raise TrainingError(
                f"{wrong} reads {own[wrong].shape[1]} numbers and text features have {words.shape[1]}: this base "
                "changes them on the way, and custom_diffusion's closed form is for text features; take least_squares"
            )
        rows = {"words": words, **{name: words @ change.matrix().double().T for name, change in own.items()}}
        kept = {n: torch.cat([past[n], new.float()]) if n in past else new.float() for n, new in rows.items()}
        usual = torch.cat(list(model.tokens(model.calibration))).double().cpu()
        moves = least_change(kept["words"].double(), usual, epsilon)
        fused = {name: Change.full((moves @ kept[name].double()).T) for name in own}
        return memory.with_delta(Delta(fused)).with_tensors("targets", kept)

    return Consolidate(remember, whole, strict=False, carries=frozenset({"delta", "targets"}))


def least_change(words: Tensor, usual: Tensor, epsilon: float) -> Tensor:
    """M (in, s) with D^T = M V the least change that gives words C (s, in) the values V (s, out): C D^T = V.

    It minimises ||R D^T||^2 + epsilon c ||D||^2, R (n, in) the usual captions' features, c the mean of R^T R's
    diagonal: with H = R^T R + epsilon c I, M = H^-1 C^T (C H^-1 C^T)^-1.
    """
    gram = usual.T @ usual
    gram = gram + epsilon * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    directions = torch.cholesky_solve(words.T, torch.linalg.cholesky(gram))
    inverse: Tensor = torch.linalg.pinv(words @ directions, rtol=ROUNDING, hermitian=True)
    return directions @ inverse
