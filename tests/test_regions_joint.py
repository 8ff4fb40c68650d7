"""Regions of transformers beside attention under a mask, written out on plain pipelines of diffusers."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, FluxPipeline
from test_families import some_delta
from test_regions import BASE, COUNT, LEFT, RIGHT, TEXTS, ByHand, boxed, mixed, touched

from perdure.bases import loading
from perdure.bases.regions import Regions

STEPS, GUIDANCE, CELLS, TOKENS = 2, 3.0, 8, 32
"""Steps, guidance, tokens of a picture a side, and of a text."""
JOINT = ("sd3", "flux", "flux_kontext", "flux2_klein", "z_image")


@pytest.fixture(scope="module", params=JOINT)
def base(request, folders):
    """(its name, the backbone, the plain pipeline)"""
    folder = folders(request.param)
    plain = DiffusionPipeline.from_pretrained(folder)
    plain.set_progress_bar_config(disable=True)
    return request.param, loading.load(folder, device="cpu"), plain


def noise(backbone, pixels=32):
    side = backbone.latent_side(pixels)
    return torch.randn(COUNT, backbone.units.channels, side, side, generator=torch.Generator().manual_seed(5))


def told(backbone, prompts):
    """The condition of prompts, cut to few tokens; none counts as padding where a base leaves that out."""
    condition = {k: t[:, :TOKENS] if k in ("text", "mask") else t for k, t in backbone.encode_prompts(prompts).items()}
    return condition | {k: torch.full_like(t, TOKENS) for k, t in condition.items() if k == "length"}


def asked(backbone, regions=None, prompt=BASE, scheduler="default", pixels=32):
    prompts, negative = (told(backbone, [words]) for words in (prompt, ""))
    each = [{name: t.expand(COUNT, *t.shape[1:]) for name, t in c.items()} for c in (prompts, negative)]
    return backbone.draw(*each, noise(backbone, pixels), STEPS, GUIDANCE, scheduler, regions)


class Masked:
    """Attention of (b, heads, text and cells, d), text first, by masks: which of these a query may see."""

    def __init__(self, weight, alone=False):
        """alone: whether regions hold where there are only cells."""
        self.weight, self.alone = weight, alone
        self.cells = touched((LEFT, RIGHT), CELLS, CELLS).flatten(1).bool()

    def __call__(self, q, k, v):
        texts = q.shape[2] - CELLS**2
        if texts <= TOKENS and not self.alone:  # no regions here: only cells, or what is guided away from
            return seen(q, k, v, torch.ones(q.shape[2], q.shape[2], dtype=torch.bool))
        out, regions = torch.zeros_like(v), len(self.cells)
        owner = torch.arange(texts) // TOKENS
        everything = torch.ones(CELLS**2, dtype=torch.bool)
        said = []
        for number in range(regions + 1):
            cells = everything if number == 0 else self.cells[number - 1]
            visible = torch.cat([owner == number, cells])
            said.append(seen(q, k, v, visible[None].expand(q.shape[2], -1)))
            out[:, :, :texts][:, :, owner == number] = said[-1][:, :, :texts][:, :, owner == number]
        spread = [one[:, :, texts:].permute(0, 1, 3, 2).flatten(1, 2).unflatten(2, (CELLS, CELLS)) for one in said]
        both = mixed(spread[0], spread[1:], touched((LEFT, RIGHT), CELLS, CELLS), self.weight)
        both[:-COUNT] = spread[0][:-COUNT]
        out[:, :, texts:] = both.flatten(2).unflatten(1, (q.shape[1], -1)).transpose(2, 3)
        return out


def seen(q, k, v, mask):
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=3) @ v


def put(monkeypatch, name, masked):
    """The attention by hand where a family's processors look for theirs."""
    if name == "sd3":

        def attention(q, k, v, **extra):  # cells first
            text = q.shape[2] - CELLS**2
            there = [torch.cat([t[:, :, -text:], t[:, :, :-text]], dim=2) if text else t for t in (q, k, v)]
            out = masked(*there)
            return torch.cat([out[:, :, text:], out[:, :, :text]], dim=2)

        monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
        return
    from diffusers.models.transformers import transformer_flux, transformer_flux2, transformer_z_image

    if name == "z_image":

        def dispatched_stream(q, k, v, **extra):  # cells first, and what is guided away from in the last rows
            there = [t.transpose(1, 2).flip(0) for t in (q, k, v)]
            if q.shape[1] == TOKENS * 3:  # texts by themselves
                owner = torch.arange(q.shape[1]) // TOKENS
                out = seen(*there, owner[:, None] == owner[None])
            else:
                out = masked(*(torch.cat([t[:, :, CELLS**2 :], t[:, :, : CELLS**2]], dim=2) for t in there))
                out = torch.cat([out[:, :, -(CELLS**2) :], out[:, :, : -(CELLS**2)]], dim=2)
            return out.flip(0).transpose(1, 2)

        monkeypatch.setattr(transformer_z_image, "dispatch_attention_fn", dispatched_stream)
        return

    def dispatched(q, k, v, **extra):
        return masked(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)

    module = transformer_flux2 if name == "flux2_klein" else transformer_flux
    monkeypatch.setattr(module, "dispatch_attention_fn", dispatched)


