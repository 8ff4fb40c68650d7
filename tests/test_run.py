"""Runs and lessons from plan to folder: what is written, what is done again, what is refused."""

import copy
import hashlib
import shutil

import numpy as np
import pytest
from conftest import paint

from perdure import files, plan, report, run
from perdure import memory as memories
from perdure.analysis import analyse
from perdure.drawing import evaluate
from perdure.drawing.draw import draw
from perdure.errors import GateRefused, ImageError, LineageError, ModelError, PlanError, TrainingError
from perdure.lineage import Lineage, history
from perdure.plan import Concept
from perdure.run import teaching


@pytest.fixture(scope="module")
def ran(data, photos, pico, pico_clip, tmp_path_factory):
    """The plan, run: read it only."""
    out = tmp_path_factory.mktemp("ran")
    inputs = [photos, pico, pico_clip]
    before = [(tree(folder), times(folder)) for folder in inputs]
    run.run(plan.build(data), out, device="cpu")
    assert [(tree(folder), times(folder)) for folder in inputs] == before  # inputs are only read
    return out


@pytest.fixture
def own(ran, tmp_path):
    """A copy of that run, to be changed."""
    return shutil.copytree(ran, tmp_path / "own")


def changed(data, **sections):
    """The plan's values with some keys of its sections replaced."""
    values = copy.deepcopy(data)
    for key, value in sections.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return values


def tree(folder):
    """Contents of every file below a folder, but for the lock."""
    files_in = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files_in}


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock" and p.is_file()}


def new_concept(folder, **more):
    paint(folder, 3, seed=77)
    return Concept.model_validate({"name": "bird", "images": folder, "token": "pdw", "class": "dog", **more})


# --- run -----------------------------------------------------------------------------------------------------------


def test_matrix_of_a_run(ran):
    for method in ("merge_init", "naive"):
        lineage = Lineage(ran / method)
        scores = lineage.matrix("clip_i")
        assert lineage.concepts == ["dog", "cat", "clock"] and scores.shape == (4, 3)
        measured = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=bool)
        assert (np.isfinite(scores) == measured).all()
        assert len({f"{value:.9f}" for value in scores[measured]}) > 6  # lessons change what is drawn
        assert [row.number for row in lineage.rows] == [0, 1, 2, 3]
        assert lineage.measures == ["clip_i"]


def test_row_0_is_drawn_once_and_shared(ran):
    for concept in ("dog", "cat", "clock"):
        first, second = (ran / method / "lessons/000-base/cells" / concept for method in ("merge_init", "naive"))
        assert tree(first) == tree(second)
        assert files.read_json(first / "cell.json")["seconds"] == files.read_json(second / "cell.json")["seconds"]


def test_memories_on_disk_are_what_the_lessons_say(ran):
    lineage = Lineage(ran / "merge_init")
    for row in lineage.lessons:
        memory = memories.load(row.memory, lineage.store)
        assert memory.digest == row.record["memory"] and memory.nbytes == row.record["bytes"]["carried"]
        assert row.record["steps"] == 2 and [log["step"] for log in row.losses()] == [1, 2]
    carried = [row.record["bytes"]["carried"] for row in lineage.lessons]
    assert sum(row.record["bytes"]["stored"] for row in lineage.lessons) == lineage.nbytes
    assert carried[0] * 3 == carried[1] * 1.5 == carried[2]  # a factor pair a lesson, far from break-even


def test_a_finished_run_is_left_alone(own, data):
    before = times(own)
    run.run(plan.build(data), own, device="cpu")
    assert times(own) == before


def test_the_resolved_plan_lies_beside_the_lessons(ran, data):
    made = plan.build(data)
    for choice in made.methods:
        read = plan.load(ran / choice.label / "plan.yaml")
        assert read.fingerprint() == made.narrowed(choice).fingerprint()
        assert Lineage(ran / choice.label).lessons[-1].record["fingerprint"] == read.fingerprint()


