"""Every method keeps the same promises. The methods are found by listing the folder: a new file is tested by itself."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import torch

from perdure import memory as memories
from perdure import method, plan, plugins
from perdure.analysis.updates import Shelf, Stored
from perdure.bases import loading
from perdure.drawing import sample
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.method import Wanted
from perdure.photos import pictures
from perdure.plan import catalogue


@pytest.fixture(autouse=True)
def _of_concepts(request):
    """Methods for classes only are held to this in test_classes_contract.py."""
    name = request.node.callspec.params.get("a_method", "") if hasattr(request.node, "callspec") else ""
    if name and catalogue.card(name).needs == "classes" and request.module is sys.modules[__name__]:
        pytest.skip("for classes only")


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


@dataclass
class Seen:
    """What was to be seen while a method's lessons were taught."""

    untouched: bool = True
    """Whether the base's weights are as they were."""
    parts: dict[tuple[int, int], Mapping[str, float]] = field(default_factory=dict)
    """(lesson, step) -> what the loss was the sum of."""
    adapters: list[list[torch.Tensor]] = field(default_factory=list)
    """Of each lesson: the trained matrices, and the change of each projection."""
    spoilt: list[str] = field(default_factory=list)
    """Globals that changed."""


SEEN: dict[str, Seen] = {}


@cache
def taught(backbone, a_method, text):
    """The memories after each lesson, in one process; the first is empty."""
    before = {key: tensor.clone() for key, tensor in backbone.network.state_dict().items()}
    chosen, made, chain = method.get(a_method), plan.build(json.loads(text)), [Memory()]
    seen, held = SEEN.setdefault(a_method, Seen()), held_by(a_method)

    def remember(adapter, memory, context):
        matrices = [p for p in adapter.weights.named().values() if p.ndim == 2]
        matrices += [adapter.weights.change(name) for name in adapter.weights.projections]
        seen.adapters.append([matrix.detach().clone() for matrix in matrices])
        return chosen.consolidate.remember(adapter, memory, context)

    watched = replace(chosen, consolidate=replace(chosen.consolidate, remember=remember))
    for number, concept in enumerate(made.concepts, start=1):
        encoded = examples.encode(backbone, pictures.of(concept).training, made.training, made.seed, concept.name)
        lesson = Lesson(concept.name, number, encoded, concept.token, concept.noun, concept.phrase)

        def watch(done, number=number):
            seen.parts[number, done.step] = done.parts

        chain.append(learn(backbone, watched, chain[-1], lesson, made, watch))
    after, now = backbone.network.state_dict(), held_by(a_method)
    seen.untouched &= before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    seen.spoilt += [name for name in {**held, **now} if held.get(name) != now.get(name)]
    return chain


def held_by(a_method):
    """What the globals of a method's file, and of the parts, hold: name -> a value that can be compared."""
    own = plugins.load(plugins.find(plugins.METHOD, a_method))
    modules = [own, *(module for name, module in sys.modules.items() if name.startswith("perdure.parts"))]
    return {
        f"{name} of {module.__file__}": compared(value)
        for module in modules
        for name, value in vars(module).items()
        if not name.startswith("__") and not isinstance(value, ModuleType)
    }


def compared(value):
    """A value's content; of functions and classes, what is written on them."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().numpy().tobytes()
    if isinstance(value, torch.Generator):
        return compared(value.get_state())
    if isinstance(value, Mapping):
        return {repr(key): compared(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [compared(inner) for inner in value]
    if isinstance(value, FunctionType | type):
        return {k: compared(v) for k, v in vars(value).items() if not k.startswith("__") and not callable(v)}
    return repr(value)


def test_only_the_memory_is_carried(a_method, backbone, plan_data, tmp_path, fresh):
    """Lessons each in a fresh process, with only the memory's files between them, give the same bits as one process."""
    chain = taught(backbone, a_method, json.dumps(plan_data))
    before = ""
    for number in (1, 2):
        after = str(tmp_path / f"{number}.json")
        fresh("lesson", plan_data, number, a_method, before, after, str(tmp_path / "store"))
        alone = memories.load(tmp_path / f"{number}.json", tmp_path / "store").digest
        kept = ", ".join(SEEN[a_method].spoilt) or "a cache, an attribute, or a random number without an owner"
        assert alone == chain[number].digest, f"lesson {number} has more to go by than the memory: {kept}"
        before = after


def test_globals_are_left_alone(a_method, backbone, plan_data):
    taught(backbone, a_method, json.dumps(plan_data))
    spoilt = SEEN[a_method].spoilt
    assert not spoilt, (
        f"changed while lessons were learnt: {', '.join(spoilt)}; what is to be kept goes into the memory"
    )


