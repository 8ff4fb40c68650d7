"""Lessons by compiled code: those of plain steps, compiled once, and refused where they cannot be."""

import pytest
import tiny
import torch
from conftest import planned
from test_train import NAIVE, pictures, training
from torch._dynamo.utils import counters
from torch.nn import Parameter

from perdure import method, plan, run
from perdure.bases import engines, loading
from perdure.errors import ModelError, PlanError
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.parts.adapter import LowRank
from perdure.plan import Performance, Training, catalogue

APART = 1e-3
"""Of what a lesson moves, after six steps: how far compiled steps may lead away from plain ones."""
KEY = "performance.compile_training: "
LEAVE = "; take compile_training: false"


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """Traced and derived as for the compiler of C++, which need not be there; forgotten before and after."""
    monkeypatch.setattr(engines, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    """How many were compiled since the test began."""
    return counters["stats"]["unique_graphs"]


def loaded(folder, compiled=True):
    return loading.load(str(folder), device="cpu", performance=Performance(compile_training=compiled))


def lesson_of(backbone, name="dog", number=1, **how):
    encoded = examples.encode(backbone, pictures(), training(**how), 0, name)
    return Lesson(name, number, encoded, "zwz", name, f"zwz {name}")


def three(backbone, chosen, **how):
    """The change after three lessons, and how many graphs there were after each."""
    memory, seen = Memory(), []
    backbone.gradient_checkpointing(how.get("gradient_checkpointing", False))
    for number, name in enumerate(("dog", "cat", "clock"), start=1):
        memory = learn(backbone, chosen, memory, lesson_of(backbone, name, number, **how), planned(training(**how)))
        seen.append(graphs())
    return memory.delta(), seen


def assert_close(found, expected):
    assert found.keys() == expected.keys() and len(found)
    for name, change in expected.items():
        wanted = change.matrix()
        assert (found[name].matrix() - wanted).norm() < APART * wanted.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("names", [("merge_init", "naive", "orthogonal_adaptation"), ("c_lora",)], ids="+".join)
def test_three_lessons_are_those_of_plain_steps_by_the_code_of_the_first(pico, names):
    """Layers of a new adapter, the moved base below, another prompt's word and method are inputs of the same code."""
    plain, compiled = loaded(pico, compiled=False), loaded(pico)
    for name in names:
        chosen = method.get(name, {"rank": 2})
        expected, before = three(plain, chosen)
        found, seen = three(compiled, chosen)
        assert before == [0 if name == names[0] else 1] * 3 and seen == [1, 1, 1]
        assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lwf", "replay"])
def test_what_is_rehearsed_has_code_of_its_own_size_at_most(pico, name):
    """More is predicted from the second lesson on; what needs no gradients is predicted by plain torch."""
    chosen = method.get(name, {"rank": 2})
    expected, _ = three(loaded(pico, compiled=False), chosen)
    found, seen = three(loaded(pico), chosen)
    assert seen[0] == 1 and seen[1] == seen[2] <= 2
    assert_close(found, expected)


@pytest.mark.slow
def test_activations_are_recomputed_by_compiled_code_too(pico):
    expected, _ = three(loaded(pico, compiled=False), NAIVE)
    found, seen = three(loaded(pico), NAIVE, gradient_checkpointing=True)
    assert seen == [1, 1, 1]
    assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "count"), [("sd", 1), ("flux2_klein", 3)])
def test_gradients_are_those_of_merged_weights(base, count, pico, tmp_path):
    """Beside the network of the file with W + B A in the place of each W, to 1 in 10,000 of each gradient's norm.

    A transformer has code for each of its two kinds of block, and for the first, into which no gradient goes on.
    """
    folder = pico if base == "sd" else tiny.saved(getattr(tiny, base), tmp_path / "base")
    backbone, other = loaded(folder), loaded(folder, compiled=False)
    shapes, generator = backbone.projections("attention"), torch.Generator().manual_seed(0)
    weights = LowRank({
        name: tuple(Parameter(0.1 * torch.randn(shape, generator=generator)) for shape in ((2, i), (o, 2)))
        for name, (o, i) in shapes.items()
    })  # fmt: skip
    parts = weights.named()
    batch = lesson_of(backbone).examples.batch(backbone, 2, lambda *at: torch.Generator().manual_seed(0), 0)
    with backbone.attached(weights), backbone.training(torch.optim.SGD(list(parts.values()), lr=0.0)):
        backbone.loss(batch).backward()
    assert graphs() == count
    for name in shapes:
        layer = other.network.get_submodule(name)
        merged = layer.weight.detach() + weights.change(name)
        del layer.weight
        layer.weight = merged
    wanted = torch.autograd.grad(other.loss(batch), list(parts.values()))
    for (name, part), gradient in zip(parts.items(), wanted, strict=True):
        assert gradient.norm() > 0 and (part.grad - gradient).norm() < 1e-4 * gradient.norm(), name


