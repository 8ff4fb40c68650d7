"""Exports: key sets, one alpha, shapes, metadata, and what each tool's rules read back, for each base and memory."""

import base64
import ctypes
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects
from pico import pieces, text_encoder
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from perdure import files, memory, plan, report, seeds
from perdure.bases import families, loading
from perdure.bases.words import with_word
from perdure.drawing import draw
from perdure.errors import PerdureError
from perdure.export import export, layouts, making, original, weights, what
from perdure.export.choosing import Wish, choose, content
from perdure.lineage import Lineage
from perdure.lineage import exports as noted
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Word

BASES = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}
"""Widths of the text encoders."""
DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


def make(kind, folder):
    """A thin pipeline whose modules, block structure and text widths are those of the full-size family."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizer, vae = pieces(folder)
    xl = kind == "sdxl"
    extra = {
        "sd1": {"cross_attention_dim": 768, "down_block_types": DOWN, "up_block_types": UP},
        "sd2": {
            "cross_attention_dim": 1024, "down_block_types": DOWN, "up_block_types": UP, "use_linear_projection": True,
        },
        "sdxl": {
            "cross_attention_dim": 2048, "use_linear_projection": True, "transformer_layers_per_block": [1, 1, 2],
            "down_block_types": ("DownBlock2D", *DOWN[:2]), "up_block_types": (*UP[1:3], "UpBlock2D"),
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 1280,
        },
    }[kind]  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 16, 32) if xl else (16, 16, 32, 32), norm_num_groups=4,
        attention_head_dim=2, layers_per_block=1, **extra,
    )  # fmt: skip
    parts = {"vae": vae, "tokenizer": tokenizer, "unet": unet}
    small = {"num_hidden_layers": 2, "intermediate_size": 8}
    parts["text_encoder"] = text_encoder(CLIPTextModel, tokenizer, BASES[kind][0], **small)
    parts["scheduler"] = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    if xl:
        parts["text_encoder_2"] = text_encoder(CLIPTextModelWithProjection, tokenizer, 1280, **small)
        StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer).save_pretrained(folder / "base")
    else:
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        StableDiffusionPipeline(**parts, **none).save_pretrained(folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """kind -> (folder, pipeline as diffusers loads it, shapes of the projections), each made when first asked for."""
    known = {}

    def get(kind):
        if kind not in known:
            folder = make(kind, tmp_path_factory.mktemp(kind))
            known[kind] = folder, loading.pipeline(str(folder))[0]
        folder, pipe = known[kind]
        names = {n: m for n, m in pipe.unet.named_modules() if isinstance(m, torch.nn.Linear) and ".attn" in n}
        return folder, pipe, {name: tuple(m.weight.shape) for name, m in names.items()}

    return get


def change_of(form, shape, k):
    out, into = shape
    g = torch.Generator().manual_seed(k)
    draw = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
    pair = lambda r: (draw(r, into) / into**0.5, 0.5 * draw(out, r))  # noqa: E731
    if form == "pair":
        return Change((pair(2),))
    if form == "stacked":
        return Change((pair(2), pair(2), pair(1)))
    if form == "mixed":
        return Change((pair(1 + k % 3),))
    dense = draw(out, into) / into**0.5
    return Change(dense=dense * (draw(out, into) > 1) if form == "masked" else 0.3 * dense)


def lineage_of(folder, base, form, shapes, widths=(), method="merge_init", sampling=None):
    """A model of two lessons with a memory of some form, written as the library writes it, not trained."""
    made = plan.build(
        {
            "name": "tiny", "base": str(base), "method": method,
            "training": {"resolution": 32, "steps": 1, "precision": "fp32"},
            "sampling": {
                "prompts": {"subject": ["a photo of {concept}"], "style": ["{concept} image"]}, "steps": 2,
                **(sampling or {}),
            },
        }
    )  # fmt: skip
    lineage = Lineage.create(folder, made, loading.identity(str(base)), loading.versions())
    held = Memory().with_delta(Delta({name: change_of(form, s, k) for k, (name, s) in enumerate(shapes.items())}))
    for k, (token, dropped) in enumerate([("zwz", ""), ("sbu", "cat")] if widths else []):
        g = torch.Generator().manual_seed(k)
        vectors = {n: torch.randn(1 + k, width, generator=g) for n, width in enumerate(widths)}
        held = with_word(held, token, Word(vectors, dropped))
    for number, (name, token) in enumerate([("dog", "zwz"), ("cat", "sbu")], start=1):
        lesson = folder / "lessons" / f"{number:03d}-{name}"
        memory.save(held, lesson / "memory.json", lineage.store)
        files.write_json(
            lesson / "lesson.json",
            {
                "concepts": [name], "method": {"label": method}, "memory": held.digest, "steps": 1,
                "seconds": {"train": 0, "evaluate": 0}, "bytes": {"carried": 0, "stored": 0},
            },
        )  # fmt: skip
        concept = plan.concept({"name": name, "images": "none", "token": token, "class": name})
        stored = concept.model_dump(mode="json", by_alias=True)
        record = {"concept": stored, "described": plan.describe(concept), "digest": "", "held_out": False}
        files.write_json(folder / "concepts" / name / "concept.json", record)
    return Lineage(folder)


FORMS = ("pair", "stacked", "mixed", "dense", "masked")


def written(lineage, pipe, folder, **wish):
    """An export's files without its proof, and what they should hold."""
    own = content(lineage, wish.get("after"), wish.get("only"))
    chosen = choose(own, Wish(**wish), str(lineage.settings["base"]))
    family = families.of_pipeline(type(pipe).__name__, "")
    made = making.Making(lineage, own, chosen, Wish(**wish), pipe, family)
    for item in made.items():
        item.write(folder / item.path)
    return folder / made.main, chosen, own


