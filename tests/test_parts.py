"""Parts by their limits and by naive twins: what a method becomes when its special term is switched off."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from perdure import method, plan
from perdure.bases import loading
from perdure.bases.words import words_of
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Context, Method, Portion, Protection, Step, Wanted, Word, WordSpec
from perdure.methods.cidm import elastic_aggregation
from perdure.parts import classifier, guard
from perdure.parts.adapter import (
    LowRank,
    Masked,
    frozen,
    lora,
    low_rank,
    masked,
    masked_lora,
    neurons,
    selected,
    with_words,
)  # fmt: skip
from perdure.parts.consolidate import add
from perdure.parts.neurons import shares
from perdure.parts.rehearsal import drawn_images, kept_images, rehearse
from perdure.parts.start import fresh, fresh_masked, fresh_on_base, orthogonal_rows, uniform_on_base
from perdure.photos import pictures
from perdure.wording import FIRST


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


def same(a: Memory, b: Memory, **tolerance):
    one, two = a.delta(), b.delta()
    assert one.keys() == two.keys() and len(one) > 0
    for name in one:
        torch.testing.assert_close(one[name].matrix(), two[name].matrix(), **tolerance)


@pytest.mark.parametrize("name", ["ewc", "l2", "lwf", "replay", "generative_replay"])
def test_weight_0_is_no_guard(name, taught):
    off = {"rank": 2, "weight": 0.0} | ({"samples": 2} if name == "ewc" else {})
    same(taught(method.get(name, off)), taught(method.get("merge_init", {"rank": 2})), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["ewc", "l2", "lwf", "replay", "generative_replay", "c_lora", "dsc"])
def test_guard_matters_from_the_second_lesson_on(name, taught):
    few = {"rank": 2} | ({"samples": 2} if name in ("ewc", "dsc") else {})
    options = {**few, ("scores" if name == "dsc" else "weight"): 0.0}
    strong = {**few, "weight": 1e6 if name in ("ewc", "c_lora", "dsc") else 1.0}
    off, on = taught(method.get(name, options)), taught(method.get(name, strong))
    assert any(not torch.equal(off.delta()[n].matrix(), on.delta()[n].matrix()) for n in off.delta())
    if name in ("ewc", "l2", "c_lora"):
        same(taught(method.get(name, options), 1), taught(method.get(name, strong), 1), atol=0, rtol=0)


def test_ewc_with_fisher_1_is_l2(taught):
    def with_ones(adapter, memory, context):
        if context.lesson == 1:
            return {}
        return guard.root_fisher(adapter, memory.with_tensors("fisher", ones(adapter, context)), context)

    def ones(adapter, context):
        return {name: torch.ones_like(context.model.weight(name)) for name in adapter.weights.projections}

    plain = method.get("l2", {"rank": 2, "weight": 3.0})
    same(taught(replace(plain, guard=guard.on_change("close", 3.0, with_ones))), taught(plain))


def test_masks_all_open_without_penalties_are_merge_init(taught):
    open_masks = Method(masked_lora(2, 2, "cross_kv", 1 - 1e-9), fresh_masked, guard.nothing, add)
    same(taught(open_masks), taught(method.get("merge_init", {"rank": 2, "targets": "cross_kv"})))


def test_masks_are_hard_and_pass_gradients():
    spec = masked_lora(2, 2, "cross_kv", 0.9)
    weights = spec.weights({"p": (6, 5)}, torch.device("cpu"))
    assert isinstance(weights, Masked)
    weights.state.noise = lambda projection: torch.Generator().manual_seed(0)
    for a, b in (*weights.low.factors.values(), *weights.logits.values()):
        torch.nn.init.normal_(a), torch.nn.init.normal_(b)
    mask = weights.mask("p")
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    weights.change("p").square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights.named().values())


# --- words ---


@pytest.mark.parametrize("base", ["pico", "pico_xl"])
def test_a_word_equal_to_its_token_says_the_same(base, request):
    model = loading.load(str(request.getfixturevalue(base)), device="cpu")
    plain = model.encode_prompts(["a photo of zwz dog", "the cat"])
    live = model.vocabulary.begin(WordSpec(("token",)), "zwz", "dog", torch.Generator())
    assert len(live().vectors) == len(model.vocabulary) == (2 if base == "pico_xl" else 1)
    with model.speaking({"zwz": live}):
        spoken = model.encode_prompts(["a photo of zwz dog", "the cat"])
    for name in plain:
        torch.testing.assert_close(spoken[name], plain[name])
    after = model.encode_prompts(["a photo of zwz dog", "the cat"])
    assert all(torch.equal(after[name], plain[name]) for name in plain)


def test_words_take_gradients_swallow_nouns_and_leave_other_prompts_alone(backbone):
    live = backbone.vocabulary.begin(WordSpec(("random", "class"), drop_noun=True), "zwz", "dog", torch.Generator())
    plain = backbone.encode_prompts(["a cat on the beach"])
    with backbone.speaking({"zwz": live}):
        assert backbone._speech.write(["a photo of ZWZ dog in snow", "a dog"]) == [
            f"a photo of {chr(FIRST)} {chr(FIRST + 1)} in snow",
            "a dog",
        ]
        condition = backbone.encode_prompts(["a photo of zwz dog", "a cat on the beach"])
        condition["text"][0].sum().backward()
    assert live.parameters()[0].grad.abs().sum() > 0
    torch.testing.assert_close(condition["text"][1:].detach(), plain["text"])


def test_words_are_found_as_whole_words_and_not_in_one_another(backbone):
    zwz = backbone.vocabulary.begin(WordSpec(("random",)), "zwz", "dog", torch.Generator())
    prompts = ["two zwzs", "a zwz-like dog", "one old  pot, word0 of Zwz, <word0> too"]
    with backbone.speaking({"zwz": zwz, "word0": zwz, "old pot": zwz}):
        written = backbone._speech.write(prompts)
    first, second, third = (chr(FIRST + number) for number in (0, 1, 2))
    assert written == ["two zwzs", f"a {first}-like dog", f"one {third}, {second} of {first}, <{second}> too"]


def test_mlp_word_begins_at_its_vectors_and_trains(backbone):
    live = backbone.vocabulary.begin(WordSpec(("class",), mlp=True), "zwz", "dog", torch.Generator().manual_seed(0))
    free = backbone.vocabulary.begin(WordSpec(("class",)), "zwz", "dog", torch.Generator())
    torch.testing.assert_close(live().vectors[0], free().vectors[0])
    live().vectors[0].sum().backward()
    assert live.parameters()[1].grad is not None


def test_past_words_are_frozen(taught):
    first = taught(method.get("c_lora"), 1)
    both = taught(method.get("c_lora"), 2)
    assert words_of(both).keys() == {"zwz", "sbu"}
    assert torch.equal(words_of(first)["zwz"].vectors[0], words_of(both)["zwz"].vectors[0])


# --- merges and recalls ---


def test_orthogonal_adaptation_uses_disjoint_orthonormal_rows(backbone, taught):
    memory = taught(method.get("orthogonal_adaptation", {"rank": 2}))
    for change in memory.delta().values():
        rows = torch.cat([a for a, _ in change.pairs]) if change.dense is None else None
        if rows is not None:
            torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-5, rtol=0)


def test_full_magmax_after_one_lesson_is_the_scaled_change(taught):
    memory = taught(method.get("magmax_full", {"scale": 0.5}), 1)
    recalled = method.get("magmax_full", {"scale": 0.5}).consolidate.recall(memory, Wanted())
    for name, change in memory.delta().items():
        torch.testing.assert_close(recalled[name].matrix(), 0.5 * change.matrix())


def test_elastic_aggregation_of_one_concept_is_its_scaled_pair():
    pair = Delta({"p": Change(((torch.randn(2, 4), torch.randn(3, 2)),))})
    memory = (
        Memory()
        .with_delta(pair, "own/dog")
        .with_tensors("features", {"dog": torch.randn(2, 4)})
        .with_facts(kept=["dog"])
    )
    recalled = elastic_aggregation(0.8, 4).recall(memory, Wanted("dog", lambda: torch.randn(5, 4)))
    torch.testing.assert_close(recalled["p"].matrix(), 0.8 * pair["p"].matrix())


def test_elastic_aggregation_follows_the_prompt():
    memory = Memory().with_facts(kept=["dog", "cat"])
    for name, axis in (("dog", 0), ("cat", 1)):
        memory = memory.with_delta(
            Delta({"p": Change(((torch.eye(2)[axis : axis + 1], torch.ones(3, 1)),))}), f"own/{name}"
        )
    memory = memory.with_tensors("features", {"dog": torch.eye(4)[:1], "cat": torch.eye(4)[1:2]})
    prompt = torch.tensor([[1.0, 0.1, 0.0, 0.0]])
    matrix = elastic_aggregation(1.0, 4).recall(memory, Wanted(None, lambda: prompt))["p"].matrix()
    shares = torch.tensor([1.0, 0.1]) ** 4
    torch.testing.assert_close(matrix[0], shares / shares.sum())


def test_word_is_a_value():
    with pytest.raises(AttributeError):
        Word({}).dropped = "dog"
    assert lora(4, "attention").targets == "attention"


def test_stamina_learns_masks(taught):
    """With a strong price on open entries, masks close."""
    loose, tight = (
        taught(method.get("stamina", {"rank": 2, "openness": 0.505, "sparsity": s}), 1).facts["density"]["dog"]
        for s in (0.0, 1e3)
    )
    assert tight < loose


def test_preservation_on_top_of_merge_init_is_lwf(taught):
    added = guard.preserving(method.get("merge_init", {"rank": 2}), 1.0, "both")
    assert added.consolidate.brings, "captions ask nothing of the adapter"
    same(taught(added), taught(method.get("lwf", {"rank": 2, "weight": 1.0})), atol=0, rtol=0)


# --- parts beside plain loops, in later lessons too ---


def by_hand(backbone, batch, prompts, gamma=None):
    """Error of each image under its own prompt, one at a time, and weighted by min(SNR, gamma) / SNR."""
    kept, errors = backbone.objective.schedule.alphas_cumprod, []
    for k, prompt in enumerate(prompts):
        ratio = kept[batch.timesteps[k]]
        noisy = ratio.sqrt() * batch.latents[k] + (1 - ratio).sqrt() * batch.noise[k]
        text = backbone.encode_prompts([prompt])["text"]
        predicted = backbone.network(noisy[None], batch.timesteps[k], encoder_hidden_states=text).sample[0]
        snr = ratio / (1 - ratio)
        weight = 1.0 if gamma is None else min(float(snr), gamma) / float(snr)
        errors.append(weight * (predicted - batch.noise[k]).square().mean())
    return torch.stack(errors)


def taught_captioned(backbone, plan_data, chosen, **training):
    """The memory after three lessons in which each image has a caption of its own."""
    made = plan.build({**plan_data, "training": {**plan_data["training"], "steps": 2, **training}})
    memory = Memory()
    for number, concept in enumerate(made.concepts, start=1):
        own = [
            pictures.Picture(p.image, f"a photo of {concept.token} {concept.noun} no {k}")
            for k, p in enumerate(pictures.of(concept).training)
        ]
        encoded = examples.encode(backbone, own, made.training, made.seed, concept.name)
        lesson = Lesson(concept.name, number, encoded, concept.token, concept.noun, concept.phrase)
        memory = learn(backbone, chosen, memory, lesson, made)
    return memory


def test_a_new_pair_of_cidm_begins_as_kaiming_draws_it(backbone, plan_data):
    """U(-1 / sqrt(in), 1 / sqrt(in)), as torch's own kaiming_uniform_ with a = sqrt(5), in every lesson anew."""
    chosen, seen = method.get("cidm", {"rank": 64}), []

    def start(adapter, memory, context):
        under = chosen.start(adapter, memory, context)
        for a, b in adapter.weights.factors.values():
            twin = torch.nn.init.kaiming_uniform_(torch.empty(2048, a.shape[1]), a=5**0.5)
            assert a.abs().max() <= a.shape[1] ** -0.5 and not b.any() and not under
            torch.testing.assert_close(a.std(), twin.std(), rtol=0.05, atol=0)
        seen.append(next(iter(adapter.weights.factors.values()))[0].detach().clone())
        return under

    taught_captioned(backbone, plan_data, replace(chosen, start=start))
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_a_picture_is_classified_by_its_own_caption(backbone, plan_data):
    """DSC's cross entropy beside a plain loop: own caption, the same without the token, captions of the past."""
    chosen, seen = method.get("dsc", {"rank": 2, "scores": 1.0, "weight": 0.0, "temperature": 0.5}), []

    def watched(adapter, memory, context):
        asked = chosen.guard(adapter, memory, context)

        def penalty(step):
            own = step.batch.captions
            bare = [caption.replace(f"{context.token} ", "") for caption in own]
            past = [captions[0] for captions in memory.facts.get("captions", {}).values()]
            told = [own, bare, *([caption] * len(own) for caption in past)]
            errors = torch.stack([by_hand(backbone, step.batch, prompts) for prompts in told])
            wanted = -torch.log_softmax(-errors / 0.5, dim=0)[0].mean()
            found = asked.penalties["classified"](step)
            torch.testing.assert_close(found, wanted)
            seen.append((context.lesson, len(set(own)), len(told)))
            return found

        return replace(asked, penalties={**asked.penalties, "classified": penalty})

    taught_captioned(backbone, plan_data, replace(chosen, guard=watched))
    assert {(lesson, told) for lesson, _, told in seen} == {(1, 2), (2, 3), (3, 4)}
    assert max(captions for _, captions, _ in seen) == 2  # the images of one batch do have captions of their own


