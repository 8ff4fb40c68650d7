"""Methods that add to the loss or learn words, beside plain loops with the published formulas written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from plain import Plain, Words, flat, leaves, plus, preserved, products, spoken, still, train, trained_pairs
from tape import FULL, PLAIN, agree, close

from perdure.bases import calibration


def on_top(model, tapes, number, past, penalties, words=None):
    """A pair trained on top of the past; `penalties(pairs, now)` are those of the method."""
    pairs = trained_pairs(tapes[number].weights)
    now = lambda step: plus(past, products(pairs))  # noqa: E731
    own = penalties(pairs, now) + preserved(model, tapes, number, past, now, words)
    return pairs, train(model, tapes[number], flat(pairs), now, own, words)


def squares(pairs, weight, importance):
    """weight * sum of importance * change^2, as a penalty."""
    changes = lambda: products(pairs)  # noqa: E731
    return [lambda step, batch, predicted: weight * sum((importance[n] * c**2).sum() for n, c in changes().items())]


def l2(model, tapes, weight):
    past = {}
    for number in range(len(tapes)):
        half = {name: torch.tensor(0.5) for name in tapes[0].weights}
        pairs, done = on_top(
            model,
            tapes,
            number,
            past,
            lambda pairs, now, n=number, half=half: squares(pairs, weight, half) if n else [],
        )
        past = plus(past, still(products(pairs)))
        yield done, {None: past}


def ewc(model, tapes, weight, gamma):
    """F <- gamma F + mean over single images of the squared gradient of the loss by the weight itself."""
    past, fisher = {}, {}
    for number, tape in enumerate(tapes):
        half = {name: value / 2 for name, value in fisher.items()}
        pairs, done = on_top(
            model, tapes, number, past, lambda pairs, now, half=half: squares(pairs, weight, half) if half else []
        )
        past = plus(past, still(products(pairs)))
        images = tape.batches["fisher "]
        total = {name: torch.zeros(w.shape) for name, w in past.items()}
        for image in images:
            free = dict(zip(past, leaves(list(past.values())), strict=True))
            loss = model.error(image, model.predict(free, image), tape.training.min_snr).mean()
            for name, gradient in zip(free, torch.autograd.grad(loss, list(free.values())), strict=True):
                total[name] += gradient**2 / len(images)
        fisher = {name: gamma * fisher.get(name, 0) + value for name, value in total.items()}
        kept = tape.memory.under("fisher")
        assert all(torch.allclose(kept[n], f, rtol=2e-3, atol=1e-4 * float(f.max())) for n, f in fisher.items())
        yield done, {None: past}


def c_lora(model, tapes, weight):
    """Equation 3: weight * sum || |past| * B A ||_F^2; a word of its own, and no noun."""
    past, known = {}, {}
    for number, tape in enumerate(tapes):
        words = Words(tape, known, swallowed=tape.noun)
        square = {name: change**2 for name, change in past.items()}
        pairs, done = on_top(
            model, tapes, number, past, lambda pairs, now, s=square: squares(pairs, weight, s) if s else [], words
        )
        past, known = plus(past, still(products(pairs))), words.learnt()
        yield done, {None: past}
    assert_words(tape, known)


def assert_words(tape, known):
    """The words that the memory carries are those of the twin."""
    for token, word in known.items():
        for number, vectors in enumerate(word.vectors):
            assert torch.allclose(tape.memory.under(f"words/{token}")[str(number)], vectors, atol=1e-4)


def stamina(model, tapes, sparsity, weight, openness=0.9, tau=0.1):
    """(B A) * mask; the mask hard forward, soft backward; weight * ||past * change||^2; sparsity * mean openness."""
    past, known = {}, {}
    bias = math.log(openness / (1 - openness))
    for number, tape in enumerate(tapes):
        pairs, logits = trained_pairs(tape.weights), trained_pairs(tape.logits)
        words = Words(tape, known, mlp=True)

        def mask(name, step, tape=tape, logits=logits):
            v, u = logits[name]
            uniform = torch.rand(len(u), v.shape[1], generator=tape.draw(f"mask {name}", step)).clamp(1e-6, 1 - 1e-6)
            logit = u @ v + bias + torch.logit(uniform)
            soft = torch.sigmoid(logit / tau ** (step / (tape.training.steps - 1)))
            return soft + ((logit > 0).float() - soft).detach()

        def changes(step, pairs=pairs, mask=mask):
            return {name: product * mask(name, step) for name, product in products(pairs).items()}

        def penalty(step, batch, predicted, past=past, changes=changes, logits=logits):
            open_now = torch.stack([torch.sigmoid(u @ v + bias).mean() for v, u in logits.values()]).mean()
            again = sum(((past[name] * change) ** 2).sum() for name, change in changes(step).items()) if past else 0
            return sparsity * open_now + weight * again

        now = lambda step, past=past, changes=changes: plus(past, changes(step))  # noqa: E731
        own = [penalty, *preserved(model, tapes, number, past, now, words)]
        done = train(model, tape, flat(pairs) + flat(logits), now, own, words)
        final = {
            name: product * (logits[name][1] @ logits[name][0] + bias > 0) for name, product in products(pairs).items()
        }
        past, known = plus(past, still(final)), words.learnt()
        yield done, {None: past}
    assert_words(tape, known)


def cns(model, tapes, form, weight):
    """Chosen entries (which ones is an input here) on top of the past, tied to the past and to the base."""
    past, known = {}, {}
    general = model.encode(calibration.captions("toybox"), {})["text"].flatten(0, 1)
    for number, tape in enumerate(tapes):
        values = dict(zip(tape.weights, leaves(list(tape.weights.values())), strict=True))
        words = Words(tape, known)
        features = model.encode(spoken(tapes[:number]), known)["text"].flatten(0, 1) if number else None

        def changes(values=values, tape=tape):
            flat = {n: torch.zeros(model.base[n].numel()) for n in values}
            return {n: flat[n].index_put((tape.index[n],), values[n]).view(model.base[n].shape) for n in values}

        def penalty(step, batch, predicted, past=past, tape=tape, changes=changes, features=features):
            total = torch.zeros(())
            for name, change in changes().items():
                before = past.get(name, torch.zeros(change.shape))
                chosen = torch.zeros(change.numel()).index_fill(0, tape.index[name], 1).view(change.shape)
                if form == "both":
                    total = total + ((before != 0) * change).pow(2).sum() + (chosen * (before + change)).pow(2).sum()
                elif form == "past":
                    total = total + (before * change).pow(2).sum()
                else:
                    total = total + ((before + change) @ general.T).pow(2).mean()
                    total = total + ((change @ features.T).pow(2).mean() if features is not None else 0)
            return weight * total

        now = lambda step, past=past, changes=changes: plus(past, changes())  # noqa: E731
        own = [penalty, *preserved(model, tapes, number, past, now, words)]
        done = train(model, tape, list(values.values()), now, own, words)
        past, known = plus(past, still(changes())), words.learnt()
        yield done, {None: past}
    assert_words(tape, known)


def cidm(model, tapes, weight):
    """The released loss on the up factors; every pair kept, on the base, with two words of its own."""
    kept, known = {}, {}
    for number, tape in enumerate(tapes):
        words = Words(tape, known, swallowed=tape.noun)
        olds = [{name: b.detach() for name, (_, b) in pairs.items()} for pairs in kept.values()]

        def penalties(pairs, now, olds=olds):
            def penalty(step, batch, predicted):
                apart = torch.stack([(pairs[n][1] @ old[n].T).abs().mean() for old in olds for n in pairs]).mean()
                return weight * (apart + torch.stack([(b - 1).pow(2).mean() for _, b in pairs.values()]).mean())

            return [penalty] if olds else []

        pairs, done = on_top(model, tapes, number, {}, penalties, words)
        kept[tape.concept], known = pairs, words.learnt()
        yield done, {concept: still(products(own)) for concept, own in kept.items()}
    assert_words(tape, known)
    assert_mixed_by_prompt(model, tape, kept, known)


def assert_mixed_by_prompt(model, tape, kept, known):
    """Elastic aggregation: weights (mean of each word's best cosine)^4, of sum 1, times .8."""
    prompt = model.encode(["sbu cat in snow"], known)["text"][0].detach()
    shares = {}
    for concept, token in zip(kept, known, strict=True):
        own = F.normalize(model.encode([token], known)["text"][0, 1:3], dim=-1)
        shares[concept] = (own @ F.normalize(prompt, dim=-1).T).max(dim=1).values.mean() ** 4
    mixed = {}
    for concept, pairs in kept.items():
        share = 0.8 * shares[concept] / sum(shares.values())
        mixed = plus(mixed, {name: share * change for name, change in products(pairs).items()})
    recalled = tape.recalled(features=prompt)
    close([recalled[name] for name in mixed], list(mixed.values()), 1e-3, "what a prompt recalls")


def set_to(twin, **how):
    return lambda model, tapes: twin(model, tapes, **how)


CASES = {
    "l2": ({"weight": 3.0}, set_to(l2, weight=3.0)),
    "ewc": ({"weight": 1e6, "gamma": 0.5, "samples": 3}, set_to(ewc, weight=1e6, gamma=0.5)),
    "c_lora": ({"weight": 1e3}, set_to(c_lora, weight=1e3)),
    "stamina": (
        {"sparsity": 0.5, "weight": 1e3, "mask_rank": 2}, set_to(stamina, sparsity=0.5, weight=1e3)
    ),
    "cns both": (
        {"importance": "wanda", "regulariser": "both", "weight": 1.0}, set_to(cns, form="both", weight=1.0)
    ),
    "cns features": (
        {"importance": "wanda", "regulariser": "features", "weight": 30.0}, set_to(cns, form="features", weight=30.0)
    ),
    "cidm": ({"weight": 0.1}, set_to(cidm, weight=0.1)),
}  # fmt: skip


def options_of(case):
    own = CASES[case][0]
    return own if case.startswith("cns") else {"rank": 2, **own}


@pytest.mark.parametrize("case", CASES)
def test_three_lessons(case, pico):
    agree(pico, case.split()[0], options_of(case), PLAIN, CASES[case][1], Plain(pico))


@pytest.mark.parametrize("case", ["ewc", "stamina", "cns both"])
def test_three_lessons_with_everything_on(case, pico):
    agree(pico, case.split()[0], options_of(case), FULL, CASES[case][1], Plain(pico))


def test_words_of_two_text_encoders(pico_xl):
    agree(pico_xl, "c_lora", {"rank": 2, "weight": 1e5}, FULL, set_to(c_lora, weight=1e5), Plain(pico_xl))