def by_hand(name, backbone):
    """The pipeline given all texts, one behind the other."""
    one, texts, empty = (told(backbone, p) for p in ([BASE], TEXTS, [""]))
    behind = texts["text"].flatten(0, 1)[None]
    rows = torch.cat([one["text"], behind], dim=1).expand(COUNT, -1, -1)
    call = {"prompt_embeds": rows, "height": 32, "width": 32, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    if name == "sd3":
        away = torch.cat([empty["text"], behind], dim=1).expand(COUNT, -1, -1)
        call |= {"negative_prompt_embeds": away, "negative_pooled_prompt_embeds": empty["pooled"].expand(COUNT, -1)}
    if name == "flux2_klein":
        call["negative_prompt_embeds"] = empty["text"].expand(COUNT, -1, -1)
    elif name == "z_image":
        away = empty["text"].expand(COUNT, -1, -1)
        call |= {"prompt_embeds": [*rows], "negative_prompt_embeds": [*away], "guidance_scale": GUIDANCE - 1}
    else:
        call["pooled_prompt_embeds"] = one["pooled"].expand(COUNT, -1)
    if name == "flux_kontext":
        call["max_area"] = 32**2
    return call


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_regions_in_joint_attention_are_those_under_a_mask(base, weight, monkeypatch):
    name, backbone, pipe = base
    regions = Regions(boxed(LEFT, RIGHT), told(backbone, TEXTS), base=weight)
    ours, plain = asked(backbone, regions), asked(backbone)
    call = by_hand(name, backbone)
    if name == "flux2_klein":  # which counts the places of all its text
        monkeypatch.setattr(pipe, "_prepare_text_ids", repeated(pipe._prepare_text_ids))
    if name == "z_image":  # and puts the cells behind it
        monkeypatch.setattr(pipe.transformer, "patchify_and_embed", in_turn(pipe.transformer.patchify_and_embed))
    latents = noise(backbone)
    packed = FluxPipeline._pack_latents(latents, *latents.shape) if name in ("flux", "flux_kontext") else latents
    with torch.no_grad():
        put(monkeypatch, name, Masked(weight, alone=name == "z_image"))
        theirs = pipe(**call, latents=packed, output_type="latent").images
    expected = unpacked(name, backbone, theirs)
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-3)
    assert (ours - plain).abs().max() > 1e-2


@pytest.mark.parametrize("how", ["attention", "noise"])
def test_one_region_of_everything_under_the_same_prompt_changes_nothing(base, how):
    _, backbone, _ = base
    before = asked(backbone)
    regions = Regions(torch.ones(1, 20, 20), told(backbone, [BASE]), how, base=0.4, feather=1)
    torch.testing.assert_close(asked(backbone, regions=regions), before, atol=1e-4, rtol=1e-4)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.network.modules()]
    assert not any(hooks) and not any("forward" in vars(m) for m in backbone.network.modules())
    half = Regions(torch.ones(1, 20, 20), told(backbone, [TEXTS[0]]), how, until=0.5)
    assert not torch.equal(asked(backbone, half), asked(backbone, replace(half, until=1.0)))
    assert torch.equal(asked(backbone), before)


@pytest.mark.parametrize("name", ["flux", "z_image"])
def test_a_region_has_its_own_weights(name, folders, monkeypatch):
    """Not what is guided away from; here nothing is."""
    backbone = loading.load(folders(name), device="cpu")
    monkeypatch.setattr("test_regions_joint.GUIDANCE", 1.0)
    _, delta = some_delta(backbone)
    regions = Regions(torch.ones(1, 8, 8), told(backbone, [BASE]), under=[backbone.ready(delta)])
    drawn, bare = asked(backbone, regions), asked(backbone)
    with backbone.laid(delta):
        torch.testing.assert_close(drawn, asked(backbone), atol=1e-4, rtol=1e-4)
    assert (drawn - bare).abs().max() > 1e-2


