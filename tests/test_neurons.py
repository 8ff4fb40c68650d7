"""Concept neurons: scores beside plain diffusers and autograd, masks by hand, and what a lesson moves."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from perdure import method
from perdure.bases import loading
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Adapter, Method
from perdure.parts import guard
from perdure.parts import neurons as chosen_by
from perdure.parts.adapter import neurons
from perdure.parts.consolidate import add
from perdure.parts.neurons import CALIBRATION, NOISES, SAMPLES, Choice, concept_masks, concept_neurons, shares, shuffled
from perdure.parts.start import everything

KV = (".attn2.to_k", ".attn2.to_v")
CHOICE = Choice("fisher", "layer", "element", 0.5, "vote", 0.5, None)


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


# --- scores beside plain diffusers -----------------------------------------------------------------------------------


class Plain:
    """The pipeline with some changes added to its weights by hand; gradients and inputs of cross-attention k and v."""

    def __init__(self, folder, changes):
        self.pipe = StableDiffusionPipeline.from_pretrained(folder)
        self.noising = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.unet = self.pipe.unet.requires_grad_(False)
        self.layers = {name: module for name, module in self.unet.named_modules() if name.endswith(KV)}
        for name, change in changes.items():
            self.layers[name].weight += change
        self.weights = {name: layer.weight for name, layer in self.layers.items()}

    def predict(self, batch, prompts):
        ids = self.pipe.tokenizer(
            prompts, padding="max_length", max_length=self.pipe.tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        text = self.pipe.text_encoder(ids)[0].detach()
        noised = self.noising.add_noise(batch.latents, batch.noise, batch.timesteps)
        return self.unet(noised, batch.timesteps, text).sample

    def gradients(self, batch, prompts):
        for weight in self.weights.values():
            weight.requires_grad_(True)
            weight.grad = None
        ((self.predict(batch, prompts) - batch.noise) ** 2).mean().backward()
        return {name: weight.grad for name, weight in self.weights.items()}

    @torch.no_grad()
    def inputs(self, batch, prompts):
        seen = {}
        for name, layer in self.layers.items():
            layer.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: inputs[0]}))
        self.predict(batch, prompts)
        return seen


def test_scores_in_the_second_lesson_are_those_of_base_and_delta(taught, pico):
    """Under the concept's prompt with its word where it begins, at the class noun; the past laid once, not twice."""
    chosen = method.get("cns", {"base_share": 0.5, "vote": 1.0})
    found = []

    def start(adapter, memory, context):
        under = chosen.start(adapter, memory, context)
        if context.lesson == 2:
            with context.model.laid(memory.delta()):
                weights = {name: context.model.weight(name) for name in adapter.weights.shapes}
                for batch in context.model.batches("importance", 2, 1):
                    scores = {kind: chosen_by.pick(kind)(context.model, weights, batch) for kind in kinds}
                    found.append((batch, memory, scores))
        return under

    kinds = ("fisher", "saliency", "wanda")
    taught(replace(chosen, start=start))
    assert len(found) == 2
    for batch, memory, scores in found:
        changes = {name: change.matrix() for name, change in memory.delta().items()}
        assert sum(float(change.abs().sum()) for change in changes.values()) > 0.01
        plain = Plain(pico, changes)
        assert batch.captions == ("a photo of sbu cat",)
        prompts = ["a photo of cat cat"]
        gradients, inputs = plain.gradients(batch, prompts), plain.inputs(batch, prompts)
        assert scores["wanda"].keys() == plain.weights.keys()
        for name, weight in plain.weights.items():
            expected = {
                "fisher": gradients[name] ** 2,
                "saliency": (weight.detach() * gradients[name]).abs(),
                "wanda": weight.detach().abs() * (inputs[name] ** 2).sum(dim=(0, 1)).sqrt(),
            }
            for kind in kinds:
                torch.testing.assert_close(scores[kind][name], expected[kind], rtol=2e-3, atol=1e-12)


