"""A classifier taught task by task, end to end: run, resume, gate, undo, report, compare, analyse."""

import csv
import json
import shutil

import numpy as np
import pytest

from perdure import files, plan, report, run, sweep
from perdure import memory as memories
from perdure.analysis import analyse
from perdure.bases import loading
from perdure.compare import published, sentences, study, tables
from perdure.drawing.tools import Tools
from perdure.errors import GateRefused, PlanError
from perdure.lesson import classes as lessons
from perdure.lineage import Lineage, fsck, history
from perdure.parts import head
from perdure.run import drive
from perdure.sweep import grid, status, worker
from tests.conftest import paint
from tests.test_sweep import swept


@pytest.fixture(scope="module")
def ran(pico_vit, classes, tmp_path_factory):
    """Four methods over three tasks, and all at once: read it only."""
    out = tmp_path_factory.mktemp("ran")
    run.run(plan.build(whole(pico_vit, classes)), out, device="cpu")
    return out


def whole(pico_vit, classes):
    return {
        "name": "tiny", "task": "classification", "base": str(pico_vit), "joint": True,
        "methods": [{"name": name, "label": name} for name in ("naive", "independent", "class_means", "ranpac")],
        "concepts": {"folder": str(classes), "tasks": 3},
        "training": {"resolution": 16, "epochs": 1, "batch_size": 4, "crop": "center", "head": {"pixels": "base"}},
    }  # fmt: skip


def test_the_matrix_and_what_is_counted(ran):
    lineage = Lineage(ran / "naive")
    S = lineage.matrix("class_il")
    assert lineage.measures == ["class_il", "task_il"] and S.shape == (4, 3)
    assert (np.isfinite(S) == np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=bool)).all()
    assert (lineage.matrix("task_il")[1:] >= S[1:])[np.isfinite(S[1:])].all()
    for row in lineage.rows:
        for name in lineage.concepts:
            if (cell := row.cell(name)) is not None:
                counts = cell.record["counts"]
                right = sum(taken.get(own, 0) for own, taken in counts.items())
                assert cell.scores["class_il"] == pytest.approx(right / 6)
                assert len(cell.images) == min(8, 6 - right) and fsck.examine(lineage.folder) == []
    told = Lineage(ran / "independent")
    assert told.measures == ["class_il", "task_il"] and np.isnan(told.matrix("class_il")[1:]).all()


def test_row_0_is_what_class_means_come_to(ran):
    """The base's row is among all classes of the plan, as the last row of class_means is."""
    means = Lineage(ran / "class_means")
    for measure in ("class_il", "task_il"):
        S = means.matrix(measure)
        np.testing.assert_array_equal(S[0], S[-1])


def test_nothing_trained_has_no_steps(ran):
    for name in ("class_means", "ranpac"):
        lineage = Lineage(ran / name)
        assert [row.record["steps"] for row in lineage.lessons] == [0, 0, 0]
        assert "delta" not in lineage.lessons[-1].record["carries"]
    joint = Lineage(ran / "joint")
    assert len(joint.lessons) == 1 and set(head.classes_of(memories.load(joint.lessons[0].memory, joint.store))) == {
        "task-1", "task-2", "task-3"
    }  # fmt: skip


def test_a_killed_run_goes_on_bit_equal(ran, pico_vit, classes, tmp_path):
    made = plan.build({**whole(pico_vit, classes), "methods": [{"name": "naive", "label": "naive"}], "joint": False})
    (own,) = made.runs
    base = loading.load_classifier(made.base)
    tools = Tools(own, base)
    lineage = drive.open_or_create(tmp_path / "naive", own)
    drive.teach_plan(tools, lineage, lineage, upto=1)
    drive.teach_plan(Tools(own, base), Lineage(tmp_path / "naive"), lineage)
    for mine, other in zip(Lineage(tmp_path / "naive").lessons, Lineage(ran / "naive").lessons, strict=True):
        assert mine.record["memory"] == other.record["memory"]
        for name in ("task-1", "task-2", "task-3"):
            assert (a := mine.cell(name)) is None or a.scores == other.cell(name).scores


def test_an_unfinished_lesson_goes_on_bit_equal(class_plan, tmp_path, monkeypatch):
    data = {**class_plan, "training": {**class_plan["training"], "checkpoint_every": 2}}
    whole_run = run.run(plan.build(data), tmp_path / "one", device="cpu")[0]
    taken = lessons.ClassLesson.step

    def killed(self, number, share):
        if number == 5 and "task-2" in self.tasks:
            raise KeyboardInterrupt
        return taken(self, number, share)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lessons.ClassLesson, "step", killed)
        run.run(plan.build(data), tmp_path / "two", device="cpu")
    again = run.run(plan.build(data), tmp_path / "two", device="cpu")[0]
    assert [row.record["memory"] for row in again.lessons] == [row.record["memory"] for row in whole_run.lessons]


