"""Optimizers, accumulated batches, previews: beside the libraries used by hand, and going on after a stop."""

import contextlib
import io
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import prodigyopt
import pytest
import schedulefree
import torch
from conftest import planned
from safetensors.torch import load_file, save_file
from test_train import Stop, pictures
from torch.utils._python_dispatch import TorchDispatchMode

from perdure import method, plan, run
from perdure.bases import loading
from perdure.errors import LineageError, PlanError, TrainingError
from perdure.files import read_json
from perdure.lesson import examples, optimizing, train
from perdure.lesson.optimizing import steps_done
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.method import Protection
from perdure.plan.training import Previews, Training

FREE = 1e9
"""A norm that no gradient has: nothing is clipped."""
OWN = {
    "adamw": {"learning_rate": 1e-2},
    "prodigy": {"learning_rate": 1.0, "schedule": "cosine", "warmup": 1},
    "schedule_free": {"learning_rate": 1e-2, "warmup": 2},
}


def training(**changes):
    return Training(**{"resolution": 32, "steps": 6, "batch_size": 2, "learning_rate": 1e-2, **changes})


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


@pytest.fixture(scope="module")
def lesson(backbone):
    return Lesson("dog", 1, examples.encode(backbone, pictures(), training(), 0, "dog"))


NAIVE = method.get("naive", {"rank": 2})


def spied(chosen):
    """A method, and what is seen of its lesson: parameters at the start, the gradient of each step, all at the end."""
    seen = {"start": [], "gradients": [], "end": []}

    def guard(adapter, memory, context):
        seen["start"] = [p.detach().clone() for p in adapter.parameters()]
        protection = chosen.guard(adapter, memory, context)

        def project():
            if protection.project:
                protection.project()
            seen["gradients"].append([p.grad.clone() for p in adapter.parameters()])

        return replace(protection, project=project)

    def remember(adapter, memory, context):
        seen["end"] = [p.detach().clone() for p in adapter.parameters()]
        return chosen.consolidate.remember(adapter, memory, context)

    return replace(chosen, guard=guard, consolidate=replace(chosen.consolidate, remember=remember)), seen


def by_hand(name, parameters, how):
    settings = {"betas": how.betas, "eps": how.epsilon, "weight_decay": how.weight_decay}
    with contextlib.redirect_stdout(io.StringIO()):
        if name == "prodigy":
            return prodigyopt.Prodigy(
                parameters, lr=1.0, use_bias_correction=True, safeguard_warmup=True, decouple=True, **settings
            )
    if name == "schedule_free":
        return schedulefree.AdamWScheduleFree(parameters, lr=1e-2, **settings)
    return torch.optim.AdamW(parameters, lr=1e-2, **settings)


