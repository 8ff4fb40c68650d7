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
import pico as models
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
EXAMPLES = {"family": (Path(__file__).parent.parent / "examples" / "plain_sd.py",)}
"""Files of others that are held to them always."""


def pytest_addoption(parser):
    for what in ADDED:
        parser.addoption(f"--{what}", action="append", default=[], metavar="FILE", help=f"also hold this {what} to it")
    parser.addoption("--base", metavar="FOLDER", help="a small base of the pipeline that --family is for")


def pytest_generate_tests(metafunc):
    for what, kind in ADDED.items():
        if f"a_{what}" in metafunc.fixturenames:
            files = [*EXAMPLES.get(what, ()), *metafunc.config.getoption(what)]
            given = [str(Path(file).absolute()) for file in files]
            metafunc.parametrize(f"a_{what}", [*plugins.own(kind), *given], ids=lambda name: Path(name).stem)


def pytest_collection_modifyitems(items):
    """Files that hold a slow test come first, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def pico_vit(tmp_path_factory) -> Path:
    """A local ViT folder."""
    return models.vit(tmp_path_factory.mktemp("vit"))


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
    return models.sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def pico_v(tmp_path_factory) -> Path:
    """The same, trained (so to say) to predict velocity."""
    return models.sd(tmp_path_factory.mktemp("sd_v"), prediction="v_prediction")


@pytest.fixture(scope="session")
def pico_xl(tmp_path_factory) -> Path:
    """A local SDXL folder."""
    return models.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def pico_clip(tmp_path_factory, pico) -> Path:
    """A local CLIP folder."""
    return models.clip(tmp_path_factory.mktemp("clip"), pico)


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


@pytest.fixture
def bird(tmp_path):
    """A fourth concept, to be taught."""
    from perdure.plan import Concept

    paint(tmp_path / "bird", 2, seed=77)
    return Concept.model_validate({"name": "bird", "images": tmp_path / "bird", "token": "pdw", "class": "dog"})
