"""What a plan's memory is reckoned at beside what torch's own allocator gives out while it is carried out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_families import PROMPTS
from torch.profiler import ProfilerActivity, profile

from perdure import method
from perdure import plan as plans
from perdure.bases import fitting, footprint, loading
from perdure.bases.batch import rows
from perdure.drawing import sample
from perdure.lesson import examples
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.photos.pictures import Picture
from perdure.plan import MethodChoice, Training

NAMES = ("flux", "flux2_klein", "z_image", "sdxl")
SIDE = 64
"""Pixels: so many that tensors of a few hundred numbers, of which nothing is reckoned, count for little."""
CLOSE = 0.2
"""How far an estimate may be from the peak, as a part of it: buffers of torch's kernels on a CPU are not reckoned."""


def pictures(backbone):
    noise = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    own = [Picture(Image.fromarray(pixels), PROMPTS[k % 2]) for k, pixels in enumerate(noise)]
    return examples.encode(backbone, own, Training(resolution=SIDE), 0, "dog")


def peak(work):
    """The most bytes that the allocator had given out at once during some work beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    told = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(told, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


PICTURED = ["a {concept} in snow", "a {concept}"]


def plan_of(folder, **training):
    concepts = [{"name": n, "token": n, "class": n, "images": "/nowhere"} for n in ("zwz", "sbu")]
    data = {
        "methods": [{"name": "merge_init", "rank": 4}], "base": str(folder), "concepts": concepts,
        "training": {"resolution": SIDE, "steps": 2, "batch_size": 4, "precision": "fp32", **training},
        "sampling": {"batch_size": 4, "steps": 2, "guidance": 3.0, "prompts": {"subject": PICTURED, "style": PICTURED}},
    }  # fmt: skip
    return plans.build(data)


HELD = ("base", "text encoders", "autoencoder")
"""What is there before anything is done."""


def more(parts):
    return sum(size for name, size in parts.items() if name not in HELD)


@pytest.fixture(scope="module", params=NAMES)
def base(request, folders):
    """(its name, its folder, the backbone)"""
    folder = str(request.getfixturevalue("pico_xl")) if request.param == "sdxl" else folders(request.param)
    return request.param, folder, loading.load(folder, device="cpu")


@pytest.mark.parametrize("how", [{}, {"gradient_checkpointing": True}], ids=["plain", "checkpointing"])
def test_a_lesson_takes_what_was_reckoned(base, how):
    """The second lesson, on what the first has left."""
    _, folder, backbone = base
    plan = plan_of(folder, **how)
    expected = footprint.estimate(plan, cuda=False).of(plan)
    chosen = method.of(plan.methods[0])
    own = pictures(backbone)
    backbone.gradient_checkpointing(plan.training.gradient_checkpointing)
    first = learn(backbone, chosen, Memory(), Lesson("dog", 1, own, "zwz", "dog", "zwz dog"), plan)
    found = peak(lambda: learn(backbone, chosen, first, Lesson("cat", 2, own, "sbu", "cat", "sbu cat"), plan))
    backbone.gradient_checkpointing(False)
    assert more(expected.training) == pytest.approx(found, rel=CLOSE)


def test_pictures_and_prompts_take_what_was_reckoned(base):
    """With two lessons under the base."""
    _, folder, backbone = base
    plan = plan_of(folder)
    expected = footprint.estimate(plan, cuda=False).of(plan)
    draw = torch.Generator().manual_seed(0)
    past = Delta(
        {n: Change.low_rank(torch.randn(8, i, generator=draw), torch.randn(o, 8, generator=draw))
         for n, (o, i) in backbone.projections("attention").items()}
    )  # fmt: skip
    told = {}
    new = PROMPTS[::-1]  # a list that no test has had read: of those read lately the conditions are there
    read = peak(lambda: told.update(backbone.encode_prompts(new)))
    read = max(read, peak(lambda: backbone.posterior(torch.zeros(1, 3, SIDE, SIDE))))
    latents = sample.latents(backbone, 4, plan.training.resolution, 0)
    negative = {key: t.expand(4, *t.shape[1:]) for key, t in backbone.encode_negative(None).items()}

    def drawn():
        with backbone.laid(past):
            backbone.decode(backbone.draw(rows(told, [0, 1, 0, 1]), negative, latents, 2, 3.0, "default"))

    found = peak(drawn)
    assert more(expected.drawing) == pytest.approx(found, rel=CLOSE)
    assert read / 2 < more(expected.reading) < 2 * read  # prompts are padded otherwise by each family


def test_what_is_there_is_what_is_loaded(base):
    """Bytes of the modules in memory, each tensor once."""
    _, folder, backbone = base
    expected = footprint.estimate(plan_of(folder), cuda=False).of(plan_of(folder)).reading
    parts = {"base": [backbone.network], "autoencoder": [backbone.pipe.vae]}
    parts["text encoders"] = [p for n, p in backbone.pipe.components.items() if n.startswith("text_encoder")]
    for name, modules in parts.items():
        held = {t.data_ptr(): t.nbytes for m in modules if m is not None for t in (*m.parameters(), *m.buffers())}
        assert expected[name] == pytest.approx(sum(held.values()), rel=0.001), name


def test_what_a_plan_asks_for_is_reckoned(folders):
    """Each setting by what it must do."""
    folder = folders("flux2_klein")

    def of(**training):
        plan = plan_of(folder, **training)
        return footprint.estimate(plan).of(plan)

    plain = of()
    assert of(text_encoders="drop").training["text encoders"] == 0 < plain.training["text encoders"]
    assert of(precision="bf16").training["base"] == plain.training["base"] / 2
    assert of(optimizer="prodigy", learning_rate=1).training["optimizer"] == 2 * plain.training["optimizer"]
    kept = "activations and gradients"
    assert of(batch_size=2).training[kept] == 2 * of(batch_size=1).training[kept]
    assert of(gradient_checkpointing=True).training[kept] < plain.training[kept]
    bits = {kind: of(base_precision=kind).training["base"] for kind in ("int8", "nf4")}
    assert bits["nf4"] < bits["int8"] < plain.training["base"]


@pytest.mark.parametrize("name", ["cns", "stamina", "c_lora"])
def test_adapters_of_every_kind_are_reckoned(name, folders):
    plan = plan_of(folders("sd3")).model_copy(update={"methods": (MethodChoice(name=name, label=name),)})
    assert footprint.estimate(plan).of(plan).training["adapter"] > 0


def test_the_advice_is_what_its_settings_come_to(folders, monkeypatch):
    """Sizes between what this base takes and what it can be brought down to; the same by a plan with those settings."""
    folder = folders("flux")
    plan = plan_of(folder)
    monkeypatch.setattr(fitting, "CONTEXT", 0)
    monkeypatch.setattr(fitting, "SIZES", tuple(size / 2**30 for size in (1e9, 15e6, 3e6, 1e5)))
    advice = fitting.advise(plan, footprint.estimate(plan))
    assert advice.fits == (fitting.SIZES[0],) and fitting.SIZES[3] in advice.never
    first, second = advice.steps[:2]
    assert (first.settings, second.settings) == (
        ("training.precision=bf16",),
        ("training.gradient_checkpointing=true",),
    )
    assert "take a smaller base" in list(fitting.told(advice))[-1]
    settings = [setting for step in advice.steps for setting in step.settings]
    again = plan.model_copy()
    for setting in settings:
        key, _, value = setting.partition("=")
        section, _, name = key.partition(".")
        told = {**getattr(again, section).model_dump(), name: yaml.safe_load(value)}
        again = again.model_copy(update={section: type(getattr(again, section)).model_validate(told)})
    assert footprint.estimate(again).of(again) == advice.steps[-1].footprint


def test_check_tells_what_a_plan_takes_and_what_to_change(perdure, folders, data):
    """In a table and as JSON; of a hub id that is not here, that its folder is needed; of embedded bases nothing."""
    folder = folders("z_image")
    Path("plan.yaml").write_text(json.dumps({**data, "base": folder}))
    code, out, _ = perdure("check", "plan.yaml")
    assert code == 0 and "GPU memory, estimated" in out and "fits a GPU of 8 GB, 12 GB, 16 GB, 24 GB as it is" in out
    assert all(word in out for word in ("reading", "training", "drawing", "text encoders", "optimizer", "together"))
    told = json.loads(perdure("check", "plan.yaml", "--json")[1])["memory"]
    plan = plans.load(Path("plan.yaml"))
    expected = footprint.estimate(plan).of(plan)
    assert told["fits"] == [24, 16, 12, 8] and told["to fit"] == []
    assert told["bytes"]["training"] == {part: round(size) for part, size in expected.training.items()}
    code, out, _ = perdure("check", "plan.yaml", "--set", "base=owner/nowhere")
    assert (
        code == 0 and "GPU memory is not estimated: base owner/nowhere is not on this machine; give its folder" in out
    )
    assert "GPU memory" not in perdure("check", "toybox-5")[1]
