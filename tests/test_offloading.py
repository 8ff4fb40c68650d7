"""Blocks that wait in main memory: the same bits, and copies of one block at a time.

A copy on the same device stands for one on another.
"""

import json
import shutil
import weakref

import pytest
import torch
from conftest import planned
from test_families import PROMPTS, SAMPLING, shown
from test_footprint import plan_of

from perdure import method
from perdure.bases import fitting, footprint, hollow, loading, offloading
from perdure.bases.hollow import nbytes
from perdure.drawing import sample
from perdure.errors import PlanError
from perdure.lesson.train import Lesson, learn
from perdure.memory import Memory
from perdure.plan import Performance, Training

AWAY = Performance(offload="blocks")
CASES = [("flux", "fp32"), ("flux2_klein", "bf16"), ("z_image", "fp32"), ("sd3", "bf16"), ("pixart_alpha", "fp32")]


class Copies:
    """What is brought: bytes that are there now, and the most that were at once."""

    def __init__(self):
        self.now = self.most = self.times = 0

    def brought(self, tensor, device):
        made = tensor.clone()
        self.times += 1
        self.now += made.untyped_storage().nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(made.untyped_storage(), self.gone, made.untyped_storage().nbytes())
        return made

    def gone(self, size):
        self.now -= size


@pytest.fixture
def copies(monkeypatch):
    found = Copies()
    monkeypatch.setattr(offloading, "brought", found.brought)
    return found


def taught(backbone, how):
    """A memory of two lessons, and what is drawn from it."""
    memory = Memory()
    backbone.gradient_checkpointing(how.training.gradient_checkpointing)
    for number, (concept, token) in enumerate((("dog", "zwz"), ("cat", "sbu")), start=1):
        lesson = Lesson(concept, number, shown(backbone), token, concept, f"{token} {concept}")
        memory = learn(backbone, method.get("merge_init", {"rank": 2}), memory, lesson, how)
    sampling = SAMPLING.model_copy(update={"steps": 2, "images_per_prompt": 1})
    with backbone.laid(memory.delta()):
        return memory, sample.draw_latents(backbone, ["a zwz dog", "a sbu cat"], sampling, 32)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_lessons_and_pictures_are_the_same_bits(name, precision, folders, copies):
    how = {"resolution": 32, "steps": 2, "batch_size": 2, "learning_rate": 1e-2, "gradient_checkpointing": True}
    plan = planned(Training(precision=precision, **how))
    usual = loading.load(folders(name), precision, device="cpu")
    memory, drawn = taught(usual, plan)
    assert copies.times == 0
    backbone = loading.load(folders(name), precision, device="cpu", performance=AWAY)
    own = dict(backbone.network.named_parameters())
    again, pictures = taught(backbone, plan)
    assert again.digest == memory.digest and torch.equal(drawn, pictures)
    found = dict(backbone.network.named_parameters())
    assert found.keys() == own.keys() and all(found[n] is p for n, p in own.items())
    sizes = [nbytes(block) for block in offloading.blocks(backbone.network)]
    laid = 4 * 2 * sum(p.numel() for a in again.delta().values() for p in a.tensors().values())
    assert copies.now == 0 and max(sizes) <= copies.most <= max(sizes) + laid < sum(sizes)


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_whatever_a_block_needs_is_brought(name, folders):
    """On a device that is another than main memory and computes nothing, there and back; left alone, torch objects."""
    there = torch.device("meta")
    pipe, family = loading.pipeline(folders(name))
    network = pipe.transformer.requires_grad_(False)
    network.enable_gradient_checkpointing()
    offloading.place(network, there)
    side = 8 * family.units(pipe).patch
    noisy = torch.zeros(1, family.units(pipe).channels, side, side, device=there, requires_grad=True)

    def said():
        return family.predict(pipe, noisy, torch.zeros(1, device=there), family.like(pipe))

    said().square().mean().backward()
    assert noisy.grad.device == there
    for block in offloading.blocks(network):
        assert {p.device.type for p in block.parameters()} == {"cpu"}
        block._forward_pre_hooks.clear()
    with pytest.raises(RuntimeError, match="is not on the expected device"):
        said()