def test_a_longer_plan_continues(own, data, photos, tmp_path):
    before = times(own)
    paint(tmp_path / "bird", 3, seed=5)
    bird = {"name": "bird", "images": str(tmp_path / "bird"), "token": "pdw", "class": "dog"}
    longer = plan.build({**data, "concepts": [*data["concepts"], bird]})
    for lineage in run.run(longer, own, device="cpu"):
        assert lineage.concepts == ["dog", "cat", "clock", "bird"]
        assert np.isfinite(lineage.matrix("clip_i")[4]).all()
        assert len(plan.load(lineage.folder / "plan.yaml").concepts) == 4
    after = times(own)
    whole = {own / name / file for name in ("merge_init", "naive") for file in ("plan.yaml", "analysis.json")}
    assert {p for p, t in before.items() if after[p] != t} == whole


@pytest.mark.parametrize(
    ("sections", "word"),
    [
        ({"training": {"steps": 3}}, "training.steps is 2 there and 3 in the plan"),
        ({"sampling": {"seed": 1}}, "sampling.seed"),
        ({"seed": 1}, "seed is 0 there and 1 in the plan"),
        ({"order": [2, 1, 3]}, "is not how the plan begins: cat, dog, clock"),
        ({"order": [3, 2, 1]}, "is not how the plan begins"),
    ],
)
def test_another_plan_is_refused(own, data, sections, word):
    before = tree(own)
    with pytest.raises(LineageError, match=word.replace(".", r"\.")):
        run.run(plan.build(changed(data, **sections)), own, device="cpu")
    assert tree(own) == before


def test_a_model_that_has_learnt_nothing_takes_another_plan(data, tmp_path):
    """As after a first lesson that diverged: what was drawn with the settings before is drawn anew."""
    values = changed(data, methods=["naive"], training={"learning_rate": 1e30})
    values["concepts"] = values["concepts"][:1]
    with pytest.raises(TrainingError):
        run.run(plan.build(values), tmp_path / "again", device="cpu")
    assert Lineage(tmp_path / "again/naive").base_row.cell("dog")
    sound = plan.build(changed(values, training={"learning_rate": 1e-2}, sampling={"seed": 5}))
    ((again,), (fresh,)) = (run.run(sound, tmp_path / out, device="cpu") for out in ("again", "fresh"))
    assert again.settings == fresh.settings and (again.matrix("clip_i") == fresh.matrix("clip_i")).all()
    assert set(tree(again.folder)) == set(tree(fresh.folder))
    with pytest.raises(LineageError, match="learning_rate is"):
        run.run(plan.build(changed(values, training={"learning_rate": 2e-2}, sampling={"seed": 5})), tmp_path / "again")


def test_other_settings_of_a_taught_concept_are_refused(own, data):
    values = changed(data)
    values["concepts"][1]["prompt"] = "an image of {token} {class}"
    with pytest.raises(LineageError, match=r"concept 'cat' was taught with other settings: prompt is .* there and .*"):
        run.run(plan.build(values), own, device="cpu")


def test_a_shorter_plan_is_refused(own, data):
    with pytest.raises(LineageError, match="not how the plan begins: dog, cat;"):
        run.run(plan.build({**data, "concepts": data["concepts"][:2]}), own, device="cpu")


def test_images_that_changed_since_they_were_taught_are_refused(own, data, photos, tmp_path):
    moved = shutil.copytree(photos, tmp_path / "moved")
    values = changed(data)
    for concept in values["concepts"]:
        concept["images"] = str(moved / concept["name"])
    run.run(plan.build(values), own, device="cpu")  # the same pictures in another place are the same pictures
    paint(moved / "cat", 3, seed=99)
    with pytest.raises(LineageError, match="the images of concept 'cat' have changed"):
        run.run(plan.build(values), own, device="cpu")
    paint(moved / "cat", 3, seed=1)
    paint(moved / "dog" / "refs", 2, seed=98)
    with pytest.raises(LineageError, match="the images of concept 'dog' have changed"):
        run.run(plan.build(values), own, device="cpu")


def test_a_base_that_changed_is_refused(own, data, pico, tmp_path):
    base = shutil.copytree(pico, tmp_path / pico.name)
    values = {**data, "base": str(base)}
    run.run(plan.build(values), own, device="cpu")  # the same weights in another place are the same base
    config = base / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    with pytest.raises(LineageError, match="other weights"):
        run.run(plan.build(values), own, device="cpu")


