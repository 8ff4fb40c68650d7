"""Concept neurons: scores beside plain diffusers and autograd, masks by hand, and what a lesson moves."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from perdure import method
from perdure.bases import loading
from perdure.method import Method
from perdure.parts import guard
from perdure.parts import neurons as chosen_by
from perdure.parts.adapter import neurons
from perdure.parts.consolidate import add
from perdure.parts.neurons import CALIBRATION, NOISES, SAMPLES, Choice, concept_masks, concept_neurons, shuffled
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
