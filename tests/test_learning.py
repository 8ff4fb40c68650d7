"""One lesson from begin to end over a backbone that is arithmetic: beside plain loops of torch."""

import math
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import planned
from torch import nn

from perdure import method as methods
from perdure import seeds
from perdure.bases import calibration
from perdure.bases.backbone import Backbone
from perdure.bases.batch import Batch
from perdure.bases.words import with_word, words_of
from perdure.errors import ModelError, PlanError, TrainingError
from perdure.lesson import brought, train
from perdure.lesson.brought import Brought
from perdure.lesson.examples import Bucketed, Examples
from perdure.lesson.model import LessonModel
from perdure.lesson.optimizing import steps_done
from perdure.lesson.train import Lesson, learn, timed
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Consolidate, Method, Portion, Protection, Spec, Wanted, Word, WordSpec
from perdure.parts.adapter import LowRank
from perdure.plan import Concept, Performance, Prior, Training
from perdure.plan.training import Previews

CPU = torch.device("cpu")


class Live:
    """A word of one vector, while it is learnt."""

    def __init__(self, vector):
        self.vector = nn.Parameter(vector)

    def parameters(self):
        return [self.vector]

    def __call__(self):
        return Word({0: self.vector}, "noun")


class Vocabulary:
    """Of one text encoder, whose words are 3 wide."""

    def __init__(self):
        self.begun, self.encoders = [], [self]

    def __len__(self):
        return len(self.encoders)

    def get_input_embeddings(self):
        return SimpleNamespace(weight=torch.zeros(7, 3))

    def begin(self, spec, token, noun, generator):
        self.begun.append((spec, token, noun, generator.initial_seed()))
        return Live(torch.full((1, 3), len(self.begun) / 8))


class Processes:
    """One process, or one that has the second half of each batch."""

    joined, portion = False, Portion()

    def agreed(self, value):
        return value

    def align(self, parameters):
        pass

    average = align

    def mean(self, told):
        return told


class Arithmetic(Backbone):
    """Predicts x + x W^T + t, of noised latents x (b, 3, 1, 1), W what lies under it and on it, t what it is told.

    Times that are uniform make twice as much noise.
    """

    def __init__(self):
        self.device, self.performance, self.processes = CPU, Performance(), Processes()
        self.accelerator = SimpleNamespace(
            backward=lambda loss: loss.backward(), scaler=None, unscale_gradients=lambda: None
        )
        self.vocabulary, self.events = Vocabulary(), []
        self.words, self.under, self.on = {}, Delta(), []
        self.family = None

    def projections(self, targets):
        return {"cross": {"k": (3, 3)}, "cross_kv": {"q": (3, 3), "v": (3, 3)}, "attention": {"q": (3, 3)}}[targets]

    @contextmanager
    def put(self, **changes):
        before = {name: getattr(self, name) for name in changes}
        vars(self).update(changes)
        yield
        vars(self).update(before)

    def speaking(self, words):
        return self.put(words=words)

    def laid(self, delta):
        return self.put(under=delta)

    def attached(self, weights, instead=False):
        return self.put(on=[weights] if instead else [*self.on, weights])

    def bare(self):
        return self.put(on=[])

    @contextmanager
    def training(self, optimizer):
        yield optimizer

    def weight(self, projection):
        return self.under[projection].matrix() if projection in self.under else torch.zeros(3, 3)

    def encode_prompts(self, prompts):
        spoken = [sum((w().vectors[0][0] for t, w in self.words.items() if t in p), torch.zeros(3)) for p in prompts]
        return {"text": torch.stack([len(p) + s for p, s in zip(prompts, spoken, strict=True)])}

    def noised(self, latents, condition, captions, generator, times="default"):
        noise = torch.randn(latents.shape, generator=generator) * (2 if times == "uniform" else 1)
        return Batch(latents, noise, torch.zeros(len(latents)), condition, tuple(captions))

    def predict(self, batch):
        self.events.append("predict")
        x = (batch.latents + batch.noise)[:, :, 0, 0]
        moved = self.weight("q") + sum(weights.change("q") for weights in self.on)
        return (x + x @ moved.T + batch.condition["text"] / 8)[:, :, None, None]

    def error(self, batch, predicted, min_snr=None):
        return (predicted - batch.noise).square().mean((1, 2, 3)) * (1 if min_snr is None else min_snr)