def as_a1111(name, tensors):
    """extensions-builtin/Lora/network.py `calc_scale`, `finalize_updown`; network_lora.py, network_full.py."""
    if f"{name}.diff" in tensors:
        return tensors[f"{name}.diff"].float()
    up, down = tensors[f"{name}.lora_up.weight"].float(), tensors[f"{name}.lora_down.weight"].float()
    return up @ down * (tensors[f"{name}.alpha"].item() / down.shape[0])


def as_comfyui(name, tensors):
    """comfy/lora.py `load_lora`; comfy/weight_adapter/lora.py `calculate_weight`: alpha / rank, without alpha 1."""
    if (diff := tensors.get(f"{name}.diff")) is not None:
        return diff.float()
    up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
    alpha = tensors.get(f"{name}.alpha")
    scale = alpha.item() / down.shape[0] if alpha is not None else 1.0
    return scale * torch.mm(up.flatten(start_dim=1).float(), down.flatten(start_dim=1).float())


def as_invoke(tensors):
    """model_util.py:86, configs/lora.py: the base by the width of the first cross-attention key or value."""
    for key in tensors:
        if key.startswith("lora_unet_") and key.endswith(
            ("attn2_to_k.lora_down.weight", "attn2_to_v.lora_down.weight")
        ):
            return {768: "sd1", 1024: "sd2", 2048: "sdxl"}[tensors[key].shape[1]]
        if key.endswith(("attn2_to_k.diff", "attn2_to_v.diff")):
            return {768: "sd1", 1024: "sd2", 2048: "sdxl"}[tensors[key].shape[1]]
    raise AssertionError("no cross-attention")


def a1111_version(metadata):
    """extensions-builtin/Lora/network.py:76 `detect_version`."""
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return "sdxl"
    if str(metadata.get("ss_v2", "")) == "True":
        return "sd2"
    return "sd1" if metadata else "unknown"


