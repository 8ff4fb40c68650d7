"""Damaged models, models from elsewhere, and two writers at once: one sentence, and nothing is touched."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from perdure import files, memory, plan, records, report
from perdure.errors import LineageError, PerdureError
from perdure.lineage import Lineage, fsck, history
from perdure.memory import Memory, tensors

NAMES = ("dog", "cat")
DIGEST = "0" * 64


@pytest.fixture
def lineage(tmp_path):
    """Two lessons with all that a run leaves, made by hand."""
    concepts = [{"name": n, "images": f"/photos/{n}", "token": f"{n}x", "class": "dog"} for n in NAMES]
    made = plan.build({"name": "m", "base": "some/base", "method": "naive", "concepts": concepts})
    lineage = Lineage.create(tmp_path / "model", made, "identity", {"torch": "2"})
    with lineage.locked():
        for number, concept in enumerate(made.concepts, start=1):
            lineage.adopt_concept(concept, {"digest": concept.name, "held_out": False})
            files.write_png(lineage.concept_folder(concept.name) / "train-0.png", Image.new("RGB", (8, 8), "red"))
            tensors.write(lineage.concept_folder(concept.name) / "dino-1.safetensors", {"features": torch.ones(2, 3)})
            staged = lineage.stage(number, concept.name, begun="x")
            files.append_json(staged.log, {"step": 1, "loss": 0.5, "rate": 1e-3, "seconds": 0.1})
            memory.save(Memory({"own": torch.full((number,), 1.0)}), staged.memory, lineage.store)
            for row in (lineage.base_row, staged):
                for name in NAMES[:number]:
                    _cell(row.cells / name, name)
            files.write_json(staged.folder / "lesson.json", _lesson(staged, concept.name))
            lineage.commit(staged)
    files.write_json(lineage.folder / "tracking.json", {"id": "12345678"})
    return lineage


def _lesson(staged, name):
    spent = {"seconds": {"train": 1.0, "evaluate": 1.0}, "bytes": {"carried": 1, "stored": 1}}
    digest = memory.read_index(staged.memory)["digest"]
    return {"concepts": [name], "memory": digest, "method": {"label": "naive"}, "steps": 1, **spent}


def _cell(folder, name):
    files.write_png(folder / "000.png", Image.new("RGB", (8, 8), "blue"))
    images = [{"file": "000.png", "prompt": "a dog", "latent": 0}]
    measures = {"dino": {"direction": "higher", "model": "toy", "spec": {}}}
    scores = {"scores": {"dino": 0.5}, "measures": measures}
    files.write_json(folder / "cell.json", {"concept": name, **scores, "images": images})


def everything(folder):
    """What lies in a folder, with its contents."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


JSONS = (
    "lineage.json", "concepts/dog/concept.json", "lessons/000-base/cells/dog/cell.json", "lessons/001-dog/lesson.json",
    "lessons/001-dog/memory.json", "lessons/002-cat/lesson.json", "lessons/002-cat/memory.json",
    "lessons/001-dog/cells/dog/cell.json", "lessons/002-cat/train.jsonl",
)  # fmt: skip
DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "another type": lambda data: b"[1, 2]\n",
    "nothing in it": lambda data: b"{}\n",
    "null": lambda data: b"null\n",
    "deep": lambda data: b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "no text": lambda data: b"\xff\xfe\n",
}


def test_a_whole_model_has_no_findings(lineage, perdure):
    assert fsck.examine(lineage.folder) == []
    before = everything(lineage.folder)
    assert perdure("fsck", lineage.folder)[0] == 0 and everything(lineage.folder) == before


