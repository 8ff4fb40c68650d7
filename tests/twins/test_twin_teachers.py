"""Methods that ask the model before the lesson, or train on images of the past, beside plain loops."""

from dataclasses import replace

import pytest
import torch
from plain import Plain, distillation, flat, leaves, plus, preserved, products, spoken, still, train, trained_pairs
from tape import FULL, PLAIN, agree

from perdure import seeds


def added(model, tapes, penalties):
    """A pair on top of the past; `penalties(number, past, pairs, now)` are those of the method."""
    past = {}
    for number, tape in enumerate(tapes):
        pairs = trained_pairs(tape.weights)
        now = lambda step, past=past, pairs=pairs: plus(past, products(pairs))  # noqa: E731
        own = penalties(number, past, pairs, now) if number else []
        done = train(model, tape, flat(pairs), now, own + preserved(model, tapes, number, past, now))
        past = plus(past, still(products(pairs)))
        yield done, {None: past}


def lwf(model, tapes, weight, prompts):
    def penalties(number, past, pairs, now):
        tape = tapes[number]
        nothing = lambda: {}  # noqa: E731
        return [distillation(model, tape, weight, past, now, nothing, spoken(tapes[:number]), prompts)]

    return added(model, tapes, penalties)


def rehearsed(model, tape, weight, latents, captions, now):
    """weight * the denoising loss on other images, under their own captions; noise and times are inputs."""

    def penalty(step, batch, predicted):
        drawn = tape.batches["rehearse"][step]
        picked = torch.randint(len(latents), (len(batch.latents),), generator=tape.draw("rehearse", step))
        own = replace(drawn, latents=latents[picked], captions=tuple(captions[k] for k in picked))
        return weight * model.error(own, model.predict(now(step), own), tape.training.min_snr).mean()

    return penalty


def replay(model, tapes, weight, images):
    """The first images of every concept of the past, kept as latents."""

    def penalties(number, past, pairs, now):
        latents = torch.cat([tape.latents[:images] for tape in tapes[:number]])
        captions = [caption for tape in tapes[:number] for caption in tape.captions[:images]]
        return [rehearsed(model, tapes[number], weight, latents, captions, now)]

    return added(model, tapes, penalties)


def generative_replay(model, tapes, weight, images):
    """Images that a plain pipeline draws with the weights as they were before the lesson."""

    def penalties(number, past, pairs, now):
        captions = [tape.captions[0] for tape in tapes[:number]]
        seed = tapes[number].draw("replay").initial_seed() % 2**32
        noise = [torch.randn((4, 16, 16), generator=seeds.generator(seed, "latent", k)) for k in range(images)]
        drawn = [
            model.draw(past, [caption], one[None], num_inference_steps=3, guidance_scale=4.0, output_type="latent",
                       height=32, width=32)
            for caption in captions for one in noise
        ]  # fmt: skip
        own = [caption for caption in captions for _ in range(images)]
        return [rehearsed(model, tapes[number], weight, torch.cat(drawn), own, now)]

    return added(model, tapes, penalties)


def candidates(tapes, number, step, count, rows):
    """Prompts of the classifier, each a list with one for every row: own, without the token, past ones in any order."""
    tape = tapes[number]
    order = torch.randperm(number, generator=tape.draw("candidates", step)).tolist()
    bare = [" ".join(word for word in caption.split() if word != tape.token) for caption in rows]
    others = [[tapes[k].captions[0]] * len(rows) for k in order]
    return [list(rows), bare, *others][:count]


def scores(model, batch, moved, prompts, temperature):
    """log softmax of minus the errors under each prompt."""
    errors = torch.stack([model.error(batch, model.predict(moved, batch, own)) for own in prompts])
    return torch.log_softmax(-errors / temperature, dim=0)