def test_without_a_token_no_letter_is_torn_apart(backbone):
    class Batch:
        captions = ("a photo of a dog",)

    class Stub:
        token, others = "", ()
        generator = staticmethod(lambda purpose, number: torch.Generator())

    assert list(map(list, classifier.candidates(Memory(), Stub, Batch, 5, 0))) == [["a photo of a dog"]] * 2


def test_rehearsal_is_weighted_like_the_lesson(backbone, plan_data):
    chosen, seen = method.get("replay", {"rank": 2, "weight": 3.0, "images": 2}), []

    def watched(adapter, memory, context):
        asked = chosen.guard(adapter, memory, context)
        if not asked.penalties:
            return asked

        def penalty(step):
            kept, told = memory.under("replay"), memory.facts["replay"]
            latents = torch.cat([kept[name] for name in told])
            captions = [caption for name in told for caption in told[name]]
            picked = torch.randint(len(latents), (2,), generator=context.generator("rehearse", step.number))
            own = [captions[i] for i in picked]
            batch = context.model.batch_of(latents[picked], own, "rehearse", step.number)
            found = asked.penalties["rehearsal"](step)
            torch.testing.assert_close(found, 3.0 * by_hand(backbone, batch, own, 0.01).mean())
            seen.append(context.lesson)
            return found

        return replace(asked, penalties={"rehearsal": penalty})

    taught_captioned(backbone, plan_data, replace(chosen, guard=watched), min_snr=0.01)
    assert set(seen) == {2, 3}


