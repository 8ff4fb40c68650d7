"""Every method keeps the same promises. The methods are found by listing the folder: a new file is tested by itself."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from perdure import memory as memories
from perdure import method, plan
from perdure.analysis.updates import Shelf, Stored
from perdure.bases import loading
from perdure.drawing import sample
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.method import Wanted
from perdure.photos import pictures
from perdure.plan import catalogue


@pytest.fixture(scope="module")
def fresh():
    """(job of tests/fresh.py, its arguments) -> done in a fresh process."""
    command = [sys.executable, str(Path(__file__).parent / "fresh.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:

        def do_there(job, *arguments):
            parent.stdin.write(json.dumps([job, arguments]) + "\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == "done\n"

        yield do_there
        parent.stdin.close()


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


UNTOUCHED: dict[str, bool] = {}
"""Method -> whether its lessons left the base's weights as they were."""


@cache
def taught(backbone, a_method, text):
    """The memories after each lesson, in one process; the first is empty."""
    before = {key: tensor.clone() for key, tensor in backbone.network.state_dict().items()}
    made = plan.build(json.loads(text))
    chain = [Memory()]
    for number, concept in enumerate(made.concepts, start=1):
        encoded = examples.encode(backbone, pictures.of(concept).training, made.training, made.seed, concept.name)
        lesson = Lesson(concept.name, number, encoded, concept.token, concept.noun, concept.phrase)
        chain.append(learn(backbone, method.get(a_method), chain[-1], lesson, made))
    after = backbone.network.state_dict()
    UNTOUCHED[a_method] = before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    return chain


def test_only_the_memory_is_carried(a_method, backbone, plan_data, tmp_path, fresh):
    """Lessons each in a fresh process, with only the memory's files between them, give the same bits as one process."""
    chain = taught(backbone, a_method, json.dumps(plan_data))
    before = ""
    for number in (1, 2):
        after = str(tmp_path / f"{number}.json")
        fresh("lesson", plan_data, number, a_method, before, after, str(tmp_path / "store"))
        assert memories.load(tmp_path / f"{number}.json", tmp_path / "store").digest == chain[number].digest
        before = after


def test_computing_activations_twice_changes_nothing(a_method, backbone, plan_data):
    """Under gradient checkpointing a forward runs again in the backward pass: what it draws must be drawn again."""
    chain = taught(backbone, a_method, json.dumps(plan_data))
    backbone.gradient_checkpointing(True)
    try:
        again = taught.__wrapped__(backbone, a_method, json.dumps(plan_data))
    finally:
        backbone.gradient_checkpointing(False)
    for once, twice in zip(chain[1:], again[1:], strict=True):
        assert once.tensors.keys() == twice.tensors.keys()
        for key, tensor in once.tensors.items():
            torch.testing.assert_close(
                twice.tensors[key], tensor, atol=1e-4, rtol=1e-3, msg=lambda m, key=key: f"{key}: {m}"
            )


def test_base_is_untouched_and_the_lesson_leaves_no_trace(a_method, backbone, plan_data):
    chain = taught(backbone, a_method, json.dumps(plan_data))
    assert UNTOUCHED[a_method]
    assert chain[1].nbytes > 0
    assert chain[1].digest != chain[3].digest


def test_recall_of_nothing_is_the_base(a_method):
    assert len(method.get(a_method).consolidate.recall(Memory(), Wanted("dog"))) == 0


def test_memory_round_trip_and_recall(a_method, backbone, plan_data, tmp_path):
    """A memory read back from disk recalls the same deltas, and every recalled projection is one of the base's."""
    last = taught(backbone, a_method, json.dumps(plan_data))[-1]
    memories.save(last, tmp_path / "memory.json", tmp_path / "store")
    read = memories.load(tmp_path / "memory.json", tmp_path / "store")
    assert read.digest == last.digest
    recall = method.get(a_method).consolidate.recall
    shapes = backbone.projections("attention")
    for concept in ("dog", "cat", "clock"):
        recalled, again = recall(last, Wanted(concept)), recall(read, Wanted(concept))
        assert recalled.keys() == again.keys() and len(recalled) > 0
        for projection, change in recalled.items():
            assert change.shape == shapes[projection]
            assert torch.equal(change.matrix(), again[projection].matrix())


