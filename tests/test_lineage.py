"""The folder of a model, made by hand: what is a lesson, what is left over, who may write."""

import json
import multiprocessing

import numpy as np
import pytest
import torch

from perdure import files, memory, plan
from perdure.errors import LineageError, PerdureError
from perdure.lineage import Lineage, branching, history
from perdure.lineage.rows import PARTIAL, Row, building, remove
from perdure.memory import Memory
from perdure.plan import describe

STEP = {"step": 1, "loss": 0.5, "rate": 1e-3, "seconds": 0.1}


def concept_of(name):
    return {"name": name, "images": f"/photos/{name}", "token": f"{name}x", "class": "dog"}


def record_of(*names):
    """A lesson's record with all that must be there."""
    spent = {"seconds": {"train": 1.0, "evaluate": 1.0}, "bytes": {"carried": 1, "stored": 1}}
    return {"concepts": names, "memory": "ab" * 32, "method": {"label": "naive"}, "steps": 4, **spent}


@pytest.fixture
def made():
    return plan.build({"name": "m", "base": "some/base", "method": "naive", "concepts": [concept_of("dog")]})


@pytest.fixture
def lineage(made, tmp_path):
    return Lineage.create(tmp_path / "model", made, "identity", {"torch": "2"})


def lesson(lineage, name, value, scores):
    """A finished lesson with one tensor that all memories share and one of its own."""
    concept = plan.Concept.model_validate(concept_of(name))
    with lineage.locked():
        lineage.adopt_concept(concept, {"digest": name, "held_out": False})
        staged = lineage.stage(len(lineage.lessons) + 1, name, begun="x")
        tensors = {"shared": torch.ones(5), "own": torch.full((value + 1,), float(value))}
        memory.save(Memory(tensors), staged.memory, lineage.store)
        for row, folder in ((lineage.base_row, 0.1), (staged, None)):
            for other, score in ({name: folder} if folder else scores).items():
                measures = {"dino": {"direction": "higher"}}
                cell = {"concept": other, "scores": {"dino": score}, "measures": measures, "images": [], "seconds": 1}
                files.write_json(row.folder / "cells" / other / "cell.json", cell)
        files.write_json(staged.folder / "lesson.json", record_of(name))
        return lineage.commit(staged)


def test_create_and_open(lineage, made):
    again = Lineage(lineage.folder)
    assert again.settings == made.settings() and again.lessons == [] and again.concepts == [] and again.measures == []
    assert plan.load(lineage.folder / "plan.yaml").fingerprint() == made.fingerprint()
    assert again.matrix("dino").shape == (1, 0)


def test_create_refuses_a_folder_in_use(made, tmp_path):
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(LineageError, match="not empty"):
        Lineage.create(tmp_path, made, "i", {})
    with pytest.raises(LineageError, match="not empty"):
        Lineage.create(tmp_path / "photo.jpg", made, "i", {})
    with pytest.raises(PerdureError, match="cannot write"):
        Lineage.create(tmp_path / "photo.jpg" / "below", made, "i", {})
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_create_goes_on_where_a_kill_left_a_half_written_file(made, tmp_path):
    (tmp_path / "lineage.json.4711.tmp").write_text("{")
    lineage = Lineage.create(tmp_path, made, "i", {})
    with lineage.locked():
        pass
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("text", "word"), [(None, "not a perdure model"), ("{", "not JSON"), ('{"format": 9}', "format 9")]
)
def test_what_is_no_lineage(tmp_path, text, word):
    if text is not None:
        (tmp_path / "lineage.json").write_text(text)
    with pytest.raises(LineageError, match=word):
        Lineage(tmp_path)


def test_lessons_matrix_and_measures(lineage):
    lesson(lineage, "dog", 1, {"dog": 0.5})
    lesson(lineage, "cat", 2, {"dog": 0.4, "cat": 0.6})
    assert [row.number for row in lineage.rows] == [0, 1, 2] and [row.name for row in lineage.lessons] == ["dog", "cat"]
    expected = [[0.1, 0.1], [0.5, np.nan], [0.4, 0.6]]
    np.testing.assert_array_equal(lineage.matrix("dino"), expected)
    assert np.isnan(lineage.matrix("clip_i")).all() and lineage.measures == ["dino"]


