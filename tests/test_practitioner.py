"""The README's story of a model that grows, on real photos: three lessons, and every way back, by the command line."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from perdure.lineage import Lineage, fsck

PHOTOS = Path(os.environ.get("DREAMBOOTH", Path(__file__).parent.parent.parent / "shared" / "data" / "dreambooth"))
"""DreamBooth's photos: `perdure data get dreambooth` lays them out; beside the project where it is worked on."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PHOTOS / "teapot").is_dir(), reason="the photos of DreamBooth are not there"),
]
SETTINGS = {
    "training.steps": 30, "sampling.images_per_prompt": 2, "sampling.steps": 6, "scoring.drift": 0,
    "sampling.prompts.subject": "['a photo of a {concept}', 'a photo of a {concept} in the snow']",
}  # fmt: skip
CONCEPTS = {"teapot": "zwz", "backpack": "sbu", "cat": "uwu"}


class Story:
    """A model, what its log says after each step, and the commands that brought it there."""

    def __init__(self, call, folder):
        self.call, self.folder = call, folder

    def step(self, *words, code=0):
        """One command and the log after it: (what it said, its errors, concepts with their lessons, the log)."""
        found, out, err = self.call(words[0], self.folder, *words[1:])
        assert found == code, out + err
        told = self.call("log", self.folder)[1]
        assert [one.what for one in fsck.examine(self.folder)] == []
        entries = json.loads(self.call("log", self.folder, "--json")[1])
        return out, err, {entry["concept"]: entry["lesson"] for entry in entries}, told

    def teach(self, name, *more, code=0):
        prompt = f"a photo of a {CONCEPTS[name]} {name}"
        return self.step("teach", PHOTOS / name, "--prompt", prompt, "--hold-out", 2, *more, code=code)

    def memories(self):
        return [row.record["memory"] for row in Lineage(self.folder).lessons]


def test_three_lessons_and_every_way_back(perdure, tmp_path):
    story = Story(perdure, tmp_path / "mymodel")
    words = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    assert perdure("init", story.folder, *words)[0] == 0
    assert story.teach("teapot")[2] == {"teapot": 1}
    assert story.teach("backpack", "--set", "training.steps=20")[2] == {"teapot": 1, "backpack": 2}
    two = story.memories()

    # a refusal, and its sheet
    _, err, known, told = story.teach("cat", "--max-forgetting", "-2", code=3)
    assert "lesson refused, the model is unchanged: teapot fell" in err and known == {"teapot": 1, "backpack": 2}
    assert "refused: lesson 3 (cat)" in told and story.memories() == two
    (sheet,) = story.folder.glob("aside/refused-*/003-cat/sheet.png")
    with Image.open(sheet) as picture:
        assert picture.width > 600 and picture.height > 400  # three concepts, two prompts before and after
    assert perdure("report", story.folder)[0] == 0
    assert "Refused: lesson 3, cat" in (story.folder / "report.html").read_text()
    (story.folder / "report.html").unlink()

    # again with other settings, refused again, and taken all the same
    assert story.step("retry", "--set", "training.steps=10", code=3)[2] == {"teapot": 1, "backpack": 2}
    out, _, known, told = story.step("accept")
    assert "though it was refused" in out and known == {"teapot": 1, "backpack": 2, "cat": 3}
    assert "lesson 3 (cat) was taught with training.steps=10" in told
    three = story.memories()
    assert three[:2] == two

    # back, forth, and again from the same start by a gate that lets it pass
    assert "undone: lesson 3 (cat)" in story.step("undo")[3] and story.memories() == two
    assert story.step("redo")[2]["cat"] == 3 and story.memories() == three
    story.step("undo")
    assert story.step("retry", "--set", "training.steps=10", "--max-forgetting", 2)[2]["cat"] == 3
    assert story.memories() == three  # the same settings from the same start: the same lesson

    # a name, a branch, one concept out, and what that did
    story.step("tag", "all-three")
    assert perdure("branch", story.folder, tmp_path / "other", "--after", "2")[0] == 0
    assert Lineage(tmp_path / "other").concepts == ["teapot", "backpack"]
    out, _, known, told = story.step("remove", "backpack")
    assert known == {"teapot": 1, "cat": 3} and "its own change is subtracted" in out and "likeness" in out
    assert "lesson 4 removed backpack" in told and "teapot (dino): before" in out
    code, out, _ = perdure("diff", f"{story.folder}@all-three", story.folder, "--out", "diff.png")
    assert code == 0 and "alone: backpack" in out and (tmp_path / "diff.png").is_file()
    assert story.step("undo")[2] == {"teapot": 1, "backpack": 2, "cat": 3} and story.memories() == three
    assert sorted(file.name for file in PHOTOS.glob("teapot/*")) == sorted(os.listdir(PHOTOS / "teapot"))