def test_fisher_information_is_of_the_lessons_own_loss(backbone, plan_data):
    chosen, seen = method.get("ewc", {"rank": 2, "samples": 3, "weight": 1.0}), []

    def remember(adapter, memory, context):
        wanted = {name: torch.zeros(shape) for name, shape in backbone.projections("attention").items()}
        weights = [backbone._linears[name].weight for name in wanted]
        for batch in context.model.batches("fisher", 3, 1):
            for weight in weights:
                weight.requires_grad_(True)
            loss = by_hand(backbone, batch, batch.captions, 0.01).mean()
            for name, gradient in zip(wanted, torch.autograd.grad(loss, weights), strict=True):
                wanted[name] += gradient.square() / 3
            for weight in weights:
                weight.requires_grad_(False)
        after, before = chosen.consolidate.remember(adapter, memory, context), memory.under("fisher")
        for name, fisher in after.under("fisher").items():
            own = fisher - before[name] if name in before else fisher
            torch.testing.assert_close(own, wanted[name], rtol=1e-3, atol=1e-9)
        seen.append(context.lesson)
        return after

    watched = replace(chosen, consolidate=replace(chosen.consolidate, remember=remember))
    taught_captioned(backbone, plan_data, watched, min_snr=0.01)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("name", ["c_lora", "cidm", "cns", "stamina"])
def test_a_joint_lesson_learns_every_concepts_word(name, backbone, plan_data):
    made = plan.build(plan_data)
    parts = [
        examples.encode(backbone, pictures.of(c).training, made.training, made.seed, c.name) for c in made.concepts
    ]
    first, *others = made.concepts
    together = examples.together(parts)
    told = Lesson("joint", 1, together, first.token, first.noun, first.phrase, others=tuple(others))
    longer = made.model_copy(update={"training": made.training.model_copy(update={"steps": 12})})
    chosen = method.get(name)
    learnt = words_of(learn(backbone, chosen, Memory(), told, longer))
    untaught = made.model_copy(
        update={"training": made.training.model_copy(update={"learning_rate": 1e-30, "steps": 1})}
    )
    begun = words_of(learn(backbone, chosen, Memory(), told, untaught))
    assert list(learnt) == list(begun) == ["zwz", "sbu", "uwu"]
    for token, word in learnt.items():
        moved = (word.vectors[0] - begun[token].vectors[0]).abs().amax(dim=1)
        assert (moved > 1e-3).all(), token  # each of its vectors, at a rate of 1e-2


def test_guards_together_begin_charge_and_project_in_their_order():
    told = []

    def one(name):
        return lambda *rest: Protection(
            lambda number: told.append((name, number)), {"kept": lambda step: torch.tensor(1.0)},
            lambda: told.append((name, "projected")),
        )  # fmt: skip

    def seen(*given):
        told.append(given)
        return Protection()

    guard.every(seen, seen)("adapter", "memory", "context")
    assert [told.pop(), told.pop()] == [("adapter", "memory", "context")] * 2
    both = guard.every(one("a"), guard.nothing, one("b"))(None, None, None)
    both.begin(3)
    both.project()
    assert told == [("a", 3), ("b", 3), ("a", "projected"), ("b", "projected")]
    assert list(both.penalties) == ["kept", "kept 2"]
    assert list(guard.every(one("a"), one("b"), one("c"))(None, None, None).penalties) == ["kept", "kept 2", "kept 3"]
    bare = guard.every(guard.nothing)(None, None, None)
    assert bare.begin is None is bare.project and not bare.penalties


# --- by hand, on matrices of one's own ---


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low(train_a=True, **shapes):
    """Low-rank pairs of drawn numbers."""
    pairs = {
        name: (nn.Parameter(numbers(2, into, seed=k)), nn.Parameter(numbers(out, 2, seed=k + 9)))
        for k, (name, (out, into)) in enumerate(shapes.items())
    }
    return LowRank(pairs, train_a)