def relative(found, wanted):
    return float((found.detach() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("form", FORMS)
def test_every_tool_reads_a_lora_file(kind, form, bases, tmp_path):
    """Keys, shapes, one alpha, metadata; every projection by the rules of each tool, and by diffusers itself."""
    base, pipe, shapes = bases(kind)
    lineage = lineage_of(tmp_path / "m", base, form, shapes)
    delta = content(lineage).delta
    for dtype, bound in (("fp32", 1e-6), ("fp16", 1e-3)):
        path, _, _ = written(lineage, pipe, tmp_path / dtype, dtype=dtype)
        tensors = load_file(path)
        dense = form in ("dense", "masked")
        pieces = ("diff",) if dense else ("lora_down.weight", "lora_up.weight", "alpha")
        names = {name: "lora_unet_" + name.replace(".", "_") for name in shapes}
        assert set(tensors) == {f"{name}.{piece}" for name in names.values() for piece in pieces}
        assert len({t.item() for name, t in tensors.items() if name.endswith("alpha")}) == (not dense)
        assert all(t.dtype == weights.DTYPES[dtype] for name, t in tensors.items() if not name.endswith("alpha"))
        assert as_invoke(tensors) == kind
        for name, change in delta.items():
            assert change.shape == shapes[name]
            for reader in (as_a1111, as_comfyui):
                assert relative(reader(names[name], tensors), change.matrix()) < bound
        if not dense:
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="x")
            for name, change in delta.items():
                layer = pipe.unet.get_submodule(name)
                product = layer.lora_B["x"].weight.float() @ layer.lora_A["x"].weight.float()
                assert relative(layer.scaling["x"] * product, change.matrix()) < bound
            pipe.unload_lora_weights()
    with safe_open(path, "pt") as opened:
        told = opened.metadata()
    assert a1111_version(told) == kind
    assert told["modelspec.architecture"].startswith(
        {"sd1": "stable-diffusion-v1/", "sd2": "stable-diffusion-v2-512/", "sdxl": "stable-diffusion-xl-v1-base/"}[kind]
    )
    assert told["ss_network_dim"] == str(max((c.rank or 0) for c in delta.values()))
    assert (
        json.loads(told["perdure.concepts"]) == ["dog", "cat"]
        and told["perdure.memory"] == content(lineage).lesson.record["memory"]
    )
    seen = what.look(path)
    assert (seen.kind, seen.family, seen.layout) == ("LoRA", kind, layouts.KOHYA) and not seen.warnings
    assert ("diffusers" in seen.readers) != dense and {"ComfyUI", "A1111", "Forge", "InvokeAI"} <= set(seen.readers)
    assert seen.triggers == ("zwz dog", "sbu cat")


KINDS = {"": "projections", "checkpoint": "tensors", "folder": "tensors"}


@pytest.mark.parametrize(
    ("kind", "to"),
    [("sd1", ""), ("sd1", "checkpoint"), ("sd2", "checkpoint"), ("sdxl", "checkpoint"), ("sdxl", "folder")],
)
def test_what_is_handed_over_draws_as_the_memory_does(kind, to, bases, tmp_path):
    """With learnt words: pictures by diffusers from the files, and from the memory; nothing else differs, either."""
    base, _, shapes = bases(kind)
    lineage = lineage_of(tmp_path / "m", base, "mixed", shapes, BASES[kind])
    handed = export.export(lineage, tmp_path / "out", Wish(to, dtype="fp32"))
    proof = handed.proof
    assert (proof.what, proof.found) == (KINDS[to], proof.expected) and proof.error <= 1e-6
    assert proof.expected == len(shapes) if to == "" else proof.expected > 2 * len(shapes)
    assert proof.pictures == 2 and proof.largest <= 1 and proof.mean < 0.05
    assert handed.content.triggers == ("zwz dog", "sbu")  # the second word has swallowed its noun
    assert not list(tmp_path.glob("**/*.partial"))


def widths_of(backbone):
    return [encoder.get_input_embeddings().weight.shape[1] for encoder in backbone.vocabulary.encoders]


@pytest.fixture(scope="module")
def small(pico, pico_xl):
    """Pico bases: name -> (folder, shapes, widths)."""
    loaded = {name: (base, loading.load(str(base), "fp32", "cpu")) for name, base in (("sd", pico), ("xl", pico_xl))}
    return {name: (base, own.projections("attention"), widths_of(own)) for name, (base, own) in loaded.items()}


def test_a_wrong_file_is_told_by_weights_and_pictures(small, tmp_path):
    """A file of other changes, of fewer, or with another word; the file as it was is proven."""
    base, shapes, widths = small["sd"]
    lineage = lineage_of(tmp_path / "m", base, "pair", shapes, widths)
    out = tmp_path / "out"
    export.export(lineage, out, Wish(dtype="fp32"), pictures=0)
    path, word = out / "tiny.safetensors", out / "embeddings" / "sbu.safetensors"
    good, told = load_file(path), what.look(path).metadata
    assert export.verify(lineage, path)[0].failings == []
    save_file({name: -t if name.endswith("up.weight") else t for name, t in good.items()}, path, dict(told))
    proof, _ = export.verify(lineage, path)
    assert proof.error == pytest.approx(2, rel=1e-3) and proof.mean > 1 and len(proof.failings) == 2
    save_file({name: t for name, t in good.items() if "mid_block" not in name}, path, dict(told))
    proof, _ = export.verify(lineage, path, pictures=0)
    assert (proof.expected - proof.found) == 8 and "projections arrive" in proof.failings[0]
    save_file(good, path, dict(told))
    save_file({"emb_params": torch.zeros(2, widths[0])}, word)
    proof, _ = export.verify(lineage, path)
    assert proof.error < 1e-6 and proof.mean > 0.5 and len(proof.failings) == 1


SCRIPT = """
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

pipe = StableDiffusionPipeline.from_pretrained("out")
noise = load_file("noise.safetensors")["noise"]
pipe("a photo of sbu on the beach", latents=noise, num_inference_steps=1, guidance_scale=3.0).images[0].save("it.png")
"""


@pytest.mark.slow
def test_the_embedded_base_draws_without_this_package(tmp_path):
    """A folder, drawn by a script of diffusers alone from the same noise: the same pictures, two-vector words too."""
    pipe = loading.pipeline("toybox")[0]
    shapes = {
        n: tuple(m.weight.shape) for n, m in pipe.unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))
    }
    lineage = lineage_of(
        tmp_path / "m", "toybox", "pair", shapes, (128,), sampling={"steps": 1, "guidance": 3.0, "resolution": 64}
    )
    handed = export.export(lineage, tmp_path / "out", Wish(), pictures=0)
    assert handed.choice.kind == "diffusers folder" and "nobody else has it" in handed.choice.reason
    side = 64 // pipe.vae_scale_factor
    noise = torch.randn(1, pipe.unet.config.in_channels, side, side, generator=seeds.generator(0, "latent", 0))
    save_file({"noise": noise}, tmp_path / "noise.safetensors")
    alone = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-I", "-c", SCRIPT], cwd=tmp_path, env=alone, check=True, capture_output=True)
    theirs = np.asarray(Image.open(tmp_path / "it.png"), int)
    prompt, sampling = "a photo of sbu cat on the beach", {"count": 1, "device": "cpu"}
    ours, before = (
        np.asarray(draw.draw(lineage, prompt, tmp_path / "ours.png", after=n, **sampling)[0], int) for n in (2, 0)
    )
    assert np.abs(ours - theirs).max() <= 1 and np.abs(ours - before).mean() > 2


# --- names of the original layout ---

FULL = {
    "sd1": {"layers_per_block": 2, "down_block_types": DOWN, "up_block_types": UP},
    "sdxl": {"layers_per_block": 2, "up_block_types": (*UP[1:3], "UpBlock2D")},
}
NAMES = {
    "sd1": {
        "down_blocks.0.attentions.1.norm": "input_blocks.2.1.norm",
        "down_blocks.3.resnets.1.conv_shortcut": "input_blocks.11.0.skip_connection",
        "down_blocks.2.downsamplers.0.conv": "input_blocks.9.0.op",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.1.conv",
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "up_blocks.3.attentions.2.proj_in": "output_blocks.11.1.proj_in",
        "up_blocks.0.resnets.0.time_emb_proj": "output_blocks.0.0.emb_layers.1",
        "mid_block.resnets.1.norm2": "middle_block.2.out_layers.0",
        "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0",
    },
    "sdxl": {
        "down_blocks.1.attentions.0.transformer_blocks.1.ff": "input_blocks.4.1.transformer_blocks.1.ff",
        "down_blocks.2.attentions.1.proj_out": "input_blocks.8.1.proj_out",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
        "up_blocks.1.attentions.2.norm": "output_blocks.5.1.norm",
        "up_blocks.2.resnets.2.conv1": "output_blocks.8.0.in_layers.2",
        "add_embedding.linear_1": "label_emb.0.0",
    },
}  # fmt: skip
"""From the full-size models' published checkpoints, and ComfyUI's unet_to_diffusers (comfy/utils.py)."""


@pytest.mark.parametrize("kind", NAMES)
def test_blocks_are_numbered_as_in_the_full_size_models(kind):
    assert {name: original.unet_name(name, FULL[kind]) for name in NAMES[kind]} == NAMES[kind]


# --- what ---