def test_penalties_are_prices(a_method, backbone, plan_data):
    """What a guard adds to the loss is finite and never a reward, in the second and third lesson too."""
    taught(backbone, a_method, json.dumps(plan_data))
    assert {lesson for lesson, _ in SEEN[a_method].parts} == {1, 2, 3}
    for (lesson, step), parts in SEEN[a_method].parts.items():
        for name, part in parts.items():
            told = f"{name!r} is {part} in lesson {lesson}, step {step}: a penalty is at least 0, or it rewards harm"
            assert math.isfinite(part) and part >= 0, told


def test_a_strict_method_keeps_no_past_adapter(a_method, backbone, plan_data):
    """Beside the one model that is carried there are neither matrices nor changes of an earlier lesson's adapter."""
    chain = taught(backbone, a_method, json.dumps(plan_data))
    if not method.get(a_method).consolidate.strict:
        return
    for lesson in (2, 3):
        beside = {k: t for k, t in chain[lesson].tensors.items() if not k.startswith(("delta/", "words/"))}
        for past, matrices in enumerate(SEEN[a_method].adapters[: lesson - 1], start=1):
            for name, tensor in beside.items():
                told = (
                    f"{name!r} after lesson {lesson} holds an adapter of lesson {past}; say strict=False, or keep less"
                )
                assert not any(holds(tensor, matrix) for matrix in matrices), told


def holds(tensor, matrix):
    """Whether a matrix stands in a tensor: all of it in a row, or each of its rows (or columns), at whatever scale."""
    flat, wanted = tensor.float().flatten(), matrix.float().flatten()
    if not wanted.any():
        return False
    starts = (flat == wanted[0]).nonzero().flatten().tolist()
    if any(torch.equal(flat[start : start + len(wanted)], wanted) for start in starts):
        return True
    return tensor.ndim == 2 and any(
        rows_in(each.float(), own.float()) for each, own in ((tensor, matrix), (tensor.T, matrix.T))
    )


def rows_in(tensor, matrix):
    own = matrix[matrix.any(dim=1)]
    if tensor.shape[1] != own.shape[1] or own.shape[1] < 2 or len(own) < 2 or len(tensor) < len(own):
        return False
    alike = torch.nn.functional.normalize(own, dim=1) @ torch.nn.functional.normalize(tensor, dim=1).T
    return bool((alike.abs().amax(dim=1) > 1 - 1e-6).all())


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
                twice.tensors[key], tensor, atol=1e-4, rtol=1e-3,
                msg=lambda m, key=key: f"{key}: computed again, something draws other random numbers: {m}",
            )  # fmt: skip


def test_base_is_untouched_and_the_lesson_leaves_no_trace(a_method, backbone, plan_data):
    chain = taught(backbone, a_method, json.dumps(plan_data))
    assert SEEN[a_method].untouched
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
    """Nothing is in the memory but what the method says; of a strict one, nothing but words has a concept's name."""
    consolidate = method.get(a_method).consolidate
    memory = taught(backbone, a_method, json.dumps(plan_data))[-1]
    assert memory.bytes_by_name().keys() - {"words"} == consolidate.carries
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


# --- the contract bites ----------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
ONCE = """

def once(adapter, memory, context):
    drawn = context.generator("noise")

    def begin(number):
        masked(adapter).state.noise = lambda projection: drawn

    return Protection(begin=begin)


def METHOD("""
SPOILT = {
    "wrong sign": ("examples/o_lora.py", {"return weight *": "return -weight *"}),
    "stacked": ("examples/o_lora.py", {"strict=False": "strict=True"}),
    "globals": ("examples/o_lora.py", {
        "\n\n\ndef orthogonal": "\n\nCOUNT = []\n\n\ndef orthogonal",
        "        def penalty(step": "        COUNT.append(len(past))\n\n        def penalty(step",
    }),
    "noise": ("perdure/methods/stamina.py", {
        "import Method,": "import Method, Protection,", "import masked_lora": "import masked, masked_lora",
        "\n\ndef METHOD(": ONCE, "annealed_masks(tau),": "annealed_masks(tau), once,",
    }),
}  # fmt: skip
"""What is a method of perdure's, or an example, and how it is spoilt."""
TOLD = {
    "wrong sign": (test_penalties_are_prices, "'orthogonal' is -.*: a penalty is at least 0"),
    "stacked": (test_a_strict_method_keeps_no_past_adapter, "'rows/.* after lesson 2 holds an adapter of lesson 1"),
    "globals": (test_globals_are_left_alone, "COUNT of .*goes into the memory"),
    "noise": (test_computing_activations_twice_changes_nothing, "draws other random numbers"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_method_is_found(how, backbone, plan_data, tmp_path):
    """Each of these mistakes is told by the test that is for it, and the method without it passes that test."""
    (file, changes), (test, told) = SPOILT[how], TOLD[how]
    text = (ROOT / file).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "spoilt.py"
    path.write_text(text)
    test(str(ROOT / file), backbone, plan_data)
    with pytest.raises(AssertionError, match=told):
        test(str(path), backbone, plan_data)