def asked(guard_of, weights, memory=None, lesson=2, model=None, steps=5):
    """What a guard says of a lesson."""
    draw = lambda *owner: torch.Generator().manual_seed(sum(map(ord, str(owner))))  # noqa: E731
    told = SimpleNamespace(lesson=lesson, steps=steps, model=model, generator=draw)
    return guard_of(Adapter(weights), memory or Memory(), told)


def test_low_rank_pairs_by_hand():
    weights = low(p=(3, 4), q=(5, 2))
    (a, b), (c, d) = weights.factors.values()
    assert weights.projections == ["p", "q"] and LowRank(weights.factors).train_a is True
    assert {name: id(t) for name, t in weights.named().items()} == {
        "A of p": id(a), "B of p": id(b), "A of q": id(c), "B of q": id(d),
    }  # fmt: skip
    assert list(LowRank(weights.factors, False).named()) == ["B of p", "B of q"]
    assert torch.equal(weights.change("q"), d @ c)
    torch.testing.assert_close(weights.delta()["p"].matrix(), (b @ a).detach())
    made = lora(2, "attention", train_a=False)
    built = made.weights({"p": (3, 4)}, torch.device("cpu"))
    assert (made.targets, made.words, made.head, built.train_a) == ("attention", None, True, False)
    assert [tuple(t.shape) for t in built.factors["p"]] == [(2, 4), (3, 2)]
    assert all(isinstance(t, nn.Parameter) and not t.any() for t in built.factors["p"])
    assert lora(2, "cross_kv").weights({}, torch.device("cpu")).train_a is True


def test_masks_by_hand():
    """Z = U V + open; 1[Z + logistic noise > 0] by plain numpy of the same draws, softened at a temperature."""
    made = masked_lora(3, 2, "cross_kv", 0.8)
    weights = made.weights({"p": (4, 5)}, torch.device("cpu"))
    assert made.targets == "cross_kv" and weights.bias == pytest.approx(math.log(4)) and weights.projections == ["p"]
    (v, u), (a, b) = weights.logits["p"], weights.low.factors["p"]
    assert (u.shape, v.shape, a.shape, b.shape) == ((4, 2), (2, 5), (3, 5), (4, 3))
    assert [id(t) for t in weights.named().values()] == [id(a), id(b), id(v), id(u)]
    assert list(weights.named()) == ["A of p", "B of p", "V of p", "U of p"]
    for k, t in enumerate((a, b, v, u)):
        t.data = 2 * numbers(*t.shape, seed=k)
    z = (u @ v).detach().double().numpy() + math.log(4)
    np.testing.assert_allclose(weights.openness("p").detach().numpy(), 1 / (1 + np.exp(-z)), rtol=1e-4)
    assert weights.density() == {"p": pytest.approx((z > 0).mean())} and 0 < (z > 0).mean() < 1
    assert np.array_equal(weights.mask("p").detach().numpy(), z > 0)
    weights.state.noise = lambda projection: torch.Generator().manual_seed(len(projection))
    weights.state.tau = 0.5
    drawn = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)).double().numpy()
    noisy = z + np.log(drawn) - np.log(1 - drawn)
    mask = weights.mask("p")
    assert np.array_equal(mask.detach().numpy(), noisy > 0) and not np.array_equal(noisy > 0, z > 0)
    mask.sum().backward()
    soft = 1 / (1 + np.exp(-noisy / 0.5))
    np.testing.assert_allclose(u.grad.numpy(), (soft * (1 - soft) / 0.5) @ v.detach().double().numpy().T, rtol=1e-3)
    np.testing.assert_allclose(weights.change("p").detach(), ((b @ a) * torch.tensor(noisy > 0)).detach(), rtol=1e-5)
    kept = weights.delta()["p"].matrix()
    np.testing.assert_allclose(kept, ((b @ a) * torch.tensor(z > 0)).detach(), rtol=1e-5)
    assert weights.state.noise is None and not kept.requires_grad


def test_chosen_entries_by_hand():
    made = neurons("attention")
    weights = made.weights({"p": (2, 3), "q": (1, 4)}, torch.device("cpu"))
    assert made.targets == "attention" and weights.projections == ["p", "q"] and not weights.named()
    masks = {"p": torch.tensor([[True, False, True], [False, True, False]]), "q": torch.zeros(1, 4, dtype=torch.bool)}
    weights.select(masks)
    assert weights.index["p"].tolist() == [0, 2, 4] and weights.values["p"].tolist() == [0.0, 0.0, 0.0]
    weights.select(masks, {"p": torch.arange(6.0).view(2, 3), "q": torch.ones(1, 4)})
    assert weights.change("p").tolist() == [[0.0, 0.0, 2.0], [0.0, 4.0, 0.0]]
    assert weights.change("q").tolist() == [[0.0] * 4]
    assert list(weights.named()) == ["the chosen entries of p", "the chosen entries of q"]
    assert all(isinstance(t, nn.Parameter) and t.dtype == torch.float32 for t in weights.named().values())
    assert weights.delta()["p"].matrix().tolist() == weights.change("p").tolist()
    fine = neurons("attention").weights({"p": (2, 3)}, torch.device("cpu"))
    fine.select({"p": masks["p"]}, {"p": torch.arange(6, dtype=torch.float64).view(2, 3)})
    assert fine.values["p"].dtype == torch.float32 and fine.values["p"].tolist() == [0.0, 2.0, 4.0]
    past = Memory().with_delta(Delta({"p": Change.full(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]))}))
    weights.notes["general"] = 0.25
    told = SimpleNamespace(concept="cat")
    facts = shares(Adapter(weights), past.with_facts(neurons={"dog": 1}), told).facts["neurons"]
    assert facts == {
        "dog": 1,
        "cat": {"density": 0.3, "moved before": 0.666667, "moved of all": 0.4, "general": 0.25},
    }  # of 10 entries 3 were chosen; the past had moved two of these, and four of all