def test_calibration_images_are_drawn_by_the_model_before_the_lesson(taught):
    """One for each of 16 prompts, each noised 4 times; gradients of these and of 32 noised images of the concept."""
    chosen, asked, noised = method.get("cns"), [], []

    def start(adapter, memory, context):
        model = context.model
        prompts = model.calibration[::10]
        drawn = model.draw(prompts, 1)
        gradients, batch_of = model.gradients, model.batch_of

        def counted(loss):
            asked.append(context.lesson)
            return gradients(loss)

        def watched(latents, captions, purpose, step):
            noised.append(captions)
            number = (len(noised) - 1) % (CALIBRATION * NOISES) // NOISES
            torch.testing.assert_close(latents, drawn[number : number + 1])
            assert captions == [prompts[number]]
            return batch_of(latents, captions, purpose, step)

        model.gradients, model.batch_of = counted, watched
        return chosen.start(adapter, memory, context)

    taught(replace(chosen, start=start))
    assert asked == [1] * (SAMPLES + CALIBRATION * NOISES) + [2] * (SAMPLES + CALIBRATION * NOISES)
    assert len(noised) == 2 * CALIBRATION * NOISES


# --- masks by hand ---------------------------------------------------------------------------------------------------


def test_tops_of_a_layer_of_its_rows_and_of_all():
    scores = {"p": torch.tensor([[9.0, 1, 8], [2, 3, 7]]), "q": torch.tensor([[0.1, 0.2, 0.3]])}

    def tops(share, among):
        return {name: mask.tolist() for name, mask in chosen_by.top(scores, share, among).items()}

    yes, no = True, False
    assert tops(1 / 3, "layer") == {"p": [[yes, no, yes], [no, no, no]], "q": [[no, no, yes]]}
    assert tops(1 / 3, "row") == {"p": [[yes, no, no], [no, no, yes]], "q": [[no, no, yes]]}
    assert tops(1 / 3, "all") == {"p": [[yes, no, yes], [no, no, yes]], "q": [[no, no, no]]}
    assert tops(0, "all") == {"p": [[no] * 3] * 2, "q": [[no] * 3]}
    assert tops(1, "layer") == {"p": [[yes] * 3] * 2, "q": [[yes] * 3]}
    narrow = {"p": torch.tensor([[9.0, 8.0], [1.0, 2.0]])}
    assert chosen_by.top(narrow, 0.5, "row")["p"].tolist() == [[yes, no], [no, yes]]


def test_rows_and_columns_are_ranked_by_their_means():
    score = {"p": torch.tensor([[1.0, 9], [2, 1]])}
    assert chosen_by.ranked_by(score, "element")["p"] is score["p"]
    assert chosen_by.ranked_by(score, "row")["p"].tolist() == [[5], [1.5]]
    assert chosen_by.ranked_by(score, "col")["p"].tolist() == [[1.5, 5]]
    for among in ("layer", "row", "all"):
        assert chosen_by.top(chosen_by.ranked_by(score, "row"), 0.5, among)["p"].tolist() == [[True], [False]]
        assert chosen_by.top(chosen_by.ranked_by(score, "col"), 0.5, among)["p"].tolist() == [[False, True]]


OWN = {"p": torch.tensor([[8.0, 7, 6, 5, 1, 2, 3, 4]])}
"""The top half are the first four."""
PROMPTS = [
    {"p": torch.tensor([row])}
    for row in ([9.0, 9, 9, 0, 9, 0, 0, 0], [9.0, 9, 0, 0, 9, 9, 0, 0], [9.0, 0, 0, 0, 9, 9, 9, 0], [9.0] + [0.0] * 7)
]
"""Of these the first four are in the top half of 4, 2, 1 and less of the prompts, 0 where ties do not reach."""


