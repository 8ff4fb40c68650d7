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
from safetensors import safe_open
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
from perdure.errors import ModelError, PlanError
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
    apart = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if i != j) / 4  # pairs of other noise
    assert mmd.mmd(x, y, paired=True) == pytest.approx(1000 * (within_x + within_y - 2 * apart))
    for own in (x, y, torch.randn(4, 8, generator=generator)):
        assert mmd.mmd(own, own, paired=True) == pytest.approx(0, abs=1e-9) and mmd.mmd(own, own) < -100
    drawn = [torch.randn(4, 8, generator=generator) for _ in range(400)]  # what moves a little comes out as a little
    little = [mmd.mmd(own, own + 0.01 * torch.randn(4, 8, generator=generator), paired=True) for own in drawn]
    assert abs(np.mean(little)) < 1 and np.mean([mmd.mmd(own, own) for own in drawn]) < -300


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
    with pytest.raises(ModelError) as told:
        csd_checkpoint.prepare(tmp_path / "lacking.pth")
    lost = "it has no backbone.ln_post.bias"
    assert str(told.value) == f"{tmp_path / 'lacking.pth'}: is no CSD checkpoint ({lost})."
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


def test_pixels_are_scaled_to_one_and_normalised_by_channel():
    """Of a picture with see-through parts the colours; a grey one has the same three times."""
    shown = np.random.default_rng(5).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    made = preprocess.Preprocess(None, None, (0.5, 0.25, 0.125), (0.5, 2.0, 0.25))
    for pixels, colours in ((shown, shown[..., :3]), (shown[..., 0], shown[..., [0] * 3])):
        found = made(Image.fromarray(pixels))
        expected = (colours / 255 - [0.5, 0.25, 0.125]) / [0.5, 2.0, 0.25]
        np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-6)
        assert found.dtype == np.float32 and found.flags.c_contiguous


def plainly(**how):
    """Pixels as they are, in [0, 1]."""
    return preprocess.Preprocess(**{"resize": None, "crop": None, "mean": (0,) * 3, "std": (1,) * 3, **how})


def test_a_picture_is_made_smaller_by_its_shorter_side_or_to_a_size():
    """By means of two pixels by two; the longer side is rounded down."""
    shown = 4 * np.random.default_rng(6).integers(0, 64, (8, 4, 3), dtype=np.uint8)  # whose means are whole numbers
    means = shown.reshape(4, 2, 2, 2, 3).mean(axis=(1, 3))
    for image, expected in ((shown, means), (shown.transpose(1, 0, 2), means.transpose(1, 0, 2))):
        for resize in (2, expected.shape[:2]):
            found = plainly(resize=resize, resample=Image.Resampling.BOX)(Image.fromarray(image))
            np.testing.assert_allclose(found * 255, expected.transpose(2, 0, 1), atol=1e-4)
    for (width, height), resize, shape in (((19, 8), 5, (5, 11)), ((8, 11), 5, (6, 5)), ((19, 8), (5, 7), (5, 7))):
        assert plainly(resize=resize)(picture(0, width, height)).shape == (3, *shape)


def test_a_crop_is_from_the_middle_and_says_how_a_half_is_rounded():
    """Half of 3 is 1 or 2, half of 5 is 2 by either, and half of 1 is nothing."""
    shown = np.random.default_rng(7).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for rounding, crop, rows, columns in (
        ("floor", (3, 4), slice(1, 4), slice(2, 6)), ("nearest", (3, 4), slice(2, 5), slice(2, 6)),
        ("floor", (5, 6), slice(0, 5), slice(1, 7)), ("nearest", (5, 6), slice(0, 5), slice(2, 8)),
        ("floor", (6, 9), slice(0, 6), slice(0, 9)), ("nearest", (4, 9), slice(1, 5), slice(0, 9)),
    ):  # fmt: skip
        found = plainly(crop=crop, rounding=rounding)(Image.fromarray(shown))
        np.testing.assert_allclose(found * 255, shown[rows, columns].transpose(2, 0, 1), atol=1e-4)
    assert plainly().rounding == "floor" and plainly().resample == Image.Resampling.BICUBIC


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