def seen(name, count=3):
    """Examples of a concept: latents, captions with its token, and what the network is told of them."""
    generator = torch.Generator().manual_seed(count)
    captions = tuple(f"{name} {'x' * k}sbu" for k in range(count))
    text = Arithmetic().encode_prompts(captions)
    return Examples(torch.randn(count, 3, 1, 1, generator=generator), text, captions)


def factors():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 3, generator=generator), torch.randn(3, 2, generator=generator)


OTHER = Concept.model_validate({"name": "cat", "images": ".", "token": "sbu", "class": "cat"})
PAST = Memory().with_facts(past=1)
UNDER = Delta({"q": Change.full(torch.eye(3) / 4)})
RECALLED = Delta({"q": Change.full(torch.eye(3) / 2)})


def taught(words=None, protection=Protection(), under=UNDER, heard=None):  # noqa: B008
    """A method of one pair on `q`, and what each of its four choices is asked."""
    heard = [] if heard is None else heard

    def weights(shapes, device):
        heard.append(("weights", shapes, device))
        a, b = factors()
        return LowRank({"q": (a.requires_grad_(), b.requires_grad_())})

    def start(adapter, memory, context):
        heard.append(("start", adapter, memory, context))
        return under

    def guard(adapter, memory, context):
        heard.append(("guard", adapter, memory, context))
        return protection(adapter) if callable(protection) else protection

    def remember(adapter, memory, context):
        heard.append(("remember", adapter, memory, context))
        return memory.with_delta(adapter.weights.delta())

    def recall(memory, wanted):
        heard.append(("recall", memory, wanted))
        return RECALLED

    return Method(Spec("attention", weights, words), start, guard, Consolidate(remember, recall))


def training(**changes):
    return Training(**{"steps": 5, "batch_size": 2, "learning_rate": 0.05, "max_grad_norm": 0.3, **changes})


LESSON = Lesson("dog", 4, seen("zwz"), "zwz", "dog", "zwz dog", others=(OTHER,))


# --- the loop ---------------------------------------------------------------------------------------------------------


def by_hand(how, prior=None, words=False, price=None, half=False, owner="dog"):
    """The steps as torch has them: what is told of each, and the pair at the end, and the words."""

    def draw(purpose, step):
        return seeds.generator(6, owner, purpose, step)

    def predicted(batch):
        x = (batch.latents + batch.noise)[:, :, 0, 0]
        told = torch.stack([torch.full((3,), float(len(caption))) for caption in batch.captions])
        if words:
            told = told + torch.stack([sum(v[0] for t, v in spoken.items() if t in c) for c in batch.captions])
        return (x + x @ (torch.eye(3) / 4 + b @ a).T + told / 8)[:, :, None, None]

    plain = Arithmetic()
    a, b = (factor.requires_grad_() for factor in factors())
    spoken = {"zwz": torch.full((1, 3), 2 / 8), "sbu": torch.full((1, 3), 1 / 8)} if words else {}
    learnt = [vector.requires_grad_() for vector in spoken.values()]
    groups = [{"params": [a, b]}, *([{"params": learnt}] if words else [])]
    descent, found = torch.optim.AdamW(groups, lr=1, eps=how.epsilon, weight_decay=how.weight_decay), []
    for step in range(how.steps):
        rate = how.learning_rate * min(1, (step + 1) / max(1, how.warmup))
        for group, scale in zip(
            descent.param_groups, (1, (how.word_learning_rate or 0) / how.learning_rate), strict=False
        ):
            group["lr"] = rate * scale
        told = []
        for number in range(step * how.accumulate, (step + 1) * how.accumulate):
            whole = LESSON.examples.batch(plain, how.batch_size, draw, number, times=how.times)
            batch = whole[1:] if half else whole
            parts = {"denoising": (predicted(batch) - batch.noise).square().mean() * (how.min_snr or 1)}
            if prior is not None:
                batch = prior.batch(plain, how.batch_size, draw, number, "prior ", how.times)
                batch = batch[1:] if half else batch
                own = (predicted(batch) - batch.noise).square().mean() * (how.min_snr or 1)
                parts["prior"] = how.prior.weight * own
            if price is not None:
                parts["price"] = price(number, a)
            told.append([part.item() for part in (sum(parts.values()), *parts.values())])
            (sum(parts.values()) / how.accumulate).backward()
        torch.nn.utils.clip_grad_norm_([a, b, *learnt], how.max_grad_norm)
        descent.step()
        descent.zero_grad()
        loss, *parts_told = torch.tensor(told).mean(0).tolist()
        found.append((step + 1, loss, dict(zip(parts, parts_told, strict=True)), rate))
    return found, (b @ a).detach(), {token: vector.detach() for token, vector in spoken.items()}


