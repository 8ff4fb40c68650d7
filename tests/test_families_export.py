"""Exports of models on transformers: files that diffusers reads draw as the memory does; what they are is told."""

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from test_export import lineage_of
from test_families import HANDS, PROMPTS, distance, loaded

from perdure.bases import loading
from perdure.errors import LineageError, ModelError
from perdure.export import export, layouts, what
from perdure.export.choosing import Wish, content

FAMILY = {
    "flux": "flux", "flux_kontext": "flux", "flux2_klein": "flux2", "flux2_dev": "flux2", "z_image": "z-image",
    "pixart_alpha": "pixart", "pixart_sigma": "pixart", "sd3": "sd3",
}  # fmt: skip


@pytest.fixture(scope="module", params=HANDS)
def base(request, folders):
    """(its name in tiny.py, its folder, the backbone)"""
    folder = folders(request.param)
    return request.param, folder, loading.load(folder, device="cpu")


def widths_of(backbone):
    return [encoder.get_input_embeddings().weight.shape[1] for encoder in backbone.vocabulary.encoders]


def plain_of(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
    return pipe


def test_a_lora_file_draws_the_same_picture_in_diffusers(base, tmp_path):
    name, folder, backbone = base
    shapes = backbone.projections("attention")
    lineage = lineage_of(tmp_path / "m", folder, "mixed", shapes)
    handed = export.export(lineage, tmp_path / "out", Wish("comfyui", dtype="fp32"))
    assert (handed.proof.found, handed.proof.failings) == (len(shapes), []) and handed.proof.largest <= 1
    path, delta = tmp_path / "out" / "loras" / "tiny.safetensors", content(lineage).delta
    file = load_file(path)
    assert set(file) == {f"transformer.{module}.lora_{c}.weight" for module in shapes for c in "AB"}
    side = backbone.latent_side(32)
    noise = torch.randn(2, backbone.units.channels, side, side, generator=torch.Generator().manual_seed(5))
    negative = {n: t.expand(2, *t.shape[1:]) for n, t in backbone.encode_negative(None).items()}
    with backbone.laid(delta):
        ours = backbone.decode(backbone.draw(backbone.encode_prompts(PROMPTS), negative, noise, 2, 3.0, "default"))
    pipe = plain_of(folder)
    call = HANDS[name].call(noise.clone(), 3.0)
    with loaded(pipe, file):
        theirs = pipe(prompt=list(PROMPTS), height=32, width=32, num_inference_steps=2, **call).images
    assert distance(ours, theirs) <= 1
    seen = what.look(path)
    readers = ("ComfyUI",) if name.startswith("pixart") else ("ComfyUI", "diffusers")
    assert (seen.kind, seen.family, seen.layout) == ("LoRA", FAMILY[name], layouts.TRANSFORMER)
    assert seen.readers == readers and set(seen.ranks) == {1, 2, 3} and not seen.warnings
    assert export.verify(lineage, path, pictures=0)[0].failings == []


@pytest.mark.parametrize("name", ["sd3", "z_image", "pixart_sigma"])
def test_a_folder_is_the_base_with_the_change_in_it(name, folders, tmp_path):
    folder = folders(name)
    shapes = loading.load(folder, device="cpu").projections("cross_kv")
    lineage = lineage_of(tmp_path / "m", folder, "dense", shapes)
    handed = export.export(lineage, tmp_path / "out", Wish("diffusers"))
    assert handed.choice.kind == "diffusers folder" and handed.proof.failings == [] and handed.proof.largest <= 1
    before, after = plain_of(folder).transformer, plain_of(tmp_path / "out").transformer
    moved = content(lineage).delta
    for module, tensor in after.state_dict().items():
        change = moved.get(module.removesuffix(".weight"))
        expected = before.state_dict()[module] + (0 if change is None else change.matrix())
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)
    assert export.verify(lineage, tmp_path / "out", pictures=0)[0].failings == []


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_words_of_clip_and_t5_leave_with_it(name, folders, tmp_path):
    """Embedding files of all encoders; of a word of two vectors, too."""
    folder = folders(name)
    backbone = loading.load(folder, device="cpu")
    widths = widths_of(backbone)
    lineage = lineage_of(tmp_path / "m", folder, "pair", backbone.projections("cross_kv"), widths)
    handed = export.export(lineage, tmp_path / "out", Wish("comfyui", dtype="fp32"))
    assert handed.proof.failings == [] and handed.proof.largest <= 1
    word = load_file(tmp_path / "out" / "embeddings" / "sbu.safetensors")
    encoders = ("clip_l", "clip_g", "t5xxl") if name == "sd3" else ("clip_l", "t5xxl")
    assert {k: tuple(t.shape) for k, t in word.items()} == {k: (2, w) for k, w in zip(encoders, widths, strict=True)}
    if name == "flux":
        handed = export.export(lineage, tmp_path / "folder", Wish("folder"))
        assert handed.proof.failings == [] and handed.proof.largest <= 1
    else:
        with pytest.raises(ModelError, match="a word of 2 vectors, which a StableDiffusion3Pipeline does not write"):
            export.export(lineage, tmp_path / "folder", Wish("folder"))