def test_the_rarest_draws_of_a_mask_are_bounded_and_pass_gradients(monkeypatch):
    """Of uniform noise 0 and 1, whose logarithms are infinite, 1e-6 and 1 - 1e-6 are taken."""
    weights = masked_lora(1, 1, "cross_kv", 0.5).weights({"p": (1, 3)}, torch.device("cpu"))
    v, u = weights.logits["p"]
    v.data, u.data = torch.tensor([[1.0, 2.0, -3.0]]), torch.ones(1, 1)
    weights.state.noise, weights.state.tau = lambda projection: None, 4.0
    monkeypatch.setattr(torch, "rand", lambda shape, generator: torch.tensor([[0.0, 1.0, 0.5]]).view(shape))
    mask = weights.mask("p")
    mask.sum().backward()
    noisy = np.array([1.0, 2.0, -3.0]) + np.array([-1, 1, 0]) * math.log((1 - 1e-6) / 1e-6)
    soft = 1 / (1 + np.exp(-noisy / 4))
    assert mask.tolist() == [[0.0, 1.0, 0.0]]
    np.testing.assert_allclose(v.grad[0], soft * (1 - soft) / 4, rtol=5e-3)  # 1 - 1e-6 is coarse in float32


def test_what_is_trained_lies_on_the_models_device():
    """Said of one on which nothing is reckoned: only the noise of masks is drawn on the CPU, and brought there."""
    shapes, there = {"p": (2, 3)}, torch.device("meta")
    for spec, count in ((lora(2, "attention"), 2), (masked_lora(2, 2, "cross", 0.5), 4), (neurons("cross_kv"), 1)):
        weights = spec.weights(shapes, there)
        if count == 1:
            weights.select({"p": torch.tensor([[True, False, True], [False, False, True]])})
            assert weights.index["p"].device == there
        if count == 4:
            weights.state.noise = lambda projection: torch.Generator()
        assert [t.device for t in weights.named().values()] == [there] * count
        assert weights.change("p").device == there and weights.change("p").shape == (2, 3)
        past = Memory().with_delta(Delta({"p": Change.full(torch.ones(2, 3))}))
        for kind in (guard.self_regularised(0.1), *([guard.continual("both", 0.1)] if count == 1 else [])):
            (price,) = asked(kind, weights, past).penalties.values()
            assert price(None).device == there


def test_an_entry_whose_mask_is_in_the_balance_is_closed():
    weights = masked_lora(1, 1, "cross_kv", 0.5).weights({"p": (1, 2)}, torch.device("cpu"))
    (v, u), (a, b) = weights.logits["p"], weights.low.factors["p"]
    u.data, v.data = torch.ones(1, 1), torch.tensor([[0.0, 1e-3]])
    a.data, b.data = torch.ones(1, 2), torch.ones(1, 1)
    assert weights.mask("p").tolist() == weights.delta()["p"].matrix().tolist() == [[0.0, 1.0]]
    assert weights.density() == {"p": 0.5}


def test_nothing_moves_where_all_is_frozen_but_words_can_be_learnt():
    spec, words = frozen(), WordSpec(("random",))
    weights = spec.weights({"p": (2, 3)}, torch.device("cpu"))
    assert (spec.targets, spec.words, spec.head) == ("attention", None, False)
    assert not weights.projections and not weights.named() and not weights.delta()
    with pytest.raises(KeyError, match="p"):
        weights.change("p")
    told = with_words(spec, words)
    assert told.words is words and told.weights is spec.weights and told.head is False


def test_a_part_that_needs_another_kind_of_change_says_so():
    kinds = {"LowRank": low(p=(2, 2)), "Selected": neurons("attention").weights({}, torch.device("cpu"))}
    for need, part, wrong in (
        ("low-rank pairs", low_rank, "Selected"), ("masked pairs", masked, "LowRank"),
        ("selected entries", selected, "LowRank"),
    ):  # fmt: skip
        with pytest.raises(TypeError) as told:
            part(Adapter(kinds[wrong]))
        assert str(told.value) == f"this part needs {need}, not {wrong}"
    hidden = masked_lora(2, 2, "cross_kv", 0.5).weights({"p": (2, 2)}, torch.device("cpu"))
    assert low_rank(Adapter(hidden)) is hidden.low and masked(Adapter(hidden)) is hidden
    assert all(
        part(Adapter(kinds[kind])) is kinds[kind] for part, kind in ((low_rank, "LowRank"), (selected, "Selected"))
    )


def test_where_new_pairs_begin_by_hand():
    """A drawn one projection after the other by the lesson's own generator, B at 0; what lies under them."""
    memory = Memory().with_delta(Delta({"p": Change.full(numbers(3, 4))}))
    taken = torch.tensor([[0.6, 0.8, 0.0, 0.0]])
    memory = memory.with_tensors("past_rows", {"p": taken})
    owners = lambda *owner: {("adapter",): torch.Generator().manual_seed(5)}[owner]  # noqa: E731
    for start, draw, under in (
        (fresh, torch.randn, True), (fresh_on_base, torch.randn, False), (orthogonal_rows, torch.randn, True),
        (uniform_on_base, torch.rand, False),
    ):  # fmt: skip
        weights, own = low(p=(3, 4), q=(5, 2)), torch.Generator().manual_seed(5)
        lies = start(Adapter(weights), memory, SimpleNamespace(generator=owners))
        assert lies.digest == (memory.delta() if under else Delta()).digest
        for name, (a, b) in weights.factors.items():
            drawn = draw(*a.shape, generator=own).double().numpy()
            wanted = (2 * drawn - 1) / math.sqrt(a.shape[1]) if draw is torch.rand else drawn / 2
            if start is orthogonal_rows and name == "p":
                outside = wanted - np.outer(wanted @ taken[0].double().numpy(), taken[0].double().numpy())
                wanted = outside * np.sqrt((wanted**2).sum() / (outside**2).sum())
            np.testing.assert_allclose(a.detach(), wanted, rtol=1e-5, atol=1e-6)
            assert not b.any()


def test_what_a_change_costs_by_hand():
    """C-LoRA's, EWC's and L2's penalties entry by entry; free without a weight, a past, or for what it did not move."""
    weights = low(p=(3, 4), q=(2, 4))
    before = {"p": numbers(3, 4, seed=20), "r": numbers(2, 2)}
    memory = Memory().with_delta(Delta({name: Change.full(matrix) for name, matrix in before.items()}))
    memory = memory.with_tensors("fisher", {"p": before["p"].square(), "q": torch.ones(2, 4)})
    change = {name: weights.change(name).detach() for name in "pq"}
    model = SimpleNamespace(weight=lambda name: numbers(*change[name].shape))
    costs = {
        ("self_regularised", guard.self_regularised): (before["p"] * change["p"]).square().sum(),
        ("elastic", guard.elastic): (before["p"].square() * change["p"].square()).sum() / 2
        + change["q"].square().sum() / 2,
        ("close", guard.close): sum(one.square().sum() for one in change.values()) / 2,
    }
    for (name, kind), cost in costs.items():
        found = asked(kind(0.3), weights, memory, model=model)
        assert list(found.penalties) == [name] and found.begin is None is found.project
        torch.testing.assert_close(found.penalties[name](None).detach(), 0.3 * cost)
        assert not asked(kind(0), weights, memory, model=model).penalties
    for kind in (guard.self_regularised, guard.elastic):
        assert not asked(kind(0.3), weights, Memory(), model=model).penalties
    assert not asked(guard.close(0.3), weights, memory, lesson=1, model=model).penalties


