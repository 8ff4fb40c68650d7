"""The second embedded base: a small Stable Diffusion 3 without a third encoder stands in the place of its weights."""

import numpy as np
import pytest
import tiny
import torch
from pico import pieces, text_encoder

from perdure import method, plan
from perdure.bases import calibration, loading, outline
from perdure.drawing import sample
from perdure.errors import ModelError
from perdure.lineage import Lineage
from perdure.memory import Memory
from perdure.toybox.pretrain.export import damaged, size_in_bytes


def make(folder):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    tokenizer, vae = pieces(folder)
    towers = [text_encoder(CLIPTextModelWithProjection, tokenizer, 24).eval() for _ in range(2)]
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=48, caption_projection_dim=32, pooled_projection_dim=48,
        pos_embed_max_size=16, qk_norm="rms_norm",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(**tiny.FLOW, shift=1.0), vae=vae,
        text_encoder=towers[0], tokenizer=tokenizer, text_encoder_2=towers[1], tokenizer_2=tokenizer,
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


@pytest.fixture
def toyflow(tmp_path, monkeypatch):
    folder = tiny.saved(lambda: make(tmp_path), tmp_path / "flow")
    monkeypatch.setitem(outline.FOLDERS, "toyflow", folder)
    return folder


def test_without_its_weights_it_says_so(monkeypatch, tmp_path, perdure):
    monkeypatch.setitem(outline.FOLDERS, "toyflow", tmp_path / "none")
    with pytest.raises(ModelError, match="weights of the embedded base toyflow are not in this installation"):
        loading.load("toyflow")
    code, _, told = perdure("check", "toybox-5", "--set", "base=toyflow")
    assert code != 0 and "toyflow are not in this installation" in told


def test_its_prompts_are_those_of_its_two_towers_alone(toyflow):
    """The pipeline's own embeddings, without the rows of zeros that stand for a third encoder."""
    backbone = loading.load("toyflow", device="cpu")
    text = backbone.encode_prompts(["a photo of zwz dog"])
    theirs, _, pooled, _ = backbone.pipe.encode_prompt("a photo of zwz dog", None, None)
    assert text["text"].shape == (1, 16, 48) and theirs.shape == (1, 16 + 256, 48) and not theirs[:, 16:].any()
    assert torch.equal(text["text"], theirs[:, :16]) and torch.equal(text["pooled"], pooled)


def test_it_works_where_the_first_one_does(toyflow, tmp_path, perdure):
    """Its own defaults and world, the embedded scorers, export; a lineage goes on."""
    made = plan.build({"base": "toyflow", "methods": ["naive"]})
    assert made.sampling.steps == 20 and made.training.resolution == 64
    assert calibration.captions("toyflow") == calibration.captions("toybox")
    settings = ["training.steps=2", "training.resolution=32", "sampling.steps=2", "sampling.images_per_prompt=1"]
    words = [word for setting in (*settings, "scoring.drift=0") for word in ("--set", setting)]
    plan_file = tmp_path / "flow.yaml"
    plan_file.write_text(
        "name: small\nbase: toyflow\nmethods: [merge_init]\nconcepts: {toybox: {subjects: 2}}\n"
        "sampling: {prompts: {subject: ['a photo of a {concept}'], style: ['{concept} image']}}\n"
    )
    code, out, told = perdure("run", plan_file, "--out", tmp_path / "run", *words)
    assert code == 0, told + out
    (folder,) = [path.parent for path in (tmp_path / "run").rglob("lineage.json")]
    lineage = Lineage(folder)
    assert len(lineage.lessons) == 2 and lineage.settings["base"] == "toyflow"
    code, _, told = perdure("export", folder, tmp_path / "files", "--pictures", "1")
    assert code == 0 and (tmp_path / "files" / "transformer").is_dir(), told


def test_the_shipped_weights_are_whole_and_draw_what_diffusers_draws():
    """The pipeline by itself, told to leave its rows of zeros out, from the same noise."""
    from diffusers import StableDiffusion3Pipeline

    folder, prompt = outline.FOLDERS["toyflow"], "a photo of a red teapot on the beach"
    assert damaged(folder) == [] and size_in_bytes(folder) < 20e6
    made = plan.build({"base": "toyflow", "methods": ["naive"], "sampling": {"images_per_prompt": 1, "seed": 3}})
    backbone = loading.load("toyflow", device="cpu")
    (drawn,) = sample.images(backbone, method.get("naive"), Memory(), None, [prompt], made.sampling, 64)
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
    (theirs,) = pipeline(
        prompt, num_inference_steps=20, guidance_scale=3.5, max_sequence_length=0, height=64, width=64,
        latents=sample.latents(backbone, 1, 64, 3),
    ).images  # fmt: skip
    assert np.abs(np.array(drawn, int) - np.array(theirs, int)).max() <= 1
    found = np.array(theirs, int)[24:48, 20:44].reshape(-1, 3).mean(0)
    assert found[0] > found[2]  # it is red rather than blue