def test_more_than_a_thousand_lessons_are_counted(lineage):
    for number in range(1, 1002):
        folder = lineage.folder / "lessons" / f"{number:03d}-c{number}"
        folder.mkdir(parents=True)
        (folder / "lesson.json").write_text(json.dumps(record_of(f"c{number}")))
    assert len(lineage.lessons) == 1001 and lineage.concepts[-1] == "c1001"


def test_what_earlier_lessons_hold_is_read_once_for_as_long_as_it_stands(lineage, monkeypatch):
    """However many there are, one more reads its own; a file that another has replaced, or spoilt, is read again."""
    read, real = [], files.read_json
    monkeypatch.setattr(files, "read_json", lambda path: read.append(path) or real(path))
    for number in range(5):
        row = lesson(lineage, f"c{number}", number, {})
        assert lineage.concepts == [f"c{k}" for k in range(number + 1)]
        lineage.tidy()
        own = [path for path in read if path.name in ("lesson.json", "memory.json")]
        assert len(own) <= 4 and {path.parent.name.removesuffix(PARTIAL) for path in own} == {row.folder.name}
        read.clear()
    first = lineage.lessons[0].folder
    files.write_json(first / "lesson.json", {**record_of("c0"), "final_loss": 0.25})
    assert [one.record.get("final_loss") for one in lineage.lessons] == [0.25, None, None, None, None]
    (first / "memory.json").write_text("{}")
    with pytest.raises(LineageError, match="memory"):
        lineage.tidy()


def test_a_missing_lesson_is_noticed(lineage):
    for name in ("dog", "cat", "bird"):
        lesson(lineage, name, 1, {})
    remove(lineage.lessons[1].folder)
    with pytest.raises(LineageError, match="001-dog, 003-bird; a lesson is missing"):
        _ = lineage.lessons


def _hold(folder, locked, release):
    with Lineage(folder).locked():
        locked.set()
        release.wait(30)


def test_only_one_process_writes(lineage):
    context = multiprocessing.get_context("fork")
    locked, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(lineage.folder, locked, release))
    other.start()
    try:
        assert locked.wait(30)
        with pytest.raises(LineageError, match="being written by another process"), lineage.locked():
            pass
    finally:
        release.set()
        other.join(30)
    with lineage.locked():  # a lock does not outlive its process
        pass


def test_a_folder_that_cannot_be_written_to(lineage):
    (lineage.folder / ".lock").unlink()
    (lineage.folder / ".lock").mkdir()
    with pytest.raises(LineageError, match="cannot write to"), lineage.locked():
        pass


def test_the_lock_sweeps_what_killed_writers_left(lineage):
    folder = lineage.folder
    files.write_text(folder / "lessons/001-dog.partial/memory.json.12.tmp", "half")
    files.write_text(folder / "lessons/001-dog.partial/cells/dog.partial/000.png", "half")
    files.write_text(folder / "lessons/002-cat.removed.partial/lesson.json", "half")
    files.write_text(folder / "lessons/001-dog.partial/begun", "x")
    files.write_text(folder / "lessons/000-base/cells/dog.partial/000.png", "half")
    files.write_text(folder / "concepts/cat.removed.partial/concept.json", "half")
    files.write_text(folder / "notes.tmp", "the user's own")
    with lineage.locked():
        pass
    left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert left == [".lock", "lessons/001-dog.partial/begun", "lineage.json", "notes.tmp", "plan.yaml"]
    assert lineage.lessons == []


def test_undo_frees_what_only_the_last_lesson_needed(lineage):
    lesson(lineage, "dog", 1, {"dog": 0.5})
    digest, size = lineage.lessons[0].memory.read_text(), lineage.nbytes
    lesson(lineage, "cat", 2, {"dog": 0.4, "cat": 0.6})
    assert lineage.nbytes > size
    with lineage.locked():
        assert history.undo(lineage).concepts == ("cat",)
        assert lineage.nbytes > size and lineage.concepts == ["dog"]  # it can be put back
        history.drop(lineage)
    assert lineage.nbytes == size and lineage.lessons[0].memory.read_text() == digest
    assert lineage.concepts == ["dog"] and not lineage.concept_folder("cat").exists()
    assert not (lineage.base_row.folder / "cells/cat").exists() and lineage.base_row.cell("dog") is not None
    memory.load(lineage.lessons[0].memory, lineage.store)