def test_the_three_readings_of_continual_regularisation_by_hand():
    """Entry by entry of what may move; by features of captions; by what the past moved."""
    past = {"p": torch.tensor([[1.0, 0.0], [2.0, 3.0]])}
    memory = Memory().with_delta(Delta({"p": Change.full(past["p"])}))
    chosen = neurons("attention").weights({"p": (2, 2), "q": (1, 2)}, torch.device("cpu"))
    chosen.select(
        {"p": torch.tensor([[True, True], [False, True]]), "q": torch.tensor([[True, True]])},
        {"p": torch.tensor([[0.5, 7.0], [9.0, -1.0]]), "q": torch.tensor([[2.0, 3.0]])},
    )
    found = asked(guard.continual("both", 0.1), chosen, memory)
    assert list(found.penalties) == ["continual"]
    moved = (0.25 + 1.0) + (1.5**2 + 7.0**2 + 2.0**2)  # entries 0 and 3 where there was something; all three with it
    assert found.penalties["continual"](None).item() == pytest.approx(0.1 * (moved + 4 + 9))
    found = asked(guard.continual("past", 0.1), chosen, memory).penalties
    assert list(found) == ["self_regularised"]
    assert found["self_regularised"](None).item() == pytest.approx(0.1 * (0.25 + 9.0))
    texts = {"dog": numbers(2, 3, 2, seed=1), "general": numbers(2, 3, 2, seed=2)}
    model = SimpleNamespace(
        features=lambda prompts: texts[{"a b": "dog", "c": "general"}[" ".join(prompts)]], calibration=["c"]
    )
    weights = low(p=(2, 2), q=(1, 2))
    change = {name: weights.change(name).detach() for name in "pq"}
    own, general = (texts[name].flatten(0, 1) for name in ("dog", "general"))
    kept = (general @ (change["p"] + past["p"]).T).square().mean() + (general @ change["q"].T).square().mean()
    near = sum((own @ one.T).square().mean() for one in change.values())
    for facts, cost in (
        ({"captions": {"dog": ["a"], "cat": ["b"]}}, kept + near),
        ({"captions": {}}, kept),
        ({}, kept),
    ):
        told = memory.with_facts(**facts)
        found = asked(guard.continual("features", 0.1), weights, told, model=model).penalties["continual"](None)
        torch.testing.assert_close(found.detach(), 0.1 * cost)
    assert not asked(guard.continual("both", 0), chosen, memory).penalties
    alone = neurons("attention").weights({"p": (2, 2)}, torch.device("cpu"))
    alone.select({"p": torch.tensor([[True, False], [False, False]])}, {"p": torch.full((2, 2), 2.0)})
    found = asked(guard.continual("both", 0.1), alone, memory).penalties["continual"](None)
    assert found.item() == pytest.approx(0.1 * (2.0**2 + 3.0**2))


class Counting:
    """A model that predicts rows x captions, and predicted rows + captions before; captions are numbers, its own 1."""

    def predict(self, batch, prompts):
        return batch * torch.tensor(list(map(float, prompts)))

    def before(self, batch, prompts=None):
        return batch + torch.tensor(list(map(float, prompts or "1" * len(batch))))

    def difference(self, now, before):
        return (now - before).square().mean()


DRAWN = Memory().with_facts(captions={"dog": ["2", "3"], "cat": ["5"]})


def distilled(price, number, portion):
    """The price of a batch of four rows, or of a part of it, and the rows with captions drawn for them, as lists."""
    rows = portion.of(torch.tensor([1.0, 7.0, 11.0, 13.0]))
    drawn = torch.Generator().manual_seed(sum(map(ord, str(("distil", number)))))
    told = [(2.0, 3.0, 5.0)[k] for k in torch.randint(3, (4,), generator=drawn)]
    found = price(Step(number, rows, 10 * rows, portion)).item()
    return found, list(zip(rows.tolist(), portion.of(told), strict=True))


def unlike(now, before):
    return 0.3 * sum((a - b) ** 2 for a, b in zip(now, before, strict=True)) / len(now)


@pytest.mark.parametrize("portion", [Portion(), Portion(1, 2)])
def test_distillation_by_hand(portion):
    """Under own captions against what is predicted anyway; under past ones, drawn for the whole batch, anew."""
    model = Counting()
    for kind, turns in (
        (guard.distil(0.3), (1, 3)), (guard.distil(0.3, "both"), (1, 3)),
        (guard.distil(0.3, "past"), (0, 1, 2, 3)), (guard.distil(0.3, "current"), ()),
    ):  # fmt: skip
        found = asked(kind, None, DRAWN, model=model)
        assert list(found.penalties) == ["distil"] and found.begin is None is found.project
        unspoken = asked(kind, None, Memory(), model=model)
        for number in range(4):
            cost, told = distilled(found.penalties["distil"], number, portion)
            own = unlike([10 * row for row, _ in told], [row + 1 for row, _ in told])
            past = unlike([row * text for row, text in told], [row + text for row, text in told])
            assert cost == pytest.approx(past if number in turns else own)
            assert distilled(unspoken.penalties["distil"], number, portion)[0] == pytest.approx(own)
    assert not asked(guard.distil(0), None, DRAWN, model=model).penalties
    assert not asked(guard.distil(0.3), None, DRAWN, lesson=1, model=model).penalties