def alike(told, wanted):
    assert [done.step for done in told] == [step for step, *_ in wanted]
    for done, (_, loss, parts, rate) in zip(told, wanted, strict=True):
        assert done.loss == pytest.approx(loss, rel=1e-4) and done.rate == pytest.approx(rate)
        assert list(done.parts) == list(parts) and done.parts == pytest.approx(parts, rel=1e-4)


FREE = {"epsilon": 0.5, "max_grad_norm": 1e9}
"""The length of a gradient tells: it is not clipped, and AdamW does not divide it out."""
PRIOR = {**FREE, "prior": Prior(images=2, weight=0.5), "min_snr": 3.0, "times": "uniform", "warmup": 3, "accumulate": 2}


@pytest.mark.parametrize(("changes", "half"), [({}, False), (PRIOR, False), (PRIOR, True)])
def test_a_lesson_is_a_plain_loop(changes, half):
    """Of the adapter on what lies under it; of all that its loss is the sum of, over the batches of each step."""
    how, told, numbers = training(**changes), [], []
    backbone, lesson = Arithmetic(), LESSON
    backbone.processes.portion = Portion(1, 2) if half else Portion()
    protection = Protection()
    if changes:
        lesson = replace(LESSON, prior=seen("dog", 4))

        def price(step):
            numbers.append(step.number)
            assert step.portion == backbone.processes.portion and len(step.batch) == len(step.predicted) == 2 - half
            return backbone.on[0].factors["q"][0].square().sum() * (step.number + 1) / 8

        protection = Protection(penalties={"price": price})
    memory = learn(backbone, taught(protection=protection), PAST, lesson, planned(how, 6), told.append)
    price = (lambda number, a: a.square().sum() * (number + 1) / 8) if changes else None
    wanted, change, _ = by_hand(how, lesson.prior, price=price, half=half)
    alike(told, wanted)
    torch.testing.assert_close(memory.delta()["q"].matrix(), change, atol=1e-5, rtol=1e-4)
    assert memory.facts == {"past": 1} and numbers == (list(range(10)) if changes else [])


def test_words_are_learnt_beside_it_at_their_own_rate():
    """The prompt of each step is read anew; words that are known are spoken, and stay as they are."""
    how, told, backbone = training(word_learning_rate=0.2), [], Arithmetic()
    spec, known = WordSpec(("random",)), with_word(PAST, "kxk", Word({0: torch.ones(1, 3)}, "owl"))
    memory = learn(backbone, taught(spec), known, LESSON, planned(how, 6), told.append)
    wanted, change, spoken = by_hand(how, words=True)
    alike(told, wanted)
    torch.testing.assert_close(memory.delta()["q"].matrix(), change, atol=1e-5, rtol=1e-4)
    found = words_of(memory)
    assert found.keys() == {"kxk", "zwz", "sbu"} and {t: w.dropped for t, w in found.items()} == {
        "kxk": "owl", "zwz": "noun", "sbu": "noun"
    }  # fmt: skip
    for token, vector in spoken.items():
        torch.testing.assert_close(found[token].vectors[0], vector, atol=1e-5, rtol=1e-4)
    assert (found["kxk"].vectors[0] == 1).all() and backbone.words == {}
    assert sorted(backbone.vocabulary.begun, key=lambda word: word[1]) == [
        (spec, "sbu", "cat", seeds.derive(6, "dog", "word sbu")), (spec, "zwz", "dog", seeds.derive(6, "dog", "word")),
    ]  # fmt: skip


def test_without_encoders_that_learn_there_are_no_words():
    backbone = Arithmetic()
    backbone.vocabulary.encoders = []
    memory = learn(backbone, taught(WordSpec()), PAST, LESSON, planned(training(steps=1), 6))
    assert words_of(memory) == {} and backbone.vocabulary.begun == []


