"""Measures on tiny models of the real classes: preprocessing, what each number means, clear refusals."""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from perdure import plugins, score
from perdure.errors import ModelError
from perdure.images import sha256_of
from perdure.score import csd_checkpoint, encoders, preprocess, sources
from perdure.score.measure import mean_paired_cosine, mean_pairwise_cosine
from perdure.score.measures import mmd

torch.set_num_threads(1)

VISION = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1,
    "image_size": 32, "patch_size": 8, "projection_dim": 24,
}  # fmt: skip
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "resample": 3,
    "crop_size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
}  # fmt: skip


def picture(seed, width=40, height=50):
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height))


PICTURES = [picture(seed) for seed in range(5)]


def write_preprocessor(folder, **changes):
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | changes))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders clip, dino, csd: the layouts that are loaded from the hub, at 32 pixels."""
    root = tmp_path_factory.mktemp("scorers")
    torch.manual_seed(0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    text = {
        "vocab_size": len(vocab), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 12, "projection_dim": 24,
        "bos_token_id": vocab["<|startoftext|>"], "eos_token_id": vocab["<|endoftext|>"],
        "pad_token_id": vocab["<|endoftext|>"],
    }  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)).save_pretrained(root / "clip")
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(root / "clip")
    vit = {key: value for key, value in VISION.items() if key != "projection_dim"}
    ViTModel(ViTConfig(**vit)).save_pretrained(root / "dino")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).save_pretrained(root / "csd")
    for name in ("clip", "dino", "csd"):
        write_preprocessor(root / name)
    yield root
    score.release()


OWN = plugins.own(plugins.MEASURE)
FOLDER = {name: score.card(plugins.find(plugins.MEASURE, name)).embedded for name in OWN}


def pixels(images=PICTURES):
    """What the tiny models read, by transformers' own Pillow processor."""
    processor = CLIPImageProcessorPil(**{k: v for k, v in PREPROCESSOR.items() if k != "image_processor_type"})
    return processor(images, return_tensors="pt")["pixel_values"]


def test_names_are_the_files_and_import_is_light():
    assert set(OWN) == {path.stem for path in Path(mmd.__file__).parent.glob("[a-z]*.py")} <= set(score.names())
    code = "import sys, perdure.score as s; s.names(); sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_every_measure_keeps_the_contract(models, a_measure):
    card = score.card(plugins.find(plugins.MEASURE, a_measure))
    measure = score.load(a_measure, models / card.embedded if card.embedded else None)
    assert measure.name == Path(a_measure).stem and measure.direction in ("higher", "lower")
    features = measure.features(PICTURES)
    assert features.dtype == torch.float32 and features.shape[0] == 5 and not features.requires_grad
    assert features.isfinite().all()
    torch.testing.assert_close(measure.features(PICTURES[1:])[0], features[1])  # whatever pictures stand beside it
    prompts = ["a cat", "a dog", "an owl", "a bee", "a very long prompt that runs over the end"]
    references = measure.reference_features(PICTURES[:3])
    value = measure.score(PICTURES, prompts, references)
    assert measure.range[0] <= value <= measure.range[1]
    assert value == measure.score(PICTURES, prompts, references)
    assert {"model", "features", "averaging"} <= set(measure.spec) and json.dumps(dict(measure.spec))
    if card.embedded:
        assert {"revision", "weights_sha256", "preprocessing"} <= set(measure.spec)
        assert "32" in measure.spec["preprocessing"] and len(measure.spec["weights_sha256"]) == 64
    if measure.against == "references":  # in its own direction, the references themselves come before other pictures
        others = [measure.score([picture(seed)] * 3, None, references) for seed in range(20, 24)]
        best = measure.score(PICTURES[:3], None, references)
        assert best > max(others) if measure.direction == "higher" else best < min(others)
    with pytest.raises(ValueError, match="no images"):
        measure.features([])


def test_features_are_those_of_the_model_itself(models):
    clip = CLIPModel.from_pretrained(models / "clip").eval()
    dino = ViTModel.from_pretrained(models / "dino").eval()
    csd = CLIPVisionModelWithProjection.from_pretrained(models / "csd").eval()
    with torch.no_grad():
        naive = {
            "mmd": clip.get_image_features(pixel_values=pixels()).pooler_output,
            "dino": dino(pixel_values=pixels()).last_hidden_state[:, 0],
            "csd": csd(pixel_values=pixels()).image_embeds,
        }
    naive["clip_i"] = naive["mmd"] / naive["mmd"].norm(dim=1, keepdim=True)
    for name, expected in naive.items():
        if name in ("dino", "csd"):
            expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(score.load(name, models / FOLDER[name]).features(PICTURES), expected)


