"""Transformers in a file of their own: the same bits as from a folder, in lessons and pictures; refusals by name."""

import json
import pickle
import shutil

import pytest
import torch
from conftest import paint
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_families import shown
from test_single_file import hollow, modules, named
from twins.publishers import MADE

from perdure import method, plan
from perdure.bases import first_look, footprint, loading, single, transformer
from perdure.drawing import sample
from perdure.errors import ModelError
from perdure.export import what
from perdure.lesson.train import Lesson, learn
from perdure.lineage import Lineage
from perdure.memory import Memory

FAMILIES = {"sd3": "sd3", "flux": "flux", "flux2_klein": "flux2", "z_image": "z-image"}


@pytest.fixture(autouse=True)
def thin_flux(monkeypatch):
    """diffusers takes the width of FLUX.1's layers for granted: 3072; ours are 32 wide."""
    kinds = transformer.SINGLE_FILE_LOADABLE_CLASSES
    usual = kinds["FluxTransformer2DModel"]["checkpoint_mapping_fn"]
    thin = usual.__code__.replace(co_consts=tuple(32 if c == 3072 else c for c in usual.__code__.co_consts))
    assert thin.co_consts != usual.__code__.co_consts
    monkeypatch.setitem(kinds, "FluxTransformer2DModel", {
        **kinds["FluxTransformer2DModel"], "checkpoint_mapping_fn": type(usual)(thin, usual.__globals__),
    })  # fmt: skip


def weights_of(folder):
    return load_file(next((folder / "transformer").glob("*.safetensors")))


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """name -> (folder, file of its transformer by its publisher's names, folder of another one without weights)."""
    known, root = {}, tmp_path_factory.mktemp("files")

    def get(name):
        if name not in known:
            folder = root / name / "base"
            shutil.copytree(folders(name), folder)
            file, other = root / name / "model.safetensors", root / name / "bare"
            save_file(MADE[name](weights_of(folder)), file)
            shutil.copytree(folder, other)
            for weights in (other / "transformer").glob("*.safetensors"):
                weights.unlink()
            known[name] = folder, file, other
        return known[name]

    return get


def asked(base, file=None, **training):
    how = {"resolution": 32, "steps": 2, "batch_size": 2, "learning_rate": 1e-2, "precision": "fp32", **training}
    data = {"base": str(base), "methods": ["merge_init"], "training": how}
    return plan.build(data if file is None else {**data, "transformer": str(file)})


def taught(made):
    """A memory of two lessons, and what is drawn from it."""
    backbone, memory = loading.of(made, "cpu"), Memory()
    for number, (concept, token) in enumerate((("dog", "zwz"), ("cat", "sbu")), start=1):
        lesson = Lesson(concept, number, shown(backbone), token, concept, f"{token} {concept}")
        memory = learn(backbone, method.get("merge_init", {"rank": 2}), memory, lesson, made)
    sampling = made.sampling.model_copy(update={"steps": 2, "images_per_prompt": 1})
    with backbone.laid(memory.delta()):
        return memory, sample.draw_latents(backbone, ["a zwz dog", "a sbu cat"], sampling, 32)


@pytest.mark.parametrize("name", MADE)
def test_lessons_and_pictures_are_those_of_the_folder(name, made):
    """By the publisher's names, beside a folder that has no weights of its own."""
    folder, file, bare = made(name)
    own = weights_of(folder)
    assert len(load_file(file).keys() - own.keys()) > len(own) / 10  # other names than diffusers'
    memory, drawn = taught(asked(folder))
    again, pictures = taught(asked(bare, file))
    assert again.digest == memory.digest and torch.equal(pictures, drawn)


@pytest.mark.parametrize("name", MADE)
def test_every_layout_gives_every_tensor(name, made, tmp_path):
    """diffusers' own names; the publisher's, in half precision, and inside a whole checkpoint beside other parts."""
    folder, file, bare = made(name)
    own, published = weights_of(folder), load_file(file)
    others = {"first_stage_model.decoder.conv_in.weight": torch.ones(2, 2), "text_encoders.t5xxl.x": torch.ones(1)}
    whole = {single.UNET + n: t.bfloat16() for n, t in published.items()} | others
    for number, (tensors, precision) in enumerate([(own, "fp32"), (whole, "bf16")]):
        path = tmp_path / f"{number}.safetensors"
        save_file(tensors, path)
        pipe, _ = loading.pipeline(str(bare), precision, instead=str(path))
        found = pipe.transformer.state_dict()
        dtype = loading.DTYPES[precision]
        assert found.keys() == own.keys() and all(torch.equal(found[n], t.to(dtype)) for n, t in own.items())
        told = what.look(path)
        assert (told.kind, told.family) == (what.TRANSFORMER, FAMILIES[name])
        assert f"--set transformer={path}" in told.base and not told.warnings