@pytest.mark.parametrize("owner", ["dog", "lesson"])
def test_each_choice_of_a_method_is_asked_about_the_lesson(owner):
    heard, backbone, costs = [], Arithmetic(), []
    how = planned(training(seed_per_lesson=owner == "dog"), 6)
    told = []
    learn(backbone, taught(heard=heard), PAST, LESSON, how, told.append, fused=costs.append)
    alike(told, by_hand(how.training, owner=owner)[0])
    assert [name for name, *_ in heard] == ["weights", "recall", "start", "guard", "remember"]
    assert heard[0][1:] == ({"q": (3, 3)}, CPU) and heard[1][1:] == (PAST, Wanted("dog"))
    adapter, memory, context = heard[2][1:]
    assert memory is PAST and adapter.word_parameters == [] and len(adapter.parameters()) == 2
    for _, *asked in heard[3:]:
        assert all(one is other for one, other in zip(asked, (adapter, memory, context), strict=True))
    assert (context.concept, context.lesson, context.steps, context.phrase) == ("dog", 4, 5, "zwz dog")
    assert context.token == "zwz" and context.others == (OTHER,)
    assert context.generator("mine", 2).initial_seed() == seeds.derive(6, owner, "mine", 2)
    assert context.common("ours").initial_seed() == seeds.derive(6, "common", "ours")
    model = context.model
    assert model.backbone is backbone and model.examples is LESSON.examples and model.plan == how
    assert model.past is RECALLED and model.projections == ["q"] and not model.word and model.prior is None
    assert len(costs) == 1 and costs[0].seconds >= 0


def test_class_images_are_rehearsed_where_there_are_some_and_the_plan_says_so():
    for prior, asked_for in ((seen("dog", 4), None), (None, Prior(images=2))):
        told = []
        how = planned(training(steps=1, prior=asked_for), 6)
        learn(Arithmetic(), taught(), PAST, replace(LESSON, prior=prior), how, told.append)
        assert list(told[0].parts) == ["denoising"]


def test_epochs_are_steps_over_all_pictures():
    how = planned(Training(epochs=3, batch_size=2, steps=1), 6)
    assert timed(how, 5).training == how.training.model_copy(update={"steps": 9}) and timed(how, 5).seed == 6
    assert timed(planned(training()), 5) == planned(training())
    heard, told = [], []
    learn(Arithmetic(), taught(heard=heard), PAST, LESSON, how, told.append)
    assert heard[2][-1].steps == len(told) == 6


# --- what is seen of it on the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [(), ("cpu",)])
def test_in_what_order_a_step_is_begun_taken_told_saved_and_shown(behind, monkeypatch, tmp_path):
    """A device that is told ahead hears of the next step before the last one is told, but not past what is kept."""
    monkeypatch.setattr(train, "BEHIND", behind)
    backbone, path = Arithmetic(), tmp_path / "checkpoint.safetensors"
    events = backbone.events
    how = planned(training(steps=7, checkpoint_every=3, preview=Previews(every=5)), 6)
    protection = Protection(begin=lambda step: events.append(f"begin {step}"), project=lambda: events.append("project"))

    def watch(done):
        events.append(f"told {done.step}")

    def preview(step):
        events.append(f"shown {step} with {steps_done(path)} saved")

    learn(backbone, taught(protection=protection), PAST, LESSON, how, watch, path, preview)
    wanted, due = [], []
    for step in range(1, 8):
        wanted += [f"begin {step - 1}", "predict", "project"]
        due.append(f"told {step}")
        if behind and step not in (3, 5, 6, 7):
            wanted += [due.pop(0)] if len(due) == 2 else []
        else:
            wanted, due = wanted + due, []
        wanted += ["shown 5 with 3 saved"] if step == 5 else []
    assert events == wanted and steps_done(path) == 6


@pytest.mark.parametrize("stop", [2, 4])
def test_a_lesson_goes_on_where_it_was_saved(stop, tmp_path):
    path, how = tmp_path / "checkpoint.safetensors", training(checkpoint_every=2)

    def watch(done):
        told.append(done)
        if done.step == stop + 1:
            raise InterruptedError

    told = []
    with pytest.raises(InterruptedError):
        learn(Arithmetic(), taught(), PAST, LESSON, planned(how, 6), watch, path)
    backbone, rest = Arithmetic(), []
    memory = learn(backbone, taught(), PAST, LESSON, planned(how, 6), rest.append, path)
    wanted, change, _ = by_hand(how)
    alike(told[:stop] + rest, wanted)
    torch.testing.assert_close(memory.delta()["q"].matrix(), change, atol=1e-5, rtol=1e-4)


