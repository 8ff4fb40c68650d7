"""Lessons that somebody else taught: LoRA files of every layout against diffusers and matrices by hand."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from perdure import memory, method, plan, plugins, report, run, seeds
from perdure.bases import loading
from perdure.drawing import draw
from perdure.errors import PerdureError
from perdure.export import bringing, export, original, what
from perdure.export.choosing import Wish
from perdure.lineage import Lineage
from perdure.memory.delta import Change, Delta
from perdure.plan import catalogue

PROMPT = "a photo of zwz dog in snow"


def lineage_of(plan_data, folder, chosen="merge_init", **more):
    """An untaught model."""
    plain = {key: value for key, value in plan_data.items() if key not in ("methods", "concepts")}
    made = plan.build({**plain, "method": chosen, **more})
    return Lineage.create(folder, made, loading.identity(made.base), loading.versions())


def concept_of(name, photos):
    token = {"dog": "zwz", "cat": "sbu", "clock": "uwu"}[name]
    return plan.concept({"name": name, "images": photos / name, "token": token, "class": name})


def brought(lineage, name, photos, file, **how):
    return run.teach(lineage, concept_of(name, photos), brought=bringing.read(file, **how)[0])


def delta_of(lineage):
    return memory.load(lineage.lessons[-1].memory, lineage.store).delta()


def by_peft(base, folder, seed=0, alpha=8.0, names=("to_q", "to_k", "to_v", "to_out.0"), recipe=False, **more):
    """A LoRA file that peft made and diffusers wrote, with all that they note in it."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = loading.pipeline(str(base))[0].unet
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=list(names), **more)
    unet.add_adapter(config)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            noise = torch.randn(parameter.shape, generator=g)
            if ".lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.3 * noise)
            elif ".lora_" in name:
                parameter.copy_(noise * 0.15)
    layers = get_peft_model_state_dict(unet)
    if recipe or all(name.startswith("to_") for name in names):  # as diffusers' training scripts do
        layers = convert_state_dict_to_diffusers(layers)
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=layers, unet_lora_adapter_metadata=config.to_dict()
    )
    return folder / "pytorch_lora_weights.safetensors"


def kohya(base, path, seed=0, alpha=1.0, rank=3, ends=("to_k", "to_out.0"), dense=False):
    """A LoRA file as kohya's trainer names it, or LyCORIS where it is dense; and its changes by hand."""
    unet, g = loading.pipeline(str(base))[0].unet, torch.Generator().manual_seed(seed)
    tensors, changes = {}, {}
    for name, layer in unet.named_modules():
        if not name.endswith(ends) or not hasattr(layer, "weight"):
            continue
        own, (out, *rest) = "lora_unet_" + name.replace(".", "_"), layer.weight.shape
        down, up = torch.randn(rank, *rest, generator=g), torch.randn(out, rank, generator=g) * 0.3
        matrix = torch.einsum("or,ri->oi", up, down.reshape(rank, -1)) * (alpha / rank)
        changes[name] = matrix
        if dense:
            tensors[f"{own}.diff"] = matrix.view(layer.weight.shape).clone()
            continue
        up = up[:, :, None, None] if len(rest) == 3 else up
        tensors |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up, f"{own}.alpha": torch.tensor(alpha)}
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, {"format": "pt"})
    return path, changes


def alone(pipe, prompt=PROMPT):
    """A picture by diffusers alone, from the noise that perdure draws from."""
    side = 32 // pipe.vae_scale_factor
    noise = torch.randn(1, pipe.unet.config.in_channels, side, side, generator=seeds.generator(0, "latent", 0))
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(
        pipe(prompt, latents=noise, num_inference_steps=2, guidance_scale=5.0, height=32, width=32).images[0], int
    )


def drawn(lineage, out, prompt=PROMPT, after=None):
    pictures = draw.draw(lineage, prompt, out, count=1, device="cpu", after=after)
    return np.asarray(pictures[0], int)


def near(one, other, most=2):
    return np.abs(one - other).max() <= most