def test_published_models_are_known_by_their_headers(tmp_path, monkeypatch):
    """Full-size files (gigabytes, hollow), of the configurations that their publishers gave."""
    from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel, SD3Transformer2DModel

    monkeypatch.undo()  # FLUX.1 as wide as it is
    kinds = {
        "flux": (FluxTransformer2DModel, {"guidance_embeds": True}),
        "flux2_klein": (Flux2Transformer2DModel, {
            "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
            "guidance_embeds": False,
        }),
        "sd3": (SD3Transformer2DModel, {
            "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
        }),
    }  # fmt: skip
    for name, (kind, config) in kinds.items():
        with torch.device("meta"):
            like = kind(**config)
        shapes = {n: tuple(t.shape) for n, t in MADE[name](like.state_dict()).items()}
        path = hollow(tmp_path / f"{name}.safetensors", shapes, "BF16")
        transformer.check(path, "it", kind, like.config)
        del shapes[min(shapes)]
        with pytest.raises(ModelError, match="it lacks "):
            transformer.check(hollow(path, shapes, "BF16"), "it", kind, like.config)


def test_a_lineage_knows_its_file(made, tmp_path, perdure, photos, pico_clip):
    """From plan to export; another file's content is another base, the base's own weights are none of it."""
    folder, file, bare = made("flux2_klein")
    mine = tmp_path / "mine.safetensors"
    shutil.copy(file, mine)
    base = tmp_path / "base"
    shutil.copytree(bare, base)
    quick = ["training.resolution=32", "training.steps=1", "training.precision=fp32", "sampling.steps=1",
             "sampling.images_per_prompt=1", "scoring.subject=[clip_i]", "scoring.drift=0",
             f"scoring.models={{clip_i: {pico_clip}}}"]  # fmt: skip
    sets = [word for one in (f"transformer={mine}", *quick) for word in ("--set", one)]
    code, _, told = perdure("init", "model", "--base", base, *sets)
    assert code == 0, told
    code, _, told = perdure("teach", "model", photos / "dog", "--prompt", "a photo of zwz dog", "--name", "dog")
    assert code == 0, told
    line = Lineage(tmp_path / "model")
    assert line.plan().transformer == str(mine) and loading.known(line.plan()) == line.facts["base_identity"]
    code, _, told = perdure("draw", "model", "zwz dog", "--count", "1", "--out", "a.png")
    assert code == 0, told
    code, _, told = perdure("export", "model", "files", "--to", "hub", "--rank", "2", "--pictures", "1")
    assert code == 0, told
    assert "Of the base the transformer is that of `mine.safetensors`" in (tmp_path / "files/README.md").read_text()
    with safe_open(tmp_path / "files/pytorch_lora_weights.safetensors", framework="pt") as written:
        assert written.metadata()["perdure.transformer"] == "mine.safetensors"
    shutil.copy(next((folder / "transformer").glob("*.safetensors")), base / "transformer")
    code, _, told = perdure("draw", "model", "zwz dog", "--count", "1", "--out", "b.png")
    assert code == 0 and (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes(), told
    changed = load_file(mine)
    changed["img_in.weight"] = changed["img_in.weight"] * 1.01
    save_file(changed, mine)
    code, _, told = perdure("draw", "model", "zwz dog", "--out", "c.png")
    assert code != 0 and "was made on other weights of base" in told
    mine.unlink()
    code, _, told = perdure("draw", "model", "zwz dog", "--out", "c.png")
    assert code != 0 and f"cannot read {mine}: No such file" in told


def test_memory_and_downloads_are_those_of_the_whole(made):
    """What is estimated does not change; of a base on the hub everything else is fetched."""
    folder, file, bare = made("z_image")
    whole, parts = asked(folder), asked(bare, file)
    both = [footprint.estimate(one, cuda=False).of(one).moments for one in (whole, parts)]
    assert both[0] == both[1]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_look, "_missing", lambda *asked: seen.append(asked))
        for one in (whole, parts):
            first_look.downloads(one, ("transformer", "vae"))
    fetched = [wanted for what, _, wanted in seen if what == "base"]
    assert fetched == [("transformer/", "vae/"), ("vae/",)]