@pytest.mark.parametrize("damage", [*DAMAGE, "deleted"])
@pytest.mark.parametrize("name", JSONS)
def test_damaged_json_is_named_and_nothing_is_tidied_away(lineage, name, damage):
    path = lineage.folder / name
    if name.endswith("train.jsonl") and damage in ("cut", "empty", "deleted"):
        return  # a log that a kill cut short
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = everything(lineage.folder)
    if name == "lineage.json" and damage == "deleted":
        with pytest.raises(LineageError, match="not a perdure model"):
            fsck.examine(lineage.folder, mend=True)
        return
    found = fsck.examine(lineage.folder, mend=True)
    assert any(finding.file == name or name in finding.what for finding in found if finding.damage), found
    kept = everything(lineage.folder)
    kept.pop(".lock"), before.pop(".lock")
    assert kept == before
    try:  # whoever reads it says a sentence, or does not need it
        again = Lineage(lineage.folder)
        report.build([again], lineage.folder.parent / "out", "x")
    except PerdureError as error:
        assert "damaged" in str(error) or "cannot read" in str(error) or "has format" in str(error)
        if "cell" not in name and "train" not in name and name != "lineage.json":
            with pytest.raises(LineageError), again.locked():
                history.undo(again)
            assert everything(lineage.folder).keys() == {*before, ".lock"}


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("lineage.json", ("settings", "vae"), {"a": 1}), ("lineage.json", ("settings", "transformer"), [1]),
        ("lineage.json", ("settings", "seed"), "one"), ("lineage.json", ("settings", "scoring", "models"), ["dino"]),
        ("lessons/001-dog/lesson.json", ("refusal",), {"gate": 0.1, "told": 3}),
        ("lessons/001-dog/lesson.json", ("brought",), "a file"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_damage(lineage, name, keys, value):
    """What no file of ours holds, though it is sound JSON: told by fsck and by the report, in a sentence."""
    path = lineage.folder / name
    inner = whole = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(whole))
    assert any(finding.file == name for finding in fsck.examine(lineage.folder))
    with pytest.raises(LineageError, match=f"{path.name} is damaged: .*{keys[-1]}"):
        report.build([Lineage(lineage.folder)], lineage.folder.parent / "out", "x")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("lessons/002-cat/lesson.json", {"concepts": ["../../../photos"]}),
        ("lessons/002-cat/lesson.json", {"concepts": ["/photos"]}),
        ("lessons/002-cat/lesson.json", {"concepts": [".."]}),
        ("lessons/002-cat/lesson.json", {"concepts": ["dog"]}),
        ("lessons/002-cat/memory.json", {"tensors": {"own": [DIGEST, "../../photos/a.safetensors"]}}),
    ],
)
def test_undo_follows_no_name_out_of_the_model(lineage, file, change):
    photos = lineage.folder.parent / "photos"
    files.write_text(photos / "a.jpg", "mine")
    path = lineage.folder / file
    files.write_json(path, {**files.read_json(path), **change})
    before = everything(lineage.folder.parent)
    with pytest.raises(LineageError, match="fsck"), lineage.locked():
        history.undo(lineage)
    assert everything(lineage.folder.parent) == before


@pytest.mark.parametrize(
    "place", ["lessons/002-cat", "lessons/000-base/cells", "concepts", "store", "lessons/000-base/cells/dog"]
)
def test_links_inside_a_model_are_refused(lineage, place):
    path, outside = lineage.folder / place, lineage.folder.parent / "outside"
    path.rename(outside)
    files.write_text(outside / "thesis" / "chapter.tex", "mine")
    path.symlink_to(outside)
    before = everything(outside)
    with pytest.raises(LineageError, match="is a link"), lineage.locked():
        history.undo(lineage)
    assert everything(outside) == before and path.is_symlink()
    assert [finding.file for finding in fsck.examine(lineage.folder)] == [place]


def test_the_lock_is_no_link_and_no_pipe(lineage):
    lock, mine = lineage.folder / ".lock", lineage.folder.parent / "mine.txt"
    mine.write_text("mine")
    lock.unlink()
    lock.symlink_to(mine)
    with pytest.raises(LineageError, match="cannot write to"), lineage.locked():
        pass
    assert mine.read_text() == "mine"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(LineageError, match="cannot write to"), lineage.locked():
        pass


def test_a_report_shows_pictures_of_the_model_only(lineage):
    """Not another format under the name of a PNG, not a bomb, not a link, not a name that leads out."""
    secret = lineage.folder.parent / "secret.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(secret)
    picture = lineage.folder / "lessons/002-cat/cells/cat/000.png"
    sound = picture.read_bytes()
    out = lineage.folder.parent / "out"
    for make in (
        lambda: picture.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"),
        lambda: picture.symlink_to(secret),
        lambda: os.mkfifo(picture),
        lambda: picture.write_bytes(sound[:16] + (60_000).to_bytes(4, "big") * 2 + sound[24:]),
    ):
        picture.unlink()
        make()
        try:
            report.build([lineage], out, "x")
        except LineageError as error:
            assert "is a link" in str(error)
        assert any(str(picture.relative_to(lineage.folder)) in f.file for f in fsck.examine(lineage.folder))
    picture.unlink()
    path = picture.with_name("cell.json")
    cell = files.read_json(path)
    for name in ("../../../../../secret.png", str(secret), ".."):
        files.write_json(path, {**cell, "images": [{**cell["images"][0], "file": name}]})
        with pytest.raises(LineageError, match=r"images\.0\.file"):
            report.build([Lineage(lineage.folder)], out, "x")