def test_the_hub_gets_a_page(base, tmp_path):
    """As for UNets; the tags are those of diffusers' own scripts where it has one."""
    name, folder, backbone = base
    lineage = lineage_of(tmp_path / "m", folder, "pair", backbone.projections("attention"))
    export.export(lineage, tmp_path / "out", Wish("hub"), pictures=0)
    _, front, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert {FAMILY[name], f"{FAMILY[name]}-diffusers"} <= set(told["tags"]) and "Call it by `zwz dog`" in body
    assert ("lora" in told["tags"]) is not name.startswith("pixart")


def test_files_for_what_knows_no_transformers_are_refused(folders, tmp_path):
    folder = folders("sd3")
    shapes = loading.load(folder, device="cpu").projections("cross_kv")
    lineage = lineage_of(tmp_path / "m", folder, "pair", shapes)
    for to in ("a1111", "forge", "invoke", "checkpoint"):
        with pytest.raises(LineageError, match=f"--to {to} is for bases with a UNet.*--to comfyui or diffusers"):
            export.export(lineage, tmp_path / "out", Wish(to))
    dense = lineage_of(tmp_path / "dense", folder, "dense", shapes)
    handed = export.export(dense, tmp_path / "out", Wish("comfyui"), pictures=1)
    assert handed.proof.failings == [] and all(
        k.startswith("transformer.") and k.endswith(".diff") for k in load_file(tmp_path / "out/loras/tiny.safetensors")
    )


NAMES = {
    "transformer.transformer_blocks.3.attn.to_q": "",
    "transformer.transformer_blocks.3.attn.add_k_proj": "",
    "transformer.transformer_blocks.3.attn2.to_q": "sd3",
    "transformer.single_transformer_blocks.9.attn.to_q": "flux",
    "diffusion_model.double_blocks.1.img_attn.qkv": "flux",
    "lora_transformer_single_transformer_blocks_9_attn_to_q": "flux",
    "diffusion_model.single_transformer_blocks.9.attn.to_qkv_mlp_proj": "flux2",
    "diffusion_model.layers.7.attention.to_k": "z-image",
    "transformer.transformer_blocks.3.attn1.to_q": "pixart",
}


@pytest.mark.parametrize("module", NAMES)
def test_what_tells_transformers_by_their_modules(module, tmp_path):
    """Those of one form in several families are told by what the file says of itself."""
    path = tmp_path / "it.safetensors"
    tensors = {f"{module}.lora_{c}.weight": torch.ones(2, 2) for c in "AB"}
    save_file(tensors, path)
    found = what.look(path)
    assert (found.kind, found.family) == ("LoRA", NAMES[module])
    assert ("diffusers" in found.readers) == (
        (module.startswith("transformer.") and NAMES[module] != "pixart") or NAMES[module] in ("flux2", "z-image")
    )
    if module.endswith("add_k_proj"):
        save_file(tensors, path, {"modelspec.architecture": "flux-1/lora"})
        assert what.look(path).family == "flux"