def test_joint_and_independent_and_unseen(data, tmp_path):
    values = changed(data, methods=["independent"], joint=True, sampling={"unseen": True, "images_per_prompt": 1})
    values["concepts"] = values["concepts"][:2]
    one, joint = run.run(plan.build(values), tmp_path, device="cpu")
    assert np.isfinite(one.matrix("clip_i")).all()  # unseen: no entry is left out
    assert one.matrix("clip_i")[1, 0] == one.matrix("clip_i")[2, 0]  # each concept has an adapter of its own
    assert one.matrix("clip_i")[0, 1] == one.matrix("clip_i")[1, 1]
    assert joint.folder.name == "joint" and [row.concepts for row in joint.lessons] == [("dog", "cat")]
    assert joint.matrix("clip_i").shape == (2, 2) and np.isfinite(joint.matrix("clip_i")).all()
    assert joint.lessons[0].record["steps"] == 4
    assert (joint.matrix("clip_i")[1] != joint.matrix("clip_i")[0]).all()  # also under a method that asks which concept
    drawn = [draw(joint, "a dog", tmp_path / "x.png", count=1, after=n, concept="cat")[0].tobytes() for n in (0, 1)]
    assert drawn[0] != drawn[1]
    with pytest.raises(LineageError, match="must be told which concept"):
        draw(one, "a dog", tmp_path / "x.png")
    before = times(tmp_path)
    run.run(plan.build(values), tmp_path, device="cpu")
    assert times(tmp_path) == before
    with pytest.raises(LineageError, match="joint was made by another plan"):
        run.run(plan.build({**values, "concepts": data["concepts"]}), tmp_path, device="cpu")
    assert times(tmp_path) == before  # refused before the other method learns anything


def test_bad_images_are_all_named_before_anything_is_made(data, tmp_path):
    values = changed(data)
    values["concepts"][0]["images"] = str(tmp_path / "none")
    (paint(tmp_path / "bad", 2, seed=0) / "00.png").write_text("text")
    values["concepts"][1]["images"] = str(tmp_path / "bad")
    with pytest.raises(PlanError) as caught:
        run.run(plan.build(values), tmp_path / "out", device="cpu")
    assert len(caught.value.problems) == 2 and "'dog'" in caught.value.problems[0]
    assert not (tmp_path / "out").exists()