def test_without_checkpointing_all_blocks_are_there_at_once(folders, copies):
    """Why that is refused."""
    backbone = loading.load(folders("flux"), device="cpu", performance=AWAY)
    sizes = [nbytes(block) for block in offloading.blocks(backbone.network)]
    taught(backbone, planned(Training(resolution=32, steps=1, batch_size=1, learning_rate=1e-2)))
    assert copies.most > sum(sizes) - max(sizes) > max(sizes)


@pytest.mark.parametrize("name", ["flux", "z_image"])
def test_gradients_of_weights_are_the_same_bits(name, folders, copies):
    found = []
    for performance in (None, AWAY):
        backbone = loading.load(folders(name), device="cpu", performance=performance)
        backbone.gradient_checkpointing(True)
        batch = shown(backbone).batch(backbone, 2, lambda purpose, step: torch.Generator().manual_seed(step), 0)
        names = list(backbone.projections("cross_kv"))
        found.append(backbone.gradients(lambda b=backbone, one=batch: b.loss(one), names))
        assert all(p.grad is None and not p.requires_grad for p in backbone.network.parameters())
    assert copies.times and found[0].keys() == found[1].keys()
    assert all(torch.equal(g, found[1][n]) for n, g in found[0].items())


def test_an_error_leaves_everything_where_it_was(folders, copies):
    backbone = loading.load(folders("flux"), device="cpu", performance=AWAY)
    own = [p for block in offloading.blocks(backbone.network) for p in block.parameters()]
    block = backbone.network.transformer_blocks[1]

    def fails(module, args, kwargs):
        raise RuntimeError("out of memory")

    handle = block.attn.register_forward_pre_hook(fails, with_kwargs=True)
    latents, condition = torch.zeros(1, 16, 16, 16), backbone.encode_prompts(PROMPTS[:1])
    with pytest.raises(RuntimeError, match="out of memory"):
        backbone.draw(condition, condition, latents, 1, 1.0, "default")
    handle.remove()
    left = [p for block in offloading.blocks(backbone.network) for p in block.parameters()]
    assert len(left) == len(own) and all(a is b for a, b in zip(own, left, strict=True)) and copies.now == 0


def test_what_does_not_go_together_is_told(folders, pico):
    """Each in a sentence."""
    checkpointing = {"gradient_checkpointing": True}
    for base, training, sampling, expected in (
        (folders("flux"), {}, {}, "without training.gradient_checkpointing all blocks are on the device"),
        (folders("flux"), {**checkpointing, "base_precision": "int8"}, {}, "training.base_precision keeps the base"),
        (folders("flux"), checkpointing, {"precision": "bf16"}, "sampling.precision: bf16 draws with a copy"),
        (pico, checkpointing, {}, "this base's network is a unet, whose parts"),
    ):
        backbone = loading.load(str(base), device="cpu", performance=AWAY)
        with pytest.raises(PlanError, match=f"performance.offload: {expected}"):
            backbone.check(Training(**training), SAMPLING.model_copy(update=sampling))
    loading.load(folders("flux"), device="cpu", performance=AWAY).check(Training(**checkpointing), SAMPLING)
    for other in ({"compile": True}, {"engine": "onnx"}):
        with pytest.raises(ValueError, match="offload: blocks moves weights"):
            Performance(offload="blocks", **other)


def test_it_is_reckoned_and_advised(folders, tmp_path, monkeypatch):
    """By as much as all blocks but the largest, of a base of many; named where few bits do not do."""
    shutil.copytree(folders("flux"), tmp_path / "deep")
    path = tmp_path / "deep" / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_layers": 12, "num_single_layers": 12}))
    plan = plan_of(tmp_path / "deep", gradient_checkpointing=True, precision="bf16")
    estimate = footprint.estimate(plan)
    sizes = [nbytes(block) for block in offloading.blocks(hollow.of(plan).network)]
    whole, away = (estimate.of(one) for one in (plan, plan.model_copy(update={"performance": AWAY})))
    for moment in ("training", "drawing"):
        assert whole.moments[moment]["base"] - away.moments[moment]["base"] == sum(sizes) - max(sizes) > 0
    monkeypatch.setattr(fitting, "CONTEXT", 0)
    monkeypatch.setattr(fitting, "SIZES", (1e5 / 2**30,))
    told = [setting for step in fitting.advise(plan, estimate).steps for setting in step.settings]
    assert told[-2:] == ["training.base_precision=null", "performance.offload=blocks"]