MINE = """
FEWEST = {fewest}
EMBEDDED = "clip"
from perdure.score.measure import Measure
def load(source, device):
    return Measure({name!r}, "lower", (0, 1), "references", {{"source": source, "device": device}}, len, max)
"""


def test_a_measures_file_is_read_before_it_is_run(tmp_path):
    file = tmp_path / "mine.py"
    for written, told in {
        "raise SystemExit\nFEWEST = 3\nEMBEDDED = 'clip'\ndef load(source, device): ...": (3, "clip"),
        "def other(): ...\ndef load(source, device): ...": (1, ""),
    }.items():
        file.write_text(written)
        assert score.card(plugins.find(plugins.MEASURE, str(file))) == score.MeasureCard(*told)
    for written in ("load = 3\ndef other(): ...", ""):
        file.write_text(written)
        with pytest.raises(PlanError) as told:
            score.load(str(file))
        assert str(told.value) == f"{file}:1: it defines no function load(source, device) -> Measure"


def test_a_measure_of_a_file_says_from_which(tmp_path, monkeypatch):
    """It is made as it was asked for, known by its path or its name with the file beside it; a name is the file's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "mine.py"
    file.write_text(MINE.format(fewest=1, name="mine"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    told = {"file": f"mine.py, digest {digest}"}
    made = score.load(str(file))
    assert made.name == "mine" and made.spec == {"source": None, "device": "cpu", **told}
    plugins.trust(plugins.find(plugins.MEASURE, str(file)))
    for given in ("", digest):
        made = score.load("mine", "a/model", "cuda:1", file, given)
        assert made.spec == {"source": "a/model", "device": "cuda:1", **told}
    with pytest.raises(PlanError, match=r"mine\.py has changed since .* it was 0123"):
        score.load("mine", file=file, digest="0123")
    file.write_text(MINE.format(fewest=1, name="other"))
    with pytest.raises(PlanError) as refused:
        score.load(str(file))
    assert str(refused.value) == f"{file}:1: it makes a measure 'other'; its name is the file's, 'mine'"
    file.write_text("def load(source, device):\n    x = 1\n    raise KeyError('lost')\n")
    with pytest.raises(PlanError) as refused:
        score.load(str(file))
    assert str(refused.value) == f"{file}:3: KeyError: 'lost'"


def test_a_measure_of_ours_is_made_as_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(mmd, "load", lambda source, device: (source, device))
    assert score.load("mmd", "a/model", "cuda") == ("a/model", "cuda") and score.load("mmd") == (None, "cpu")
    with pytest.raises(ModelError, match=r"^no measure 'nothing'"):
        score.load("nothing")
    released = []
    monkeypatch.setattr(encoders, "release", lambda: released.append(1))
    score.release()
    assert released == [1]


def numbered(shapes):
    """Tensors of these shapes, no two entries of all alike."""
    made, first = {}, 0.0
    for key, shape in shapes.items():
        count = int(np.prod(shape))
        made[key] = torch.arange(first, first + count).reshape(shape)
        first += count
    return made


def tiny_csd():
    """A checkpoint by name, `module.` stripped: 128 wide, two layers, pictures of 3 x 3 patches of 2 pixels."""
    block = {
        "ln_1.weight": (4,), "ln_1.bias": (4,), "ln_2.weight": (4,), "ln_2.bias": (4,),
        "attn.in_proj_weight": (12, 4), "attn.in_proj_bias": (12,), "attn.out_proj.weight": (4, 4),
        "attn.out_proj.bias": (4,), "mlp.c_fc.weight": (7, 4), "mlp.c_fc.bias": (7,), "mlp.c_proj.weight": (4, 7),
        "mlp.c_proj.bias": (4,),
    }  # fmt: skip
    shapes = {
        "class_embedding": (4,), "conv1.weight": (128, 3, 2, 2), "positional_embedding": (10, 4),
        "ln_pre.weight": (4,), "ln_pre.bias": (4,), "ln_post.weight": (4,), "ln_post.bias": (4,),
        **{f"transformer.resblocks.{k}.{key}": shape for k in (0, 1) for key, shape in block.items()},
    }  # fmt: skip
    return numbered({**{f"backbone.{key}": shape for key, shape in shapes.items()}, "last_layer_style": (4, 5)})


def test_every_tensor_of_a_csd_checkpoint_has_its_place():
    """Under exactly the names that transformers' class has, q, k and v as the thirds of the stack."""
    state = tiny_csd()
    config, weights = csd_checkpoint.to_transformers(state, Path("x.pth"))
    assert config == {
        "model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"], "hidden_size": 128,
        "intermediate_size": 7, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 2, "image_size": 6,
        "projection_dim": 5, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip
    assert type(config["num_attention_heads"]) is int
    sized = CLIPVisionConfig(**{**config, "hidden_size": 4, "num_attention_heads": 1})
    names = {name for name, _ in CLIPVisionModelWithProjection(sized).named_parameters()}
    assert weights.keys() == names and all(tensor.is_contiguous() for tensor in weights.values())
    assert torch.equal(weights["visual_projection.weight"], state["last_layer_style"].T)
    old = "backbone.transformer.resblocks.{}."
    pairs = {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "layer_norm1": "ln_1", "layer_norm2": "ln_2"}  # fmt: skip
    for layer in "01":
        new = f"vision_model.encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            stack = state[f"{old.format(layer)}attn.in_proj_{kind}"]
            for number, letter in enumerate("qkv"):
                found = weights[f"{new}self_attn.{letter}_proj.{kind}"]
                assert torch.equal(found, stack[4 * number : 4 * number + 4])
                assert found.data_ptr() != stack[4 * number :].data_ptr()  # safetensors takes no shared storage
            for name, was in pairs.items():
                assert torch.equal(weights[f"{new}{name}.{kind}"], state[f"{old.format(layer)}{was}.{kind}"])
    for name, was in {
        "embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm.weight": "ln_pre.weight",
        "pre_layrnorm.bias": "ln_pre.bias", "post_layernorm.weight": "ln_post.weight",
        "post_layernorm.bias": "ln_post.bias",
    }.items():  # fmt: skip
        assert torch.equal(weights[f"vision_model.{name}"], state[f"backbone.{was}"])
    for lost in ("backbone.ln_pre.bias", "backbone.transformer.resblocks.1.ln_2.bias"):
        with pytest.raises(ModelError) as told:
            csd_checkpoint.to_transformers({k: v for k, v in state.items() if k != lost}, Path("x.pth"))
        assert str(told.value) == f"x.pth: is no CSD checkpoint (it has no {lost})."