def test_a_method_that_preserves_is_the_method_with_distillation_and_captions():
    kept = lambda *rest: Protection(penalties={"kept": lambda step: torch.tensor(1.0)})  # noqa: E731
    plain = Method(lora(2, "cross"), fresh_masked, kept, add)
    made = guard.preserving(plain, 0.3, "past")
    assert made.adapter is plain.adapter and made.start is plain.start
    found = asked(made.guard, None, DRAWN, model=Counting()).penalties
    assert list(found) == ["kept", "distil"]
    cost, told = distilled(found["distil"], 0, Portion())
    assert cost == pytest.approx(unlike([row * text for row, text in told], [row + text for row, text in told]))
    context = SimpleNamespace(concept="owl", model=SimpleNamespace(captions=["a", "b", "a"]))
    adapter = Adapter(low(p=(3, 4)))
    after = made.consolidate.remember(adapter, DRAWN, context)
    assert after.facts["captions"] == {"dog": ["2", "3"], "cat": ["5"], "owl": ["a", "b"]}
    assert after.delta().digest == add.remember(adapter, DRAWN, context).delta().digest and after.delta()


@pytest.mark.parametrize("portion", [Portion(), Portion(1, 2)])
def test_rehearsal_by_hand(portion):
    """Latents and captions drawn together for the whole batch; the model's loss of the own part of it."""
    seen, said = torch.tensor([2.0, 3.0, 5.0]), ["a", "b", "c"]
    model = SimpleNamespace(
        batch_of=lambda *told: [(float(row), text, *told[2:]) for row, text in zip(*told[:2], strict=True)],
        loss=lambda batch: torch.tensor([row for row, *_ in batch]).mean(),
    )
    memory, batches, loss = Memory().with_facts(n=1), [], model.loss
    model.loss = lambda batch: batches.append(batch) or loss(batch)

    def source(given, context):
        assert given is memory and context.lesson == 2
        return seen, said

    found = asked(rehearse(0.3, source), None, memory, model=model)
    assert list(found.penalties) == ["rehearsal"] and found.begin is None is found.project
    rows = portion.of(torch.zeros(4, 1))
    for number in range(3):
        drawn = torch.Generator().manual_seed(sum(map(ord, str(("rehearse", number)))))
        picked = portion.of(torch.randint(3, (4,), generator=drawn).tolist())
        cost = found.penalties["rehearsal"](Step(number, None, rows, portion)).item()
        assert cost == pytest.approx(0.3 * sum((2.0, 3.0, 5.0)[k] for k in picked) / len(picked))
        assert batches[-1] == [((2.0, 3.0, 5.0)[k], "abc"[k], "rehearse", number) for k in picked]
    assert not asked(rehearse(0, source), None, memory, model=model).penalties
    assert not asked(rehearse(0.3, source), None, memory, lesson=1, model=model).penalties


def test_what_is_rehearsed_is_kept_or_drawn_with_its_captions():
    memory = Memory().with_tensors("replay", {"cat": torch.full((1, 2), 5.0), "dog": torch.arange(4.0).view(2, 2)})
    memory = memory.with_facts(replay={"dog": ["a", "b"], "cat": ["c"]}, captions={"dog": ["d", "e"], "cat": ["f"]})
    latents, said = kept_images(memory, None)
    assert latents.tolist() == [[0.0, 1.0], [2.0, 3.0], [5.0, 5.0]] and said == ["a", "b", "c"]
    model = SimpleNamespace(draw=lambda *told: told)
    assert drawn_images(3)(memory, SimpleNamespace(model=model)) == ((["d", "f"], 3), ["d"] * 3 + ["f"] * 3)


def test_masks_grow_hard_over_a_lesson_and_cost_what_is_open():
    weights = masked_lora(2, 2, "cross_kv", 0.7).weights({"p": (3, 4), "q": (2, 2)}, torch.device("cpu"))
    found = asked(guard.annealed_masks(0.01), weights, steps=5)
    taus = []
    for step in range(5):
        found.begin(step)
        taus.append(weights.state.tau)
    assert taus == pytest.approx([1.0, 0.01**0.25, 0.1, 0.01**0.75, 0.01]) and not found.penalties
    wanted = torch.Generator().manual_seed(sum(map(ord, str(("mask q", 4)))))
    assert weights.state.noise("q").get_state().equal(wanted.get_state())
    for steps, last in ((1, 1.0), (2, 0.01)):
        short = asked(guard.annealed_masks(0.01), weights, steps=steps)
        short.begin(0)
        assert weights.state.tau == 1.0
        short.begin(steps - 1)
        assert weights.state.tau == last
    for name, k in (("p", 3), ("q", 4)):
        for t in weights.logits[name]:
            t.data = numbers(*t.shape, seed=k)
    shares_of = [weights.openness(name).mean().item() for name in ("p", "q")]
    found = asked(guard.sparse(0.5), weights).penalties
    assert list(found) == ["sparse"] and found["sparse"](None).item() == pytest.approx(0.5 * sum(shares_of) / 2)
    assert not asked(guard.sparse(0), weights).penalties


# --- diffusion classifier scores, on a model that is arithmetic ------------------------------------------------------


class Squares:
    """Predictions (b, 2) are x W^T with W what is moved, times what a prompt says; errors are squares, mean of two."""

    def __init__(self, past, weights):
        self.past, self.weights, self.asked = past, weights, []

    def predict(self, batch, prompts=None):
        moved = self.weights.change("p") + (self.past["p"].matrix() if self.past else 0)
        return batch.x @ moved.T * heard(prompts)

    def under(self, delta, batch, prompts):
        return batch.x @ delta["p"].matrix().T * heard(prompts)

    def error(self, batch, predicted):
        return (predicted - batch.y).square().mean(dim=1)

    def loss(self, batch):
        return batch.x.sum() + self.weights.change("p").sum()

    def batches(self, purpose, count, size):
        self.asked.append((purpose, count, size))
        return [of_two(10 + k) for k in range(count)]


def heard(prompts):
    """What prompts multiply predictions by (b, 2): something of their letters."""
    return torch.tensor([[len(prompt) / 8, sum(map(ord, prompt)) % 11 / 8] for prompt in prompts])


def of_two(seed):
    """A batch of two pictures of a lesson that teaches the tokens `xa` and `yb zc`."""
    draw = torch.Generator().manual_seed(seed)
    captions = ["a photo of xa dog", "yb zc cat, and Xa dog"]
    return SimpleNamespace(x=torch.randn(2, 3, generator=draw), y=torch.randn(2, 2, generator=draw), captions=captions)


TOLD = {"captions": {"c1": ["one", "no"], "c2": ["another one", "no"], "c3": ["a third"]}}
BARE = ["a photo of dog", "cat, and dog"]