def wrong(name, made, folder):
    """(base, transformer) of a mistake, and what is told of it."""
    klein, file, bare = made("flux2_klein")
    path, held = folder / "it.safetensors", load_file(file)
    first = min(held)
    tensors = {
        "missing": {n: t for n, t in held.items() if n != "single_blocks.1.linear2.weight"},
        "more": {**held, "guidance_in.in_layer.weight": torch.ones(32, 256)},
        "shape": {**held, "img_in.weight": torch.ones(32, 64)},
        "nan": {**held, first: held[first] * float("nan")},
        "coarse": {n: t.to(torch.float8_e4m3fn) for n, t in held.items()},
        "lora": {"transformer.single_transformer_blocks.0.attn.to_out.lora_A.weight": torch.ones(2, 2)},
        "strange": {"a.weight": torch.ones(2, 2)},
        "vae": {"decoder.conv_in.weight": torch.ones(2, 2)},
    }.get(name, {})
    save_file(tensors, path)
    if name in ("pickle", "truncated"):
        path.write_bytes(pickle.dumps({}, protocol=4) if name == "pickle" else file.read_bytes()[:-100])
    if name == "sd1":
        save_file(named("sd1", modules("sd1")), path)
    base = made("sd3")[2] if name == "other family" else bare
    others = {"other family": file, "folder": klein / "transformer", "absent": folder / "none.safetensors"}
    return base, others.get(name, path)


TOLD = {
    "missing": "is incomplete, or of another model than base {base}'s: it lacks single_transformer_blocks.1",
    "more": "it has time_guidance_embed.guidance_embedder.linear_1.weight, and that has not",
    "shape": "its x_embedder.weight is of shape (32, 64), and there of (32, 128)",
    "nan": "holds NaN or infinity in",
    "coarse": "is stored in F8_E4M3, which is too coarse to be taught",
    "lora": "is no transformer but a LoRA file",
    "strange": "is of a layout that is not known (its first tensor is a.weight)",
    "vae": "is no transformer but an autoencoder: give it as the `vae`",
    "pickle": "is a pickle, which can run any code",
    "truncated": "is damaged, no whole safetensors file",
    "sd1": "is a Stable Diffusion checkpoint, whose network is a UNet: give it as the `base`",
    "other family": "is a Flux2Transformer2DModel, and base {base} has a SD3Transformer2DModel",
    "folder": "is a folder; give a .safetensors file",
    "absent": "there is no such file",
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_no_transformer_of_the_base_is_told(name, made, tmp_path):
    base, file = wrong(name, made, tmp_path)
    expected = TOLD[name].format(base=base)
    with pytest.raises(ModelError) as caught:
        loading.pipeline(str(base), instead=str(file))
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    if name not in ("nan", "absent"):  # told before any weights are read, by check too
        assert expected in transformer.unfit(asked(base, file))
    if name == "absent":
        with pytest.raises(Exception, match="is neither a path on this machine"):
            asked(base, file)


def test_other_bases_have_none(made, pico, folders, tmp_path, perdure):
    """A UNet's base, and a transformer that diffusers reads from folders alone."""
    file = made("flux2_klein")[1]
    for base, expected in (
        (pico, "is taught in its unet; `transformer` is for bases that have one"),
        (folders("pixart_alpha"), "has a PixArtTransformer2DModel, of which diffusers reads no single files"),
    ):
        with pytest.raises(ModelError, match=expected):
            loading.pipeline(str(base), instead=str(file))
        paint(tmp_path / "dog", 2, 0)
        (tmp_path / "plan.yaml").write_text(json.dumps({
            "base": str(base), "methods": ["naive"], "transformer": str(file),
            "concepts": [{"name": "dog", "images": "dog", "token": "zwz", "class": "dog"}],
        }))  # fmt: skip
        code, _, told = perdure("check", "plan.yaml")
        assert code != 0 and expected in told
    with pytest.raises(Exception, match="transformer is not for classifiers"):
        plan.build({"task": "classification", "methods": ["naive"], "transformer": str(file)})


def test_a_plan_says_where_the_file_lies(made, tmp_path):
    """Relative to the plan; without one, nothing is written of it."""
    shutil.copy(made("flux2_klein")[1], tmp_path / "it.safetensors")
    (tmp_path / "plan.yaml").write_text("methods: [naive]\ntransformer: it.safetensors\nbase: toyflow\n")
    found = plan.load(tmp_path / "plan.yaml")
    assert found.transformer == str(tmp_path / "it.safetensors")
    assert plan.portable(found.settings())["transformer"] == "it.safetensors"
    assert "transformer" not in plan.build({"methods": ["naive"]}).model_dump()