@pytest.mark.slow
def test_a_lesson_that_was_stopped_goes_on_to_the_same_bits_by_code_made_anew(pico, tmp_path):
    backbone, path, how = loaded(pico), tmp_path / "checkpoint.safetensors", planned(training(checkpoint_every=2))
    lesson = lesson_of(backbone)
    whole = learn(backbone, NAIVE, Memory(), lesson, how)

    def stop(done):
        if done.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(backbone, NAIVE, Memory(), lesson, how, stop, path)
    assert not any("forward" in vars(module) for module in backbone.network.modules()) and graphs() == 1
    torch._dynamo.reset()
    assert learn(loaded(pico), NAIVE, Memory(), lesson, how, checkpoint=path).digest == whole.digest
    assert graphs() == 2


@pytest.mark.slow
def test_a_record_says_that_its_lesson_was_compiled(plan_data, tmp_path):
    data = {**plan_data, "methods": [{"name": "naive", "rank": 2}], "concepts": plan_data["concepts"][:1]}
    data |= {"performance": {"compile_training": True}, "training": {**data["training"], "steps": 1}}
    (line,) = run.run(plan.build(data), tmp_path / "compiled", device="cpu")
    (plain,) = run.run(plan.build({**data, "performance": {}}), tmp_path / "plain", device="cpu")
    assert [one.lessons[0].record["compiled"] for one in (line, plain)] == [True, False] and graphs() == 1
    assert line.facts["fingerprint"] == plain.facts["fingerprint"]


# --- what cannot be compiled ------------------------------------------------------------------------------------------

HANGS = "{} trains what hangs on layers, where compiled code would not see it change; `adapter: lora` can be compiled"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": ["naive", "cns"]}, HANGS.format("cns")),
        ({"methods": ["stamina"]}, HANGS.format("stamina")),
        ({"precision": "bf16"}, "steps are compiled in fp32, where a memory lies in the weights, not in bf16"),
        ({"base_precision": "nf4"}, "a base in nf4 is not compiled"),
        ({"buckets": 8}, "code is made for each size of picture, and training.buckets has many"),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_compiled_is_refused_in_a_sentence(plan_data, changes, told):
    data = {**plan_data, "methods": changes.pop("methods", ["naive"])}
    data["training"] = {**plan_data["training"], **changes}
    plan.build(data)
    with pytest.raises(PlanError) as refused:
        plan.build({**data, "performance": {"compile_training": True}})
    assert KEY + told + LEAVE in str(refused.value)


def test_a_classifier_and_a_base_that_is_moved_as_it_runs_are_not_compiled():
    card = catalogue.card("naive")
    found = Performance(compile_training=True).unfit("classification", Training(), card)
    assert found == [f"{KEY}a classifier is taught by plain steps only{LEAVE}"]
    found = Performance(compile_training=True, offload="blocks").unfit(None, Training(), card)
    assert found == [f"{KEY}performance.offload moves weights that compiled code takes for granted{LEAVE}"]


def test_what_hangs_on_layers_is_no_part_of_compiled_code(pico):
    backbone = loaded(pico)
    handle = backbone.network.conv_in.register_forward_hook(lambda *seen: None)
    with pytest.raises(ModelError, match=f"{KEY}something hangs on the layers of this base"):
        learn(backbone, NAIVE, Memory(), lesson_of(backbone), planned(training()))
    handle.remove()


def test_code_that_cannot_be_made_is_told_in_a_sentence(pico, monkeypatch):
    """By a backend that fails as the compiler of C++ does where there is none, and one that fails otherwise."""
    from torch._inductor.exc import InvalidCxxCompiler

    for error, told in (
        (InvalidCxxCompiler(), "torch finds no C++ compiler"),
        (ValueError("no such"), "ValueError: no such"),
    ):

        def failing(graph, inputs, error=error):
            raise error

        monkeypatch.setattr(engines, "BACKEND", failing)
        backbone = loaded(pico)
        with pytest.raises(ModelError) as refused:
            learn(backbone, NAIVE, Memory(), lesson_of(backbone), planned(training()))
        assert str(refused.value) == (
            f"performance: this base cannot be compiled here ({told}); take compile: false and compile_training: false"
        )