def test_a_further_task_is_gated_and_undone(ran, tmp_path):
    lineage = Lineage(shutil.copytree(ran / "naive", tmp_path / "naive"))
    for seed, name in enumerate(("gnu", "hen")):
        paint(tmp_path / "more/train" / name, 4, 90 + seed)
        paint(tmp_path / "more/test" / name, 3, 95 + seed)
    concept = plan.concept({
        "name": "task-4", "kind": "classes", "classes": ["gnu", "hen"], "images": tmp_path / "more/train",
        "references": tmp_path / "more/test",
    })  # fmt: skip
    with pytest.raises(GateRefused, match=r"lesson refused, the model is unchanged: .*class_il"):
        drive.teach(lineage, concept, gate=-2.0, device="cpu")  # even a rise is less than asked for
    assert len(lineage.lessons) == 3
    row = drive.teach(lineage, concept, gate=1.0, device="cpu")
    assert row.number == 4 and len(head.classes_of(memories.load(row.memory, lineage.store))) == 4
    history.undo(lineage)
    assert lineage.concepts == ["task-1", "task-2", "task-3"] and fsck.examine(lineage.folder) == []


def test_the_report_shows_what_is_taken_for_what(ran, tmp_path):
    lineages = [Lineage(ran / name) for name in ("naive", "independent", "class_means", "joint")]
    page = report.build(lineages, tmp_path, "classes").read_text(encoding="utf-8")
    for told in ("A_N", "Average incremental", "F_N, a step", "Confusion of naive", "taken for", "row 0: the nearest"):
        assert told in page
    assert "one prompt and one starting noise" not in page
    with open(tmp_path / "accuracy.csv", encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    S = lineages[0].matrix("class_il")
    own = {
        row["name"]: float(row["percent"]) for row in lines if (row["model"], row["setting"]) == ("naive", "class-il")
    }
    assert own["accuracy_1_task3"] == pytest.approx(100 * S[3, 0])
    assert own["accmean_task3"] == own["accuracy_over_all_task3"] == pytest.approx(100 * np.mean(S[3]))
    assert {"forgetting", "backward_transfer", "average_incremental_accuracy"} < own.keys()
    assert {row["setting"] for row in lines if row["model"] == "independent"} == {"task-il"}


def test_runs_are_compared_and_analysed_as_those_of_concepts(ran, tmp_path):
    found = study.of([ran])
    assert found.measures[0] == "class_il" and "independent" in found.bounds
    text = tables.runs_csv(found)
    assert "forgetting_per_step" in text and "class_means" in text
    lineage = Lineage(shutil.copytree(ran / "naive", tmp_path / "naive"))
    analysed = analyse.analyse(lineage)
    assert {"q", "k", "v", "out"} <= analysed.parts.keys() and len(analysed.lessons) == 3


def test_published_tables_of_classes_stand_beside(ran):
    """One's own methods beside theirs, of their variant only; methods that are not here stand for themselves."""
    found = study.of([ran])
    shown = published.beside(found, "imagenet-r-10")
    assert shown.columns == (("class_il", "average"), ("class_il", "running_average")) and not shown.same
    by = {(line.method, line.row): line for line in shown.lines}
    (there, here), (_, along) = by["class_means", "class_means"].cells
    assert there[0] == 0.612 and here == found.spread("class_il", "average", "class_means")
    assert along == found.spread("class_il", "running_average", "class_means")
    assert by["ranpac", "ranpac"].other and by["ranpac", None].cells[0] == (
        (0.718, pytest.approx(np.nan, nan_ok=True)),
        None,
    )
    assert (
        by["FT++", None].cells == (((0.4893, 0.0115), None), ((0.6679, 0.0092), None)) and ("naive", "naive") not in by
    )
    assert "timm's vit_base_patch16_224" in sentences.beside_sentences(shown)[0]
    assert "FT++ (published, other model and data) & 0.489" in tables.table_tex(found, shown)


@pytest.mark.parametrize("tasks", (5, 10, 20))
def test_the_imagenet_r_plans_name_their_tables(tasks):
    """Every figure is a share, and the last accuracy is below the average along the way."""
    known = published.get(f"imagenet-r-{tasks}")
    assert known.concepts == tasks and plan.yaml_file.read(plan.ready(known.name))[0]["protocol"] == known.name
    for method in known.methods:
        last, _ = known.value(method, "class_il", "average")
        along, _ = known.value(method, "class_il", "running_average")
        assert 0 < last < 1 and (np.isnan(along) or last < along < 1)


def test_a_seed_that_cuts_classes_otherwise_is_another_order(class_plan, tmp_path):
    for seed in (0, 1):
        data = {**class_plan, "seed": seed, "methods": ["class_means"]}
        run.run(plan.build(data), tmp_path / f"seed-{seed}", device="cpu")
    found = study.of([tmp_path])
    assert len(found.orders) == 2 and found.seeds == (0, 1)


def test_the_cli_runs_it(perdure, class_plan, tmp_path):
    files.write_json(tmp_path / "plan.yaml", json.loads(json.dumps({**class_plan, "methods": ["class_means"]})))
    code, told, err = perdure("check", "plan.yaml")
    assert code == 0 and "3 concepts" in told + err
    assert perdure("run", "plan.yaml", "--out", "out")[0] == 0
    code, _, err = perdure("draw", "out/class_means", "a dog")
    assert code == 2 and "classifier" in err


def test_the_joint_run_trains_where_the_first_method_does_not(class_plan):
    """It would be no bound else: of class means taught at once, which are those taught in turn."""
    made = plan.build({**class_plan, "joint": True, "methods": ["class_means", {"name": "naive", "label": "ft"}]})
    joint = made.runs[-1]
    assert joint.joint and [(m.name, m.label) for m in joint.methods] == [("naive", "joint")]
    with pytest.raises(PlanError, match="joint: it trains as the first method does"):
        plan.build({**class_plan, "joint": True, "methods": ["class_means", "ranpac"]})


def test_epochs_are_counted_as_the_steps_that_they_are(class_plan, tmp_path):
    """8 pictures a task in batches of 3, twice: 6 steps a lesson, 16 the joint one, whatever `training.steps` says."""
    data = {
        "name": "g",
        "plan": {**class_plan, "joint": True},
        "axes": {"methods": ["class_means", "naive"], "seeds": [0]},
    }
    todo = sweep.task(grid.build(data), tmp_path / "sweep")
    work = {one.axes["method"]: status.work_of(one, 0) for one in todo.stretches if one.axes}
    assert work == {"class_means": (18, 0), "naive": (18, 0), "joint": (16, 0)}
    measured = worker.paces(todo.stretches, "cpu")
    assert measured["naive"].steps == 6 and status.seconds_left(todo.stretches, {}, 1, measured) > 0
    _, statuses = swept(data, tmp_path / "sweep")
    spent = {one.axes["method"]: one.spent for one in statuses}
    assert spent["naive"].steps == 18 and spent["joint"].steps == 16 and spent["naive"].images == 0
    new = sweep.task(grid.build({**data, "axes": {"methods": ["naive"], "seeds": [3]}}), tmp_path / "other")
    known = {str(number): one for number, one in enumerate(statuses)}
    left = status.seconds_left([one for one in new.stretches if one.axes], known, 1)
    assert left == pytest.approx(spent["naive"].training + spent["joint"].training)


def test_a_sweep_does_what_runs_do_and_shares_the_bases_row(class_plan, tmp_path):
    """Two methods, one with another head, and two seeds, which cut the classes otherwise."""
    methods = ["class_means", {"name": "naive", "label": "all", "training": {"head": {"logits": "all"}}}]
    data = {"name": "g", "plan": class_plan, "axes": {"methods": methods, "seeds": [0, 3]}}
    engine, statuses = swept(data, tmp_path / "sweep")
    assert len(statuses) == 4 and all(one.state == "done" for one in statuses)
    assert sum(name.startswith("base-") for name in engine.done) == 2
    alone = run.run(plan.build({**class_plan, "methods": methods, "seed": 3}), tmp_path / "runs", device="cpu")
    for lineage in alone:
        label = lineage.settings["methods"][0]["label"]
        (mark,) = (tmp_path / "sweep").glob(f"{label}_*seed-3_*/lineage.json")
        mine = Lineage(mark.parent)
        assert [r.record["memory"] for r in mine.lessons] == [r.record["memory"] for r in lineage.lessons]
        np.testing.assert_array_equal(mine.matrix("class_il"), lineage.matrix("class_il"))
    found = study.of([tmp_path / "sweep"])
    assert len(found.orders) == 2 and set(found.contenders) == {"class_means", "all"}