@pytest.mark.parametrize("name", OWN)
def test_a_lesson_is_the_library_driven_by_hand(backbone, lesson, name):
    """The same gradients through the public optimizer; of Schedule-Free what its evaluation mode shows."""
    how = training(optimizer=name, max_grad_norm=FREE, weight_decay=0.1, **OWN[name])
    chosen, seen = spied(NAIVE)
    learn(backbone, chosen, Memory(), lesson, planned(how))
    parameters = [torch.nn.Parameter(p.clone()) for p in seen["start"]]
    optimizer = by_hand(name, parameters, how)
    if name == "schedule_free":
        optimizer.train()
    for step, gradients in enumerate(seen["gradients"]):
        optimizer.param_groups[0]["lr"] = optimizing.learning_rate(how, step)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    if name == "schedule_free":
        optimizer.eval()
    assert len(seen["gradients"]) == 6
    for own, expected in zip(seen["end"], parameters, strict=True):
        torch.testing.assert_close(own, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_lesson_goes_on_after_a_stop(backbone, lesson, tmp_path, name, accumulate):
    """With previews between, which leave no trace; in the second lesson as in the first, to the bit."""
    how = training(optimizer=name, accumulate=accumulate, checkpoint_every=2, preview=Previews(every=1), **OWN[name])
    memory = whole = Memory()
    for number, concept in enumerate(("dog", "cat"), start=1):
        own, path = replace(lesson, concept=concept, number=number), tmp_path / f"{concept}.safetensors"
        whole = learn(backbone, NAIVE, whole, own, planned(how.model_copy(update={"preview": None})))
        shown = []

        def watch(done):
            if done.step == 5:
                raise Stop

        with pytest.raises(Stop):
            learn(backbone, NAIVE, memory, own, planned(how), watch, path, shown.append)
        assert steps_done(path) == 4 and shown == [1, 2, 3, 4]
        memory = learn(backbone, NAIVE, memory, own, planned(how), checkpoint=path, preview=shown.append)
        assert memory.digest == whole.digest and shown == [1, 2, 3, 4, 5, 6]


def test_previews_show_what_would_be_kept(backbone, lesson):
    """Schedule-Free trains elsewhere than it keeps: a preview after the last step sees what is remembered."""
    how = training(optimizer="schedule_free", preview=Previews(every=3), learning_rate=0.1)
    held, seen = [], {}

    def guard(adapter, memory, context):
        held.extend(adapter.parameters())
        return Protection()

    chosen, spy = spied(replace(NAIVE, guard=guard))
    learn(
        backbone, chosen, Memory(), lesson, planned(how), preview=lambda n: seen.update({n: held[1].detach().clone()})
    )
    assert list(seen) == [3, 6] and torch.equal(seen[6], spy["end"][1])


def test_accumulated_batches_are_averaged(backbone, lesson):
    """Beside the gradients of the same batches one by one, at weights that do not move; and so are the losses told."""
    found, losses = {}, {}
    for count in (1, 3):
        chosen, seen = spied(NAIVE)
        told = losses[count] = []
        how = training(accumulate=count, steps=6 // count, learning_rate=1e-12, max_grad_norm=FREE, weight_decay=0)
        learn(backbone, chosen, Memory(), lesson, planned(how), lambda done, told=told: told.append(done.loss))
        found[count] = seen["gradients"]
    assert len(found[3]) == 2
    for step, gradients in enumerate(found[3]):
        singles = found[1][3 * step : 3 * step + 3]
        for k, gradient in enumerate(gradients):
            torch.testing.assert_close(gradient, sum(one[k] for one in singles) / 3, rtol=1e-4, atol=1e-8)
        assert losses[3][step] == pytest.approx(sum(losses[1][3 * step : 3 * step + 3]) / 3, rel=1e-5)


@pytest.mark.parametrize(("name", "library"), [("prodigy", "prodigyopt"), ("schedule_free", "schedulefree")])
def test_an_optimizer_without_its_library_is_refused(backbone, lesson, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TrainingError, match=rf"{name} needs {library}; pip install 'perdure\[{name}\]'"):
        learn(backbone, NAIVE, Memory(), lesson, planned(training(optimizer=name, **OWN[name])))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"optimizer": "prodigy", "learning_rate": 1e-4}, "prodigy multiplies the rate that it finds by it; give 1"),
        ({"optimizer": "prodigy", "learning_rate": 1, "word_learning_rate": 0.5}, "prodigy finds one rate for all"),
        ({"optimizer": "schedule_free", "schedule": "cosine"}, "schedule_free averages instead of lowering the rate"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(plan_data, settings, told):
    with pytest.raises(PlanError, match=told):
        plan.build({**plan_data, "training": {**plan_data["training"], **settings}})
    alone = {"name": "naive", "training": settings}
    with pytest.raises(PlanError, match=told):
        plan.build({**plan_data, "methods": ["merge_init", alone]})


# --- a step without waiting -------------------------------------------------------------------------------------------


class Counting(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.waits += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_a_device_that_works_ahead_is_not_waited_for(backbone, lesson, monkeypatch):
    """As on CUDA: a step is told one step later, nothing is asked of a tensor in between, and all is as before."""
    found = {}
    for behind in ((), ("cpu",)):
        monkeypatch.setattr(train, "BEHIND", behind)
        told = []
        memory = learn(backbone, NAIVE, Memory(), lesson, planned(training()), lambda d, told=told: told.append(d))
        found[behind] = memory.digest, told
    assert found[()] == found[("cpu",)] and [d.step for d in found[()][1]] == [1, 2, 3, 4, 5, 6]
    waits = {}
    for steps in (2, 6):
        with Counting() as counting:
            learn(backbone, NAIVE, Memory(), lesson, planned(training(steps=steps)))
        waits[steps] = counting.waits
    assert waits[2] == waits[6]


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_what_goes_wrong_ahead_is_told_of_its_step(backbone, lesson, monkeypatch, spoilt):
    monkeypatch.setattr(train, "BEHIND", ("cpu",))
    steps, real = [], backbone.error

    def guard(adapter, memory, context):
        def project():
            if spoilt == "gradient" and len(steps) == 1:
                adapter.parameters()[1].grad[0, 0] = torch.nan

        return Protection(project=project)

    def error(batch, predicted, min_snr):
        error.calls += 1
        return real(batch, predicted, min_snr) * (torch.nan if spoilt == "loss" and error.calls == 3 else 1)

    error.calls = 0
    monkeypatch.setattr(backbone, "error", error)
    with pytest.raises(TrainingError, match=r"lesson 1 \(dog\) diverged: .+; the memory is as it was"):
        learn(backbone, replace(NAIVE, guard=guard), Memory(), lesson, planned(training()), lambda d: steps.append(d))
    assert [d.step for d in steps] == [1, 2]


# --- a whole run ------------------------------------------------------------------------------------------------------


def test_previews_of_a_run(plan_data, tmp_path):
    """A picture of the concept every so many steps; the fingerprint and what is learnt are as without."""
    data = {**plan_data, "concepts": plan_data["concepts"][:2]}
    data["sampling"] = {**data["sampling"], "images_per_prompt": 1, "steps": 1}
    shown = {"every": 2, "prompts": ["a photo of {concept}", "{concept} in snow"], "images": 2}
    with_them = {**data, "training": {**data["training"], "preview": shown}}
    one, other = (plan.build(each) for each in (data, with_them))
    assert one.fingerprint() == other.fingerprint()
    (plain,), (line,) = (run.run(made, tmp_path / str(k), device="cpu") for k, made in enumerate((one, other)))
    for bare, row in zip(plain.lessons, line.lessons, strict=True):
        assert row.record["memory"] == bare.record["memory"] and not (bare.folder / "previews").exists()
        assert [p.name for p in sorted((row.folder / "previews").iterdir())] == ["000002.png", "000004.png"]
    assert read_json(line.folder / "lineage.json")["settings"]["training"].get("preview") is None


# --- by itself --------------------------------------------------------------------------------------------------------


def made(count=2, words=0, **changes):
    """An optimizer of the plan over weights (and words) of its own, and these."""
    draw = torch.Generator().manual_seed(4)
    drawn = [torch.nn.Parameter(torch.randn(3, 2 + k, generator=draw)) for k in range(count + words)]
    named = {str(k): weight for k, weight in enumerate(drawn[:count])}
    adapter = SimpleNamespace(weights=SimpleNamespace(named=lambda: named), word_parameters=drawn[count:])
    return optimizing.make(adapter, training(**changes)), drawn


def stepped(optimizer, drawn, steps):
    """Some steps down gradients that depend on the step and on where the weights are."""
    for step in steps:
        for k, weight in enumerate(drawn):
            weight.grad = torch.sin(weight.detach() * (step + 1) + k)
        optimizer.step()


SETTINGS = {"betas": (0.8, 0.95), "epsilon": 1e-6, "weight_decay": 0.03}


@pytest.mark.parametrize("name", OWN)
def test_words_have_a_group_and_a_rate_of_their_own(name, capsys):
    how = {"optimizer": name, **OWN[name], **SETTINGS}
    rates = {} if name == "prodigy" else {"word_learning_rate": 4e-2}
    optimizer, drawn = made(2, 1, **how, **rates)
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == [
        [id(p) for p in drawn[:2]], [id(drawn[2])],
    ]  # fmt: skip
    assert [group["scale"] for group in optimizer.param_groups] == [1.0, 4.0 if rates else 1.0]
    assert [group["scale"] for group in made(2, 1, **how)[0].param_groups] == [1.0, 1.0]
    assert [len(group["params"]) for group in made(2, 0, **how)[0].param_groups] == [2]
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"]) == (how["learning_rate"], (0.8, 0.95))
        assert (group["eps"], group["weight_decay"]) == (1e-6, 0.03)
    asked = {"adamw": {"fused": True}, "prodigy": {"use_bias_correction": True, "safeguard_warmup": True}}
    assert {key: optimizer.defaults[key] for key in asked.get(name, {})} == asked.get(name, {})
    assert capsys.readouterr().out == ""


def test_a_library_that_is_not_there_is_told_with_what_to_install(monkeypatch):
    for name, module, package, extra in (
        ("adamw_8bit", "bitsandbytes.optim", "bitsandbytes", "8bit"),
        ("schedule_free", "schedulefree", "schedulefree", "schedule_free"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(TrainingError) as told:
            made(optimizer=name)
        remedy = f"pip install 'perdure[{extra}]', or take adamw"
        assert str(told.value) == f"training.optimizer: {name} needs {package}; {remedy}"


def test_rates_of_all_steps_by_hand():
    half = math.sqrt(0.5)
    for how, wanted in {
        ("constant", 0): [1, 1, 1, 1, 1, 1],
        ("constant", 2): [1 / 2, 1, 1, 1, 1, 1],
        ("cosine", 2): [1 / 2, 1, 1, (1 + half) / 2, 1 / 2, (1 - half) / 2],
        ("cosine", 6): [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1],
    }.items():
        plan_of = training(schedule=how[0], warmup=how[1], learning_rate=0.3)
        found = [optimizing.learning_rate(plan_of, step) / 0.3 for step in range(6)]
        assert found == pytest.approx(wanted), how
    assert optimizing.learning_rate(training(schedule="cosine", warmup=6, learning_rate=0.3), 6) == 0.3


@pytest.mark.parametrize("name", OWN)
def test_what_would_be_kept_is_what_the_library_shows_and_nothing_moves(name):
    """An error on the way too."""
    optimizer, drawn = made(optimizer=name, **OWN[name])
    twin, own = made(optimizer=name, **OWN[name])
    stepped(optimizer, drawn, range(4))
    stepped(twin, own, range(4))
    before = [weight.detach().clone() for weight in drawn]
    if name == "schedule_free":
        twin.eval()
    for wrong in (None, Stop):
        with contextlib.suppress(Stop), optimizing.settled(optimizer):
            assert all(torch.equal(a, b) for a, b in zip(drawn, own, strict=True))
            assert torch.equal(drawn[0], before[0]) == (name != "schedule_free")
            if wrong:
                raise wrong
        assert all(torch.equal(a, b) for a, b in zip(drawn, before, strict=True))
    stepped(optimizer, drawn, [4])  # it goes on
    optimizing.settle(optimizer)
    if name == "schedule_free":
        twin.train()
    stepped(twin, own, [4])
    if name == "schedule_free":
        twin.eval()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(drawn, own, strict=True))


@pytest.mark.parametrize("name", OWN)
def test_a_checkpoint_has_all_that_another_process_needs(name, tmp_path):
    """Seven steps in one go, and four of them, a file, three more by another optimizer: the same bits and state."""
    path = tmp_path / "checkpoint.safetensors"
    whole, expected = made(2, 1, optimizer=name, **OWN[name])
    stepped(whole, expected, range(7))
    first, drawn = made(2, 1, optimizer=name, **OWN[name])
    stepped(first, drawn, range(4))
    optimizing.save(path, 4, drawn, first)
    second, again = made(2, 1, optimizer=name, **OWN[name])
    with torch.no_grad():
        [weight.zero_() for weight in again]
    kept = optimizing.read(path, again)
    assert steps_done(path) == 4 == optimizing.restore(kept, again, second)
    for one, other in zip(drawn, again, strict=True):
        assert first.state[one].keys() | {"step"} == second.state[other].keys()
        for key, value in first.state[one].items():
            assert type(second.state[other][key]) is type(value), key
    for one, other in zip(first.param_groups, second.param_groups, strict=True):
        assert all((type(one[key]), one[key]) == (type(other[key]), other[key]) for key in first.defaults)
    stepped(second, again, range(4, 7))
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_a_checkpoint_of_adamw_is_values_moments_and_the_step(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    optimizer, drawn = made(2, weight_decay=0.5)
    stepped(optimizer, drawn, range(3))
    optimizer.param_groups[0]["lr"] = 0.7  # which follows from the step, and is not kept
    optimizing.save(path, 3, drawn, optimizer)
    found = load_file(path)
    names = {f"{k}.{part}" for k in range(2) for part in ("value", "first", "second")}
    assert found.keys() == {"step", *names} and found["step"].item() == 3
    for k, weight in enumerate(drawn):
        state = optimizer.state[weight]
        assert torch.equal(found[f"{k}.value"], weight)
        assert torch.equal(found[f"{k}.first"], state["exp_avg"])
        assert torch.equal(found[f"{k}.second"], state["exp_avg_sq"])


def test_no_checkpoint_is_the_beginning(tmp_path):
    optimizer, drawn = made()
    before = [weight.detach().clone() for weight in drawn]
    assert optimizing.read(None) == optimizing.read(tmp_path / "none", drawn) == {} and steps_done(tmp_path / "no") == 0
    assert optimizing.restore({}, drawn, optimizer) == 0 and not optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(drawn, before, strict=True))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LineageError, match="link"):
        optimizing.read(tmp_path / "link", drawn)


@pytest.mark.parametrize("name", OWN)
def test_a_default_that_torch_adds_afterwards_is_no_number_to_keep(name, tmp_path):
    """On loading a state, which accelerate does, torch gives `differentiable` to an optimizer that has none."""
    optimizer, drawn = made(optimizer=name, **OWN[name])
    stepped(optimizer, drawn, range(2))
    optimizing.save(tmp_path / "before.safetensors", 2, drawn, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert "differentiable" in optimizer.defaults
    optimizing.save(tmp_path / "after.safetensors", 2, drawn, optimizer)
    before, after = (load_file(tmp_path / f"{when}.safetensors") for when in ("before", "after"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", OWN)
def test_what_is_put_back_lies_where_its_parameter_lies(name, tmp_path):
    """Torch's device without memory stands for any that is not the CPU."""
    optimizer, drawn = made(2, optimizer=name, **OWN[name])
    stepped(optimizer, drawn, range(3))
    optimizing.save(tmp_path / "checkpoint.safetensors", 3, drawn, optimizer)
    elsewhere = [torch.nn.Parameter(weight.detach().to("meta")) for weight in drawn]
    again = by_hand(name, elsewhere, training(optimizer=name, **OWN[name]))
    kept = optimizing.read(tmp_path / "checkpoint.safetensors", elsewhere)
    assert optimizing.restore(kept, elsewhere, again) == 3
    for one, other in zip(drawn, elsewhere, strict=True):
        state = again.state[other]
        assert state.keys() == optimizer.state[one].keys() | {"step"}
        assert all(part.is_meta for part in state.values() if isinstance(part, torch.Tensor))


REMEDY = "delete it, and the lesson begins anew"


def test_a_checkpoint_that_does_not_fit_is_told_with_what_to_do(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    optimizer, drawn = made()
    stepped(optimizer, drawn, range(2))
    optimizing.save(path, 2, drawn, optimizer)
    whole = {name: tensor.clone() for name, tensor in optimizing.read(path, drawn).items()}
    cut = {name: tensor for name, tensor in whole.items() if name != "step"}
    for wrong, name in {
        "step": (cut, "step"),
        "steps": ({**whole, "step": torch.zeros(2)}, "step"),
        "shape": ({**whole, "1.value": torch.zeros(3)}, "1.value"),
        "value": ({n: t for n, t in whole.items() if n != "0.value"}, "0.value"),
        "moment": ({n: t for n, t in whole.items() if n != "1.second"}, "1.second"),
    }.values():
        save_file(wrong, path)
        with pytest.raises(LineageError) as told:
            optimizing.read(path, drawn)
        assert str(told.value) == f"{path} is damaged: {name!r} is missing or of another shape; {REMEDY}"
    save_file({"step": torch.tensor(2), "x.value": torch.zeros(1)}, path)
    assert steps_done(path) == 2, "what is not asked for is not looked at"
    path.write_bytes(b"junk")
    with pytest.raises(LineageError) as told:
        optimizing.read(path, drawn)
    assert str(path) in str(told.value) and "damaged" in str(told.value) and str(told.value).endswith(REMEDY)


@pytest.mark.parametrize(
    ("every", "seconds", "times", "saved"),
    [
        (2, 0, [1, 2, 3, 4, 5], [2, 4]),
        (0, 0, [1, 100, 1000], []),
        (0, 10, [4, 8, 12, 16, 20], [2, 4]),  # at 8 the next step would end at 12, which is 12 after the last time
        (0, 10, [5, 10, 15], [2]),  # at 5 it would end at 10, which is no more than 10
        (3, 10, [4, 8, 9, 10, 11], [2, 3]),
    ],
)
def test_when_a_checkpoint_is_due_by_hand(every, seconds, times, saved):
    """By steps, and where one more step as long as the last would end later than so many seconds after the last one."""
    clock = iter([0, *times])
    asked = SimpleNamespace(
        training=SimpleNamespace(checkpoint_every=every), performance=SimpleNamespace(checkpoint_seconds=seconds)
    )
    due = optimizing.saving(asked, lambda: next(clock))
    assert [step for step, _ in enumerate(times, start=1) if due(step)] == saved
