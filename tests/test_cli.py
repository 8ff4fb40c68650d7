"""The command line as a user meets it: round trips, wrong turns, and what it does not import."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import paint
from PIL import Image
from typer.testing import CliRunner

from perdure import cli
from perdure.cli import running
from perdure.lineage import Lineage

REPORT = importlib.util.find_spec("perdure.report") is not None
HEAVY = ("torch", "diffusers", "peft", "transformers", "accelerate", "matplotlib")


@pytest.fixture
def quick(pico, pico_clip):
    """Settings of a quick lesson, for the command line."""
    settings = {
        "training.resolution": 32, "training.steps": 2, "training.learning_rate": "1e-2", "sampling.steps": 1,
        "sampling.images_per_prompt": 1, "sampling.prompts.subject": "['{concept} in snow']",
        "scoring.subject": "[clip_i]", "scoring.models": f"{{clip_i: {pico_clip}}}",
    }  # fmt: skip
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def write_plan(folder, concepts, **more):
    path = folder / "plan.yaml"
    path.write_text(json.dumps({"method": "naive", "concepts": concepts, **more}))
    return path


def one(name="dog", **more):
    return {"name": name, "images": name, "token": "zwz", "class": "dog", **more}


# --- round trip ----------------------------------------------------------------------------------------------------


def test_init_teach_draw_log_undo(perdure, pico, photos, quick, tmp_path):
    assert perdure("init", "mine", "--base", pico, "--method", "naive", *quick)[0] == 0
    code, out, _ = perdure("log", "mine")
    assert code == 0 and "has learnt nothing yet" in out
    code, out, _ = perdure("teach", "mine", photos / "dog", "--prompt", "a photo of zwz dog", "--hold-out", 1)
    assert code == 0 and "lesson 1 took" in out and "clip_i" in out
    code, out, _ = perdure("teach", "mine", photos / "cat", "--token", "sbu", "--class", "cat", "--max-forgetting", "2")
    assert code == 0
    entries = json.loads(perdure("log", "mine", "--json")[1])
    assert [e["concept"] for e in entries] == ["dog", "cat"] and entries[0]["method"] == "naive"
    assert entries[0]["forgotten"]["clip_i"] == pytest.approx(
        entries[0]["learnt"]["clip_i"] - entries[0]["now"]["clip_i"]
    )
    for after, name in ((None, "now.png"), (1, "one.png"), (0, "base.png")):
        extra = () if after is None else ("--after", after)
        code, out, _ = perdure("draw", "mine", "a photo of zwz dog", "--out", name, "--count", 2, *extra)
        assert code == 0 and f"wrote {name}" in out
    shown = [Image.open(tmp_path / f"{name}.png") for name in ("now", "one", "base")]
    assert shown[0].size == (66, 32) and len({image.tobytes() for image in shown}) == 3
    code, out, _ = perdure("undo", "mine")
    assert code == 0 and "lesson 2 (cat) is undone; lessons left: 1" in out
    assert Lineage(tmp_path / "mine").concepts == ["dog"]


def test_no_picture_is_drawn_over_another_file(perdure, pico, tmp_path, monkeypatch):
    perdure("init", "mine", "--base", pico, "--set", "training.resolution=32", "--set", "sampling.steps=1")
    paint(tmp_path / "photos", 1, 0)
    mine = (tmp_path / "photos/00.png").read_bytes()
    (tmp_path / "dead.png").symlink_to("nowhere.png")
    for name in ("photos/00.png", "photos", "dead.png"):
        refused(perdure("draw", "mine", "dog", "--out", name), f"{name} is there already; choose another --out")
    assert (tmp_path / "photos/00.png").read_bytes() == mine and not (tmp_path / "nowhere.png").exists()
    assert refused(
        perdure("draw", "mine", "dog", "--out", "x.gif"), "x.gif: the ending says the format of a picture: one"
    )
    assert refused(perdure("draw", "mine", "dog", "--out", "x"), "one of .png .jpg .jpeg .webp")
    pixels = set()
    for name, told in {"a.png": "PNG", "a.jpg": "JPEG", "a.JPEG": "JPEG", "a.webp": "WEBP"}.items():
        assert perdure("draw", "mine", "dog", "--out", name, "--count", 1)[0] == 0
        with Image.open(tmp_path / name) as picture:
            assert picture.format == told and picture.size == (32, 32)
            pixels |= {picture.tobytes()} if told != "JPEG" else set()
    assert len(pixels) == 1
    assert perdure("draw", "mine", "dog", "--out", "photos/00.png", "--overwrite")[0] == 0
    assert (tmp_path / "photos/00.png").read_bytes() != mine
    for name in ("drawn.png", "drawn-2.png", "drawn-3.png"):
        assert f"wrote {name}\n" in perdure("draw", "mine", "dog", "--count", 1)[1]


def test_a_refused_lesson_has_an_exit_code_of_its_own(perdure, pico, photos, quick):
    perdure("init", "mine", "--base", pico, *quick)
    perdure("teach", "mine", photos / "dog", "--token", "zwz", "--class", "dog")
    code, _, err = perdure("teach", "mine", photos / "cat", "--token", "sbu", "--max-forgetting", "-2")
    assert code == 3 and "error: lesson refused, the model is unchanged: dog fell from 0." in err
    assert len(json.loads(perdure("log", "mine", "--json")[1])) == 1


@pytest.mark.skipif(not REPORT, reason="perdure.report is not there yet")
def test_run_then_report(perdure, pico, photos, quick, tmp_path):
    for name in ("dog", "cat"):
        shutil.copytree(photos / name, tmp_path / name)
    path = write_plan(tmp_path, [one(), one("cat", token="sbu")], base=str(pico), name="short")
    code, out, _ = perdure("run", path, *quick)
    assert code == 0 and "2 concepts, 1 run (naive), 2 lessons of 2 steps" in out
    page = tmp_path / "runs/short/report.html"
    assert page.is_file() and page.as_uri() in out
    page.unlink()
    assert perdure("report", "runs/short")[0] == 0 and page.is_file()
    assert perdure("report", "runs/short/naive", "--out", "elsewhere")[0] == 0
    assert (tmp_path / "elsewhere/report.html").is_file()
    code, _, err = perdure("run", path, *quick, "--set", "training.steps=3")
    assert code == 2 and "was made by another plan: training.steps is 2 there and 3 in the plan" in err
    assert perdure("run", path, *quick)[0] == 0


def test_check_and_plan_new(perdure, photos, tmp_path):
    code, out, _ = perdure("plan", "new", photos)
    assert code == 0 and "perdure check plan.yaml" in out
    assert perdure("plan", "new", photos)[2] == "error: plan.yaml exists; choose another --out\n"
    code, out, _ = perdure("check", "plan.yaml")
    assert code == 0 and "3 concepts, 2 runs (naive, merge_init), 6 lessons" in out and "training images serve" in out
    code, out, _ = perdure("check", "plan.yaml", "--set", "method=magmax", "--set", "concepts.0.hold_out=1")
    assert code == 0 and "1 run (magmax)" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.yaml"]  # checking writes nothing


def test_check_as_json_counts_what_run_does(perdure, pico, photos, quick, tmp_path):
    for name in ("dog", "cat", "clock"):
        shutil.copytree(photos / name, tmp_path / name)
    concepts = [one(), one("cat", token="sbu"), one("clock", token="uwu")]
    path = write_plan(tmp_path, concepts, base=str(pico), name="short", joint=True)
    told = json.loads(perdure("check", path, *quick, "--json")[1])
    assert told["runs"] == ["naive", "joint"] and told["base"] == str(pico)
    assert [concept["name"] for concept in told["concepts"]] == ["dog", "cat", "clock"]
    assert told["concepts"][0]["captions"] == ["a photo of zwz dog"]
    assert [(c["training_images"], c["reference_images"]) for c in told["concepts"]] == [(3, 2), (3, 2), (3, 0)]
    assert perdure("run", path, *quick)[0] == 0
    rows = [*(tmp_path / "runs/short").glob("*/lessons/[0-9]*")]
    logs = [row / "train.jsonl" for row in rows if not row.name.startswith("000")]
    assert told["lessons"] == len(logs) == 4
    assert told["steps"] == sum(len(log.read_text().splitlines()) for log in logs) == 12
    base = list(tmp_path.glob("runs/short/naive/lessons/000-base/cells/*/*.png"))
    drawn = [path for log in logs for path in log.parent.glob("cells/*/*.png")]
    assert told["images"] == len(base) + len(drawn) == 12


def test_methods_and_doctor(perdure):
    cards = json.loads(perdure("methods", "--json")[1])
    assert {"naive", "merge_init", "magmax"} <= {card["name"] for card in cards}
    code, out, _ = perdure("methods")
    assert code == 0 and all(card["name"] in out for card in cards)
    findings = json.loads(perdure("doctor", "--json")[1])
    assert findings["libraries"]["torch"] and "HF_HUB_OFFLINE" in findings["network"]
    assert perdure("doctor")[0] == 0


# --- wrong turns ---------------------------------------------------------------------------------------------------


def refused(answer, *sentences):
    """Exit code 2 and on stderr exactly these sentences, each on a line of its own."""
    code, _, err = answer
    lines = err.splitlines()
    assert code == 2 and len(lines) == len(sentences), err
    for line, sentence in zip(lines, sentences, strict=True):
        assert line.startswith("error: ") and sentence in line
    return True


def test_images_that_cannot_be_used(perdure, tmp_path, pico):
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "corrupt", 2, 0)
    data = (tmp_path / "corrupt/00.png").read_bytes()
    (tmp_path / "corrupt/00.png").write_bytes(data[: len(data) // 2])
    paint(tmp_path / "text", 1, 0)
    (tmp_path / "text/note.jpg").write_text("this is not a picture")
    paint(tmp_path / "tiny", 1, 0)
    Image.new("RGB", (1, 1)).save(tmp_path / "tiny/pixel.png")
    names = ("missing", "empty", "corrupt", "text", "tiny")
    path = write_plan(
        tmp_path, [one(n, token=t) for n, t in zip(names, ("aq", "bq", "cq", "dq", "eq"), strict=True)], base=str(pico)
    )
    words = (
        "'missing': {}/missing: there is no such folder", "'empty': {}/empty: no images in this folder",
        "'corrupt': {}/corrupt/00.png: is corrupt or truncated", "'text': {}/text/note.jpg: is not an image",
        "'tiny': {}/tiny/pixel.png: 1x1 pixels",
    )  # fmt: skip
    for command in ("check", "run"):
        assert refused(perdure(command, path), *(f"concept {word.format(tmp_path)}" for word in words))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"trainin": {}}, "trainin: no such key; did you mean 'training'?"),
        ({"method": "mergeinit"}, "method: no method 'mergeinit'; did you mean 'merge_init'?"),
        ({"training": {"steps": "many"}}, "training.steps: input should be a valid integer"),
        ({"concepts": [one(), one()]}, "two concepts are called 'dog'"),
        ({"concepts": [one(), one("cat", token="old zwz")]}, "its token 'zwz' is a part of 'old zwz' of concept 'cat'"),
        ({"concepts": []}, "has no concepts to teach"),
    ],
)
def test_plans_that_cannot_be_run(perdure, tmp_path, change, sentence):
    paint(tmp_path / "dog", 1, 0)
    path = write_plan(tmp_path, **{"concepts": [one()], **change})
    assert refused(perdure("run", path), sentence)


def test_plans_that_are_not_there(perdure, tmp_path):
    assert refused(perdure("run", "demoo"), "no ready plan of that name; did you mean 'demo'?")
    assert refused(perdure("check", "none.yaml"), "cannot read the plan none.yaml: No such file")
    (tmp_path / "bad.yaml").write_text("a: [")
    assert refused(perdure("check", "bad.yaml"), "bad.yaml:1: not valid YAML")
    assert refused(perdure("check", "demo", "--set", "training"), "write KEY=VALUE")
    paint(tmp_path / "dog", 1, 0)
    path = write_plan(tmp_path, [one()])
    assert refused(perdure("check", path, "--data", tmp_path / "a: b"), f"{tmp_path}/a: b: there is no such folder")


def test_a_data_set_that_is_not_there_is_one_sentence(perdure, tmp_path):
    said = f"data: {tmp_path}/none/digits: there is no such folder; `perdure data get digits` lays it out"
    assert refused(perdure("check", "digits", "--data", tmp_path / "none/digits"), said)


def test_bases_that_are_none(perdure, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    paint(tmp_path / "dog", 1, 0)
    path = write_plan(tmp_path, [one()])
    cases = {
        str(tmp_path): "is not a diffusers pipeline (no model_index.json)",
        "./none": "none' is neither a path on this machine nor a hub id (owner/name)",
        "somebody/nothing": "neither a local folder nor in the hub cache, and HF_HUB_OFFLINE is set; go online once",
    }
    for base, sentence in cases.items():
        assert refused(perdure("run", path, "--set", f"base={base}"), sentence)
        assert refused(perdure("init", "mine", "--base", base), sentence)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dog", "plan.yaml"]


def test_a_scorer_that_is_not_there(perdure, tmp_path, pico, quick):
    paint(tmp_path / "dog", 1, 0)
    path = write_plan(tmp_path, [one()], base=str(pico))
    answer = perdure("run", path, *quick, "--set", "scoring.models={clip_i: somebody/clip}")
    assert refused(answer, "somebody/clip is not in the local cache and HF_HUB_OFFLINE is set")


def test_folders_that_cannot_be_written_to(perdure, tmp_path, pico, photos, quick):
    """A path below a file stands for a folder without permission: it fails for every user, root included."""
    (tmp_path / "file").write_text("x")
    assert refused(
        perdure("init", "file/model", "--base", pico, *quick),
        "cannot write to file/model: .lock cannot be opened (Not a directory)",
    )
    assert refused(perdure("plan", "new", photos, "--out", "file/plan.yaml"), "cannot write file/plan.yaml")
    perdure("init", "mine", "--base", pico, *quick)
    assert refused(perdure("draw", "mine", "dog", "--out", "file/x.png"), "cannot write file/x.png")
    shutil.copytree(photos / "dog", tmp_path / "dog")
    path = write_plan(tmp_path, [one()], base=str(pico))
    answer = perdure("run", path, *quick, "--out", "file/out")
    assert refused(answer, "cannot write to file/out/naive: .lock cannot be opened")
    (tmp_path / "mine/.lock").unlink()
    (tmp_path / "mine/.lock").mkdir()
    assert refused(perdure("teach", "mine", "dog", "--token", "zwz"), "cannot write to mine: .lock")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_no_permission(perdure, tmp_path, pico, quick):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert refused(perdure("init", "locked/model", "--base", pico, *quick), "Permission denied")


def test_models_that_are_none_and_lessons_that_cannot_be(perdure, tmp_path, pico, photos, quick):
    for command in (
        ("log", "none"),
        ("undo", "none"),
        ("draw", "none", "x"),
        ("teach", "none", photos / "dog", "--token", "z"),
    ):
        assert refused(perdure(*command), "none is not a perdure model (no lineage.json); make one with `perdure init`")
    perdure("init", "mine", "--base", pico, "--method", "independent", *quick)
    assert refused(perdure("init", "mine", "--base", pico), "mine is not empty")
    assert refused(perdure("undo", "mine"), "mine has no lesson to undo")
    assert refused(perdure("draw", "mine", "x", "--after", 1), "there is no lesson 1")
    assert refused(perdure("teach", "mine", photos / "dog"), "teach dog: give a `prompt`, or a `token` and a `class`")
    assert refused(perdure("teach", "mine", "nowhere", "--token", "zwz"), "nowhere: there is no such folder")
    assert refused(perdure("teach", "mine", photos / "dog", "--token", "zwz", "--device", "gpu"), "no device 'gpu'")
    assert perdure("teach", "mine", photos / "dog", "--token", "zwz", "--class", "dog")[0] == 0
    assert refused(perdure("draw", "mine", "x"), "must be told which concept is meant; give one of dog")
    assert refused(perdure("teach", "mine", photos / "dog", "--token", "sbu"), "already knows a concept 'dog'")
    assert refused(perdure("teach", "mine", photos / "cat", "--token", "Zwz"), "is the same as 'zwz' of concept 'dog'")
    if REPORT:
        assert refused(perdure("report", tmp_path / "none"), "holds no perdure model")


def test_words_that_are_no_command(perdure):
    for words in (
        ("frobnicate",),
        ("run",),
        ("teach", "a", "b", "--kind", "thing"),
        ("draw", "a", "b", "--count", "0"),
    ):
        code, _, err = perdure(*words)
        assert code == 2 and "Usage: " in err and "Error" in err


def test_a_report_takes_a_twentieth_of_a_run_at_most():
    """Lessons of ten seconds, a page that takes three: the first after 2 / 0.05 s, the next 3 / 0.05 s behind it."""
    now, built = 0.0, []

    def build():
        nonlocal now
        built.append(now)
        now += 3.0

    after_lesson = running._sparing(build, lambda: now)
    for _ in range(30):
        now += 10.0
        after_lesson()
    assert built == [40.0, 103.0, 166.0, 229.0, 292.0]


def test_an_interrupted_run_says_what_shows_it(perdure, pico, photos, quick, tmp_path, monkeypatch):
    shutil.copytree(photos / "dog", tmp_path / "dog")
    path = write_plan(tmp_path, [one()], base=str(pico), name="short")

    def stopped(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr("perdure.run.teaching.learn", stopped)
    code, out, err = perdure("run", path, *quick)
    assert code == 130 and "`perdure report runs/short` shows the lessons so far" in out and err.endswith("was\n")


# --- what goes wrong otherwise -------------------------------------------------------------------------------------


def test_an_interrupted_command_says_how_to_go_on(perdure, monkeypatch, tmp_path):
    monkeypatch.setattr("perdure.plan.catalogue.methods", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert perdure("methods")[::2] == (130, "stopped; the same command continues where it was\n")


def test_what_nobody_expected_is_one_line_too(perdure, monkeypatch):
    monkeypatch.setattr("perdure.plan.catalogue.methods", lambda: 1 / 0)
    monkeypatch.delenv("PERDURE_DEBUG", raising=False)
    code, _, err = perdure("methods")
    assert code == 1 and err == "error: ZeroDivisionError: division by zero (set PERDURE_DEBUG=1 to see where)\n"
    monkeypatch.setenv("PERDURE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        perdure("methods")


@pytest.mark.parametrize(
    "full",
    [lambda: bytearray(2**62), lambda: np.zeros(2**58), lambda: torch.zeros(2**58)],
    ids=["python", "numpy", "torch"],
)
def test_a_full_memory_is_told_with_what_to_lower(perdure, monkeypatch, full):
    monkeypatch.setattr("perdure.plan.catalogue.methods", full)
    monkeypatch.delenv("PERDURE_DEBUG", raising=False)
    code, _, err = perdure("methods")
    assert code == 1 and err.startswith("error: the memory of the device does not suffice; lower training.batch_size")


def test_every_command_explains_itself():
    runner = CliRunner()
    for words in (
        [],
        ["plan"],
        ["data"],
        ["toybox"],
        *([c.name or c.callback.__name__] for c in cli.app.registered_commands),
    ):
        told = runner.invoke(cli.app, [*words, "--help"], env={"COLUMNS": "100"})
        assert told.exit_code == 0 and "Usage" in told.output


PROBE = """
import sys
from perdure.cli import main
sys.argv = ["perdure", *sys.argv[1:]]
try:
    main()
finally:
    print("IMPORTED", *(name for name in {heavy} if name in sys.modules))
"""


def test_light_commands_import_nothing_heavy(photos, tmp_path):
    """`--help` is quick because of what it does not import; so are tables, plans and logs."""
    (tmp_path / "plan.yaml").write_text(
        f"method: naive\nconcepts: [{{name: dog, images: {photos / 'dog'}, token: zwz}}]\n"
    )
    probe = PROBE.replace("{heavy}", repr((*HEAVY, "numpy", "pydantic")))
    cases = {
        ("--help",): "",
        ("methods", "--json"): "numpy pydantic",
        ("check", str(tmp_path / "plan.yaml")): "numpy pydantic transformers",
    }
    for words, allowed in cases.items():
        told = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        imported = told.stdout.splitlines()[-1].split()[1:]
        assert set(imported) <= set(allowed.split()), (words, imported)


def test_a_lineage_is_read_without_torch(tmp_path):
    code = "import sys, perdure.lineage, perdure.report; sys.exit(any(name in sys.modules for name in {heavy}))"
    if REPORT:
        code = code.replace("{heavy}", repr(HEAVY[:-1]))
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