def dsc(model, tapes, score, count, temperature, weight, gamma, steps=0, rate=0.0, beta=0.0):
    """Scores' cross entropy and EWC of the combined loss; then, with `steps`, two teachers: just trained, and past."""
    past, fisher, pool = {}, {}, []
    for number, tape in enumerate(tapes):
        pairs = trained_pairs(tape.weights)
        now = lambda step, past=past, pairs=pairs: plus(past, products(pairs))  # noqa: E731

        def explained(batch, moved, step, number=number):
            prompts = candidates(tapes, number, step, count, batch.captions)
            return -score * scores(model, batch, moved, prompts, temperature)[0].mean()

        def penalty(step, batch, predicted, now=now, pairs=pairs, explained=explained, fisher=fisher):
            held = sum((fisher[n] / 2 * c**2).sum() for n, c in products(pairs).items()) if fisher else 0
            return explained(batch, now(step), step) + weight * held

        own = preserved(model, tapes, number, past, now)
        done = train(model, tape, flat(pairs), now, [penalty, *own])
        if pool:
            distilled(model, tapes, number, pairs, past, pool, steps, rate, beta, count, temperature)
        past = plus(past, still(products(pairs)))
        pool = [*pool, past] if steps else []
        images = tape.batches["fisher "]
        total = {name: torch.zeros(w.shape) for name, w in past.items()}
        for image in images:
            free = dict(zip(past, leaves(list(past.values())), strict=True))
            loss = model.error(image, model.predict(free, image), tape.training.min_snr).mean()
            loss = loss + explained(image, free, 0)
            for name, gradient in zip(free, torch.autograd.grad(loss, list(free.values())), strict=True):
                total[name] += gradient**2 / len(images)
        fisher = {name: gamma * fisher.get(name, 0) + value for name, value in total.items()}
        yield done, {None: past}


def distilled(model, tapes, number, pairs, past, pool, steps, rate, beta, count, temperature):
    """Cross entropy between scores and squared difference of predictions, to the model just trained and a past one."""
    tape = tapes[number]
    taught = plus(past, still(products(pairs)))
    optimizer = torch.optim.AdamW(flat(pairs), rate, weight_decay=0.0, foreach=False)
    assert len(tape.batches["distillation "]) == steps
    for step, batch in enumerate(tape.batches["distillation "]):
        prompts = candidates(tapes, number, step, count, batch.captions)
        turn = step % len(pool)
        teachers = [(taught, list(batch.captions)), (pool[turn], [tapes[turn].captions[0]] * len(batch.captions))]
        loss = torch.zeros(())
        for teacher, own in teachers:
            now = plus(past, products(pairs))
            with torch.no_grad():
                target = scores(model, batch, teacher, prompts, temperature).exp()
                wanted = model.predict(teacher, batch, own)
            student = scores(model, batch, now, prompts, temperature)
            loss = loss - (target * student).sum(dim=0).mean()
            loss = loss + beta * (model.predict(now, batch, own) - wanted).pow(2).mean()
        for factor, gradient in zip(flat(pairs), torch.autograd.grad(loss, flat(pairs)), strict=True):
            factor.grad = gradient
        optimizer.step()


def case(twin, **options):
    return options, lambda model, tapes: twin(model, tapes, **options)


DSC = {"temperature": 0.1, "weight": 1e5, "gamma": 0.5, "beta": 2.0}


def dsc_twin(model, tapes):
    return dsc(model, tapes, score=0.5, count=3, steps=2, rate=1e-2, **DSC)


CASES = {
    "lwf": case(lwf, weight=2.0, prompts="both"),
    "replay": case(replay, weight=0.7, images=2),
    "generative_replay": case(generative_replay, weight=0.7, images=2),
}


@pytest.mark.parametrize("case", CASES)
def test_three_lessons(case, pico):
    options, twin = CASES[case]
    agree(pico, case, {"rank": 2, **options}, PLAIN, twin, Plain(pico))


@pytest.mark.parametrize("case", ["lwf", "generative_replay"])
def test_three_lessons_with_everything_on(case, pico):
    options, twin = CASES[case]
    agree(pico, case, {"rank": 2, **options}, FULL, twin, Plain(pico))


def test_diffusion_classifier_scores_and_two_teachers(pico):
    options = {"rank": 2, "scores": 0.5, "prompts": 3, "samples": 2, "distil": True, "distil_steps": 2, **DSC}
    # AdamW's epsilon of 1e-8 lets rounding be seen in what two steps of distillation lead to
    few = PLAIN.model_copy(update={"steps": 4})
    agree(pico, "dsc", {**options, "distil_rate": 1e-2}, few, dsc_twin, Plain(pico), loose=5e-3)