def test_packs_and_features_that_were_damaged(lineage):
    features = lineage.folder / "concepts/dog/dino-1.safetensors"
    data = bytearray(features.read_bytes())
    data[-2] ^= 0x40
    features.write_bytes(bytes(data))
    with pytest.raises(LineageError, match="does not match its digest"):
        tensors.read(features)
    pack = next(lineage.store.glob("*"))
    pack.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(LineageError, match="no safetensors header"):
        tensors.header(pack)
    found = fsck.examine(lineage.folder, mend=True)
    damaged = {finding.file: finding.mended for finding in found}
    assert damaged[str(features.relative_to(lineage.folder))] and not features.exists()
    assert damaged[str(pack.relative_to(lineage.folder))] is False and pack.exists()


def test_what_can_be_made_again_is_mended(lineage, perdure):
    folder = lineage.folder
    files.write_text(folder / "plan.yaml", "a: [")
    files.write_text(folder / records.ANALYSIS_FILE, "{}")
    files.write_text(folder / "report.html.999999999.tmp", "half")
    files.write_text(folder / "concepts/bird.removed.partial/concept.json", "{}")
    files.write_text(folder / "notes.txt", "the user's own")
    code, out, _ = perdure("fsck", folder, "--json")
    found = {finding["file"]: finding for finding in json.loads(out)}
    assert code == 1 and found.keys() == {
        "plan.yaml", "analysis.json", "report.html.999999999.tmp", "concepts/bird.removed.partial",
    }  # fmt: skip
    assert not found["report.html.999999999.tmp"]["damage"] and found["plan.yaml"]["mendable"]
    assert perdure("fsck", folder, "--mend")[0] == 0
    assert fsck.examine(folder) == [] and (folder / "notes.txt").exists()
    assert plan.load(folder / "plan.yaml").fingerprint() == lineage.plan().fingerprint()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    """The write, the rename, the folder: whatever of it the system refuses."""

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    for target in ("perdure.files.os.fsync", "pathlib.Path.replace", "pathlib.Path.mkdir"):
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            with pytest.raises(PerdureError, match=r"cannot write .*No space left"):
                files.write_text(tmp_path / "new" / "a.json", "x")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []
    with pytest.raises(PerdureError, match="cannot write"):
        files.append_json(tmp_path, {})


def test_the_next_writer_of_a_file_sweeps_what_a_killed_one_left(tmp_path):
    (tmp_path / "report.html.999999999.tmp").write_text("half")
    (tmp_path / f"report.html.{os.getppid()}.tmp").write_text("of one that is at work")
    files.write_text(tmp_path / "report.html", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", f"report.html.{os.getppid()}.tmp"]


@pytest.mark.slow
def test_two_processes_teach_one_concept_at_once(plan_data, photos, tmp_path, perdure):
    """One of them teaches, the other says a sentence, and the model is whole."""
    made = plan.build(plan_data)
    model = tmp_path / "model"
    Lineage.create(model, made, _identity(made), {})
    words = ["teach", str(model), str(photos / "dog"), "--prompt", "a photo of zwz dog", "--device", "cpu"]
    command = [sys.executable, "-m", "perdure", *words]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], told
    refused = next(text for process, text in zip(both, told, strict=True) if process.returncode)
    assert any(w in refused for w in ("written by another process", "already knows", "two concepts")), refused
    assert Lineage(model).concepts == ["dog"] and fsck.examine(model) == []
    assert perdure("undo", model)[0] == 0 and Lineage(model).lessons == []


def _identity(made):
    from perdure.bases import loading

    return loading.identity(made.base, made.vae)


def test_a_pack_that_is_a_link_to_nowhere_has_no_bytes(lineage):
    before, pack = lineage.nbytes, next(lineage.store.glob("*.safetensors"))
    gone = pack.stat().st_size
    pack.unlink()
    pack.symlink_to("nowhere")
    assert Lineage(lineage.folder).nbytes == before - gone