def test_tensors_of_a_csd_checkpoint_are_read_however_they_are_nested(tmp_path):
    style, conv = torch.ones(2, 3, dtype=torch.float16), torch.zeros(2, 1, 1, 1)
    plain = {"module.last_layer_style": style, "backbone.conv1.weight": conv, "epoch": 3}
    files = {"a.pth": {"model_state_dict": {"state_dict": plain}}, "b.bin": {"state_dict": plain, "lr": conv},
             "c.pt": {**plain, "options": argparse.Namespace(lr=0.1)}}  # fmt: skip
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    save_file({k: v for k, v in plain.items() if k != "epoch"}, tmp_path / "d.safetensors")
    for name in (*files, "d.safetensors"):
        read = csd_checkpoint.read_state(tmp_path / name)
        assert read.keys() == {"last_layer_style", "backbone.conv1.weight"}
        assert torch.equal(read["last_layer_style"], style.float()) and read["last_layer_style"].dtype == torch.float32
    wrong = {
        "e.pth": ({"state_dict": 3}, "last_layer_style and no backbone.conv1.weight"),
        "f.pth": ({"module.last_layer_style": style}, "backbone.conv1.weight"),
        "g.pth": ([style], "last_layer_style and no backbone.conv1.weight"),
    }
    for name, (content, lost) in wrong.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ModelError) as told:
            csd_checkpoint.read_state(tmp_path / name)
        assert str(told.value) == f"{tmp_path / name}: is no CSD checkpoint (it has no {lost})."
    (tmp_path / "h.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"^\S*h.safetensors: cannot be read as tensors only \(\S.*\)\.$"):
        csd_checkpoint.read_state(tmp_path / "h.safetensors")


def saved_csd(path):
    torch.save({f"module.{key}": value for key, value in tiny_csd().items()}, path)
    return path


def test_a_converted_csd_folder_is_whole_or_not_there(tmp_path, monkeypatch):
    """Named by the file's digest below the user's cache; a process that was faster is left its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    checkpoint = saved_csd(tmp_path / "x.pth")
    for where, cache in (("", tmp_path / "home" / ".cache"), (str(tmp_path / "own"), tmp_path / "own")):
        monkeypatch.setenv("XDG_CACHE_HOME", where)
        folder = csd_checkpoint.convert(checkpoint, "0123456789abcdef" + "g" * 48)
        assert folder == cache / "perdure" / "csd-0123456789abcdef" and list(folder.parent.iterdir()) == [folder]
        config, weights = csd_checkpoint.to_transformers(tiny_csd(), checkpoint)
        assert {file.name for file in folder.iterdir()} == {
            "model.safetensors", "config.json", "preprocessor_config.json",
        }  # fmt: skip
        assert json.loads((folder / "config.json").read_text()) == config
        assert json.loads((folder / "preprocessor_config.json").read_text()) == {
            "image_processor_type": "CLIPImageProcessor", "resample": 3, "size": {"shortest_edge": 6},
            "crop_size": {"height": 6, "width": 6}, "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        }  # fmt: skip
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt", "checkpoint_sha256": "0123456789abcdef" + "g" * 48}
            assert all(torch.equal(file.get_tensor(name), weights[name]) for name in file.keys() | weights.keys())
        checkpoint_again = tmp_path / "nowhere.pth"
        assert csd_checkpoint.convert(checkpoint_again, "0123456789abcdef" + "h" * 48) == folder  # known by its digest
    faster = tmp_path / "own" / "perdure" / "csd-other"

    def meanwhile(weights, path, metadata):
        assert path.parent.parent == faster.parent  # on one disk, so that it is renamed at once
        faster.mkdir()
        (faster / "config.json").write_text("theirs")

    monkeypatch.setattr(csd_checkpoint, "save_file", meanwhile)
    assert csd_checkpoint.convert(checkpoint, "other") == faster
    assert (faster / "config.json").read_text() == "theirs" and len(list(faster.parent.iterdir())) == 2
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError) as told:
        csd_checkpoint.convert(checkpoint, "x")
    cache = tmp_path / "file" / "perdure"
    assert str(told.value) == f"{cache}: the converted CSD model cannot be written there (Not a directory)."


def test_which_file_of_a_folder_is_the_csd_checkpoint(tmp_path, cache, monkeypatch):
    """The first by name that can be one, unless the folder is converted already; where it came from is kept."""
    folder, asked = tmp_path / "hub", []
    (folder / "a.pth").mkdir(parents=True)
    (folder / "a.txt").touch()
    here = sources.Located(folder, "owner/csd", "abc")
    monkeypatch.setattr(csd_checkpoint, "locate", lambda *given: asked.append(given) or here)
    assert csd_checkpoint.prepare("owner/csd") == here  # nothing to convert: told when it is loaded
    assert asked == [("owner/csd", csd_checkpoint.CHECKPOINTS, encoders.EXTRAS)]
    (folder / "d.pth").write_bytes(b"junk")
    (folder / "c.bin").write_bytes(b"junk")
    checkpoint = saved_csd(folder / "b.ckpt")
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    made = sources.Located(cache / f"csd-{digest[:16]}", "owner/csd", "abc", digest)
    assert csd_checkpoint.prepare("owner/csd") == made
    here = sources.Located(checkpoint, str(checkpoint))
    assert csd_checkpoint.prepare(checkpoint) == sources.Located(made.path, str(checkpoint), None, digest)
    here = sources.Located(folder, "owner/csd", "abc")
    save_file({"visual_projection.weight": torch.ones(1)}, folder / "z.safetensors")
    assert csd_checkpoint.prepare("owner/csd") == here
    (folder / "z.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"z.safetensors: is not a sound safetensors file \(\S.*\)\.$"):
        csd_checkpoint.prepare("owner/csd")
