"""Shared fixtures: pico pipelines of the real classes, made here; one torch thread; no network."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="perdure-")  # nothing is left in the user's own folders
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from perdure import plugins

torch.set_num_threads(1)
SYNC = os.fsync
os.fsync = lambda handle: None  # no test cuts the power; on a busy disk this is what tests would wait for


ADDED = {"method": plugins.METHOD, "measure": plugins.MEASURE, "family": plugins.FAMILY}
"""What the contracts are for: perdure's own by their names, and files that `--method FILE` and the like name."""


def pytest_addoption(parser):
    for what in ADDED:
        parser.addoption(f"--{what}", action="append", default=[], metavar="FILE", help=f"also hold this {what} to it")
    parser.addoption("--base", metavar="FOLDER", help="a small base of the pipeline that --family is for")


def pytest_generate_tests(metafunc):
    for what, kind in ADDED.items():
        if f"a_{what}" in metafunc.fixturenames:
            given = [str(Path(file).absolute()) for file in metafunc.config.getoption(what)]
            metafunc.parametrize(f"a_{what}", [*plugins.own(kind), *given], ids=lambda name: Path(name).stem)


def pytest_collection_modifyitems(items):
    """Files that hold a slow test come first, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


WORDS = "a photo of the dog cat clock teapot in on beach snow image zwz sbu uwu pdw style".split()


def _tokenizer(folder: Path) -> None:
    """CLIP's format with a handful of words: single letters, their word-final forms, and merges up to each word."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary, merges = {}, []
    for symbol in [*letters, *(f"{c}</w>" for c in letters)]:
        vocabulary.setdefault(symbol, len(vocabulary))
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = f"{parts[0]} {parts[1]}"
            if pair not in merges:
                merges.append(pair)
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.setdefault(parts[0], len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def _text_encoder(kind, tokenizer, width: int, **extra):
    from transformers import CLIPTextConfig

    settings = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 16, "projection_dim": width,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    return kind(CLIPTextConfig(**{**settings, **extra}))


def _pieces(folder: Path):
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    _tokenizer(folder / "words")
    files = [str(folder / "words" / name) for name in ("vocab.json", "merges.txt")]
    tokenizer = CLIPTokenizer(*files, model_max_length=16, pad_token="<|endoftext|>")
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5,
    )  # fmt: skip
    return tokenizer, vae


def _unet(width: int, **extra):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=2, norm_num_groups=4, **extra,
    )  # fmt: skip


def make_sd(folder: Path, prediction: str = "epsilon") -> Path:
    """A Stable Diffusion pipeline of a few thousand parameters, random weights."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tokenizer, vae = _pieces(folder)
    StableDiffusionPipeline(
        vae=vae, text_encoder=_text_encoder(CLIPTextModel, tokenizer, 24), tokenizer=tokenizer, unet=_unet(24),
        scheduler=DDIMScheduler(num_train_timesteps=100, prediction_type=prediction, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder / "base")  # fmt: skip
    return folder / "base"


def make_sdxl(folder: Path) -> Path:
    """An SDXL pipeline of a few thousand parameters, random weights."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizer, vae = _pieces(folder)
    unet = _unet(
        40, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16, transformer_layers_per_block=1,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=vae, text_encoder=_text_encoder(CLIPTextModel, tokenizer, 24), tokenizer=tokenizer, unet=unet,
        text_encoder_2=_text_encoder(CLIPTextModelWithProjection, tokenizer, 16), tokenizer_2=tokenizer,
        scheduler=EulerDiscreteScheduler(num_train_timesteps=100),
    ).save_pretrained(folder / "base")  # fmt: skip
    return folder / "base"


def make_clip(folder: Path, tokenizer_from: Path) -> Path:
    """A CLIPModel folder for clip_i and clip_t, random weights, 32 px."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(1)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_from / "tokenizer")
    text = dict(  # noqa: C408
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = dict(  # noqa: C408
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = {
        "do_resize": True, "size": {"shortest_edge": 32}, "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32}, "resample": 3,
        "do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def make_vit(folder: Path) -> Path:
    """A ViT of two layers for pictures of 16 px, random weights."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(2)
    config = ViTConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    normal = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **normal})
    )
    return folder


@pytest.fixture(scope="session")
def pico_vit(tmp_path_factory) -> Path:
    """A local ViT folder."""
    return make_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="session")
def classes(tmp_path_factory) -> Path:
    """Six classes of small pictures, to train and to test on."""
    root = tmp_path_factory.mktemp("classes")
    for seed, name in enumerate(("ant", "bee", "cow", "doe", "eel", "fox")):
        for side, count in (("train", 4), ("test", 3)):
            paint(root / side / name, count, seed if side == "train" else seed + 50)
    return root