def lora(layout, alphas=(2.0,), rank=2):
    """A small file in some layout, of names that trainers write."""
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    down, up = torch.randn(rank, 2048), torch.randn(32, rank)
    flat = "lora_unet_" + module.replace(".", "_")
    return {
        "kohya": {
            f"{flat.replace('attentions_0', f'attentions_{k}')}.{piece}": t.clone() for k, alpha in enumerate(alphas)
            for piece, t in (("lora_down.weight", down), ("lora_up.weight", up), ("alpha", torch.tensor(alpha)))
        },
        "lycoris": {f"{flat.replace('lora_unet', 'lycoris')}.diff": up @ down},
        "peft": {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up},
        "peft without unet.": {f"base_model.model.{module}.lora_A.weight": down, f"{module}.lora_B.weight": up},
        "old diffusers": {
            f"unet.{module.removesuffix('.to_k')}.processor.to_k_lora.{way}.weight": t
            for way, t in (("down", down), ("up", up))
        },
    }[layout]  # fmt: skip


READS = {
    "kohya": ("ComfyUI", "A1111", "Forge", "InvokeAI", "diffusers"), "lycoris": ("ComfyUI", "Forge"),
    "peft": ("diffusers",), "peft without unet.": (), "old diffusers": ("ComfyUI", "Forge", "diffusers"),
}  # fmt: skip
"""Which of the tools' own loaders moved all projections of such files, each tried on SD 1 and SDXL."""


@pytest.mark.parametrize("layout", READS)
def test_what_knows_every_layout_and_who_reads_it(layout, tmp_path):
    path = tmp_path / "it.safetensors"
    save_file(lora(layout), path)
    seen = what.look(path)
    assert (seen.kind, seen.layout, seen.family, seen.readers) == ("LoRA", layout, "sdxl", READS[layout])


