"""What every method promises holds for lessons of a classifier too: all run on a ViT, or refuse by name."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from perdure import memory as memories
from perdure import method, plan, plugins
from perdure.bases import classifier
from perdure.errors import PlanError, TrainingError
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.method import Wanted
from perdure.parts import head
from perdure.photos import pictures
from perdure.plan import catalogue
from tests.test_methods_contract import held_by, holds

LESSONS = 3


@pytest.fixture(scope="module")
def vit(pico_vit):
    return classifier.load(str(pico_vit), device=torch.device("cpu"))


def lesson_of(vit, made, number):
    concept = made.concepts[number - 1]
    own = examples.encode_classes(vit, pictures.of(concept).training, made.training)
    return Lesson(concept.name, number, own, classes={concept.name: concept.classes})


@cache
def taught(vit, a_method, text):
    """(memories after each lesson, the first empty; what each lesson trained; what each step's loss was the sum of)."""
    chosen, made = method.get(a_method), plan.build(json.loads(text))
    chain, adapters, parts = [Memory()], [], {}

    def remember(adapter, memory, context):
        matrices = [p for p in adapter.weights.named().values() if p.ndim == 2]
        matrices += [adapter.weights.change(name) for name in adapter.weights.projections]
        adapters.append([matrix.detach().clone() for matrix in matrices])
        return chosen.consolidate.remember(adapter, memory, context)

    watched = replace(chosen, consolidate=replace(chosen.consolidate, remember=remember))
    for number in range(1, LESSONS + 1):

        def watch(done, number=number):
            parts[number, done.step] = done.parts

        chain.append(learn(vit, watched, chain[-1], lesson_of(vit, made, number), made, watch))
    return chain, adapters, parts


@pytest.fixture
def ran(vit, a_method, class_plan):
    """As `taught`; a method that needs prompts is left to the test of refusals."""
    if catalogue.card(a_method).needs == "prompts":
        pytest.skip("refuses by name")
    return taught(vit, a_method, json.dumps({**class_plan, "methods": [a_method]}))


def test_a_method_that_needs_prompts_says_so(a_method, vit, class_plan):
    """In the plan, before anything is loaded; and in the lesson, whoever brings it there."""
    needs = catalogue.card(a_method).needs
    if needs != "prompts":
        assert plan.build({**class_plan, "methods": [a_method]}).methods[0].name
        return
    with pytest.raises(PlanError, match=rf"method '{a_method}' needs prompts, .*; leave it out$"):
        plan.build({**class_plan, "methods": [a_method]})
    if a_method == "dsc":
        return  # it would only find every prompt as good as another
    made = plan.build(class_plan)
    with pytest.raises(TrainingError, match="'merge_init' asks for prompts"):
        memory = Memory()
        for number in (1, 2):
            memory = learn(vit, method.get(a_method), memory, lesson_of(vit, made, number), made)


def test_a_method_for_classes_refuses_concepts(a_method, plan_data):
    if catalogue.card(a_method).needs == "classes":
        with pytest.raises(PlanError, match=f"method '{a_method}' is for classes; .*task: classification"):
            plan.build({**plan_data, "methods": [a_method]})


def test_only_the_memory_is_carried(ran, a_method, class_plan, tmp_path, fresh):
    """Lessons each in a fresh process, with only the memory's files between them, give the same bits as one process."""
    before = ""
    for number in (1, 2):
        after = str(tmp_path / f"{number}.json")
        data = {**class_plan, "methods": [a_method]}
        fresh("class_lesson", data, number, a_method, before, after, str(tmp_path / "store"))
        alone = memories.load(Path(after), tmp_path / "store").digest
        assert alone == ran[0][number].digest
        before = after


def test_penalties_are_prices(ran):
    for (lesson, step), parts in ran[2].items():
        assert all(part >= 0 for part in parts.values()), (lesson, step, parts)
        assert next(iter(parts)) == "cross_entropy"


def test_what_is_declared_is_carried_and_no_past_adapter_beside(ran, a_method):
    chain, adapters, _ = ran
    rules = method.get(a_method).consolidate
    assert chain[-1].bytes_by_name().keys() - {"heads"} == rules.carries
    assert ("heads" in chain[-1].bytes_by_name()) == method.get(a_method).adapter.head
    if not rules.strict:
        return
    beside = {k: t for k, t in chain[-1].tensors.items() if not k.startswith(("delta/", "heads/"))}
    assert not any("task-" in key for key in beside)
    for past in adapters[:-1]:
        assert not any(holds(tensor, matrix) for tensor in beside.values() for matrix in past)


def test_rows_of_past_tasks_stay_as_they_were(ran):
    chain = ran[0]
    for before, after in zip(chain[1:], chain[2:], strict=False):
        for key, tensor in before.under("heads").items():
            assert torch.equal(after.under("heads")[key], tensor)
    known = head.classes_of(chain[-1])
    assert list(known) == ["task-1", "task-2", "task-3"] and sum(map(len, known.values())) == 6


def test_every_class_can_be_predicted_and_the_base_is_untouched(ran, vit, a_method, class_plan, pico_vit):
    chosen, made = method.get(a_method), plan.build({**class_plan, "methods": [a_method]})
    untouched = classifier.load(str(pico_vit), device=torch.device("cpu")).network.state_dict()
    assert all(torch.equal(tensor, untouched[key]) for key, tensor in vit.network.state_dict().items())
    shown = vit.read(pictures.of(made.concepts[0]).references, made.training, test=True)
    recalled = chosen.consolidate.recall(ran[0][-1], Wanted("task-1"))
    with vit.laid(recalled):
        logits = head.classified(chosen, ran[0][-1], vit.all_features(shown, made.training), made.training.head)
    assert logits.shape == (6, 6) and logits.isfinite().all()
    assert len(recalled) > 0 or not chosen.adapter.head
    assert len(chosen.consolidate.recall(Memory(), Wanted("task-1"))) == 0


def test_globals_are_left_alone(ran, a_method, vit, class_plan):
    before = held_by(a_method)
    made = plan.build({**class_plan, "methods": [a_method]})
    learn(vit, method.get(a_method), ran[0][1], lesson_of(vit, made, 2), made)
    assert held_by(a_method) == before


def test_the_catalogue_says_who_needs_what():
    needs = {name: catalogue.card(name).needs for name in plugins.own(plugins.METHOD)}
    assert {name for name, need in needs.items() if need == "prompts"} == {
        "cidm", "custom_diffusion", "dsc", "generative_replay", "mix_of_show", "ziplora"
    }  # fmt: skip
    assert {name for name, need in needs.items() if need == "classes"} == {"class_means", "ranpac"}