def test_a_memory_on_disk_is_enough_to_draw(a_method, backbone, plan_data, tmp_path, fresh):
    """Read in a fresh process, recalled and drawn, a memory gives the pixels that it gives where it was made."""
    made = plan.build(plan_data)
    last = taught(backbone, a_method, json.dumps(plan_data))[-1]
    memories.save(last, tmp_path / "memory.json", tmp_path / "store")
    drawn = {}
    for concept in made.concepts[:2]:
        out = tmp_path / concept.name
        stored = str(tmp_path / "memory.json"), str(tmp_path / "store")
        fresh("drawing", plan_data, a_method, *stored, concept.name, str(out))
        images = sample.images(
            backbone, method.get(a_method), last, concept.name, made.prompts_for(concept), made.sampling, 32
        )  # fmt: skip
        drawn[concept.name] = b"".join(image.tobytes() for image in images)
        assert out.read_bytes() == drawn[concept.name] and len(images) == 4
    assert drawn["dog"] != drawn["cat"]


def test_recall_treats_each_projection_by_itself(a_method, backbone, plan_data, tmp_path):
    """What `perdure analyse` relies on: a memory cut down to one projection recalls that projection's change."""
    last = taught(backbone, a_method, json.dumps(plan_data))[-1]
    memories.save(last, tmp_path / "memory.json", tmp_path / "store")
    shelf = Shelf(tmp_path / "store")
    stored = Stored.at(tmp_path / "memory.json", shelf)
    recall = method.get(a_method).consolidate.recall
    whole = recall(last, Wanted("dog"))
    assert set(stored.places) == set(whole)
    for projection in list(whole)[:: max(1, len(whole) // 4)]:
        alone = recall(stored.slice(projection, shelf, {}), Wanted("dog"))
        assert list(alone) == [projection]
        assert torch.equal(alone[projection].matrix(), whole[projection].matrix())


def test_lesson_changes_what_the_model_draws(a_method, backbone, plan_data):
    made = plan.build(plan_data)
    memory = taught(backbone, a_method, json.dumps(plan_data))[1]
    encoded = examples.encode(backbone, pictures.of(made.concepts[0]).training, made.training, 0, "dog")
    batch = encoded.batch(backbone, 2, lambda purpose, step: torch.Generator().manual_seed(3), 0)
    with torch.no_grad():
        untouched = backbone.predict(batch)
        with sample.remembered(backbone, method.get(a_method), memory, "dog", "a photo of zwz dog"):
            changed = backbone.predict(backbone.reworded(batch, batch.captions))
    assert not torch.allclose(untouched, changed)
    assert torch.equal(untouched, backbone.predict(batch).detach())


def test_card_is_complete(a_method):
    card = catalogue.card(a_method)
    assert card.summary.endswith(".") and card.source
    assert all(option.problem(option.default) is None for option in card.options)


def test_method_carries_what_it_declares(a_method, backbone, plan_data):
    """Nothing is in the memory but what the method says; a strict method keeps neither past data nor past adapters."""
    consolidate = method.get(a_method).consolidate
    memory = taught(backbone, a_method, json.dumps(plan_data))[-1]
    assert memory.bytes_by_name().keys() - {"words"} == consolidate.carries
    assert not (consolidate.strict and consolidate.carries & {"own", "pool", "replay", "features", "max"})
    others = {concept.name for concept in plan.build(plan_data).concepts}
    if consolidate.strict:  # no tensor belongs to one concept alone, but for its word
        assert not any(
            part in others for key in memory.tensors for part in key.split("/") if not key.startswith("words/")
        )


def test_recall_needs_only_what_the_method_says_it_knows(a_method, backbone, plan_data):
    """A method that says it must be told nothing recalls the same whoever is meant."""
    consolidate = method.get(a_method).consolidate
    memory = taught(backbone, a_method, json.dumps(plan_data))[-1]
    one, two = (consolidate.recall(memory, Wanted(concept)) for concept in ("dog", "cat"))
    equal = all(torch.equal(one[p].matrix(), two[p].matrix()) for p in one)
    assert equal == (consolidate.knows == "nothing")
