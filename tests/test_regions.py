"""Regions beside loops written by hand on plain pipelines of diffusers: in cross-attention, and in the noise."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline

from perdure.bases import loading
from perdure.bases.regions import Regions
from perdure.errors import ModelError
from perdure.memory.delta import Change, Delta

TEXTS = ["a photo of zwz dog", "cat in snow"]
BASE = "a photo of a beach"
COUNT, STEPS, GUIDANCE = 2, 3, 3.0
LEFT, RIGHT = (0.0, 0.1, 0.45, 1.0), (0.4, 0.0, 1.0, 0.62)
"""x0, y0, x1, y1; they overlap, and leave cells outside."""


@pytest.fixture(scope="module", params=["pico", "pico_xl"])
def base(request):
    """(the backbone, the plain pipeline)"""
    folder = str(request.getfixturevalue(request.param))
    plain = DiffusionPipeline.from_pretrained(folder)
    plain.set_progress_bar_config(disable=True)
    return loading.load(folder, device="cpu"), plain


def boxed(*boxes, side=20):
    """Masks at a size at which the boxes end between pixels' borders."""
    masks = torch.zeros(len(boxes), side, side)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[round(y0 * side) : round(y1 * side), round(x0 * side) : round(x1 * side)] = 1
    return masks


def touched(boxes, height, width):
    """By hand: whether a cell [y, y + 1] x [x, x + 1] and a box have any area in common."""
    cells = torch.zeros(len(boxes), height, width)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        for y in range(height):
            for x in range(width):
                tall = min((y + 1) / height, y1) - max(y / height, y0)
                wide = min((x + 1) / width, x1) - max(x / width, x0)
                cells[number, y, x] = float(tall > 1e-6 and wide > 1e-6)
    return cells


def mixed(outside, inside, cells, base):
    """The formula as it is written, cell by cell; (..., cells of the grid, ...) as (b, c, h, w)."""
    out = outside.clone()
    for y in range(cells.shape[1]):
        for x in range(cells.shape[2]):
            n = sum(cells[r, y, x] for r in range(len(inside)))
            if n:
                own = sum(cells[r, y, x] * inside[r][:, :, y, x] for r in range(len(inside))) / n
                out[:, :, y, x] = base * outside[:, :, y, x] + (1 - base) * own
    return out


class ByHand:
    """Cross-attention with regions, written out; mixed before the output projection."""

    def __init__(self, texts, shape, weight, boxes, until=math.inf):
        self.texts, self.shape, self.weight, self.boxes, self.left = texts, shape, weight, boxes, until

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        height, width = self.shape
        while height * width > hidden_states.shape[1]:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        q = attn.to_q(hidden_states)

        def said(text, number=None):
            k, v, rows = *self.told(attn, text, number), []
            for one_q, one_k, one_v in zip(q, k, v, strict=True):
                heads = [
                    (a @ b.T / math.sqrt(a.shape[1])).softmax(dim=1) @ c
                    for a, b, c in zip(*(t.chunk(attn.heads, dim=1) for t in (one_q, one_k, one_v)), strict=True)
                ]
                rows.append(torch.cat(heads, dim=1))
            return torch.stack(rows)

        own = []
        for number, text in enumerate(self.texts):
            words = encoder_hidden_states.clone()
            words[-COUNT:] = text
            own.append(said(words, number))
        spread = [x.transpose(1, 2).reshape(len(x), -1, height, width) for x in (said(encoder_hidden_states), *own)]
        out = spread[0]
        if self.left > 0:
            out = mixed(spread[0], spread[1:], touched(self.boxes, height, width), self.weight)
        self.left -= 1
        return attn.to_out[0](out.flatten(2).transpose(1, 2))

    def told(self, attn, text, number):
        """Keys and values of a region, or of the whole picture (None)."""
        return attn.to_k(text), attn.to_v(text)


def put(pipe, kind=ByHand, **settings):
    """The plain pipeline with the processor by hand, one for each layer."""
    pipe.unet.set_attn_processor(
        {
            name: kind(**settings) if ".attn2." in name else processor
            for name, processor in pipe.unet.attn_processors.items()
        }
    )


def asked(backbone, latents=None, regions=None):
    """What the backbone draws of the picture's own prompt."""
    prompts, negative = backbone.encode_prompts([BASE]), backbone.encode_negative(None)
    each = [{name: t.expand(COUNT, *t.shape[1:]) for name, t in c.items()} for c in (prompts, negative)]
    return backbone.draw(*each, noise(backbone) if latents is None else latents, STEPS, GUIDANCE, "ddim", regions)


def noise(backbone, side=16):
    return torch.randn(COUNT, backbone.units.channels, side, side, generator=torch.Generator().manual_seed(5))


def plainly(pipe, latents):
    from diffusers import DDIMScheduler

    usual, pipe.scheduler = pipe.scheduler, DDIMScheduler.from_config(pipe.scheduler.config)
    try:
        return pipe(
            prompt=[BASE] * COUNT, latents=latents.clone(), height=32, width=32, num_inference_steps=STEPS,
            guidance_scale=GUIDANCE, output_type="latent",
        ).images  # fmt: skip
    finally:
        pipe.scheduler = usual


def texts_of(pipe, prompts=TEXTS):
    return pipe.encode_prompt(list(prompts), device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)