@pytest.fixture
def class_plan(pico_vit, classes):
    """A plan of three tasks of two classes on the ViT, as plain values."""
    return {
        "name": "tiny", "task": "classification", "base": str(pico_vit), "methods": ["merge_init"],
        "concepts": {"folder": str(classes), "tasks": 3},
        "training": {
            "resolution": 16, "epochs": 2, "batch_size": 3, "learning_rate": 1e-2, "crop": "center",
            "head": {"pixels": "base"},
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def pico(tmp_path_factory) -> Path:
    """A local Stable Diffusion folder."""
    return make_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def pico_v(tmp_path_factory) -> Path:
    """The same, trained (so to say) to predict velocity."""
    return make_sd(tmp_path_factory.mktemp("sd_v"), prediction="v_prediction")


@pytest.fixture(scope="session")
def pico_xl(tmp_path_factory) -> Path:
    """A local SDXL folder."""
    return make_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def pico_clip(tmp_path_factory, pico) -> Path:
    """A local CLIP folder."""
    return make_clip(tmp_path_factory.mktemp("clip"), pico)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """name of a maker in tiny.py -> its folder, made when first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tiny.saved(getattr(tiny, name), tmp_path_factory.mktemp(name) / "base")
        return str(made[name])

    return folder


def paint(folder: Path, count: int, seed: int, size: tuple[int, int] = (40, 32)) -> Path:
    """A folder with a few small pictures of coloured noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        tone = rng.integers(0, 200, 3)
        pixels = (tone + rng.integers(0, 56, (size[1], size[0], 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Three concepts' folders of small pictures, two with held-out references."""
    root = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(("dog", "cat", "clock")):
        paint(root / name, 3, seed)
        if name != "clock":
            paint(root / name / "refs", 2, seed + 10)
    return root


@pytest.fixture(scope="session")
def cases() -> Path:
    """Inputs that went wrong once, a folder each; they lie beside the project where it is worked on."""
    folder = Path(__file__).parent.parent.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip("../shared/cases is not there")
    return folder


@pytest.fixture(scope="module")
def fresh():
    """(job of tests/fresh.py, its arguments) -> done in a fresh process."""
    command = [sys.executable, str(Path(__file__).parent / "fresh.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:

        def do_there(job, *arguments):
            parent.stdin.write(json.dumps([job, arguments]) + "\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == "done\n"

        yield do_there
        parent.stdin.close()


@pytest.fixture
def perdure(monkeypatch, capfd, tmp_path):
    """Run a command as the shell would, on a wide terminal; returns (exit code, output, errors)."""
    from perdure import cli
    from perdure.cli import screen

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(screen.console, "width", 160)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["perdure", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        told = capfd.readouterr()
        assert "Traceback" not in told.err + told.out
        return code, told.out, told.err

    return call


@pytest.fixture
def plan_data(pico, pico_clip, photos):
    """A plan of three concepts on the pico base, as plain values: change it, then `plan.build` it."""
    tokens = {"dog": "zwz", "cat": "sbu", "clock": "uwu"}
    return {
        "name": "tiny",
        "base": str(pico),
        "methods": ["merge_init"],
        "concepts": [
            {"name": name, "images": str(photos / name), "token": token, "class": name}
            for name, token in tokens.items()
        ],
        "training": {"resolution": 32, "steps": 4, "batch_size": 2, "learning_rate": 1e-2},
        "sampling": {
            "prompts": {
                "subject": ["a photo of {concept}", "{concept} in snow"],
                "style": ["{concept} image of a dog"],
            },
            "images_per_prompt": 2,
            "steps": 2,
            "batch_size": 4,
        },
        "scoring": {
            "subject": ["clip_i", "clip_t"],
            "models": dict.fromkeys(("clip_i", "clip_t"), str(pico_clip)),
            "drift": 2,
        },
    }


@pytest.fixture
def taught(backbone, plan_data):
    """(method, lessons=2) -> the memory after some lessons on the module's own `backbone`."""
    from perdure import plan
    from perdure.lesson import examples
    from perdure.lesson.train import Lesson, learn
    from perdure.memory import Memory
    from perdure.photos import pictures

    made = plan.build({**plan_data, "training": {**plan_data["training"], "weight_decay": 0.1}})

    def teach(chosen, lessons=2):
        memory = Memory()
        for number, concept in enumerate(made.concepts[:lessons], start=1):
            encoded = examples.encode(backbone, pictures.of(concept).training, made.training, made.seed, concept.name)
            lesson = Lesson(concept.name, number, encoded, concept.token, concept.noun, concept.phrase)
            memory = learn(backbone, chosen, memory, lesson, made)
        return memory

    return teach


def planned(training, seed: int = 0):
    """A plan around some training settings, for what needs a whole plan."""
    from perdure import plan

    return plan.build({"methods": ["naive"]}).model_copy(update={"training": training, "seed": seed})


@pytest.fixture(scope="module")
def data(pico, pico_clip, photos):
    """Three concepts, as quick as can be; two methods."""
    tokens = {"dog": "zwz", "cat": "sbu", "clock": "uwu"}
    return {
        "name": "tiny", "base": str(pico),
        "methods": [{"name": name, "rank": 2, "label": name} for name in ("merge_init", "naive")],
        "concepts": [
            {"name": name, "images": str(photos / name), "token": token, "class": name}
            for name, token in tokens.items()
        ],
        "training": {"resolution": 32, "steps": 2, "batch_size": 1, "learning_rate": 1e-2},
        "sampling": {
            "prompts": {"subject": ["{concept} in snow"], "style": ["{concept} image of a dog"]},
            "images_per_prompt": 2, "steps": 1, "guidance": 1.0,
        },
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}, "drift": 2},
    }  # fmt: skip