PEFT_FILES = {
    "alpha twice the rank": {}, "alpha of its own": {"alpha": 2.0, "alpha_pattern": {"to_k": 12.0}},
    "rslora": {"use_rslora": True}, "ranks": {"rank_pattern": {"attn2.to_q": 2}},
    "dora": {"use_dora": True}, "dora of convolutions": {"use_dora": True, "names": ("to_q", "conv1", "proj_in")},
    "feed-forward too": {"names": ("to_q", "to_v", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1")},
}  # fmt: skip


@pytest.mark.parametrize("kind", PEFT_FILES)
def test_what_peft_and_diffusers_wrote_draws_the_same(kind, pico, plan_data, photos, tmp_path):
    """The picture of diffusers with that file loaded, and of the model that was taught by it."""
    file = by_peft(pico, tmp_path / "lora", **PEFT_FILES[kind])
    lineage = lineage_of(plan_data, tmp_path / "m")
    row = brought(lineage, "dog", photos, file)
    pipe, _ = loading.pipeline(str(pico))
    before = alone(pipe)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    ours, theirs = drawn(lineage, tmp_path / "it.png"), alone(pipe)
    assert near(ours, theirs) and np.abs(ours - before).mean() > 1
    assert row.record["brought"]["sha256"] == bringing.read(file)[0].facts["sha256"] and row.record["steps"] == 0
    assert row.cell("dog").scores.keys() == {"clip_i", "clip_t"}


def by_lycoris(base, path, config):
    """A file as LyCORIS names it, of modules that peft made; and the network that carries them, by peft."""
    from peft import inject_adapter_in_model

    pipe, _ = loading.pipeline(str(base))
    inject_adapter_in_model(config, pipe.unet)
    g, tensors, changes = torch.Generator().manual_seed(0), {}, {}
    for name, layer in pipe.unet.named_modules():
        if not hasattr(layer, "get_delta_weight"):
            continue
        own = "lora_unet_" + name.replace(".", "_")
        with torch.no_grad():
            for key, parameter in layer.named_parameters():
                if not key.startswith("base_layer"):
                    parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.6)
                    tensors[f"{own}.{key.split('.')[0]}"] = parameter.detach().clone()
            changes[name] = layer.get_delta_weight("default").detach().clone()
        whole = {f"{own}.lokr_w1", f"{own}.lokr_w2"} <= tensors.keys()  # then LyCORIS's scale is 1, and peft's never
        tensors[f"{own}.alpha"] = torch.tensor(config.alpha)
        if whole:
            changes[name] /= layer.scaling["default"]
            layer.scaling["default"] = 1.0
    save_file(tensors, path, {"format": "pt"})
    return pipe, changes


CONVOLUTIONS = {"target_modules": ["to_q", "to_k", "ff.net.2", "conv1", "proj_in"], "r": 2, "alpha": 3.0}
LYCORIS = {
    "LoHa": ("LoHaConfig", {}), "LoHa in Tucker form": ("LoHaConfig", {"use_effective_conv2d": True}),
    "LoKr": ("LoKrConfig", {"decompose_factor": 4}),
    "LoKr of both": ("LoKrConfig", {"decompose_both": True, "decompose_factor": 4, "r": 1}),
    "LoKr in Tucker form": ("LoKrConfig", {"decompose_factor": 4, "use_effective_conv2d": True, "r": 1}),
    "LoKr of whole matrices": ("LoKrConfig", {"decompose_factor": 4, "r": 50}),
}  # fmt: skip


@pytest.mark.parametrize("kind", LYCORIS)
def test_products_of_lycoris_are_those_of_peft(kind, pico, plan_data, photos, tmp_path):
    """Every change against peft's own layer of that form; and the picture that peft's network draws."""
    import peft

    made, more = LYCORIS[kind]
    file = tmp_path / "it.safetensors"
    pipe, changes = by_lycoris(pico, file, getattr(peft, made)(**{**CONVOLUTIONS, **more}))
    pieces = {name.rpartition(".")[2] for name in load_file(file)}
    wanted = {"Tucker": {"hada_t1", "lokr_t2"}, "both": {"lokr_w1_a"}, "whole": {"lokr_w2"}}
    assert all(pieces & own for word, own in wanted.items() if word in kind) and len(changes) > 8
    found = bringing.read(file)[0].fitted(loading.pipeline(str(pico))[0].unet)
    assert found.keys() == changes.keys()
    for name, matrix in changes.items():
        assert torch.allclose(found[name].matrix(), matrix.flatten(1), atol=1e-5)
    seen = what.look(file)
    assert any("of another form" in told and kind[:4] in told for told in seen.warnings)
    assert seen.family == "" and (kind == "LoKr of whole matrices" or seen.ranks)
    lineage = lineage_of(plan_data, tmp_path / "m")
    run.teach(lineage, concept_of("cat", photos))
    before = {name: change.matrix() for name, change in delta_of(lineage).items()}
    brought(lineage, "dog", photos, file)
    with torch.no_grad():
        for name, matrix in before.items():
            layer = pipe.unet.get_submodule(name)
            getattr(layer, "base_layer", layer).weight += matrix
    assert near(drawn(lineage, tmp_path / "it.png"), alone(pipe))


@pytest.mark.parametrize("way", ["rows", "inputs"])
def test_magnitudes_of_dora_by_hand(way, pico, tmp_path):
    """LyCORIS's and kohya's names: every row, or every input channel, is given its length, in plain loops."""
    file, changes = kohya(pico, tmp_path / "it.safetensors", ends=("to_k", "conv1"))
    unet, tensors, wanted = loading.pipeline(str(pico))[0].unet, load_file(file), {}
    for number, (name, change) in enumerate(changes.items()):
        weight = unet.get_submodule(name).weight.detach()
        moved, g = (weight + change.view_as(weight)).double(), torch.Generator().manual_seed(number)
        lines = range(len(moved) if way == "rows" else moved.shape[1])
        lengths, expected = torch.rand(len(lines), generator=g) + 0.5, torch.zeros_like(moved)
        for k in lines:
            line = moved[k] if way == "rows" else moved[:, k]
            (expected[k] if way == "rows" else expected[:, k]).copy_(
                line * float(lengths[k]) / line.square().sum() ** 0.5
            )
        shape = (len(lines), 1) if way == "rows" else (1, len(lines))
        tensors[f"lora_unet_{name.replace('.', '_')}.dora_scale"] = lengths.view(*shape, *(1 for _ in moved.shape[2:]))
        wanted[name] = (expected - weight).flatten(1)
    save_file(tensors, file)
    found = bringing.read(file)[0].fitted(unet)
    assert found.keys() == wanted.keys()
    assert all((found[n].matrix() - matrix).abs().max() < 1e-5 for n, matrix in wanted.items())
    assert any("LoRA with DoRA" in told for told in what.look(file).warnings)


def test_a_core_between_the_factors_is_a_convolution_between(pico, tmp_path):
    """LyCORIS's LoCon in Tucker form, one convolution after the other, against the convolution of the change."""
    name, g = "down_blocks.1.resnets.0.conv1", torch.Generator().manual_seed(0)
    unet = loading.pipeline(str(pico))[0].unet
    out, into, *size = unet.get_submodule(name).weight.shape
    down, core, up = (torch.randn(*s, generator=g) for s in ((3, into, 1, 1), (2, 3, *size), (out, 2, 1, 1)))
    own = f"lora_unet_{name.replace('.', '_')}"
    parts = {"lora_down.weight": down, "lora_mid.weight": core, "lora_up.weight": up, "alpha": torch.tensor(6.0)}
    save_file({f"{own}.{piece}": t for piece, t in parts.items()}, tmp_path / "it.safetensors")
    change = bringing.read(tmp_path / "it.safetensors")[0].fitted(unet)[name].matrix().view(out, into, *size)
    x, conv = torch.randn(1, into, 5, 5, generator=g), torch.nn.functional.conv2d
    assert torch.allclose(conv(x, change), 2 * conv(conv(conv(x, down), core), up), atol=1e-3)


def test_a_file_of_two_kinds_of_names_is_read_whole(pico, tmp_path):
    """diffusers' training recipe names attention anew and nothing else, and its loader then reads a part of that."""
    names = ("to_q", "to_v", "conv1")
    mixed, plain = (by_peft(pico, tmp_path / str(recipe), names=names, recipe=recipe) for recipe in (True, False))
    pipe, _ = loading.pipeline(str(pico))
    one, other = (bringing.read(file)[0].fitted(pipe.unet) for file in (mixed, plain))
    assert one.keys() == other.keys() and all(torch.equal(one[n].matrix(), other[n].matrix()) for n in one)
    told = [warning for warning in what.look(mixed).warnings if "leaves them out" in warning]
    assert len(told) == 1 and not any("leaves them out" in warning for warning in what.look(plain).warnings)
    pipe.load_lora_weights(str(mixed.parent), weight_name=mixed.name)
    read = [name for name, _ in pipe.unet.named_modules() if name.endswith(".lora_A.default_0")]
    assert 0 < len(read) < len(one)  # where this fails, diffusers has been mended, and the warning can go


def test_the_sum_in_the_second_and_third_lesson(pico, plan_data, photos, tmp_path):
    """A trained lesson, a kohya file, a dense file: matrices by hand, in the memory, under the base, in pictures."""
    lineage = lineage_of(plan_data, tmp_path / "m")
    run.teach(lineage, concept_of("dog", photos))
    total = {name: change.matrix().clone() for name, change in delta_of(lineage).items()}
    for number, (name, dense) in enumerate((("cat", False), ("clock", True)), start=2):
        file, changes = kohya(pico, tmp_path / f"{name}.safetensors", seed=number, dense=dense)
        brought(lineage, name, photos, file)
        total = {n: total.get(n, 0) + changes.get(n, 0) for n in {*total, *changes}}
        held = delta_of(lineage)
        assert held.keys() == total.keys()
        for projection, change in held.items():
            assert torch.allclose(change.matrix(), total[projection], atol=1e-5)
        pipe, _ = loading.pipeline(str(pico))
        with torch.no_grad():
            for projection, matrix in total.items():
                pipe.unet.get_submodule(projection).weight += matrix
        assert near(drawn(lineage, tmp_path / f"{number}.png"), alone(pipe))
    assert [row.record["steps"] for row in lineage.lessons] == [4, 0, 0]
    text = report.build([lineage], tmp_path / "report", title="it").read_text()
    assert "clock" in text


def test_a_file_comes_in_and_goes_out_again(pico, plan_data, photos, tmp_path):
    """Convolutions and feed-forward layers too: exported, proven by diffusers, and taken out alone."""
    file, changes = kohya(pico, tmp_path / "it.safetensors", ends=("to_k", "ff.net.2", "proj_in", "conv1"))
    lineage = lineage_of(plan_data, tmp_path / "m")
    brought(lineage, "dog", photos, file)
    for to in ("", "checkpoint", "folder"):
        handed = export.export(lineage, tmp_path / f"out-{to}", Wish(to, dtype="fp32"), pictures=1)
        assert handed.proof.error < 1e-5 and handed.proof.largest <= 1
    again = bringing.read(tmp_path / "out-" / "tiny.safetensors")[0].fitted(loading.pipeline(str(pico))[0].unet)
    assert again.keys() == changes.keys()
    assert all(torch.allclose(again[n].matrix(), matrix, atol=1e-5) for n, matrix in changes.items())
    run.teach(lineage, concept_of("cat", photos))  # a trained lesson on top moves its own projections, and no others
    later, own = delta_of(lineage), loading.load(str(pico), device="cpu").projections("attention")
    assert later.keys() == {*changes, *own}
    for name in {*changes} - {*own}:
        assert torch.allclose(later[name].matrix(), changes[name], atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16"])
def test_beside_half_precision_convolutions_keep_their_change(pico, precision):
    """A branch beside the base's own weight, against the convolution of the sum in float32."""
    whole, half = (loading.load(str(pico), kind, "cpu") for kind in ("fp32", precision))
    name = "down_blocks.1.resnets.0.conv1"
    shape = whole.network.get_submodule(name).weight.shape
    g = torch.Generator().manual_seed(0)
    pair = (torch.randn(2, shape[1:].numel(), generator=g), torch.randn(shape[0], 2, generator=g))
    for change in (Change((pair,)), Change.full(pair[1] @ pair[0])):
        x = torch.randn(1, shape[1], 8, 8, generator=g)
        outcomes = []
        for backbone in (whole, half):
            layer = backbone.network.get_submodule(name)
            before = layer.weight.clone()
            with backbone.laid(Delta({name: change})), torch.no_grad():
                outcomes.append(layer(x.to(layer.weight.dtype)).float())
            assert torch.equal(layer.weight, before)
        assert (outcomes[0] - outcomes[1]).norm() / outcomes[0].norm() < 2e-2


def test_sdxl_files_under_both_names_of_blocks(pico_xl, tmp_path):
    """kohya's own names (input_blocks_4_1) and diffusers', against what diffusers makes of each."""
    file, changes = kohya(pico_xl, tmp_path / "it.safetensors", ends=("to_q", "to_v", "ff.net.0.proj", "proj_out"))
    pipe, _ = loading.pipeline(str(pico_xl))
    config = {**pipe.unet.config}
    names = {name.replace(".", "_"): original.unet_name(name, config).replace(".", "_") for name in changes}
    sgm = tmp_path / "sgm.safetensors"
    renamed = {}
    for key, tensor in load_file(file).items():
        own, _, piece = key.partition(".")
        renamed[f"lora_unet_{names[own.removeprefix('lora_unet_')]}.{piece}"] = tensor
    assert any("input_blocks" in key for key in renamed)
    save_file(renamed, sgm)
    for path in (file, sgm):
        found = bringing.read(path)[0].fitted(pipe.unet)
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="x")
        for name, matrix in changes.items():
            layer = pipe.unet.get_submodule(name)
            theirs = layer.scaling["x"] * (layer.lora_B["x"].weight.flatten(1) @ layer.lora_A["x"].weight.flatten(1))
            assert torch.allclose(found[name].matrix(), matrix, atol=1e-5) and torch.allclose(theirs, matrix, atol=1e-5)
        pipe.unload_lora_weights()


TAKE = {
    "merge_init", "l2", "c_lora", "lwf", "ewc", "replay", "generative_replay", "dsc", "independent", "sum", "mean",
    "svd", "iso_c", "dare",
}  # fmt: skip
"""Methods whose memory is made of sums of changes, whatever made them, or keeps them apart."""


OF_CONCEPTS = [name for name in plugins.own(plugins.METHOD) if catalogue.card(name).needs != "classes"]


@pytest.mark.parametrize("name", OF_CONCEPTS)
def test_each_method_takes_it_or_refuses_by_name(name, pico, plan_data, photos, tmp_path):
    lineage = lineage_of(plan_data, tmp_path / "m", name)
    file, changes = kohya(pico, tmp_path / "it.safetensors", ends=("attn2.to_k",))
    if name not in TAKE:
        with pytest.raises(PerdureError, match=rf"method {name} can remember only.*merge_init"):
            brought(lineage, "dog", photos, file)
        assert lineage.lessons == [] and not list(lineage.folder.glob("lessons/*.partial"))
        return
    brought(lineage, "dog", photos, file)
    held = memory.load(lineage.lessons[-1].memory, lineage.store)
    delta = method.get(name).consolidate.recall(held, method.Wanted("dog"))
    assert delta.keys() == changes.keys()
    for projection, matrix in changes.items():
        own = delta[projection].matrix()  # DARE drops entries at random, and doubles the others
        assert torch.allclose(own, 2 * matrix * (own != 0) if name == "dare" else matrix, atol=1e-6)
    assert {tensor.partition("/")[0] for tensor in held.tensors} <= set(method.get(name).consolidate.carries)
    if name in ("ewc", "dsc"):
        assert all(t.isfinite().all() and t.sum() > 0 for t in held.under("fisher").values()) and held.under("fisher")
    if name in ("lwf", "generative_replay", "dsc"):
        assert held.facts["captions"] == {"dog": ["a photo of zwz dog"]}


def test_magmax_of_deltas_takes_the_larger_entry(pico, plan_data, photos, tmp_path):
    chosen = {"name": "magmax", "options": {"operand": "delta"}}
    lineage = lineage_of(plan_data, tmp_path / "m", chosen)
    files = [kohya(pico, tmp_path / f"{k}.safetensors", seed=k) for k in (1, 2)]
    for name, (file, _) in zip(("dog", "cat"), files, strict=True):
        brought(lineage, name, photos, file)
    one, two = (changes for _, changes in files)
    for name, change in delta_of(lineage).items():
        wanted = torch.where(two[name].abs() >= one[name].abs(), two[name], one[name])
        assert torch.allclose(change.matrix(), wanted, atol=1e-6)


def test_a_word_comes_with_it(pico, plan_data, photos, tmp_path):
    """Every kind of embedding file, against diffusers' load_textual_inversion with the LoRA loaded beside."""
    file, _ = kohya(pico, tmp_path / "it.safetensors")
    vectors = torch.randn(2, 24, generator=torch.Generator().manual_seed(3))
    for name, key in (("plain", "emb_params"), ("named", "<zwz>"), ("old", "string_to_param.*")):
        save_file({key: vectors}, tmp_path / f"{name}.safetensors")
        found = bringing.word(tmp_path / f"{name}.safetensors")
        assert found.vectors.keys() == {0} and torch.equal(found.vectors[0], vectors) and found.dropped == ""
    lineage = lineage_of(plan_data, tmp_path / "m")
    row = brought(lineage, "dog", photos, file, embedding=tmp_path / "plain.safetensors")
    pipe, _ = loading.pipeline(str(pico))
    bare = alone(pipe)
    pipe.load_lora_weights(str(tmp_path), weight_name=file.name)
    without = alone(pipe)
    pipe.load_textual_inversion(vectors, token="zwz")
    ours = drawn(lineage, tmp_path / "it.png")
    assert near(ours, alone(pipe)) and np.abs(ours - without).mean() > 1 and np.abs(without - bare).mean() > 1
    assert row.record["brought"]["embedding"] and "words" in row.record["carries"]
    save_file({"emb_params": torch.zeros(1, 768)}, tmp_path / "wide.safetensors")
    with pytest.raises(PerdureError, match="the word is 768 wide, and the base reads words 24 wide"):
        brought(lineage, "cat", photos, file, embedding=tmp_path / "wide.safetensors")
    assert len(lineage.lessons) == 1


# --- the command, and what it refuses ---


def test_the_command_teaches_scores_and_gates(pico, pico_clip, photos, tmp_path, perdure):
    options = ["--set", "training.resolution=32", "--set", "training.steps=2", "--set", "sampling.steps=2",
               "--set", "sampling.images_per_prompt=1", "--set", "scoring.subject=[clip_i]", "--set", "scoring.drift=0",
               "--set", f"scoring.models={{clip_i: {pico_clip}}}"]  # fmt: skip
    assert perdure("init", tmp_path / "m", "--base", pico, *options)[0] == 0
    first, second = (kohya(pico, tmp_path / f"{k}.safetensors", seed=k, alpha=9.0)[0] for k in (1, 2))
    call = ("teach", tmp_path / "m", "--from")
    code, out, _ = perdure(
        *call, first, "--token", "zwz", "--class", "dog", "--images", photos / "dog", "--name", "dog"
    )
    assert code == 0 and "0 s of training" in out and "dog" in out
    cat = ("--token", "sbu", "--class", "cat", "--images", photos / "cat", "--name", "cat")
    code, _, told = perdure(*call, second, *cat, "--max-forgetting=-9")
    assert code == 3 and "lesson refused, the model is unchanged" in told
    assert perdure(*call, second, *cat)[0] == 0
    lineage = Lineage(tmp_path / "m")
    assert lineage.concepts == ["dog", "cat"] and lineage.matrix("clip_i").shape == (3, 2)
    shown = json.loads(perdure("log", tmp_path / "m", "--json")[1])
    assert [(entry["concept"], entry["seconds"]["train"]) for entry in shown] == [("dog", 0), ("cat", 0)]
    assert perdure("fsck", tmp_path / "m")[0] == 0 and perdure("undo", tmp_path / "m")[0] == 0
    for words, why in (
        ((*call, second, "--token", "sbu", "--class", "cat"), "give pictures of the concept to score it against"),
        (("teach", tmp_path / "m", photos / "cat", "--images", photos / "cat", "--token", "x"), "go with --from FILE"),
        (("teach", tmp_path / "m", "--token", "x"), "give the concept's pictures"),
    ):
        code, _, told = perdure(*words)
        assert code == 2 and why in told, told


def spoilt(name, good):
    """The tensors of a file that cannot be taught from, by what is wrong with it; and the sentence."""
    key = next(key for key in good if key.endswith("attn2_to_k.lora_down.weight"))
    own, te = key.partition(".")[0], "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    wide = {k: torch.zeros(3, 2048) if k.endswith("attn2_to_k.lora_down.weight") else t for k, t in good.items()}
    bare = {k: t for k, t in good.items() if not k.startswith(own)}
    loha = {f"{own}.{piece}": torch.zeros(2, 24) for piece in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}
    lokr = {f"{own}.{piece}": torch.zeros(2, 3) for piece in ("lokr_w1", "lokr_w2_a")}
    return {
        "nan": ({**good, key: good[key] * float("nan")}, "hold NaN or infinity"),
        "unknown": ({**good, "strange.x": torch.zeros(1)}, "1 tensors that no LoRA file has: strange.x"),
        "family": (wide, "is for SDXL, whose text is 2048 wide; this base is of another family, 24 wide"),
        "lacking": ({k.replace("unet_down", "unet_none"): t for k, t in good.items()}, "modules that this base lacks"),
        "shape": ({**good, f"{own}.lora_up.weight": torch.zeros(31, 3)}, r"is \(31, 24\), the base's \(32, 24\)"),
        "ranks": ({**good, f"{own}.lora_up.weight": torch.zeros(32, 2)}, r"down \(3, 24\), up \(32, 2\) do not fit"),
        "text": (
            {**good, **{f"{te}.lora_{way}.weight": torch.zeros(2, 2) for way in ("down", "up")}},
            "also changes text encoders .*--unet-only",
        ),
        "oft": ({**bare, f"{own}.oft_blocks": torch.zeros(2, 2, 2)}, "is given by oft_blocks; LoRA, LoHa, LoKr, DoRA"),
        "bias": ({**good, f"{own}.diff_b": torch.zeros(32)}, "is given by alpha, diff bias, down, up;"),
        "loha": ({**bare, **loha}, r"hada_w1_a \(2, 24\), hada_w1_b \(2, 24\), .* do not fit together"),
        "lokr": ({**bare, **lokr}, r"lokr_w1 \(2, 3\), lokr_w2_a \(2, 3\) do not fit together"),
        "dora": ({**good, f"{own}.dora_scale": torch.zeros(5, 1)}, r"DoRA's magnitudes are \(5, 1\), the base's"),
        "twice": ({**good, **{k.replace("lora_unet", "lycoris"): t + 0 for k, t in good.items()}}, "modules twice"),
        "embedding": ({"emb_params": torch.zeros(1, 24)}, "is no LoRA file but embedding"),
        "checkpoint": ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, "but checkpoint"),
    }[name]  # fmt: skip