@pytest.mark.parametrize("name", ["dino", "clip_i", "csd", "clip_t", "clip_t_class", "mmd"])
def test_what_a_measure_says_of_itself(models, name):
    """Its likeness is a mean cosine over all pairs, its ceiling one over pairs of different references."""
    measure = score.load(name, models / FOLDER[name])
    pictures_alone = name in ("dino", "clip_i", "csd")
    assert (measure.name, measure.direction) == (name, "lower" if name == "mmd" else "higher")
    assert measure.against == ("prompts" if name.startswith("clip_t") else "references")
    rows = measure.features(PICTURES)
    if not pictures_alone:
        assert measure.ceiling(rows) is None
        return
    assert measure.range == (-1.0, 1.0) and measure.spec["averaging"] == "all generated x reference pairs"
    cosines = (rows @ rows.T).double().numpy()
    assert measure.ceiling(rows) == pytest.approx(
        np.mean([cosines[i, j] for i in range(5) for j in range(5) if i != j])
    )
    assert measure.compare(rows[:2], rows[2:]) == pytest.approx(cosines[:2, 2:].mean())


def test_text_features_are_those_of_the_model_one_by_one(models):
    clip, tokenizer = (
        CLIPModel.from_pretrained(models / "clip").eval(),
        CLIPTokenizer.from_pretrained(models / "clip"),
    )
    measure = score.load("clip_t", models / "clip")
    prompts = ["a", "a green dog", "b"] + ["c"] * encoders.BATCH
    with torch.no_grad():
        alone = [clip.get_text_features(**tokenizer(p, return_tensors="pt")).pooler_output for p in prompts]
    expected = torch.nn.functional.normalize(torch.cat(alone), dim=1)
    torch.testing.assert_close(measure.text_features(prompts), expected)
    assert not torch.allclose(expected[0], expected[2])
    cosines = (score.load("clip_i", models / "clip").features(PICTURES[:3]) * expected[:3]).sum(1)
    assert measure.score(PICTURES[:3], prompts[:3], None) == pytest.approx(float(cosines.mean()), abs=1e-6)


def test_batches_change_nothing(models):
    measure = score.load("dino", models / "dino")
    many = [picture(seed) for seed in range(encoders.BATCH + 3)]
    alone = torch.cat([measure.features([image]) for image in many])
    torch.testing.assert_close(measure.features(many), alone)


def test_models_are_loaded_once(models):
    assert score.load("clip_i", models / "clip").encode_images is score.load("clip_t", models / "clip").encode_images


def test_mean_pairwise_is_over_all_pairs():
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    assert mean_pairwise_cosine(x, y) == pytest.approx((1 + 0 + 0.8 + 0.6 + 0.8 + 0.96) / 6)
    assert mean_paired_cosine(x, y[:2]) == pytest.approx((1 + 0.8) / 2)
    with pytest.raises(ValueError, match="2 images, 3 prompts"):
        mean_paired_cosine(x, y)