def chosen(**how):
    prompts = [{"p": one["p"] + torch.linspace(0, 0.1, 8)} for one in PROMPTS]  # ties go to the later entries
    base, kept = concept_masks(OWN, prompts, replace(CHOICE, **how))
    assert base["p"].tolist() == [[True] * 4 + [False] * 4]
    return kept["p"].flatten().nonzero().flatten().tolist()


def test_general_neurons_go_by_vote():
    """In the top half of the prompts: entry 0 of four, 1 of two, 2 of one, 3 of none."""
    assert chosen(vote=1.0) == [1, 2, 3]
    assert chosen(vote=0.75) == [1, 2, 3]
    assert chosen(vote=0.5) == [2, 3]
    assert chosen(vote=0.25) == [3]


def test_general_neurons_go_by_difference():
    """Means over prompts: 9, 4.5, 2.25, 0 and a little; own scores: 8, 7, 6, 5."""
    assert chosen(general="difference") == [1, 2, 3]


@pytest.mark.parametrize("general", ["vote", "difference"])
def test_a_density_keeps_the_least_general_base_neurons(general):
    assert [chosen(general=general, density=k / 8) for k in (1, 2, 3)] == [[3], [2, 3], [1, 2, 3]]
    assert chosen(general=general, density=0.5) == chosen(general=general, density=1.0) == [0, 1, 2, 3]