def test_a_word_needs_a_token_to_stand_for(data, tmp_path):
    data = {
        **data,
        "methods": ["naive", "cns"],
        "concepts": [{**c, "token": ""} for c in data["concepts"]],
    }
    with pytest.raises(PlanError, match=r"'cns' learns a word for each concept's token; give a `token` to 'dog'"):
        run.run(plan.build(data), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_missing_scorer_is_named_before_training(data, tmp_path):
    values = changed(data, scoring={"models": {"clip_i": "nobody/nothing"}})
    with pytest.raises(ModelError, match="nobody/nothing"):
        run.run(plan.build(values), tmp_path, device="cpu")
    assert not list(tmp_path.rglob("cells/*")) and not list(tmp_path.rglob("train.jsonl"))


def test_lessons_that_move_nothing_end_like_others(data, tmp_path):
    """At a rate below what float32 holds every update is 0: the run has its scores and its report, and says no more."""
    values = changed(data, methods=["merge_init"], training={"learning_rate": 1e-60, "steps": 1})
    values["concepts"] = values["concepts"][:2]
    (lineage,) = run.run(plan.build(values), tmp_path, device="cpu")
    scores = lineage.matrix("clip_i")
    assert scores[2, 0] == scores[1, 0] == scores[0, 0] and np.isfinite(scores[2]).all()
    assert report.build([lineage], tmp_path, "x").is_file() and not (lineage.folder / "analysis.json").exists()
    with pytest.raises(LineageError, match="no lesson has moved any weight"):
        analyse.analyse(lineage)


def test_a_lesson_that_diverges_leaves_the_model_as_it_was(own, data, tmp_path):
    lineage = Lineage(own / "naive")
    before = tree(own / "naive")
    with pytest.raises(TrainingError, match="diverged"):
        run.teach(lineage, new_concept(tmp_path / "bird"), device="cpu", own={"learning_rate": 1e30})
    assert tree(own / "naive") == before


# --- teach, gate, undo ---------------------------------------------------------------------------------------------


def test_teach_then_undo_restores_everything(own, tmp_path):
    lineage = Lineage(own / "merge_init")
    before = tree(lineage.folder)
    row = run.teach(lineage, new_concept(tmp_path / "bird"), device="cpu")
    assert lineage.concepts[-1] == "bird" and row.number == 4 and lineage.nbytes > 0
    assert [c.name for c in plan.load(lineage.folder / "plan.yaml").concepts] == lineage.concepts
    assert np.isfinite(lineage.matrix("clip_i")[4]).all()
    with lineage.locked():
        assert history.undo(lineage).concepts == ("bird",)
        history.drop(lineage)
    assert tree(lineage.folder) == before


def test_undo_down_to_nothing(own):
    lineage = Lineage(own / "naive")
    with lineage.locked():
        for _ in range(3):
            history.undo(lineage)
        history.drop(lineage)
        assert lineage.lessons == [] and lineage.nbytes == 0 and not list(lineage.store.iterdir())
        with pytest.raises(LineageError, match="no lesson to undo"):
            history.undo(lineage)
    assert not list((lineage.folder / "concepts").iterdir())


def test_a_refused_lesson_changes_nothing(own, tmp_path):
    lineage = Lineage(own / "merge_init")
    before = tree(lineage.folder)
    with pytest.raises(GateRefused, match=r"dog fell from 0\.\d+ to 0\.\d+ \(clip_i\)") as caught:
        run.teach(lineage, new_concept(tmp_path / "bird"), gate=-2.0, device="cpu")  # cosines differ by less than that
    assert caught.value.exit_code == 3
    with lineage.locked():
        history.drop(lineage)
    assert tree(lineage.folder) == before
    run.teach(lineage, new_concept(tmp_path / "bird"), gate=2.0, device="cpu")
    assert lineage.concepts[-1] == "bird"


def test_old_concepts_are_scored_without_their_photos(data, photos, tmp_path):
    gone = shutil.copytree(photos, tmp_path / "gone")
    concepts = [{**c, "images": str(gone / c["name"])} for c in data["concepts"][:2]]
    (lineage,) = run.run(
        plan.build({**data, "methods": ["naive"], "concepts": concepts}), tmp_path / "out", device="cpu"
    )
    shutil.rmtree(gone)
    run.teach(lineage, new_concept(tmp_path / "bird"), device="cpu")
    assert np.isfinite(lineage.matrix("clip_i")[3]).all()


def test_teach_refuses_what_cannot_be_told_apart(own, tmp_path):
    lineage = Lineage(own / "naive")
    with pytest.raises(PlanError, match="token 'zwz' is the same as"):
        run.teach(lineage, new_concept(tmp_path / "bird", token="zwz"), device="cpu")
    with pytest.raises(PlanError, match="two concepts are called 'dog'"):
        run.teach(lineage, new_concept(tmp_path / "bird", name="dog"), device="cpu")
    with pytest.raises((PlanError, ImageError), match="no such folder"):
        run.teach(lineage, Concept(name="bird", images=tmp_path / "none", token="pdw"), device="cpu")


# --- a lesson that was left unfinished -----------------------------------------------------------------------------


class Stop(Exception):
    """Stands for a kill: nothing in the package catches it."""


def stopped_after(monkeypatch, cells):
    """Let the process end before the cell after so many, as far as a test can."""
    real, seen = evaluate._cell, []

    def stopping(*args, **options):
        seen.append(1)
        if len(seen) > cells:
            raise Stop
        return real(*args, **options)

    monkeypatch.setattr(evaluate, "_cell", stopping)


def leave_unfinished(monkeypatch, lineage, concept):
    """Teach until after the memory is stored and some cells are drawn (the base's is the first), then stop."""
    with monkeypatch.context() as patch:
        stopped_after(patch, cells=2)
        with pytest.raises(Stop):
            run.teach(lineage, concept, device="cpu")


def trained(monkeypatch, lineage, concept):
    """Teach; whether training was done in it."""
    lessons, real = [], teaching.learn_lesson
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "learn_lesson", lambda *args: lessons.append(1) or real(*args))
        run.teach(lineage, concept, device="cpu")
    return bool(lessons)


def test_the_same_lesson_goes_on_where_it_was(own, tmp_path, monkeypatch):
    lineage, bird = Lineage(own / "merge_init"), new_concept(tmp_path / "bird")
    leave_unfinished(monkeypatch, lineage, bird)
    assert len(lineage.lessons) == 3 and list(lineage.folder.glob("lessons/004-bird.partial/memory.json"))
    assert trained(monkeypatch, lineage, bird) is False
    assert not list(lineage.folder.rglob("*.partial"))