def test_mmd_by_hand_and_unbiased():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])

    def k(a, b):
        return (float(a @ b) / 2 + 1) ** 3

    within_x = 2 * k(x[0], x[1]) / 2
    within_y = 2 * (k(y[0], y[1]) + k(y[0], y[2]) + k(y[1], y[2])) / 6
    between = sum(k(a, b) for a in x for b in y) / 6
    assert mmd.mmd(x, y) == pytest.approx(1000 * (within_x + within_y - 2 * between))
    generator = torch.Generator().manual_seed(0)
    draws = [mmd.mmd(*torch.randn(2, 20, 8, generator=generator)) for _ in range(200)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(200)
    assert mmd.mmd(torch.randn(20, 8, generator=generator), torch.randn(20, 8, generator=generator) + 1) > 500
    with pytest.raises(ValueError, match="two pictures or more"):
        mmd.mmd(x[:1], y)


SIZES = [(300, 224), (224, 331), (640, 427), (97, 211), (500, 500)]


@pytest.mark.parametrize("width, height", SIZES)
def test_preprocessing_equals_transformers_pillow_processors(width, height):
    image = picture(0, width, height)
    ours = preprocess.CLIP_224(image)
    golden = CLIPImageProcessorPil()(image, return_tensors="np")["pixel_values"][0]
    assert ours.dtype == np.float32 and ours.shape == (3, 224, 224)
    np.testing.assert_allclose(ours, golden, atol=2e-6)
    config = {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2}
    squeeze = preprocess.from_config(config | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    golden = ViTImageProcessorPil()(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(squeeze(image), golden, atol=2e-6)


@pytest.mark.parametrize("width, height", SIZES)
def test_dino_preprocessing_is_resize_256_crop_224_as_in_torchvision(width, height):
    image = picture(0, width, height)
    short, long = min(width, height), max(width, height)
    resized = tuple(256 if side == short else int(256 * long / short) for side in (width, height))
    array = np.asarray(image.resize(resized, Image.Resampling.BICUBIC)) / 255
    top, left = round((resized[1] - 224) / 2.0), round((resized[0] - 224) / 2.0)
    array = array[top : top + 224, left : left + 224]
    naive = (array - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(preprocess.DINO_224(image), naive.transpose(2, 0, 1), atol=2e-6)


def test_old_and_new_configs_mean_the_same():
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}
    old |= {"do_center_crop": True, "resample": 3}
    old |= {"image_mean": preprocess.CLIP_MEAN, "image_std": preprocess.CLIP_STD}
    new = old | {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    assert preprocess.from_config(old) == preprocess.from_config(new) == preprocess.CLIP_224
    for nonsense in ({"size": {"longest_edge": 3}}, {"size": 32, "crop_size": 64}, {"image_mean": [0.5]}):
        with pytest.raises(ValueError, match=r"is not a preprocessing|needs shortest_edge"):
            preprocess.from_config(old | nonsense)


def test_a_224_model_is_scored_by_the_protocol_whatever_its_folder_says(tmp_path):
    small = VISION | {"image_size": 224, "patch_size": 56, "hidden_size": 16, "num_hidden_layers": 1}
    ViTModel(ViTConfig(**small)).save_pretrained(tmp_path)
    write_preprocessor(tmp_path, image_processor_type="ViTImageProcessor", size=224, do_center_crop=False)
    words = score.load("dino", tmp_path).spec["preprocessing"]
    assert words.startswith("resize shorter side to 256 (bicubic") and "crop 224x224" in words


def fake_csd(width=128, layers=2, patch=8, grid=4, out=24):
    """A checkpoint in the published layout, keys and nesting, with random weights."""
    torch.manual_seed(1)
    shapes = {
        "class_embedding": (width,), "conv1.weight": (width, 3, patch, patch),
        "positional_embedding": (grid * grid + 1, width),
        **{f"{ln}.{kind}": (width,) for ln in ("ln_pre", "ln_post") for kind in ("weight", "bias")},
    }  # fmt: skip
    block = {
        "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
        "mlp.c_fc.weight": (200, width), "mlp.c_fc.bias": (200,),
        "mlp.c_proj.weight": (width, 200), "mlp.c_proj.bias": (width,),
    }  # fmt: skip
    for layer in range(layers):
        shapes |= {f"transformer.resblocks.{layer}.{key}": shape for key, shape in block.items()}
    state = {f"module.backbone.{key}": torch.randn(shape) * 0.1 for key, shape in shapes.items()}
    state["module.last_layer_style"] = torch.randn(width, out) * 0.1
    state["module.last_layer_content"] = torch.randn(width, out) * 0.1
    return {"model_state_dict": state, "epoch": 3, "config": argparse.Namespace(lr=1e-4)}


def naive_style(state, pixels, heads):
    """Style vectors straight from OpenAI's visual tower: (n, 3, h, w) -> (n, d), L2-normalised."""
    f = torch.nn.functional
    w = {key.removeprefix("module.backbone."): value for key, value in state.items()}
    norm = lambda x, name: f.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    patches = f.conv2d(pixels, w["conv1.weight"], stride=w["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([w["class_embedding"].expand(len(pixels), 1, -1), patches], dim=1)
    x = norm(x + w["positional_embedding"], "ln_pre")
    for k in range(2):
        p = f"transformer.resblocks.{k}"
        y = norm(x, f"{p}.ln_1")
        q, key, v = f.linear(y, w[f"{p}.attn.in_proj_weight"], w[f"{p}.attn.in_proj_bias"]).chunk(3, dim=-1)
        q, key, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, key, v))
        attention = (q @ key.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        attention = attention.transpose(1, 2).flatten(2)
        x = x + f.linear(attention, w[f"{p}.attn.out_proj.weight"], w[f"{p}.attn.out_proj.bias"])
        y = f.linear(norm(x, f"{p}.ln_2"), w[f"{p}.mlp.c_fc.weight"], w[f"{p}.mlp.c_fc.bias"])
        x = x + f.linear(y * torch.sigmoid(1.702 * y), w[f"{p}.mlp.c_proj.weight"], w[f"{p}.mlp.c_proj.bias"])
    return f.normalize(norm(x[:, 0], "ln_post") @ state["module.last_layer_style"], dim=-1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "perdure"


def test_csd_checkpoint_gives_the_style_of_the_original_tower(tmp_path, cache):
    checkpoint = tmp_path / "checkpoint.pth"
    content = fake_csd()
    torch.save(content, checkpoint)
    before = checkpoint.read_bytes()
    measure = score.load("csd", checkpoint)
    read = preprocess.from_config(json.loads(next(cache.glob("csd-*/preprocessor_config.json")).read_text()))
    batch = torch.from_numpy(np.stack([read(image) for image in PICTURES]))
    expected = naive_style(content["model_state_dict"], batch, heads=2)
    torch.testing.assert_close(measure.features(PICTURES), expected, atol=1e-5, rtol=1e-4)
    assert checkpoint.read_bytes() == before
    assert measure.spec["weights_sha256"] == sha256_of(checkpoint)


def test_csd_is_converted_once_and_its_folder_loads_by_itself(tmp_path, cache):
    checkpoint = tmp_path / "csd" / "checkpoint.pth"
    checkpoint.parent.mkdir()
    torch.save(fake_csd(), checkpoint)
    converted = csd_checkpoint.prepare(checkpoint).path
    stamp = (converted / "model.safetensors").stat().st_mtime_ns
    assert csd_checkpoint.prepare(checkpoint.parent).path == converted and len(list(cache.iterdir())) == 1
    assert (converted / "model.safetensors").stat().st_mtime_ns == stamp
    first, second = (score.load("csd", source).features(PICTURES) for source in (checkpoint, converted))
    assert torch.equal(first, second)
    assert csd_checkpoint.prepare(converted).path == converted


class Payload:
    """What a malicious pickle would do: here, make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_csd_refuses_what_is_no_checkpoint(tmp_path, cache):
    torch.save({"model_state_dict": {"weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"no CSD checkpoint .*last_layer_style"):
        csd_checkpoint.prepare(tmp_path / "other.pth")
    lacking = fake_csd()
    del lacking["model_state_dict"]["module.backbone.ln_post.bias"]
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(ModelError, match="it has no backbone"):
        csd_checkpoint.prepare(tmp_path / "lacking.pth")
    torch.save(fake_csd() | {"trap": Payload(tmp_path / "ran")}, tmp_path / "trap.pth")
    (tmp_path / "noise.pth").write_bytes(b"no pickle at all")
    for name in ("trap.pth", "noise.pth"):
        with pytest.raises(ModelError, match="cannot be read as tensors only"):
            csd_checkpoint.prepare(tmp_path / name)
    assert not (tmp_path / "ran").exists() and not cache.exists()


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """An offline machine with an empty cache."""
    import huggingface_hub.constants as constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    score.release()  # what is loaded already needs no hub


@pytest.mark.parametrize("name", [name for name in OWN if FOLDER[name]])
def test_offline_and_not_cached_says_what_to_do(no_hub, name):
    with pytest.raises(ModelError) as caught:
        score.load(name)
    message = str(caught.value)
    model = {
        "clip": "openai/clip-vit-base-patch32",
        "dino": "facebook/dino-vits16",
        "csd": "tomg-group-umd/CSD-ViT-L",
    }
    assert message.startswith(model[FOLDER[name]]) and "\n" not in message
    assert all(word in message for word in ("HF_HUB_OFFLINE", "local folder", "HF_HOME"))


def test_a_cached_hub_model_needs_no_network(models, no_hub, tmp_path):
    repository = tmp_path / "hub" / "models--someone--dino"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in (models / "dino").iterdir():
        (snapshot / file.name).symlink_to(file)
    measure = score.load("dino", "someone/dino")
    assert measure.spec["model"] == "someone/dino" and measure.spec["revision"] == "0" * 40


def test_a_path_is_never_sent_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_cached", lambda *args: pytest.fail("asked the hub's cache"))
    monkeypatch.setattr(sources, "_fetched", lambda *args: pytest.fail("asked the hub"))
    for source in (
        tmp_path / "nowhere",
        Path("models/clip"),
        "/models/clip",
        "./models/clip",
        "a/b/c",
        "clip",
    ):
        with pytest.raises(ModelError, match="no such folder"):
            score.load("clip_i", source)


def copy_of(folder, to):
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_unusable_folders_are_refused_by_name(models, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"config\.json and model\.safetensors missing"):
        score.load("dino", empty)
    torn = copy_of(models / "dino", tmp_path / "torn")
    weights = load_file(torn / "model.safetensors")
    lost = next(key for key in weights if "layernorm" in key and "0" not in key)
    save_file({k: v for k, v in weights.items() if k != lost}, torn / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights of a ViTModel"):
        score.load("dino", torn)
    (torn / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="torn: is not a ViTModel that can be loaded"):
        score.load("dino", torn)
    plain = copy_of(models / "csd", tmp_path / "plain")
    (plain / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"preprocessor_config\.json missing"):
        score.load("csd", plain)
    mute = copy_of(models / "clip", tmp_path / "mute")
    for file in mute.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="its tokenizer"):
        score.load("clip_t", mute)


def edited(folder, to, file, **changes):
    """A copy of a folder, keys of one of its JSON files replaced."""
    copy_of(folder, to)
    (to / file).write_text(json.dumps({**json.loads((to / file).read_text()), **changes}))
    return to


@pytest.mark.parametrize(
    ("name", "file", "changes", "word"),
    [
        ("dino", "config.json", {"hidden_size": []}, "is not a ViTModel that can be loaded"),
        ("dino", "config.json", {"num_attention_heads": 0}, "is not a ViTModel that can be loaded"),
        ("csd", "config.json", {"hidden_act": "nothing"}, "is not a CLIPVisionModelWithProjection that can be loaded"),
        ("csd", "preprocessor_config.json", {"size": True}, "cannot be understood .size True with"),
        ("csd", "preprocessor_config.json", {"crop_size": {"height": [], "width": 32}}, "cannot be understood"),
        ("csd", "preprocessor_config.json", {"do_resize": 3, "resample": []}, "preprocessor_config.json"),
        ("clip_t", "tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "its tokenizer"),
        ("clip_t", "tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 900}, "merges": []}}, "has a word 900"),
        ("clip_t", "tokenizer.json", {"model": 3}, "its tokenizer cannot be read"),
    ],
)
def test_damaged_folders_are_told_in_a_sentence(models, tmp_path, name, file, changes, word):
    folder = edited(models / FOLDER[name], tmp_path / "spoilt", file, **changes)
    with pytest.raises(ModelError, match=word) as caught:
        score.load(name, folder)
    assert "spoilt" in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_no_scorer(models, tmp_path):
    folder = copy_of(models / "dino", tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v * float("nan") for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="nan: is damaged, its features are not finite"):
        score.load("dino", folder)


def test_a_model_that_cannot_be_run_is_told_in_a_sentence(models, tmp_path, monkeypatch):
    """Of images and of texts: what its library raises only when something is shown to it."""
    score.release()

    def wrong(self, *given, **named):
        raise RuntimeError("shapes do\nnot fit.")

    for kind, name in (("ViTModel", "dino"), ("CLIPTextModel", "clip_t"), ("CLIPVisionModelWithProjection", "csd")):
        with monkeypatch.context() as patched:
            patched.setattr(getattr(transformers, kind), "forward", wrong)
            with pytest.raises(ModelError) as told:
                score.load(name, copy_of(models / FOLDER[name], tmp_path / name))
        sentence = "is damaged, its model cannot be run (shapes do not fit)."
        assert str(told.value) == f"{tmp_path / name}: {sentence}"


def test_what_is_known_of_a_scorer_stands_in_its_spec(models):
    """Its name, no revision of a folder, the digest of the very file, what goes in: as it is, and found once."""
    for name in ("dino", "clip_i", "csd"):
        folder = models / FOLDER[name]
        told = score.load(name, folder).spec
        assert told["model"] == str(folder) and told["revision"] is None
        assert told["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        wanted = "resize shorter side to 32 (bicubic, Pillow), centre crop 32x32 (floor), "
        assert told["preprocessing"] == wanted + "mean (0.5, 0.4, 0.3) std (0.2, 0.3, 0.4)"


def test_preprocessing_in_words():
    wide = preprocess.Preprocess((20, 30), None, preprocess.CLIP_MEAN, preprocess.CLIP_STD, Image.Resampling.BILINEAR)
    assert wide.words == "resize to 30x20 (bilinear, Pillow), CLIP mean/std"
    assert preprocess.DINO_224.words == (
        "resize shorter side to 256 (bicubic, Pillow), centre crop 224x224 (nearest), ImageNet mean/std"
    )
    bare = preprocess.Preprocess(None, (4, 6), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert bare.words == "centre crop 6x4 (floor), mean (0.0, 0.0, 0.0) std (1.0, 1.0, 1.0)"
    with pytest.raises(ValueError, match=r"^cannot crop 6x4 out of 5x9 pixels$"):
        bare(picture(0, 5, 9))
    with pytest.raises(ValueError, match=r"^cannot crop 6x4 out of 9x3 pixels$"):
        bare(picture(0, 9, 3))
    assert bare(picture(0, 6, 4)).shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, ((224, 224), None, 3)),
        ({"image_processor_type": "CLIPImageProcessor"}, (224, None, 3)),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 64}, (64, None, 3)),
        ({"size": 64, "do_resize": False}, (None, None, 3)),
        ({"size": {"height": 20, "width": 30}, "resample": 2}, ((20, 30), None, 2)),
        ({"size": {"shortest_edge": 50}, "crop_size": 40}, (50, (40, 40), 3)),
        ({"size": {"shortest_edge": 50}, "crop_size": {"height": 40, "width": 50}}, (50, (40, 50), 3)),
        ({"size": 64, "crop_size": 40, "do_center_crop": False}, ((64, 64), None, 3)),
        ({"do_center_crop": True}, ((224, 224), (224, 224), 3)),
    ],
)
def test_what_a_folder_says_of_preprocessing(config, wanted):
    """Old and new keys, and what transformers takes where nothing is said."""
    found = preprocess.from_config(config)
    assert (found.resize, found.crop, found.resample) == wanted and found.rounding == "floor"
    assert (found.mean, found.std) == (preprocess.CLIP_MEAN, preprocess.CLIP_STD)
    plain = preprocess.from_config({**config, "do_normalize": False, "image_mean": [9, 9, 9]})
    assert (plain.mean, plain.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    own = preprocess.from_config({**config, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]})
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (1, 2, 3))


def test_what_a_folder_cannot_say_of_preprocessing():
    for config in (
        {"size": 30, "crop_size": 40}, {"size": {"height": 50, "width": 30}, "crop_size": 40},
        {"size": 64, "crop_size": {"shortest_edge": 40}}, {"image_mean": [0.5, 0.5]}, {"image_std": [1.0] * 4},
    ):  # fmt: skip
        mean, std = (
            config.get("image_mean", list(preprocess.CLIP_MEAN)),
            config.get("image_std", list(preprocess.CLIP_STD)),
        )
        with pytest.raises(ValueError) as told:
            preprocess.from_config(config)
        assert str(told.value) == (
            f"size {config.get('size')} with crop_size {config.get('crop_size')}, image_mean {mean} "
            f"and image_std {std} is not a preprocessing that is known"
        )
    for size in ({"longest_edge": 3}, {"height": 3}, {"width": 3}):
        with pytest.raises(ValueError) as told:
            preprocess.from_config({"size": size})
        assert str(told.value) == f"size {size} needs shortest_edge, or height and width"


def test_csd_tensors_that_do_not_fit_are_told_in_a_sentence(tmp_path, cache):
    content = fake_csd()
    content["model_state_dict"]["module.backbone.conv1.weight"] = torch.zeros(3)
    torch.save(content, tmp_path / "flat.pth")
    with pytest.raises(ModelError, match=r"flat.pth: is no CSD checkpoint \(its tensors do not fit"):
        csd_checkpoint.prepare(tmp_path / "flat.pth")


def test_a_fault_of_ours_is_no_damage():
    class Fault(Exception):
        pass

    with pytest.raises(Fault), sources.Reading(str):
        raise Fault
    with pytest.raises(ModelError, match="told of x y"), sources.Reading(lambda reason: f"told of {reason}"):
        raise Exception("x\ny")


def test_unknown_measure_suggests():
    with pytest.raises(ModelError, match="did you mean 'clip_i'"):
        score.load("clipi")