def test_shuffled_masks_keep_the_count_of_each_projection():
    masks = {"p": torch.arange(400).view(20, 20) < 40, "q": torch.arange(100).view(10, 10) < 50}
    one, two = (shuffled(masks, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert {name: int(mask.sum()) for name, mask in one.items()} == {"p": 40, "q": 50}
    assert 5 < int((one["q"] & two["q"]).sum()) < 45 and not torch.equal(one["p"], masks["p"])


# --- a choice by sorting ---------------------------------------------------------------------------------------------


def numbers(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Linear:
    """A model whose loss of a batch is linear in its weights, so that the gradient (out, in) is what the batch says."""

    def __init__(self):
        self.base = {"p": numbers(3, 4, seed=1), "q": numbers(2, 4, seed=2)}
        self.own = [self.batch(k) for k in range(3)]
        self.shown = [[self.batch(10 * group + k) for k in (0, 1)] for group in range(1, 6)]
        self.weights, self.asked = None, []

    def batch(self, seed):
        return {name: numbers(*weight.shape, seed=100 * len(weight) + seed) for name, weight in self.base.items()}

    @contextmanager
    def laid(self, delta):
        changed = {name: w + delta[name].matrix() if name in delta else w.clone() for name, w in self.base.items()}
        self.weights = {name: weight.requires_grad_() for name, weight in changed.items()}
        yield
        self.weights = None

    def weight(self, name):
        return self.weights[name].detach()

    def general(self, count, copies):
        self.asked.append((count, copies))
        return self.shown

    def batches(self, *wanted):
        self.asked.append(wanted)
        return self.own

    def loss(self, batch):
        return sum((batch[name] * weight).sum() for name, weight in self.weights.items())

    def gradients(self, loss):
        return dict(zip(self.weights, torch.autograd.grad(loss(), list(self.weights.values())), strict=True))

    def input_norms(self, batch):
        return {name: rows.square().sum(dim=0).sqrt() for name, rows in batch.items()}


def ranked(choice, weights, batches):
    """(projection, row, column) -> mean score; rows and columns by their means, and then at 0."""
    kinds = {
        "fisher": lambda w, x: x**2,
        "saliency": lambda w, x: abs(w * x),
        "wanda": lambda w, x: abs(w) * np.sqrt((x**2).sum(axis=0)),
    }
    found = {}
    for name, weight in weights.items():
        score = np.mean([kinds[choice.importance](weight, one[name].double().numpy()) for one in batches], axis=0)
        axis = {"element": None, "row": 1, "col": 0}[choice.granularity]
        score = score if axis is None else score.mean(axis=axis, keepdims=True)
        found |= {(name, *place): value for place, value in np.ndenumerate(score)}
    return found


def highest(choice, scores):
    """The places in the top share of those that they are ranked with."""
    rivals = {}
    for name, row, column in scores:
        by_row = choice.among == "row" and choice.granularity != "row"
        kind = "all" if choice.among == "all" else (name, row if by_row else 0)
        rivals.setdefault(kind, []).append((name, row, column))
    tops = [
        sorted(places, key=scores.get)[::-1][: round(choice.base_share * len(places))] for places in rivals.values()
    ]
    return {place for top in tops for place in top}


def by_sorting(choice, weights, model):
    """Base neurons and the concept neurons among them."""
    own, *prompts = (ranked(choice, weights, batches) for batches in (model.own, *model.shown))
    base, tops = highest(choice, own), [highest(choice, one) for one in prompts]
    if choice.general == "vote":
        special = {place: choice.vote - sum(place in top for top in tops) / len(tops) for place in base}
    else:
        special = {place: own[place] - sum(one[place] for one in prompts) / len(prompts) for place in base}
    if choice.density is not None:
        return base, set(sorted(base, key=special.get)[::-1][: int(choice.density * len(own))])
    return base, {place for place in base if special[place] > 0}


@pytest.mark.parametrize("entries", ["chosen", "random"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"importance": "saliency", "among": "row", "vote": 0.7},
        {"importance": "wanda", "among": "all", "base_share": 0.55},
        {"granularity": "row", "general": "difference", "base_share": 0.7},
        {"importance": "saliency", "granularity": "col", "among": "row", "general": "difference"},
        {"importance": "wanda", "general": "difference", "density": 0.17},
        {"base_share": 0.04, "among": "all", "vote": 1.0},
        {"base_share": 0.0},
    ],
)
def test_a_start_selects_what_sorting_finds(how, entries):
    """On base and past; the notes tell which share of the base neurons is general; at random: as many, shuffled."""
    choice, model = replace(CHOICE, **how), Linear()
    past = Memory().with_delta(Delta({"p": Change.full(numbers(3, 4, seed=3))}))
    shapes = {"p": (3, 4), "q": (2, 4)}
    adapter = Adapter(neurons("attention").weights(shapes, torch.device("cpu")))
    draws = {("random entries", 2): torch.Generator().manual_seed(7)}
    context = SimpleNamespace(lesson=2, model=model, generator=lambda *owner: draws[owner])
    under = concept_neurons(choice, entries)(adapter, past, context)
    assert under.digest == past.delta().digest and sorted(model.asked, key=len) == [(16, 4), ("importance", 32, 1)]
    weights = {name: weight.double().numpy() for name, weight in model.base.items()}
    base, kept = by_sorting(choice, weights | {"p": weights["p"] + past.delta()["p"].matrix().numpy()}, model)
    again = torch.Generator().manual_seed(7)
    for name, (out, into) in shapes.items():
        wanted = np.zeros((out, into), bool)
        for projection, row, column in kept:
            if projection == name:
                wanted[{"element": (row, column), "row": row, "col": (slice(None), column)}[choice.granularity]] = True
        order = torch.randperm(out * into, generator=again).numpy() if entries == "random" else slice(None)
        assert adapter.weights.index[name].tolist() == wanted.flatten()[order].nonzero()[0].tolist()
    general = len(base - kept) / len(base) if base else 1.0
    assert adapter.weights.notes == {"general": float(f"{general:.6f}")}


def test_facts_of_a_first_choice_of_one_entry_and_of_none():
    """Of 7 entries the past has moved 3; shares in millionths."""
    past = Memory().with_delta(Delta({"p": Change.full(torch.tensor([[1.0, 0, 2, 0, 0, 3, 0]]))}))
    for place, again in ((2, 1.0), (3, 0.0), (None, 0.0)):
        weights = neurons("cross_kv").weights({"p": (1, 7)}, torch.device("cpu"))
        weights.select({"p": torch.tensor([[k == place for k in range(7)]])})
        facts = shares(Adapter(weights), past, SimpleNamespace(concept="cat")).facts
        density = 0.0 if place is None else 0.142857
        assert facts == {"neurons": {"cat": {"density": density, "moved before": again, "moved of all": 0.428571}}}


# --- what a lesson moves ---------------------------------------------------------------------------------------------


def test_everything_selected_without_regulariser_is_full_fine_tuning(taught):
    choice = replace(CHOICE, base_share=1.0, density=1.0)
    selected = Method(neurons("cross_kv"), concept_neurons(choice, "chosen"), guard.nothing, add)
    full = Method(neurons("cross_kv"), everything, guard.nothing, add)
    one, two = taught(selected, 1).delta(), taught(full, 1).delta()
    assert one.keys() == two.keys() and len(one) > 0
    for name in one:
        torch.testing.assert_close(one[name].matrix(), two[name].matrix())


@pytest.mark.parametrize("kind", ["fisher", "saliency", "wanda"])
@pytest.mark.parametrize("granularity", ["element", "row", "col"])
@pytest.mark.parametrize("entries", ["chosen", "random"])
def test_nothing_moves_outside_the_neurons(kind, granularity, entries, taught):
    """Gradients outside are exactly zero, and so are the optimiser's updates, weight decay included."""
    options = {"importance": kind, "granularity": granularity, "base_share": 0.3, "density": 0.1, "entries": entries}
    chosen, masks = method.get("cns", options), {}

    def start(adapter, memory, context):
        under = chosen.start(adapter, memory, context)
        for name, index in adapter.weights.index.items():
            shape = adapter.weights.shapes[name]
            masks[name] = torch.zeros(shape).flatten().index_fill(0, index, 1).view(shape).bool()
        return under

    memory = taught(replace(chosen, start=start), 1)
    count = sum(int(mask.sum()) for mask in masks.values())
    matrices = {name: change.matrix() for name, change in memory.delta().items()}
    assert all((matrix[~masks[name]] == 0).all() for name, matrix in matrices.items())
    assert 0 < sum(int((matrix != 0).sum()) for matrix in matrices.values()) <= count
    size = sum(mask.numel() for mask in masks.values())
    assert memory.facts["neurons"]["dog"]["density"] == pytest.approx(count / size, abs=1e-6)
    if granularity == "row" and entries == "chosen":
        assert all((m.all(dim=1) | ~m.any(dim=1)).all() for m in masks.values())


def test_facts_of_the_choice_are_counted_from_what_moved(taught):
    """In lesson 2: what lesson 1 had moved of the chosen entries, beside what it had moved of all."""
    chosen, kept = method.get("cns", {"base_share": 0.5, "entries": "random"}), {}

    def start(adapter, memory, context):
        under = chosen.start(adapter, memory, context)
        for name, index in adapter.weights.index.items():
            old = memory.delta()[name].matrix() if name in memory.delta() else torch.zeros(adapter.weights.shapes[name])
            kept.setdefault(context.lesson, []).append((old.flatten()[index] != 0, old != 0))
        return under

    facts = taught(replace(chosen, start=start)).facts["neurons"]
    assert (facts["dog"]["moved before"], facts["dog"]["moved of all"]) == (0, 0)
    again, before = (torch.cat([pair[k].flatten() for pair in kept[2]]).float().mean() for k in (0, 1))
    assert facts["cat"]["moved before"] == pytest.approx(float(again), abs=1e-6)
    assert facts["cat"]["moved of all"] == pytest.approx(float(before), abs=1e-6) and before > 0.1
    assert all(facts[name]["density"] == pytest.approx(0.5 * (1 - facts[name]["general"]), abs=0.02) for name in facts)
