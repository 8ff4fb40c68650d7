"""Bases in one file: configured by their shapes, converted once, the same weights; refusals by name."""

import json
import struct
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_export import lineage_of

from perdure.bases import converting, loading, outline, single
from perdure.errors import ModelError
from perdure.export import export, original, what
from perdure.export.choosing import Wish, content

DOWN, UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
CLASSIC = {"down_block_types": [DOWN] * 3 + ["DownBlock2D"], "up_block_types": ["UpBlock2D"] + [UP] * 3}
XL = {
    "down_block_types": ["DownBlock2D", DOWN, DOWN], "up_block_types": [UP, UP, "UpBlock2D"],
    "use_linear_projection": True, "addition_embed_type": "text_time",
}  # fmt: skip
PUBLISHED = {
    "sd1": {
        **CLASSIC, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8,
    },
    "sd2": {
        **CLASSIC, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True,
    },
    "sdxl": {
        **XL, "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10], "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
"""unet/config.json of the models as published (layers_per_block is 2 by default)."""
THIN = {
    "sd1": {**PUBLISHED["sd1"], "block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 64},
    "sd2": {
        **PUBLISHED["sd2"], "block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 64,
        "attention_head_dim": [1, 1, 1, 1],
    },
    "sdxl": {
        **PUBLISHED["sdxl"], "block_out_channels": [32, 64, 64], "cross_attention_dim": 192,
        "attention_head_dim": [1, 1, 1], "transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 128,
    },
}  # fmt: skip
"""The same with a tenth of the channels."""
TEXTS = {"sd1": ((64, "quick_gelu", 2),), "sd2": ((64, "gelu", 23),), "sdxl": ((64, "quick_gelu", 2), (128, "gelu", 2))}
"""Width, activation and layers of the text encoders of the thin ones."""


def unet(config, **how):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**{"layers_per_block": 1, **config, **how})


def encoder(width, act, layers, projected, **more):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(**{
        "vocab_size": 49408, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
        "num_attention_heads": width // 64, "max_position_embeddings": 77, "hidden_act": act, "projection_dim": width,
        "bos_token_id": 49406, "eos_token_id": 49407, **more,
    })  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def autoencoder(widths=(32, 32), **more):
    from diffusers import AutoencoderKL

    count = len(widths)
    return AutoencoderKL(
        block_out_channels=widths, layers_per_block=1, latent_channels=4, up_block_types=("UpDecoderBlock2D",) * count,
        down_block_types=("DownEncoderBlock2D",) * count, **more,
    )  # fmt: skip


def modules(kind):
    """The parts of a thin model, with random weights of the size that training gives."""
    torch.manual_seed(0)
    made = {"unet": unet(THIN[kind]), "vae": autoencoder(scaling_factor=0.13025 if kind == "sdxl" else 0.18215)}
    for number, (width, act, layers) in enumerate(TEXTS[kind]):
        made[f"text_encoder{'_2' * number}"] = encoder(width, act, layers, projected=number == 1)
    return made


def named(kind, parts):
    """All tensors under the names of the original layout; SD 2 with the layer and projection that nobody reads."""
    tensors = {
        single.UNET + original.unet_name(n, parts["unet"].config): t for n, t in parts["unet"].state_dict().items()
    }
    levels = len(parts["vae"].config.block_out_channels)
    for n, t in parts["vae"].state_dict().items():
        name, own = original.vae_entry(n, t, levels)
        tensors[single.VAE + name] = own
    text = parts["text_encoder"].state_dict()
    if kind == "sd2":
        opened = original.open_clip(text)
        unread = {n.replace("resblocks.22.", "resblocks.23."): t + 1 for n, t in opened.items() if "resblocks.22." in n}
        tensors |= {single.OPEN + n: t for n, t in {**opened, **unread, "text_projection": torch.eye(64)}.items()}
    else:
        prefix = single.SDXL_FIRST if kind == "sdxl" else single.FIRST
        tensors |= {prefix + n: t for n, t in original.prefixed(text).items()}
    if kind == "sdxl":
        second = original.open_clip(parts["text_encoder_2"].state_dict())
        tensors |= {single.SDXL_OPEN + n: t for n, t in second.items()}
    return {name: t.contiguous().clone() for name, t in tensors.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """kind -> (file, its parts), each written when first asked for; and a cache of this module alone."""
    known, folder = {}, tmp_path_factory.mktemp("files")

    def get(kind):
        if kind not in known:
            parts = modules(kind)
            save_file(named(kind, parts), folder / f"{kind}.safetensors", {"format": "pt"})
            known[kind] = folder / f"{kind}.safetensors", parts
        return known[kind]

    return get


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield converting.cache()


def hollow(path, shapes, dtype="F16"):
    """A safetensors file of that header, full size, of which the disk holds nothing but the header."""
    entries, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    with path.open("r+b") as stream:
        stream.truncate(8 + len(head) + at)
    return path


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_published_models_are_known_by_their_shapes(kind, tmp_path):
    """Full-size files (gigabytes, hollow): every part configured as its publisher did."""
    texts = {
        "sd1": [(768, "quick_gelu", 12, 3072, 12)], "sd2": [(1024, "gelu", 23, 4096, 16)],
        "sdxl": [(768, "quick_gelu", 12, 3072, 12), (1280, "gelu", 32, 5120, 20)],
    }[kind]  # fmt: skip
    with torch.device("meta"):
        parts = {"unet": unet(PUBLISHED[kind], layers_per_block=2), "vae": autoencoder((128, 256, 512, 512))}
        for number, (width, act, layers, inner, heads) in enumerate(texts):
            parts[f"text_encoder{'_2' * number}"] = encoder(
                width, act, layers, number == 1, intermediate_size=inner, num_attention_heads=heads
            )
        shapes = {name: tuple(t.shape) for name, t in named(kind, parts).items()}
    found = single.read(hollow(tmp_path / "it.safetensors", shapes))
    wanted = {"layers_per_block": 2, "in_channels": 4, "out_channels": 4, **PUBLISHED[kind]}
    assert {key: found.parts["unet"][key] for key in wanted} == wanted
    assert found.family == kind and found.has_vae and found.parts["vae"]["block_out_channels"] == [128, 256, 512, 512]
    assert found.parts["vae"]["scaling_factor"] == (0.13025 if kind == "sdxl" else 0.18215)
    keys = ("hidden_size", "hidden_act", "num_hidden_layers", "intermediate_size", "num_attention_heads")
    own = [text for name, text in found.parts.items() if name.startswith("text")]
    assert [tuple(text[key] for key in keys) for text in own] == texts
    with torch.device("meta"):
        again = unet({k: v for k, v in found.parts["unet"].items() if k[0] != "_"})
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in parts["unet"].state_dict().items()
    }


def plain_bpe(word, ranks):
    """Byte-pair encoding as CLIP's simple_tokenizer.py says it: the best ranked pair is joined until there is none."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined, at = [], 0
        while at < len(parts):
            both = tuple(parts[at : at + 2]) == best
            joined.append("".join(best) if both else parts[at])
            at += 1 + both
        parts = joined
    return parts


def test_clips_words_are_those_of_the_published_tokenizer():
    """Known ids of the published one; and its algorithm in plain loops."""
    tokenizer = single.tokenizer("!")
    ids = tokenizer("A photo of a cat", padding="max_length", max_length=77)["input_ids"]
    assert ids[:8] == [49406, 320, 1125, 539, 320, 2368, 49407, 0] and ids[-1] == 0
    assert len(tokenizer) == 49408 and single.tokenizer("<|endoftext|>").pad_token_id == 49407
    merges = tokenizer.backend_tokenizer.model.__getstate__()
    ranks = {tuple(pair): n for n, pair in enumerate(json.loads(merges)["merges"])}
    for word in ("teapot", "zwz", "watercolour", "unbelievably", "backpackers"):
        assert tokenizer.convert_ids_to_tokens(tokenizer(word)["input_ids"][1:-1]) == plain_bpe(word, ranks)


@pytest.mark.parametrize("kind", THIN)
def test_a_file_is_a_base_with_the_same_weights(kind, made, cache):
    """Every tensor of every part against the module that the file was made of; converted once."""
    path, parts = made(kind)
    pipe, family = loading.pipeline(str(path))
    assert family.pipeline == ("StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline")
    for name, module in parts.items():
        mine, theirs = module.state_dict(), pipe.components[name].state_dict()
        assert {n.removeprefix("text_model.") for n in mine} == {n.removeprefix("text_model.") for n in theirs}
        theirs = {n.removeprefix("text_model."): t for n, t in theirs.items()}
        assert all(torch.equal(t, theirs[n.removeprefix("text_model.")]) for n, t in mine.items())
    settings = {key: pipe.unet.config[key] for key in THIN[kind]}
    assert settings == THIN[kind] and pipe.vae.config.scaling_factor == parts["vae"].config.scaling_factor
    folder = converting.folder(path)
    stamp = (folder / "model_index.json").stat().st_mtime_ns
    loading.pipeline(str(path))
    assert (folder / "model_index.json").stat().st_mtime_ns == stamp and not list(cache.glob(".making*"))
    ids = outline.of(str(path)).ids("a photo of a dog")
    assert ids == ((320, 1125, 539, 320, 1929),) * len(TEXTS[kind])


def written(path, tensors, metadata=None, dtype=None):
    cast = lambda t: t.to(dtype) if dtype and t.is_floating_point() else t  # noqa: E731
    save_file({name: cast(t) for name, t in tensors.items()}, path, {"format": "pt", **(metadata or {})})
    return path


def test_each_part_keeps_the_precision_of_the_file(made, tmp_path):
    """Half precision, and half with an autoencoder that would overflow in it, as SDXL's files have it."""
    path, parts = made("sd1")
    held = load_file(path)
    for dtype in (torch.float16, torch.bfloat16):
        file = written(tmp_path / f"{dtype}.safetensors", held, dtype=dtype)
        mixed = {n: t if n.startswith(single.VAE) else t.to(dtype) for n, t in held.items()}
        for one, vae in ((file, dtype), (written(tmp_path / f"mixed-{dtype}.safetensors", mixed), torch.float32)):
            folder = converting.folder(one)
            kinds = {
                name: {t.dtype for t in load_file(next((folder / name).glob("*.safetensors"))).values()}
                for name in parts
            }
            assert kinds == {"unet": {dtype}, "vae": {vae}, "text_encoder": {dtype}}
            pipe, _ = loading.pipeline(str(one))
            name = "conv_in.weight"
            assert torch.equal(pipe.unet.state_dict()[name], parts["unet"].state_dict()[name].to(dtype).float())


def test_what_is_predicted(made, tmp_path):
    """By ModelSpec, by the keys that ComfyUI knows, of SD 2 by a bias; else noise."""
    spread = f"{single.UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    v, zero = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    plain, wide = {spread: torch.zeros(8)}, {spread: torch.linspace(-1, 1, 8)}
    for kind, tensors, told, wanted in (
        ("sd1", {}, {}, {"prediction_type": "epsilon"}), ("sd1", wide, {}, {"prediction_type": "epsilon"}),
        ("sd1", {}, {"modelspec.prediction_type": "v"}, v), ("sd2", plain, {}, {"prediction_type": "epsilon"}),
        ("sd2", wide, {}, v), ("sd2", wide, {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "epsilon"}),
        ("sdxl", {"v_pred": torch.zeros(1)}, {}, v),
        ("sdxl", {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, {}, v | zero),
    ):  # fmt: skip
        path = written(tmp_path / "it.safetensors", {"x": torch.zeros(1), **tensors}, told)
        assert converting._predicts(path, single.Layout(kind, {}, True)) == wanted


def test_an_autoencoder_beside(made, pico, tmp_path):
    """In one file of either layout, on a file with none and on one with its own; the base's settings; identities."""
    path, parts = made("sdxl")
    held, own = load_file(path), parts["vae"].state_dict()
    bare = written(tmp_path / "bare.safetensors", {n: t for n, t in held.items() if not n.startswith(single.VAE)})
    with pytest.raises(ModelError, match=r"has no autoencoder in it; give one: vae"):
        loading.pipeline(str(bare))
    other = {n: t + 1 for n, t in own.items()}
    old = dict(original.vae_entry(n, t, 2) for n, t in other.items())
    names = {"new": other, "old": old, "prefixed": {single.VAE + n: t for n, t in old.items()}}
    vaes = {n: written(tmp_path / f"{n}.safetensors", {k: t.clone() for k, t in v.items()}) for n, v in names.items()}
    for base, name in ((bare, "old"), (bare, "prefixed"), (path, "old"), (path, "new")):
        pipe, _ = loading.pipeline(str(base), vae=str(vaes[name]))
        assert all(torch.equal(t, pipe.vae.state_dict()[n]) for n, t in other.items())
        assert pipe.vae.config.scaling_factor == 0.13025
    beside = (None, str(vaes["old"]), str(vaes["new"]))
    assert len({loading.identity(str(base), vae) for base in (bare, path) for vae in beside}) == 6
    cut = written(
        tmp_path / "cut.safetensors", {n: t.clone() for n, t in other.items() if n != "encoder.conv_out.bias"}
    )
    for wrong, why in ((bare, "holds no autoencoder"), (cut, "lacks"), (vaes["new"], "does not fit")):
        with pytest.raises(ModelError, match=f"vae {wrong} .*{why}"):
            loading.pipeline(str(bare if why == "does not fit" else path), vae=str(wrong))


def test_identity_goes_by_content(made, tmp_path, cache):
    path, _ = made("sd1")
    other, same = tmp_path / "other.safetensors", tmp_path / "moved" / "same.safetensors"
    same.parent.mkdir()
    same.write_bytes(path.read_bytes())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    assert loading.identity(str(path)) == loading.identity(str(same)) != loading.identity(str(other))
    assert converting.folder(same) == converting.folder(path)
    before = loading.identity(str(other))
    data[-2] ^= 1
    other.write_bytes(data)
    assert loading.identity(str(other)) != before
    (cache / "digests.json").write_text("[1")
    assert loading.identity(str(same)) == loading.identity(str(path))


def test_what_tells_whether_a_checkpoint_can_be_taught(made, tmp_path):
    good, _ = made("sd1")
    assert what.look(good).base == f"--base {good}" and f"as a base: --base {good}" in what.look(good).lines()
    for name, why in (
        ("inpainting", "an inpainting model"),
        ("coarse", "stored in F8_E4M3"),
        ("words", "not read with"),
    ):
        assert what.look(spoilt(name, load_file(good), tmp_path)).base.startswith(why)


def test_a_header_of_any_length_is_no_pickle(tmp_path):
    """Pickles begin with the byte 0x80, and so do safetensors files with headers of 128, 384, ... bytes."""
    lengths = set()
    for k in range(64):
        path = written(tmp_path / "it.safetensors", {"emb_params": torch.zeros(1, 768)}, {"note": "x" * 8 * k})
        lengths.add(path.read_bytes()[0])
        assert what.look(path).kind == "embedding"
    assert 0x80 in lengths


def spoilt(name, held, folder):
    """A file that is no base, by what is wrong with it."""
    path = folder / f"{name}.safetensors"
    inner = f"{single.UNET}input_blocks.0.0.weight"
    first = held[inner]
    word = f"{single.FIRST}{single.TEXT}embeddings.token_embedding.weight"
    unet = {n: t for n, t in held.items() if n.startswith(single.UNET)}
    changed = {
        "inpainting": {**held, inner: torch.zeros(32, 9, 3, 3)}, "editing": {**held, inner: torch.zeros(32, 8, 3, 3)},
        "lora": {"lora_unet_x.lora_down.weight": torch.zeros(2, 2)},
        "peft": {"unet.x.lora_A.weight": torch.zeros(2, 2)},
        "embedding": {"emb_params": torch.zeros(1, 768)}, "vae": {"encoder.conv_in.weight": torch.zeros(1)},
        "control": {"control_model.x": torch.zeros(1)}, "flux": {"double_blocks.0.x": torch.zeros(1)},
        "part": {"down_blocks.0.x": torch.zeros(1)}, "strange": {"a": torch.zeros(1)}, "unet": unet,
        "refiner": {**held, "conditioner.embedders.0.model.ln_final.bias": torch.zeros(1)},
        "edm": {**held, "edm_mean": torch.zeros(1)}, "coarse": {**held, inner: first.to(torch.float8_e4m3fn)},
        "words": {**held, word: torch.zeros(49410, 64)}, "nan": {**held, inner: first * float("nan")},
        "lacking": {n: t for n, t in held.items() if not n.endswith("middle_block.0.in_layers.0.bias")},
        "shallow": {n: t for n, t in held.items() if "input_blocks.1." not in n},
        "more": {**held, f"{single.UNET}input_blocks.1.0.extra.weight": torch.zeros(1)},
        "shape": {**held, f"{single.UNET}middle_block.0.in_layers.0.bias": torch.zeros(3)},
    }  # fmt: skip
    return written(path, changed[name])


REFUSED = {
    "inpainting": "is an inpainting model, whose UNet takes 9 channels", "editing": "is an editing model",
    "lora": "is no base but a LoRA file.*--from", "peft": "is no base but a LoRA file",
    "embedding": "but an embedding file",
    "vae": "but an autoencoder: give it as the `vae`", "control": "but a ControlNet", "flux": "but a transformer",
    "part": "one part of a diffusers folder", "strange": r"layout that is not known \(its first tensor is a\)",
    "unet": "UNet without its text encoder", "refiner": "SDXL's refiner", "edm": "noised as an EDM",
    "coarse": "stored in F8",
    "words": "not read with CLIP's 49408 words: .* has 49410", "nan": "holds NaN or infinity in conv_in.weight",
    "lacking": "its UNet has \\d+ tensors", "shallow": "no Stable Diffusion 1 checkpoint of the known",
    "more": "its UNet has \\d+ tensors", "shape": "no checkpoint that diffusers can read",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_base_is_refused_by_its_name(name, made, cache, tmp_path):
    path, before = spoilt(name, load_file(made("sd1")[0]), tmp_path), sorted(cache.glob("*-1"))
    with pytest.raises(ModelError, match=REFUSED[name]) as told:
        loading.pipeline(str(path))
    assert str(path) in str(told.value) and "\n" not in str(told.value)
    assert sorted(cache.glob("*-1")) == before and not list(cache.glob(".making*"))


def test_files_that_cannot_be_read_are_told(made, tmp_path, perdure):
    data = made("sd1")[0].read_bytes()
    pickle, huge, cut = (tmp_path / name for name in ("a.ckpt", "huge.safetensors", "cut.safetensors"))
    pickle.write_bytes(b"PK\x03\x04" + data[:100])
    huge.write_bytes((100 << 30).to_bytes(8, "little") + data[8:1000])
    cut.write_bytes(data[: len(data) // 2])
    (tmp_path / "folder.safetensors").mkdir()
    for file, why in (
        (pickle, "is a pickle"), (huge, "is damaged"), (cut, "is damaged"),
        (tmp_path / "none.safetensors", "neither a path"),
        ("x/none.safetensors", "no such file"), (tmp_path / "folder.safetensors", "no plain file"),
    ):  # fmt: skip
        code, _, told = perdure("init", tmp_path / "m", "--base", file)
        assert code == 2 and why in told and str(file) in told and told.strip().count("\n") == 0, told
        assert not (tmp_path / "m").exists()


def test_a_full_disk_leaves_no_base_half_converted(made, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="no limit of file sizes on this system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, before = made("sd1")[0], resource.getrlimit(resource.RLIMIT_FSIZE)
    converting.digest(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, before[1]))  # the table of words has 12 MB
    try:
        with pytest.raises(ModelError, match=r"cannot be converted into .*File too large.*nothing is left"):
            loading.pipeline(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in converting.cache().iterdir()] == ["digests.json"]
    (converting.cache() / f"{converting.MAKING}999999999-x").mkdir()  # a killed process's
    with monkeypatch.context() as patch:
        patch.setattr(converting.shutil, "disk_usage", lambda folder: type("U", (), {"free": 10})())
        with pytest.raises(ModelError, match=r"and 10 B are free there; make room, or set XDG_CACHE_HOME"):
            loading.pipeline(str(path))
    loading.pipeline(str(path))
    assert not list(converting.cache().glob(f"{converting.MAKING}*"))


@pytest.mark.parametrize("kind", ["sd1", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sd2", "sdxl"))])
def test_from_file_to_lineage_to_file_to_base(kind, made, tmp_path, perdure):
    """W + delta in what the memory moves, the same tensors elsewhere; and that is a base again."""
    path, parts = made(kind)
    moved = {n: m for n, m in parts["unet"].named_modules() if n.endswith(("to_k", "to_out.0"))}
    shapes = {name: tuple(module.weight.shape) for name, module in moved.items()}
    lineage = lineage_of(tmp_path / "m", path, "pair", shapes)
    delta = content(lineage).delta
    for dtype, bound in (("fp32", 1e-6), ("fp16", 1e-3)):
        out = tmp_path / dtype
        handed = export.export(lineage, out, Wish("checkpoint", dtype=dtype), pictures=1 if dtype == "fp32" else 0)
        assert not handed.proof.failings and handed.proof.largest <= 1
        again, _ = loading.pipeline(str(out / "tiny.safetensors"))
        for name, module in parts.items():
            theirs = {n.removeprefix("text_model."): t for n, t in again.components[name].state_dict().items()}
            for n, t in module.state_dict().items():
                own = delta.get(n.removesuffix(".weight")) if name == "unet" else None
                wanted = t + own.matrix() if own else t
                off = (theirs[n.removeprefix("text_model.")] - wanted).norm() / wanted.norm().clamp(min=1e-9)
                assert float(off) < bound, n
    code, said, _ = perdure("init", tmp_path / "next", "--base", out / "tiny.safetensors")
    assert code == 0 and "is ready" in said
    if kind == "sd1":  # what it reckons of the other families, tests/test_footprint.py asks
        code, said, _ = perdure("check", "demo", "--set", f"base={out / 'tiny.safetensors'}")
        assert code == 0, said


def test_a_word_that_the_base_has_already_is_called_otherwise(made, tmp_path):
    """`sbu` is a word of CLIP's: diffusers reads the files by their names, and they draw what the memory draws."""
    path, parts = made("sd1")
    shapes = {n: tuple(m.weight.shape) for n, m in parts["unet"].named_modules() if n.endswith("attn2.to_k")}
    lineage = lineage_of(tmp_path / "m", path, "pair", shapes, widths=(64,))
    for to in ("comfyui", "folder"):
        handed = export.export(lineage, tmp_path / to, Wish(to, dtype="fp32"), pictures=2)
        assert not handed.proof.failings and handed.proof.largest <= 1
        assert handed.content.triggers == ("zwz dog", "learnt-sbu")
    embeddings = tmp_path / "comfyui" / "embeddings"
    assert {file.stem for file in embeddings.glob("*.safetensors")} == {"zwz", "learnt-sbu"}
    seen = what.look(embeddings / "learnt-sbu.safetensors")
    assert (seen.kind, seen.family, seen.triggers) == ("embedding", "sd1", ("learnt-sbu",))
    pipe, _ = loading.pipeline(str(path))
    with pytest.raises(ValueError, match="already in tokenizer vocabulary"):
        pipe.load_textual_inversion(embeddings / "learnt-sbu.safetensors", token="sbu")
    pipe.load_textual_inversion(embeddings / "learnt-sbu.safetensors", token="learnt-sbu")
    assert pipe.tokenizer("a learnt-sbu")["input_ids"][1:-1] == [320, 49408]
    proof, _ = export.verify(lineage, tmp_path / "comfyui" / "loras" / "tiny.safetensors", pictures=0)
    assert not proof.failings