def test_undo_cut_short_has_taken_the_lesson_back(lineage, monkeypatch):
    """Once the lesson's folder has left the chain the lesson is undone; the next lesson cleans up."""
    lesson(lineage, "dog", 1, {"dog": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr("perdure.lineage.lineage.Lineage.tidy", lambda self: None)
        with lineage.locked():
            history.undo(lineage)
    assert lineage.lessons == [] and history.beside(lineage)
    lesson(lineage, "cat", 2, {"cat": 0.5})
    assert lineage.concepts == ["cat"] and not list(lineage.folder.rglob(f"*{PARTIAL}"))
    assert not lineage.concept_folder("dog").exists()


def test_tidy_keeps_what_any_lesson_refers_to(lineage):
    lesson(lineage, "dog", 1, {"dog": 0.5})
    files.write_bytes(lineage.store / "orphan.safetensors", b"x")
    files.write_text(lineage.folder / "concepts/bird/concept.json", "{}")
    files.write_text(lineage.folder / "concepts/fish/concept.json", "{}")
    with lineage.locked():
        lineage.tidy(keep={"fish"})
    assert not (lineage.store / "orphan.safetensors").exists() and len(list(lineage.store.iterdir())) == 1
    assert sorted(p.name for p in (lineage.folder / "concepts").iterdir()) == ["dog", "fish"]


def test_stage_keeps_only_the_lesson_that_was_begun(lineage):
    with lineage.locked():
        staged = lineage.stage(1, "dog", begun="one")
        files.append_json(staged.log, STEP)
        assert lineage.stage(1, "dog", begun="one").losses() == [STEP]
        assert lineage.stage(1, "dog", begun="two").losses() == []
        lineage.stage(1, "cat", begun="two")
    assert [p.name for p in (lineage.folder / "lessons").iterdir()] == ["001-cat.partial"]


def test_what_has_no_mark_of_its_beginning_is_not_trusted(lineage):
    files.write_text(lineage.folder / "lessons/001-dog.partial/memory.json", "{}")
    with lineage.locked():
        assert not lineage.stage(1, "dog", begun="one").memory.exists()


def test_concepts_are_recorded_once_and_never_overwritten(lineage):
    lesson(lineage, "dog", 1, {"dog": 0.5})
    dog = plan.Concept.model_validate(concept_of("dog"))
    before = lineage.concept_facts("dog")
    assert before["described"] == describe(dog) and lineage.concept("dog") == dog
    lineage.adopt_concept(dog, {"digest": "dog", "held_out": True})
    assert lineage.concept_facts("dog") == before
    with pytest.raises(LineageError, match="images of concept 'dog' have changed"):
        lineage.adopt_concept(dog, {"digest": "other", "held_out": False})
    other = plan.Concept.model_validate({**concept_of("dog"), "class": "cat"})
    with pytest.raises(LineageError, match="class is 'dog' there and 'cat' in the plan"):
        lineage.adopt_concept(other, {"digest": "dog", "held_out": False})


def test_base_row_is_copied_only_between_equals(made, lineage, tmp_path):
    lesson(lineage, "dog", 1, {"dog": 0.5})
    same = Lineage.create(tmp_path / "same", made, "identity", {})
    other_sampling = made.model_copy(update={"sampling": made.sampling.model_copy(update={"seed": 1})})
    other = Lineage.create(tmp_path / "other", other_sampling, "identity", {})
    for one in (same, other):
        branching.adopt_base_row(one, lineage)
    assert same.base_row.cell("dog").scores == {"dino": 0.1} and other.base_row.cell("dog") is None


def test_folders_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "cell"
    with pytest.raises(ZeroDivisionError), building(target) as partial:
        (partial / "a.png").write_text("x")
        1 / 0  # noqa: B018
    assert not target.exists()
    with building(target) as partial:
        assert list(partial.iterdir()) == []
        (partial / "b.png").write_text("x")
    assert [p.name for p in target.iterdir()] == ["b.png"]
    remove(target)
    remove(target)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_of_a_log_is_left_out(tmp_path):
    whole = "".join(f"{json.dumps({**STEP, 'step': step})}\n" for step in (1, 2))
    (tmp_path / "train.jsonl").write_text(whole + '{"st')
    assert [log["step"] for log in Row(tmp_path).losses()] == [1, 2]
    assert Row(tmp_path / "none").losses() == []