def test_nothing_is_saved_or_shown_unless_asked_for(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    shown = []
    learn(Arithmetic(), taught(), PAST, LESSON, planned(training(), 6), checkpoint=path, preview=shown.append)
    assert shown == [] and not path.exists()


# --- what is not finite -----------------------------------------------------------------------------------------------


def spoiling(edit, step=1, words=None):
    """A lesson whose parameters, or their gradients, are edited before its second step is taken."""
    count = []

    def protection(adapter):
        def project():
            count.append(1)
            if len(count) == step + 1:
                edit(adapter.parameters())

        return Protection(project=project)

    with pytest.raises(TrainingError) as caught:
        learn(Arithmetic(), taught(words, protection), PAST, LESSON, planned(training(steps=3), 6))
    told = str(caught.value)
    assert told.startswith("lesson 4 (dog) diverged: ") and told.endswith("Try a smaller training.learning_rate")
    assert "; the memory is as it was. " in told
    return told.removeprefix("lesson 4 (dog) diverged: ").partition(";")[0]


def put(number, value):
    return lambda parameters: parameters[number].grad.fill_(value)


def spoilt(number, value):
    return lambda parameters: parameters[number].data.fill_(value)


def huge(parameters):
    for parameter in parameters:
        parameter.grad.fill_(3e38)


def test_what_is_not_finite_is_named():
    """A gradient by its weight; a norm beyond float32 by the first; a weight before all that it spoils."""
    assert spoiling(put(1, math.nan)) == "the gradient of B of q is not finite or too large at step 2"
    assert spoiling(put(0, math.inf), 0) == "the gradient of A of q is not finite or too large at step 1"
    assert spoiling(huge) == "the gradient of A of q is not finite or too large at step 2"
    for number, part in ((2, "part 0"), (3, "part 1")):
        told = f"the gradient of {part} of the learnt words is not finite or too large at step 2"
        assert spoiling(put(number, -math.inf), words=WordSpec()) == told
    told = "part 1 of the learnt words is not finite after step 2"
    assert spoiling(spoilt(3, math.nan), words=WordSpec()) == told
    assert spoiling(spoilt(0, math.nan)) == "A of q is not finite after step 2"
    assert spoiling(spoilt(0, math.nan), 2) == "A of q is not finite after step 3", "which no later loss would tell"


def test_a_device_that_works_ahead_names_the_step_and_no_weight(monkeypatch):
    """When it is looked at, the gradients are gone, and the weights have been spoilt by them."""
    monkeypatch.setattr(train, "BEHIND", ("cpu",))
    assert spoiling(put(1, math.nan)) == "a gradient is not finite or too large at step 2"
    assert spoiling(huge) == "a gradient is not finite or too large at step 2"
    assert spoiling(spoilt(0, math.nan), 0) == "the loss is nan at step 2"
    assert spoiling(spoilt(0, math.nan), 2) == "A of q is not finite after step 3"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_told(bad):
    protection = Protection(penalties={"price": lambda step: torch.tensor(bad if step.number == 2 else 1.0)})
    told = []
    with pytest.raises(TrainingError, match=rf"diverged: the loss is {bad} at step 3; the memory is as it was"):
        learn(Arithmetic(), taught(protection=protection), PAST, LESSON, planned(training(), 6), told.append)
    assert [done.parts["price"] for done in told] == [1.0, 1.0]


# --- what others have trained -----------------------------------------------------------------------------------------


class Beside:
    """What lineages beside this one have trained."""

    def __init__(self, known=None):
        self.asked, self.known = [], known

    def once(self, content, parameters, steps):
        self.asked.append((content, len(parameters)))
        if self.known is None:
            steps()
        else:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.fill_(self.known)


def asked(lesson=LESSON, how=None, chosen=None, memory=PAST, backbone=None, **more):
    there = Beside()
    how = how or planned(training(steps=1), 6)
    learn(backbone or Arithmetic(), chosen or taught(under=Delta()), memory, lesson, how, shared=there, **more)
    return there.asked


def test_what_others_have_trained_is_taken_over():
    told = []
    memory = learn(
        Arithmetic(), taught(under=Delta()), PAST, LESSON, planned(training(), 6), told.append, shared=Beside(2.0)
    )
    assert told == [] and (memory.delta()["q"].matrix() == 8).all()


def test_what_a_lesson_is_told_decides_what_it_takes_over():
    """Its words, its noun, the others', their random numbers, its pictures, and those of its class."""
    without = Lesson("dog", 4, LESSON.examples, "zwz", "dog", "zwz dog")
    lessons = [
        LESSON, without, replace(LESSON, token="pdw"), replace(LESSON, noun="cat"), replace(LESSON, concept="owl"),
        replace(LESSON, others=(OTHER.model_copy(update={"token": "uwu"}),)),
        replace(LESSON, others=(OTHER.model_copy(update={"noun": "clock"}),)),
        replace(LESSON, examples=seen("zwz", 4)), replace(LESSON, prior=seen("dog", 4)),
    ]  # fmt: skip
    found = [asked(lesson) for lesson in lessons]
    found += [asked(how=planned(training(steps=1), 7)), asked(how=planned(training(steps=2), 6))]
    found += [asked(how=planned(training(steps=1, seed_per_lesson=False), 6))]
    found += [asked(chosen=taught(WordSpec((init,)), under=Delta())) for init in ("random", "class")]
    contents = [content for ((content, _),) in found]
    assert len(set(contents)) == len(contents) and all(len(content) == 16 for content in contents)
    assert [count for ((_, count),) in found] == [2] * 12 + [4] * 2
    same = replace(LESSON, number=1, phrase="that one"), replace(LESSON, concept="owl")
    assert asked(same[0]) == found[0], "what only prompts are drawn with has no part in it"
    free = planned(training(steps=1, seed_per_lesson=False), 6)
    assert asked(same[1], free) == asked(how=free)


def test_a_lesson_takes_nothing_over_that_does_not_begin_on_the_untouched_base():
    """Nor where it is shown on the way; a guard's part in it leaves no content."""
    known = with_word(PAST, "kxk", Word({0: torch.ones(1, 3)}))
    shown = planned(training(steps=1, preview=Previews(every=1)), 6)
    assert asked(chosen=taught()) == asked(memory=known) == asked(how=shown, preview=lambda step: None) == []
    guarded = taught(protection=Protection(begin=lambda step: None), under=Delta())
    assert asked(chosen=guarded) == [("", 2)]


# --- what a method may ask --------------------------------------------------------------------------------------------


def model(backbone=None, **changes):
    def draw(purpose, number=0):
        return seeds.generator(6, "dog", purpose, number)

    backbone = backbone or Arithmetic()
    usual = {"examples": LESSON.examples, "past": RECALLED, "plan": planned(training(min_snr=3.0, times="uniform"))}
    return LessonModel(backbone, **{**usual, "projections": ["q"], "random": draw, **changes})


def hand_predicted(batch, weight, lengths):
    x = (batch.latents + batch.noise)[:, :, 0, 0]
    return (x + x @ weight.T + torch.tensor(lengths)[:, None] / 8)[:, :, None, None]


def test_predictions_are_of_what_lies_there_now_and_lay_there_before():
    """Under the batch's own prompts and under others."""
    backbone = Arithmetic()
    own, live = model(backbone), LowRank({"q": factors()})
    batch, (a, b) = own.batches("mine", 1, 2)[0], factors()
    lengths, others = [float(len(caption)) for caption in batch.captions], ["zwz", "zwz abcdef"]
    with backbone.laid(UNDER), backbone.attached(live):
        for prompts, told in ((None, lengths), (others, [3.0, 10.0])):
            more = () if prompts is None else (prompts,)
            now = hand_predicted(batch, torch.eye(3) / 4 + b @ a, told)
            before = hand_predicted(batch, torch.eye(3) / 2, told)
            torch.testing.assert_close(own.predict(batch, *more), now)
            torch.testing.assert_close(own.before(batch, *more), before)
            torch.testing.assert_close(own.under(Delta(), batch, *more), hand_predicted(batch, torch.zeros(3, 3), told))
        now, before = (hand_predicted(batch, w, lengths) for w in (torch.eye(3) / 4 + b @ a, torch.eye(3) / 2))
        each = (now - batch.noise).square().sum((1, 2, 3)) / 3
        torch.testing.assert_close(own.error(batch, now), each)
        torch.testing.assert_close(own.loss(batch), 3 * each.mean())
        torch.testing.assert_close(own.difference(now, before), ((now - before) ** 2).sum() / now.numel())
        assert torch.equal(own.weight("q"), torch.eye(3) / 4)
        with own.laid(RECALLED):
            assert torch.equal(own.weight("q"), torch.eye(3) / 2)
    with pytest.raises(TrainingError, match=r"^method 'naive' asks for classes, which only a classifier has$"):
        own.embedded()


def test_gradients_are_those_of_the_projections_that_may_move(monkeypatch):
    """With a graph, also where a method has switched graphs off."""
    heard = []
    own = model()
    monkeypatch.setattr(Arithmetic, "gradients", lambda self, *given: heard.append((*given, torch.is_grad_enabled())))
    loss = lambda: torch.zeros(())  # noqa: E731
    with torch.no_grad():
        own.gradients(loss)
    assert heard == [(loss, ["q"], True)]


@pytest.mark.parametrize("parts", [lambda own: own, lambda own: Bucketed((own,))])
def test_other_pictures_are_noised_by_draws_of_their_own(parts, monkeypatch):
    """In the precision of the lesson's own latents, told of what those are told, and their prompts."""
    half = replace(LESSON.examples, latents=LESSON.examples.latents.to(torch.float64))
    backbone = Arithmetic()
    backbone.family = SimpleNamespace(sized=lambda text, facts, size: {**text, "sizes": torch.tensor(facts)})
    monkeypatch.setattr(Arithmetic, "pixels", lambda self, latents: (8, 16))
    own, other = model(backbone, examples=parts(half)), torch.full((2, 3, 1, 1), 7.0)
    batch = own.batch_of(other, ["a", "bcd"], "rehearsed", 4)
    drawn = 2 * torch.randn(2, 3, 1, 1, generator=seeds.generator(6, "dog", "rehearsed noise", 4))
    assert batch.latents.dtype == torch.float64 and (batch.latents == 7).all() and torch.equal(batch.noise, drawn)
    assert batch.captions == ("a", "bcd") and batch.condition["text"].tolist() == [[1.0] * 3, [3.0] * 3]
    assert ("sizes" in batch.condition) == isinstance(own.examples, Bucketed)


class Seven(LessonModel):
    """Knows seven captions, and draws each as its own number."""

    calibration = tuple("abcdefg")

    def draw(self, prompts, count):
        assert count == 1
        return (
            torch.tensor([float("abcdefg".index(prompt)) for prompt in prompts]).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
        )


@pytest.mark.parametrize(("count", "prompts"), [(3, "ace"), (2, "ad"), (7, "abcdefg"), (9, "abcdefg"), (1, "a")])
def test_pictures_of_no_concept_are_of_captions_that_are_spread(count, prompts):
    """Each copy of a picture has noise of its own."""
    own = model()
    found = Seven(**{name: getattr(own, name) for name in own.__dataclass_fields__}).general(count, 2)
    assert [len(copies) for copies in found] == [2] * len(prompts)
    for number, batch in enumerate(batch for copies in found for batch in copies):
        assert batch.captions == (prompts[number // 2],)
        assert batch.latents.flatten().tolist() == [float("abcdefg".index(prompts[number // 2]))] * 3
        noise = 2 * torch.randn(1, 3, 1, 1, generator=seeds.generator(6, "dog", "calibration noise", number))
        assert torch.equal(batch.noise, noise)
    assert own.calibration == calibration.captions(own.plan.base)


# --- brought from elsewhere -------------------------------------------------------------------------------------------

GIVEN = Delta({"q": Change.full(torch.eye(3))})


def bringing(word=None):
    fitted = []

    def fit(network):
        fitted.append(network)
        return GIVEN

    return Brought({}, fit, word), fitted


@pytest.mark.parametrize("owner", ["dog", "lesson"])
@pytest.mark.parametrize("word", [None, Word({0: torch.full((2, 3), 4.0)}, "dog")])
def test_what_was_brought_is_remembered_as_a_lesson_of_its_own(word, owner):
    """The method is asked about the lesson's pictures, under the change on what is recalled, with all words spoken."""
    backbone, heard, states = Arithmetic(), [], []
    backbone.network = nn.Identity()
    chosen, known = taught(heard=heard), with_word(PAST, "kxk", Word({0: torch.ones(1, 3)}, "owl"))

    def remember(adapter, memory, context):
        states.append((backbone.under["q"].matrix(), {token: spoken() for token, spoken in backbone.words.items()}))
        return chosen.consolidate.remember(adapter, memory, context)

    def recall(memory, wanted):
        assert "kxk" in backbone.words
        return chosen.consolidate.recall(memory, wanted)

    own = replace(chosen, consolidate=replace(chosen.consolidate, remember=remember, recall=recall))
    given, fitted = bringing(word)
    how = planned(training(seed_per_lesson=owner == "dog"), 6)
    memory = brought.bring(backbone, own, known, LESSON, how, given)
    ((under, spoken),) = states
    assert torch.equal(under, torch.eye(3) * 1.5) and fitted == [backbone.network]
    before = {"kxk": words_of(known)["kxk"]}
    assert spoken.keys() == {*before, *(["zwz"] if word else [])} and spoken.get("zwz") is word
    assert spoken["kxk"].dropped == "owl" and (spoken["kxk"].vectors[0] == 1).all()
    assert backbone.words == {} and backbone.under == Delta()
    found = words_of(memory)
    assert found.keys() == spoken.keys() and torch.equal(memory.delta()["q"].matrix(), torch.eye(3))
    if word:
        assert torch.equal(found["zwz"].vectors[0], word.vectors[0]) and found["zwz"].dropped == "dog"
    assert heard[0] == ("recall", known, Wanted("dog"))
    _, adapter, past, context = heard[1]
    weights = adapter.weights
    assert past is known and adapter.parameters() == [] and weights.projections == ["q"] and weights.delta() is GIVEN
    assert torch.equal(weights.change("q"), torch.eye(3))
    assert (context.concept, context.lesson, context.steps, context.phrase) == ("dog", 4, 5, "zwz dog")
    assert context.token == "zwz" and context.others == (OTHER,)
    assert context.generator("mine", 2).initial_seed() == seeds.derive(6, owner, "mine", 2)
    assert context.common("ours").initial_seed() == seeds.derive(6, "common", "ours")
    seen_by = context.model
    assert seen_by.backbone is backbone and seen_by.examples is LESSON.examples and seen_by.plan is how
    assert seen_by.past is RECALLED and seen_by.projections == ["q"] and seen_by.word == (word is not None)
    assert seen_by.random("mine", 2).initial_seed() == seeds.derive(6, owner, "mine", 2)


def test_a_word_must_be_as_wide_as_the_base_reads_words():
    backbone = Arithmetic()
    backbone.network = nn.Identity()
    assert brought.check(backbone, bringing(Word({0: torch.zeros(1, 3)}))[0]) is GIVEN
    for vectors, told in (
        ({0: torch.zeros(3, 4)}, "the word is 4 wide, and the base reads words 3 wide"),
        ({0: torch.zeros(2, 3), 1: torch.zeros(2, 5)}, "the word is 3 and 5 wide, and the base reads words 3 wide"),
        ({1: torch.zeros(2, 3)}, "the word is 3 wide, and the base reads words 3 wide"),
    ):
        with pytest.raises(ModelError) as caught:
            brought.check(backbone, bringing(Word(vectors))[0])
        assert str(caught.value) == told
    backbone.vocabulary.encoders *= 2
    assert brought.check(backbone, bringing(Word({1: torch.zeros(1, 3), 0: torch.zeros(1, 3)}))[0]) is GIVEN
    with pytest.raises(ModelError, match=r"^the word is 3 wide, and the base reads words 3 and 3 wide$"):
        brought.check(backbone, bringing(Word({0: torch.zeros(1, 3)}))[0])


def test_a_method_that_can_remember_only_what_it_trains_says_which_can(monkeypatch):
    brought.refuse("sum", methods.get("sum"))
    known = {brought.plugins.METHOD: ["sum", "knots", "merge_init"]}
    monkeypatch.setattr(brought.plugins, "own", known.__getitem__)
    closed = taught()
    assert not closed.consolidate.brings
    kinds = {"sum": True, "knots": False, "merge_init": True}
    brings = {n: replace(closed, consolidate=replace(closed.consolidate, brings=b)) for n, b in kinds.items()}
    monkeypatch.setattr(brought.methods, "get", brings.__getitem__)
    told = r"^method mine can remember only what its own lessons train, .* begin a model with one of sum, merge_init$"
    with pytest.raises(PlanError, match=told):
        brought.refuse("mine", closed)