@pytest.mark.parametrize(("weight", "until"), [(0.0, 1.0), (0.3, 1.0), (0.0, 0.5)])
def test_regions_in_attention_are_those_by_hand(base, weight, until):
    backbone, pipe = base
    regions = Regions(boxed(LEFT, RIGHT), backbone.encode_prompts(TEXTS), base=weight, until=until)
    ours = asked(backbone, regions=regions)
    usual = pipe.unet.attn_processors
    put(pipe, texts=texts_of(pipe)[0], shape=(16, 16), weight=weight, boxes=(LEFT, RIGHT), until=int(until * STEPS))
    try:
        theirs = plainly(pipe, noise(backbone))
    finally:
        pipe.unet.set_attn_processor(dict(usual))
    torch.testing.assert_close(ours, theirs.float(), atol=2e-4, rtol=1e-4)
    assert (ours - asked(backbone)).abs().max() > 1e-2


def test_regions_in_noise_are_those_by_hand(base):
    """A loop around the scheduler: each region's noise is guided by itself, then they are put together."""
    from diffusers import DDIMScheduler

    backbone, pipe = base
    regions = Regions(boxed(LEFT, RIGHT), backbone.encode_prompts(TEXTS), how="noise", base=0.2)
    ours = asked(backbone, regions=regions)
    prompts, negative = backbone.encode_prompts([BASE, *TEXTS]), backbone.encode_negative(None)
    scheduler, latents = DDIMScheduler.from_config(pipe.scheduler.config), noise(backbone)
    scheduler.set_timesteps(STEPS)
    sizes = torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]] * COUNT)

    def predicted(x, t, condition, row):
        rows = {name: tensor[[row] * COUNT] for name, tensor in condition.items()}
        added = {"text_embeds": rows["pooled"], "time_ids": sizes} if "pooled" in rows else None
        return pipe.unet(x, t, rows["text"], added_cond_kwargs=added).sample

    with torch.no_grad():
        for t in scheduler.timesteps:
            away = predicted(latents, t, negative, 0)
            guided = [away + GUIDANCE * (predicted(latents, t, prompts, row) - away) for row in range(3)]
            together = mixed(guided[0], guided[1:], touched((LEFT, RIGHT), 16, 16), 0.2)
            latents = scheduler.step(together, t, latents).prev_sample
    torch.testing.assert_close(ours, latents, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["attention", "noise"])
def test_one_region_of_everything_under_the_same_prompt_changes_no_bit(base, how):
    backbone, _ = base
    before = asked(backbone)
    regions = Regions(torch.ones(1, 20, 20), backbone.encode_prompts([BASE]), how, base=0.4, feather=1)
    assert torch.equal(asked(backbone, regions=regions), before)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.network.modules()]
    assert not any(hooks) and torch.equal(asked(backbone), before)


def test_latents_of_any_shape(base):
    """Seven by twelve: the inner layers have four by six cells."""
    backbone, pipe = base
    latents = torch.randn(COUNT, 4, 7, 12, generator=torch.Generator().manual_seed(1))
    text = texts_of(pipe)
    added = {} if len(text) == 2 else {"text_embeds": text[2][:COUNT], "time_ids": torch.zeros(COUNT, 6)}
    told = {"encoder_hidden_states": text[0][:COUNT], "added_cond_kwargs": added or None}
    backbone.pipe.scheduler.set_timesteps(STEPS)
    regions = Regions(boxed(LEFT, RIGHT), backbone.encode_prompts(TEXTS), base=0.1)
    usual = pipe.unet.attn_processors
    with torch.no_grad(), backbone.regional(regions, COUNT):
        ours = backbone.network(latents, 40, **told).sample
    put(pipe, texts=text[0], shape=(7, 12), weight=0.1, boxes=(LEFT, RIGHT))
    try:
        with torch.no_grad():
            theirs = pipe.unet(latents, 40, **told).sample
    finally:
        pipe.unet.set_attn_processor(dict(usual))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_region_has_its_own_weights(base):
    """What lies under one region only: as if the noise there had been drawn by a model of which all has that delta."""
    backbone, _ = base
    draw = torch.Generator().manual_seed(3)
    changes = {
        name: Change.low_rank(torch.randn(2, into, generator=draw) * 0.3, torch.randn(out, 2, generator=draw) * 0.3)
        for name, (out, into) in backbone.projections("attention").items()
    }
    own = backbone.ready(Delta(changes))
    prompts = backbone.encode_prompts([BASE])
    everywhere = Regions(torch.ones(1, 8, 8), prompts, "noise", under=[own])
    with backbone.laid(Delta(changes)):
        whole = asked(backbone)
    bare = asked(backbone)
    drawn = asked(backbone, regions=everywhere)
    assert (drawn - bare).abs().max() > 1e-2 and torch.equal(asked(backbone), bare)
    # those that are guided away from are asked under the delta too
    torch.testing.assert_close(drawn, whole, atol=1e-5, rtol=1e-5)


def test_small_regions_keep_a_cell_and_fading_is_linear():
    regions = Regions(boxed((0.5, 0.5, 0.55, 0.55)), {})
    shares, weight = regions.shares(4, 4)
    assert weight.sum() == 1 and weight[2, 2] == 1 and shares[0, 2, 2] == 1
    faded = Regions(boxed((0.0, 0.0, 0.5, 1.0)), {}, feather=1).shares(10, 10)[1]
    torch.testing.assert_close(faded[0], torch.tensor([1, 1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0, 0]))


def test_a_base_without_regions_says_so(base):
    backbone, _ = base
    usual, backbone.family = backbone.family, replace(backbone.family, regional=None)
    try:
        with pytest.raises(ModelError, match=f"family {usual.name} no regions can be drawn"):
            backbone.regional(Regions(torch.ones(1, 8, 8), {}), 1)
    finally:
        backbone.family = usual