def of_tokens(model=None):
    """A lesson's context, draws by their owner."""

    def draw(*owner):
        return torch.Generator().manual_seed(8 + sum(map(ord, str(owner))))

    others = (SimpleNamespace(token="yb zc"), SimpleNamespace(token=""))
    return Context("c4", 4, 9, "xa dog", "xa", model, draw, draw, others)


def explaining(number, captions, count):
    """Prompts of one step: as they are, without tokens, and past ones in the order drawn; two at least."""
    draw = torch.Generator().manual_seed(8 + sum(map(ord, str(("candidates", number)))))
    firsts = ["one", "another one", "a third"]
    order = torch.randperm(3, generator=draw).tolist()
    every = [captions, BARE, *([firsts[k], firsts[k]] for k in order)]
    return every[:count] if count > 2 else every[:2]


def shares_of(errors, temperature):
    """exp(-error / temperature) of each prompt by the sum of all, picture by picture."""
    weights = [[math.exp(-float(error) / temperature) for error in row] for row in errors]
    return [[weight / sum(row) for weight in row] for row in weights]


def test_what_may_explain_a_batch():
    batch, found = of_two(0), set()
    for number in range(9):
        for count in (1, 2, 3, 4, 5, 9):
            prompts = classifier.candidates(Memory(facts=TOLD), of_tokens(), batch, count, number)
            assert prompts == explaining(number, batch.captions, count), (number, count)
        found.add(prompts[2][0])
    assert len(found) > 1, "each step draws anew"
    assert classifier.candidates(Memory(), of_tokens(), batch, 9, 0) == [batch.captions, BARE]


def squares(matrix, past=None):
    """An adapter whose change is this parameter (2, 3), and a model over it."""
    weights = SimpleNamespace(
        change=lambda name: {"p": matrix}[name],
        named=lambda: {"p": matrix},
        delta=lambda: Delta({"p": Change.full(matrix)}),
    )
    return Adapter(weights), Squares(past, weights)


def test_the_price_of_being_explained_by_another_prompt():
    """-weight mean log of the own caption's share, as a guard and beside the loss of which Fisher's numbers are."""
    adapter, model = squares(torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.4, -0.5]]))
    memory, batch, told = Memory(facts=TOLD), of_two(3), of_tokens(model)
    for number in range(4):
        prompts = explaining(number, batch.captions, 3)
        errors = torch.stack([model.error(batch, model.predict(batch, each)) for each in prompts], dim=1)
        own = shares_of(errors, 0.7)
        found = classifier.log_scores(told, batch, prompts, 0.7)
        torch.testing.assert_close(found, torch.tensor(own).log())
        price = -2.5 * sum(math.log(row[0]) for row in own) / 2
        protection = classifier.classified(2.5, 3, 0.7)(adapter, memory, told)
        assert list(protection.penalties) == ["classified"] and protection.project is protection.begin is None
        step = Step(number, batch, model.predict(batch, batch.captions))
        assert float(protection.penalties["classified"](step)) == pytest.approx(price, rel=1e-5)
        if number == 0:
            loss = classifier.with_scores(2.5, 3, 0.7)(memory, told, batch)
            assert float(loss) == pytest.approx(float(model.loss(batch)) + price, rel=1e-5)
    assert classifier.classified(0, 3, 0.7)(adapter, memory, told) == Protection()


def test_two_teachers_by_turns_as_a_loop_of_ones_own():
    """Adam without decay, by hand, down cross entropies and squares of both teachers; none, two, three past models,
    and what is kept of each.
    """
    for past in (0, 2, 3):
        pasts = [torch.randn(2, 3, generator=torch.Generator().manual_seed(k)) for k in range(past)]
        memory = Memory(facts=TOLD | ({"pool": [f"c{k + 1}" for k in range(past)]} if past else {}))
        for k, matrix in enumerate(pasts):
            memory = memory.with_delta(Delta({"p": Change.full(matrix)}), f"pool/c{k + 1}")
        under = sum(pasts, torch.zeros(2, 3)) / 4
        memory = memory.with_delta(Delta({"p": Change.full(under)}))
        begun = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.4, -0.5]])
        adapter, model = squares(nn.Parameter(begun.clone()), memory.delta())
        remember = classifier.double_distillation(5, 0.1, 1.5, 4, 0.7)
        kept = remember(adapter, memory, of_tokens(model))
        assert model.asked == [("distillation", 5 if past else 0, 2)]
        trained = taught_twice(begun, under, pasts, 5 if past else 0)
        (found,) = adapter.parameters()
        torch.testing.assert_close(found.detach(), trained, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(kept.delta("pool/c4")["p"].matrix(), under + trained, rtol=1e-4, atol=1e-5)
        assert kept.facts["pool"] == [*(f"c{k + 1}" for k in range(past)), "c4"]
        assert torch.equal(kept.delta()["p"].matrix(), under), "the delta itself is what others remember"
        for k, matrix in enumerate(pasts):
            assert torch.equal(kept.delta(f"pool/c{k + 1}")["p"].matrix(), matrix)


def taught_twice(begun, under, pasts, steps):
    """The change after some steps of rate 0.1 towards the model as trained, and one past model a step."""
    matrix, first, second = begun.clone(), torch.zeros(2, 3), torch.zeros(2, 3)
    for number in range(steps):
        batch, turn = of_two(10 + number), number % len(pasts)
        prompts = explaining(number, batch.captions, 4)
        matrix.requires_grad_()
        price = torch.zeros(())
        teachers = [(under + begun, batch.captions), (pasts[turn], [["one", "another one", "a third"][turn]] * 2)]
        for teacher, own in teachers:
            for k in range(2):  # pictures

                def said(weight, prompt, x=batch.x[k]):
                    return x @ weight.T * heard([prompt])[0]

                errors, wanted = (
                    [(said(weight, each[k]) - batch.y[k]).square().mean() for each in prompts]
                    for weight in (under + matrix, teacher)
                )
                (target,) = shares_of([wanted], 0.7)
                total = sum(torch.exp(-error / 0.7) for error in errors)
                scores = [-error / 0.7 - total.log() for error in errors]
                price = price - sum(t * score for t, score in zip(target, scores, strict=True)) / 2
                price = price + 1.5 * (said(under + matrix, own[k]) - said(teacher, own[k])).square().mean() / 2
        (slope,) = torch.autograd.grad(price, matrix)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        rise = (second / (1 - 0.999 ** (number + 1))).sqrt() + 1e-8
        matrix = matrix.detach() - 0.1 * first / (1 - 0.9 ** (number + 1)) / rise
    return matrix