WRONG = (
    "nan", "unknown", "family", "lacking", "shape", "ranks", "text", "oft", "bias", "loha", "lokr", "dora", "twice",
    "embedding", "checkpoint",
)  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_each_bad_file_has_its_sentence(name, pico, tmp_path):
    good, _ = kohya(pico, tmp_path / "good.safetensors", ends=("attn2.to_k", "attn2.to_q"))
    path = tmp_path / "bad.safetensors"
    tensors, why = spoilt(name, load_file(good))
    save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    unet = loading.pipeline(str(pico))[0].unet
    with pytest.raises(PerdureError, match=why) as told:
        bringing.read(path)[0].fitted(unet)
    assert str(path) in str(told.value) and "\n" not in str(told.value)
    if name == "text":
        found, notes = bringing.read(path, unet_only=True)
        assert notes == ["left out: 1 modules of text encoders"] and found.fitted(unet).keys()


def test_files_that_cannot_be_read(pico, tmp_path):
    good, _ = kohya(pico, tmp_path / "good.safetensors", ends=("attn2.to_k",))
    data, path = good.read_bytes(), tmp_path / "bad.safetensors"
    for content, why in (
        (data[: len(data) // 2], "is damaged"), ((100 << 30).to_bytes(8, "little") + data[8:], "no safetensors header"),
        (b"PK\x03\x04" + data, "is a pickle"), (b"", "no safetensors header"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(PerdureError, match=f"{re.escape(str(path))}.*{why}"):
            bringing.read(path)
    for wrong, why in ((tmp_path, "is a folder"), (tmp_path / "none.safetensors", "No such file")):
        with pytest.raises(PerdureError, match=why):
            bringing.read(wrong)
    for tensors, why in (
        ({"clip_l": torch.zeros(2, 24), "clip_g": torch.zeros(1, 24)}, "one count"),
        ({"a.b": torch.zeros(1, 2, 3)}, "no embedding"),
        ({"emb_params": torch.full((1, 24), float("nan"))}, "NaN"),
    ):  # fmt: skip
        save_file(tensors, path)
        with pytest.raises(PerdureError, match=why):
            bringing.read(good, path)