@pytest.mark.parametrize("pixels", [32, 24])
def test_z_image_draws_in_one_region_of_everything_what_it_draws_under_its_prompt(pixels, folders, monkeypatch):
    """Whatever the lengths of the texts and the padding of the cells, of which 24 pixels have 36 for 64."""
    backbone = loading.load(folders("z_image"), device="cpu")
    monkeypatch.setattr("test_regions_joint.told", lambda backbone, prompts: backbone.encode_prompts(prompts))
    longer = f"{BASE} with a zwz teapot and a sbu dog in the snow under a clear sky"
    lengths = backbone.encode_prompts([BASE, longer, ""])["length"]
    assert len({math.ceil(length / 32) for length in lengths.tolist()}) == 3
    regions = Regions(torch.ones(1, 8, 8), told(backbone, [longer]))
    drawn, expected, plain = (
        asked(backbone, regions=r, prompt=p, pixels=pixels) for r, p in ((regions, BASE), (None, longer), (None, BASE))
    )
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)
    assert (drawn - plain).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["sd3", "flux", "flux2_klein", "z_image", "pixart_alpha"])
def test_regions_in_noise_are_what_each_prompt_draws_there(name, folders, monkeypatch):
    """In one step nothing moves from cell to cell: left as the first prompt, right as the second, else as the base."""
    backbone = loading.load(folders(name), device="cpu")
    monkeypatch.setattr("test_regions_joint.STEPS", 1)
    regions = Regions(boxed((0, 0, 0.5, 1), (0.5, 0.5, 1, 1)), told(backbone, TEXTS), "noise")
    solver = "ddim" if "pixart" in name else "euler"
    drawn = asked(backbone, regions, scheduler=solver)
    left, right, rest = (asked(backbone, prompt=prompt, scheduler=solver) for prompt in (*TEXTS, BASE))
    middle = drawn.shape[-1] // 2
    for part, whole in (
        (drawn[..., :middle], left[..., :middle]),
        (drawn[..., middle:, middle:], right[..., middle:, middle:]),
        (drawn[..., :middle, middle:], rest[..., :middle, middle:]),
    ):
        torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)
    assert (left - rest).abs().max() > 1e-3


class CrossByHand(ByHand):
    """PixArt's cross-attention with regions: the padding of each text is not seen."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        q, own = attn.to_q(hidden_states), []
        for number in range(-1, len(self.texts)):
            text, hidden = encoder_hidden_states.clone(), attention_mask.clone()
            if number >= 0:
                text[-COUNT:], hidden[-COUNT:] = self.texts[number][0], self.texts[number][1]
            k, v = attn.to_k(text), attn.to_v(text)
            heads = [
                ((a @ b.transpose(1, 2) / math.sqrt(a.shape[2])) + hidden[:, :1]).softmax(dim=2) @ c
                for a, b, c in zip(*(t.chunk(attn.heads, dim=2) for t in (q, k, v)), strict=True)
            ]
            own.append(torch.cat(heads, dim=2).transpose(1, 2).unflatten(2, self.shape))
        out = mixed(own[0], own[1:], touched(self.boxes, *self.shape), self.weight)
        return attn.to_out[0](out.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("name", ["pixart_alpha", "pixart_sigma"])
def test_regions_of_pixart_are_those_by_hand(name, folders):
    backbone = loading.load(folders(name), device="cpu")
    regions = Regions(boxed(LEFT, RIGHT), told(backbone, TEXTS), base=0.3)
    ours, plain, transformer = asked(backbone, regions), asked(backbone), backbone.network
    texts, masks = told(backbone, TEXTS).values()
    projected = transformer.caption_projection(texts)
    both = [(text, (1 - mask.float()) * -10000) for text, mask in zip(projected, masks, strict=True)]
    usual = {n: m.processor for n, m in transformer.named_modules() if n.endswith("attn2")}
    for module in usual:
        transformer.get_submodule(module).processor = CrossByHand(both, (CELLS, CELLS), 0.3, (LEFT, RIGHT))
    theirs = asked(backbone)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)
    assert (ours - plain).abs().max() > 1e-2


def repeated(usual):
    def places(text):
        return torch.cat([usual(part) for part in text.split(TOKENS, dim=1)], dim=1)

    return places


def in_turn(usual):
    """Places (from 1, row, column) of Z-Image's cells and texts as if each text were the only one."""

    def patchified(*args):
        *parts, cells, texts, cell_padding, text_padding = usual(*args)
        for places in cells:
            places[:, 0] = TOKENS + 1
        for places in texts:
            places[:, 0] = 1 + torch.arange(len(places)) % TOKENS
        return *parts, cells, texts, cell_padding, text_padding

    return patchified


def unpacked(name, backbone, latents):
    if name == "flux2_klein":
        return backbone.units.of(latents)
    if name.startswith("flux"):
        return FluxPipeline._unpack_latents(latents, 32, 32, 2)
    return latents