@pytest.mark.parametrize("change", ["images", "settings", "references"])
def test_another_lesson_of_the_same_name_begins_anew(own, tmp_path, monkeypatch, change):
    lineage, fresh = Lineage(own / "merge_init"), Lineage(shutil.copytree(own / "merge_init", tmp_path / "fresh"))
    leave_unfinished(monkeypatch, lineage, new_concept(tmp_path / "bird"))
    if change == "images":
        paint(tmp_path / "bird", 3, seed=78)
    elif change == "references":
        paint(tmp_path / "bird/refs", 2, seed=79)
    bird = Concept.model_validate(
        {"name": "bird", "images": tmp_path / "bird", "token": "pdw", "class": "cat" if change == "settings" else "dog"}
    )
    assert trained(monkeypatch, lineage, bird) is True
    run.teach(fresh, bird, device="cpu")
    assert lineage.lessons[-1].record["memory"] == fresh.lessons[-1].record["memory"]
    assert np.array_equal(lineage.matrix("clip_i"), fresh.matrix("clip_i"), equal_nan=True)
    assert lineage.concept_facts("bird") == fresh.concept_facts("bird")
    assert tree(lineage.folder).keys() == tree(fresh.folder).keys()


def test_an_abandoned_lesson_leaves_no_trace(own, tmp_path, monkeypatch):
    lineage, fresh = Lineage(own / "merge_init"), Lineage(shutil.copytree(own / "merge_init", tmp_path / "fresh"))
    leave_unfinished(monkeypatch, lineage, new_concept(tmp_path / "other", name="other", token="image"))
    bird = new_concept(tmp_path / "bird")
    assert trained(monkeypatch, lineage, bird) is True
    run.teach(fresh, bird, device="cpu")
    assert tree(lineage.folder).keys() == tree(fresh.folder).keys()
    assert lineage.lessons[-1].record["memory"] == fresh.lessons[-1].record["memory"]


def test_a_lesson_begun_after_another_past_begins_anew(own, tmp_path, monkeypatch):
    """Unfinished lesson 4, then lesson 3 is undone and taught again otherwise: the memory below is another one."""
    lineage, bird = Lineage(own / "merge_init"), new_concept(tmp_path / "bird")
    leave_unfinished(monkeypatch, lineage, bird)
    kept = shutil.copytree(next(lineage.folder.glob("lessons/004*")), tmp_path / "kept")
    with lineage.locked():
        history.undo(lineage)
    run.teach(lineage, new_concept(tmp_path / "other", name="other", token="image"), device="cpu")
    shutil.copytree(kept, lineage.folder / "lessons/004-bird.partial")
    assert trained(monkeypatch, lineage, bird) is True


def test_a_lesson_goes_on_from_its_checkpoint(own, data, tmp_path, monkeypatch):
    """Bit-equal to one that was not stopped, and every step is in the log once."""
    bird = new_concept(tmp_path / "bird")
    lineage, fresh = Lineage(own / "merge_init"), Lineage(shutil.copytree(own / "merge_init", tmp_path / "fresh"))
    for one in (lineage, fresh):
        one.facts["settings"]["training"] |= {"steps": 5, "checkpoint_every": 2}
        one.write_plan(one.plan())
    with monkeypatch.context() as patch:
        steps = iter(range(99))
        real = teaching.learn

        def learn(backbone, method, memory, lesson, plan, watch, *more):
            def stop(done):
                watch(done)
                if next(steps) == 3:
                    raise Stop

            return real(backbone, method, memory, lesson, plan, stop, *more)

        patch.setattr(teaching, "learn", learn)
        with pytest.raises(Stop):
            run.teach(lineage, bird, device="cpu")
    assert list(lineage.folder.rglob("checkpoint.safetensors"))
    for one in (lineage, fresh):
        run.teach(one, bird, device="cpu")
    assert lineage.lessons[-1].record["memory"] == fresh.lessons[-1].record["memory"]
    assert [log["step"] for log in lineage.lessons[-1].losses()] == [1, 2, 3, 4, 5]
    assert [log["loss"] for log in lineage.lessons[-1].losses()] == [log["loss"] for log in fresh.lessons[-1].losses()]
    assert not list(lineage.folder.rglob("checkpoint*"))