def test_what_warns_of_the_traps(tmp_path, perdure):
    path = tmp_path / "it.safetensors"
    strange = {f"strange.{k}": torch.zeros(1) for k in range(13)}
    words = {"bundle_emb.zwz.string_to_param.*": torch.zeros(1, 768)}
    save_file({**lora("kohya", (2.0, 4.0)), **strange, **words}, path, {"format": "pt", "ssmd_cover_images": '["x"]'})
    seen = what.look(path)
    told = " | ".join(seen.warnings)
    for part in (
        "2 different alphas",
        "13 keys that no loader knows",
        "Forge refuses",
        "bundled",
        "takes it for Stable",
    ):
        assert part in told
    assert seen.pictures == 1 and seen.alphas == {2.0: 1, 4.0: 1}
    code, out, _ = perdure("what", path, "--json")
    assert code == 0 and json.loads(out)["warnings"] == list(seen.warnings)
    code, out, _ = perdure("what", path)
    assert code == 0 and "warning: 2 different alphas" in out
    save_file({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, path)
    seen = what.look(path)
    assert (seen.kind, seen.family, seen.vectors) == ("embedding", "sdxl", {"clip_g": (2, 1280), "clip_l": (2, 768)})
    save_file({"<zwz>": torch.zeros(2, 768)}, path)
    assert (what.look(path).family, "InvokeAI" in what.look(path).readers) == ("sd1", False)


def test_what_reads_checkpoints(bases, tmp_path):
    for kind in BASES:
        held = original.checkpoint(bases(kind)[1])
        path = tmp_path / f"{kind}.safetensors"
        save_file({name: t.contiguous() for name, t in held.items()}, path)
        seen = what.look(path)
        assert (seen.kind, seen.family, seen.warnings) == ("checkpoint", kind, ())
    bare = {n.replace("transformer.text_model.", "transformer."): t for n, t in load_file(path).items()}
    save_file(bare, path)
    assert "lack `text_model.`" in what.look(path).warnings[0]


# --- which file, and which not ---


def kind_of(lineage, **wish):
    return choose(content(lineage, only=wish.get("only")), Wish(**wish), lineage.settings["base"])


def test_the_form_of_the_memory_decides(small, tmp_path):
    base, shapes, _ = small["sd"]
    low, dense = (lineage_of(tmp_path / form, base, form, shapes) for form in ("stacked", "dense"))
    for to in ("", "comfyui", "a1111", "forge", "invoke", "diffusers", "hub"):
        chosen = kind_of(low, to=to)
        assert (chosen.kind, chosen.dense) == ("LoRA file", 0) and "holds it exactly" in chosen.reason
    for to in ("", "comfyui", "a1111", "forge", "invoke"):
        chosen = kind_of(dense, to=to)
        assert (chosen.kind, chosen.dense) == ("LoRA file", len(shapes)) and ".diff" in chosen.reason
    assert [kind_of(dense, to=to).kind for to in ("diffusers", "hub", "folder")] == ["diffusers folder"] * 3
    assert kind_of(low, to="checkpoint").kind == "checkpoint"


def test_a_cut_loses_what_it_says(small, tmp_path):
    """Errors of the truncated decomposition by hand; the fewest ranks that keep an error; pairs and dense alike."""
    base, shapes, _ = small["sd"]
    for form in ("stacked", "dense"):
        delta = content(lineage_of(tmp_path / form, base, form, shapes)).delta
        low, cut = weights.lowered(delta, rank=2)
        values = {name: torch.linalg.svdvals(change.matrix().double()).square() for name, change in delta.items()}
        each = {name: (v[2:].sum() / v.sum()).sqrt().item() for name, v in values.items()}
        total = (sum(v[2:].sum() for v in values.values()) / sum(v.sum() for v in values.values())).sqrt().item()
        assert cut.whole == pytest.approx(total, rel=1e-4) and cut.worst == pytest.approx(max(each.values()), rel=1e-4)
        assert each[cut.where] == max(each.values()) and cut.rank == 2
        for name, change in low.items():
            assert relative(change.matrix(), delta[name].matrix()) == pytest.approx(each[name], rel=1e-4)
        kept, _ = weights.lowered(delta, error=0.3)
        for name, change in kept.items():
            share = (values[name].flip(0).cumsum(0).flip(0) / values[name].sum()).sqrt()
            assert relative(change.matrix(), delta[name].matrix()) <= 0.3 + 1e-6 < share[change.rank - 1]


def test_a_cut_is_handed_over_with_its_error(small, tmp_path):
    base, shapes, _ = small["sd"]
    lineage = lineage_of(tmp_path / "m", base, "dense", shapes)
    handed = export.export(lineage, tmp_path / "out", Wish("diffusers", error=0.4))
    assert handed.choice.cut.worst <= 0.4 and f"{handed.choice.cut.whole:.2%}" in handed.choice.reason
    assert handed.proof.found == len(shapes) and handed.proof.mean_bound is None and not handed.proof.failings
    proof, _ = export.verify(lineage, tmp_path / "out" / "tiny.safetensors", pictures=0)
    assert proof.error < 1e-3  # of what was cut, by the rule that the file tells


def lessons(folder, base, shapes, memories, method):
    """A model whose lessons' memories are given."""
    return remembering(lineage_of(folder, base, "pair", shapes, method=method), memories)


def remembering(lineage, memories):
    """The same model with other memories, one for each lesson."""
    for row, held in zip(lineage.lessons, memories, strict=True):
        memory.save(held, row.memory, lineage.store)
        record = files.read_json(row.folder / "lesson.json")
        files.write_json(row.folder / "lesson.json", {**record, "memory": held.digest})
    return Lineage(lineage.folder)


def test_one_lesson_alone_where_lessons_are_added(small, tmp_path):
    """Its pairs where both are stacks, its few directions where the sum is dense; refused where nothing is added."""
    base, shapes, widths = small["sd"]
    first, second = (
        Delta({n: change_of("pair", s, 100 * k + i) for i, (n, s) in enumerate(shapes.items())}) for k in (1, 2)
    )
    for name, before in (("stack", first), ("sum", Delta({n: Change.full(c.matrix()) for n, c in first.items()}))):
        held = [Memory().with_delta(before), Memory().with_delta(before + second)]
        held = [with_word(m, "zwz", Word({0: torch.ones(1, widths[0])})) for m in held]
        held[1] = with_word(held[1], "sbu", Word({0: torch.zeros(1, widths[0])}))
        lineage = lessons(tmp_path / name, base, shapes, held, "merge_init")
        own = content(lineage, only="cat")
        assert set(own.words) == {"sbu"} and own.triggers == ("sbu cat",)
        for projection, change in own.delta.items():
            assert change.rank == 2 and relative(change.matrix(), second[projection].matrix()) < 1e-5
        path, _, _ = written(lineage, loading.pipeline(str(base))[0], tmp_path / f"{name}-out", only="cat")
        assert path.name == "tiny-cat.safetensors"
        assert {p.name for p in (path.parent / "embeddings").iterdir()} == {"sbu.safetensors"}
    lineage = lessons(tmp_path / "naive", base, shapes, [Memory().with_delta(d) for d in (first, second)], "naive")
    with pytest.raises(PerdureError, match=r"does not add lessons.*--after 2"):
        content(lineage, only="cat")
    assert content(lineage, only="dog").delta.keys() == shapes.keys()  # the first lesson's change is the model's


def test_what_no_file_can_hold_is_refused(small, tmp_path):
    base, shapes, _ = small["sd"]
    delta = Delta({n: change_of("pair", s, i) for i, (n, s) in enumerate(shapes.items())})
    kept = Memory().with_delta(delta, "own/dog").with_delta(delta, "own/cat").with_facts(kept=["dog", "cat"])
    for method, why in (("independent", "never in force together"), ("cidm", "anew for each prompt")):
        lineage = lessons(tmp_path / method, base, shapes, [kept, kept], method)
        with pytest.raises(PerdureError, match=rf"{why}.*--only \(dog, cat\)"):
            content(lineage)
        assert content(lineage, only="cat").delta.keys() == delta.keys()
    lineage = lineage_of(tmp_path / "m", base, "pair", shapes)
    for asked, why in (
        ({"after": 3}, "there is no lesson 3"), ({"only": "bird"}, "knows no concept 'bird'.*it knows dog, cat"),
    ):  # fmt: skip
        with pytest.raises(PerdureError, match=why):
            content(lineage, **asked)
    for to in ("comfyui", "a1111", "checkpoint"):
        with pytest.raises(PerdureError, match=r"embedded base.*--to folder"):
            choose(content(lineage), Wish(to), "toybox")
    with pytest.raises(PerdureError, match="not both"):
        Wish(rank=4, error=0.1)


# --- bad input, one sentence each ---


@pytest.fixture
def exported(small, tmp_path):
    """(lineage, a LoRA file that is its export)."""
    base, shapes, _ = small["sd"]
    lineage = lineage_of(tmp_path / "m", base, "pair", shapes)
    return lineage, written(lineage, loading.pipeline(str(base))[0], tmp_path / "good")[0]


def test_files_that_cannot_be_read_are_told(exported, tmp_path, perdure):
    lineage, good = exported
    data = good.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for content_, why in (
        (data[: len(data) // 2], "is no safetensors file, or damaged"),
        ((100 << 30).to_bytes(8, "little") + data[8:], "it has no safetensors header"),
        (b"", "it has no safetensors header"),
        (b"PK\x03\x04" + data, "is a pickle, which can run any code"),
        (b"\x80\x02" + data, "is a pickle, which can run any code"),
    ):
        bad.write_bytes(content_)
        code, out, told = perdure("what", bad)
        assert (code, out.strip()) == (2, "") and why in told and str(bad) in told and told.count("\n") == 1
        code, _, told = perdure("export", "--verify", bad, "--model", lineage.folder, "--pictures", 0)
        assert code == 2 and str(bad) in told and told.count("\n") == 1
    for path, why in ((tmp_path, "is a folder"), (tmp_path / "none.safetensors", "No such file")):
        code, _, told = perdure("what", path)
        assert code == 2 and why in told
    code, _, told = perdure("export", "--verify", good.parent, "--model", lineage.folder, "--pictures", 0)
    assert code == 2 and f"{good.parent} is a folder without a pipeline" in told and told.count("\n") == 1


def test_files_of_other_things_are_told(exported, small, tmp_path):
    lineage, good = exported
    tensors, told = load_file(good), what.look(good).metadata
    bad = tmp_path / "bad.safetensors"

    def refused(held, why, metadata=told):
        save_file(held, bad, metadata)
        with pytest.raises(PerdureError, match=why):
            export.verify(lineage, bad, pictures=0)

    name, tensor = next((n, t) for n, t in tensors.items() if "attn2_to_k.lora_down" in n)
    refused({**tensors, name: torch.randn(2, 40).half()}, "diffusers cannot read it")  # another width: SDXL's
    refused({"conv.weight": torch.zeros(2)}, "is no export: `perdure what")
    refused(tensors, "another base", {**told, "perdure.base_identity": "0" * 16})
    refused(tensors, "another memory", {**told, "perdure.memory": "0" * 64})
    save_file({**tensors, name: tensor * float("nan")}, bad, told)
    proof, _ = export.verify(lineage, bad, pictures=0)
    assert proof.failings  # NaN is beyond every bound
    assert "hold NaN or infinity" in what.look(bad).warnings[0]


def test_a_memory_that_no_dtype_can_hold_is_not_written(small, tmp_path):
    base, shapes, _ = small["sd"]
    lineage = lineage_of(tmp_path / "m", base, "pair", shapes)
    delta = content(lineage).delta
    name = next(iter(delta))
    huge = {**delta, name: Change.full(torch.full(shapes[name], 1e6))}
    lineage = lessons(tmp_path / "huge", base, shapes, [Memory().with_delta(Delta(huge))] * 2, "merge_init")
    for to in ("", "folder"):
        with pytest.raises(PerdureError, match=r"is not finite in float16.*--dtype fp32"):
            export.export(lineage, tmp_path / "out", Wish(to, dtype="fp16"), pictures=0)
        assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("to", ["", "checkpoint", "folder"])
def test_a_full_disk_leaves_nothing(to, small, tmp_path):
    """No file may grow over 20 kB, as on a disk that is full in the middle of the weights."""
    resource = pytest.importorskip("resource", reason="no limit of file sizes on this system")
    base, shapes, _ = small["sd"]
    lineage = lineage_of(tmp_path / "m", base, "pair", shapes)
    (tmp_path / "there").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        for out in ("new", "there"):
            with pytest.raises(PerdureError, match=r"^cannot write [^\n]*File too large"):
                export.export(lineage, tmp_path / out, Wish(to, dtype="fp32"), pictures=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "new").exists() and not list((tmp_path / "there").iterdir())


def on_a_small_disk(folder, size, asked):
    """What `asked` returns, in a child for which `folder` is a disk of so many bytes; skips where that is forbidden.

    In a name space of one's own anybody may mount a file system of memory, which no other process sees.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        pytest.skip("no name spaces on this system")
    user, group, (reader, writer) = os.getuid(), os.getgid(), os.pipe()
    if (child := os.fork()) == 0:
        try:
            if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
                os.write(writer, json.dumps({"skip": os.strerror(ctypes.get_errno())}).encode())
                os._exit(0)
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                Path(f"/proc/self/{name}").write_text(text)
            if libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode()):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            os.write(writer, json.dumps(asked()).encode())
        except BaseException as error:
            os.write(writer, json.dumps({"error": repr(error)}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        told = json.loads(stream.read() or '{"error": "it died"}')
    os.waitpid(child, 0)
    if "skip" in told:
        pytest.skip(f"no name space of one's own on this system: {told['skip']}")
    assert "error" not in told, told
    return told


@pytest.mark.skipif(sys.platform != "linux", reason="name spaces are Linux's")
@pytest.mark.parametrize("to", ["", "checkpoint", "folder"])
def test_a_disk_that_fills_up_in_the_middle_of_a_file_leaves_nothing(to, bases, tmp_path, monkeypatch):
    """A true file system that has room when it is asked, and is full once half of the largest file is written."""
    base, pipe, shapes = bases("sd1")
    lineage = lineage_of(tmp_path / "m", base, "dense", shapes)
    needed = sum(p.numel() * 4 for part in (pipe.unet, pipe.text_encoder) for p in part.parameters())
    disk, asked = tmp_path / "disk", shutil.disk_usage
    disk.mkdir()
    delta = content(lineage).delta
    largest = sum(change.dense.numel() * 4 for change in delta.values()) if to == "" else needed // 2

    def usage(path):
        found = asked(path)
        (disk / "somebody-else").write_bytes(b"x" * (found.free - largest // 2))  # meanwhile
        return found

    def export_it():
        monkeypatch.setattr(making.shutil, "disk_usage", usage)
        told = []
        for out in ("new", "there"):
            (disk / "there").mkdir(exist_ok=True)
            (disk / "somebody-else").unlink(missing_ok=True)
            try:
                export.export(lineage, disk / out, Wish(to, dtype="fp32"), pictures=0)
            except PerdureError as error:
                told.append(str(error))
        return {"told": told, "left": sorted(p.name for p in disk.rglob("*"))}

    found = on_a_small_disk(disk, 4 * needed, export_it)
    assert len(found["told"]) == 2 and found["left"] == ["somebody-else", "there"]
    for told in found["told"]:
        assert told.startswith("cannot write ") and "No space left on device" in told and "\n" not in told


def test_nothing_is_overwritten_unless_it_is_said(exported, tmp_path, monkeypatch):
    lineage, _ = exported
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    handed = export.export(lineage, out, Wish(), pictures=0)
    assert set(handed.files) == {"tiny.safetensors"}
    first = (out / "tiny.safetensors").read_bytes()
    for wish in (Wish(), Wish("folder")):
        with pytest.raises(PerdureError, match=r"already.*--force"):
            export.export(lineage, out, wish, pictures=0)
    assert (out / "tiny.safetensors").read_bytes() == first and not list(out.glob(".perdure*"))
    export.export(lineage, out, Wish(dtype="fp32"), force=True, pictures=0)
    assert (out / "tiny.safetensors").read_bytes() != first and (out / "mine.txt").read_text() == "mine"
    with pytest.raises(PerdureError, match="is a file; give a folder"):
        export.export(lineage, out / "mine.txt", Wish(), pictures=0)
    monkeypatch.setattr(making.shutil, "disk_usage", lambda path: type("U", (), {"free": 10})())
    with pytest.raises(PerdureError, match="are free there; make room first"):
        export.export(lineage, tmp_path / "full", Wish(), pictures=0)
    assert [entry["place"] for entry in noted.read(lineage.folder)] == [str(out)]
    text = report.build([lineage], tmp_path / "report", title="exports").read_text()
    assert "Exports</h2>" in text and "32 of 32 projections" in text and "holds it exactly" in text


def test_what_is_wrong_is_not_handed_over(exported, tmp_path, monkeypatch):
    """A writer that forgets half of a factor's scale: found by the proof, and nothing is left."""
    lineage, _ = exported
    right = weights.adapter

    def wrong(*asked):
        return {n: t / 2 if n.endswith("alpha") else t for n, t in right(*asked).items()}

    monkeypatch.setattr(weights, "adapter", wrong)
    with pytest.raises(PerdureError, match=r"was not handed over: the weights of .* are off by 5\.0e-01"):
        export.export(lineage, tmp_path / "out", Wish(), pictures=0)
    assert not (tmp_path / "out").exists() and noted.read(lineage.folder) == []


# --- places, and what stands beside ---


def test_every_tool_finds_the_files_in_its_places(small, tmp_path):
    """Where ComfyUI's models folder and the web UI's have them; A1111's card; the page of a hub folder."""
    base, shapes, widths = small["xl"]
    lineage = lineage_of(tmp_path / "m", base, "pair", shapes, widths)
    words = {"embeddings/zwz.safetensors", "embeddings/sbu.safetensors"}
    for to, own in (
        ("", {"tiny.safetensors", "tiny.txt"}),
        ("comfyui", {"loras/tiny.safetensors", "loras/tiny.txt"}),
        ("a1111", {f"models/Lora/tiny.{end}" for end in ("safetensors", "txt", "json")}),
        ("hub", {"pytorch_lora_weights.safetensors", "README.md"}),
    ):
        out = tmp_path / f"for-{to}"
        written(lineage, loading.pipeline(str(base))[0], out, to=to)
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == own | words
    card = json.loads((tmp_path / "for-a1111" / "models" / "Lora" / "tiny.json").read_text())
    assert (card["sd version"], card["activation text"]) == ("SDXL", "zwz dog, sbu")
    _, front, body = (tmp_path / "for-hub" / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["instance_prompt"] == "zwz dog, sbu" and "`zwz dog`" in body and "stable-diffusion-xl" in told["tags"]
    held = load_file(tmp_path / "for-" / "embeddings" / "sbu.safetensors")
    assert {name: tuple(t.shape) for name, t in held.items()} == {"clip_l": (2, widths[0]), "clip_g": (2, widths[1])}


def shown(lineage, prompts=("a photo of zwz dog", "a photo of sbu cat")):
    """Pictures and scores of the last lesson's concepts, as lessons keep them."""
    for number, (name, prompt) in enumerate(zip(("dog", "cat"), prompts, strict=True)):
        folder = lineage.lessons[-1].cells / name
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), (80 * number, 99, 0)).save(folder / "000.png")
        measured = {"direction": "higher", "model": "m", "spec": {}}
        record = {
            "concept": name, "scores": {"clip_i": 0.5 + number / 4}, "ceiling": {"clip_i": 1.0},
            "measures": {"clip_i": measured}, "images": [{"file": "000.png", "prompt": prompt, "latent": 0}],
            "seconds": 1.0,
        }  # fmt: skip
        files.write_json(folder / "cell.json", record)
    return Lineage(lineage.folder)


def test_pictures_beside_and_inside(small, tmp_path):
    """Previews beside the LoRA file and each word, a thumbnail in the files, a gallery and scores for the hub."""
    base, shapes, widths = small["sd"]
    lineage = shown(lineage_of(tmp_path / "m", base, "pair", shapes, widths))
    (pipe, _), last = loading.pipeline(str(base)), (80, 99, 0)
    path, _, _ = written(lineage, pipe, tmp_path / "out", to="comfyui")
    beside = {f.stem.removesuffix(".preview"): Image.open(f) for f in (tmp_path / "out").rglob("*.preview.png")}
    assert {name: picture.getpixel((0, 0)) for name, picture in beside.items()} == {
        "tiny": last, "zwz": (0, 99, 0), "sbu": last,
    }  # fmt: skip
    assert what.look(path).pictures == 1
    kind, _, data = what.look(path).metadata["modelspec.thumbnail"].partition(";base64,")
    inside = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, inside.size) == ("data:image/jpeg", (32, 32)) and abs(inside.getpixel((0, 0))[1] - 99) < 9
    (base / "README.md").write_text("---\nlicense: openrail++\n---\n# It\n")
    try:
        written(lineage, pipe, tmp_path / "hub", to="hub")
    finally:
        (base / "README.md").unlink()
    _, front, body = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["license"] == "openrail++" and "base_model" not in told and str(base) not in front + body
    assert [(w["text"], w["output"]["url"]) for w in told["widget"]] == [
        ("a photo of zwz dog", "images/dog.png"), ("a photo of sbu", "images/cat.png"),
    ]  # fmt: skip
    assert all((tmp_path / "hub" / w["output"]["url"]).is_file() for w in told["widget"])
    assert "| cat | clip_i 0.750 |" in body and "load_lora_weights" in body
    lineage.facts["settings"]["base"] = "owner/base"
    path, _, _ = written(lineage, pipe, tmp_path / "of-hub", to="hub")
    told = yaml.safe_load(path.with_name("README.md").read_text().split("---\n")[1])
    assert (told["base_model"], told["base_model_relation"]) == ("owner/base", "adapter") and "license" not in told


class Hub:
    """huggingface_hub's HfApi as far as it is used; `wrong` is what it raises."""

    def __init__(self, wrong=None):
        self.wrong, self.asked = wrong, []

    def create_repo(self, repository, **how):
        if self.wrong:
            raise self.wrong
        self.asked.append((repository, how))

    def upload_folder(self, **how):
        self.asked.append(sorted(filter_repo_objects(
            [p.relative_to(how["folder_path"]).as_posix() for p in how["folder_path"].rglob("*") if p.is_file()],
            allow_patterns=how["allow_patterns"],
        )))  # fmt: skip
        return type("Done", (), {"repo_url": f"https://hub/{how['repo_id']}"})()


def test_only_what_was_handed_over_is_uploaded_and_only_when_asked(small, tmp_path, perdure, monkeypatch):
    base, shapes, _ = small["sd"]
    lineage, out = lineage_of(tmp_path / "m", base, "pair", shapes), tmp_path / "out"
    out.mkdir()
    (out / "private.txt").write_text("mine")
    hub = Hub()
    monkeypatch.setattr(export, "HfApi", lambda: hub)
    options = ("--to", "hub", "--pictures", 0)
    code, said, _ = perdure("export", lineage.folder, out, *options)
    assert code == 0 and hub.asked == [] and "tells no licence" in " ".join(said.split())
    code, said, _ = perdure("export", lineage.folder, out, *options, "--force", "--push", "me/it")
    assert code == 0 and "https://hub/me/it" in said
    assert hub.asked == [
        ("me/it", {"private": True, "exist_ok": True}), ["README.md", "pytorch_lora_weights.safetensors"],
    ]  # fmt: skip
    hub.wrong = LocalTokenNotFoundError("no token here; log in")
    code, _, told = perdure("export", lineage.folder, out, *options, "--force", "--push", "me/it")
    assert code == 2 and "cannot upload to me/it: no token here" in told and told.count("\n") == 1
    for wrong, why in ((("--push", "../x", "--to", "hub"), "give owner/name"), (("--push", "me/it"), "say both")):
        code, _, told = perdure("export", lineage.folder, tmp_path / "none", *wrong)
        assert code == 2 and why in told and not (tmp_path / "none").exists()


def test_force_leaves_nothing_of_the_earlier_export(small, tmp_path):
    """A word that is no longer learnt, shards of a pipeline; files of others stay, and are not covered up."""
    base, shapes, widths = small["sd"]
    lineage, out = lineage_of(tmp_path / "m", base, "pair", shapes, widths), tmp_path / "out"
    export.export(lineage, out, Wish(), pictures=0)
    (out / "embeddings" / "mine.txt").write_text("mine")
    export.export(lineage, out, Wish(only="dog"), force=True, pictures=0)  # another name, with one of the words
    held = Memory().with_delta(content(lineage).delta)
    lineage = remembering(lineage, [held, held])
    export.export(lineage, out, Wish(), force=True, pictures=0)
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert left == {
        "tiny.safetensors", "tiny.txt", "tiny-dog.safetensors", "tiny-dog.txt", "embeddings/mine.txt",
        "embeddings/zwz.safetensors",
    }  # fmt: skip
    whole = tmp_path / "whole"
    export.export(lineage, whole, Wish("folder"), pictures=0)
    assert len(noted.read(lineage.folder)) == 3
    entries = noted.read(lineage.folder)
    stale = whole / "unet" / "stale.fp16.safetensors"
    stale.write_bytes(b"")
    entries[-1]["files"].append("unet/stale.fp16.safetensors")
    files.write_json(lineage.folder / noted.FILE, {"format": 1, "exports": entries})
    export.export(lineage, whole, Wish("folder"), force=True, pictures=0)
    assert not stale.exists() and (whole / "unet" / "config.json").is_file()
    entries[-1]["files"].append("../tiny.txt")
    files.write_json(lineage.folder / noted.FILE, {"format": 1, "exports": entries})
    with pytest.raises(PerdureError, match="is not the name of anything in it"):
        export.export(lineage, whole, Wish("folder"), force=True, pictures=0)
    with pytest.raises(PerdureError, match="no export of this model to it wrote"):
        export.export(lineage, base, Wish("folder"), force=True, pictures=0)
