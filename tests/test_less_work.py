"""Less work for the same matrix: what is left out, shared or drawn once is what it would have been, bit for bit."""

import copy
import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import paint
from test_sweep import ended, until, workers_of

from perdure import files, plan, plugins, report, run
from perdure import memory as memories
from perdure import method as methods
from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.bases.laying import Laying
from perdure.compare import sentences, study
from perdure.drawing import content, enough
from perdure.drawing.content import Known
from perdure.drawing.sample import Recall
from perdure.drawing.tools import Tools
from perdure.errors import GateRefused, PlanError, TrainingError
from perdure.lesson.trained import Trained
from perdure.lineage import Lineage, history
from perdure.lineage.commons import Commons
from perdure.lineage.rows import Cell
from perdure.parts import neurons
from perdure.plan import Concept, catalogue, workload
from perdure.report import reading
from perdure.run import teaching
from perdure.score import matrix
from perdure.score.measure import Measure
from perdure.sweep import status, tree


def changed(data, **sections):
    """The plan's values with some keys of its sections replaced."""
    values = copy.deepcopy(data)
    for key, value in sections.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return values


def tree_of(folder, leave=()):
    """Contents of every file below a folder, JSON without the keys that tell of time."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", *leave)):
        value = path.read_bytes()
        if path.suffix in (".json", ".jsonl"):
            read = files.read_json if path.suffix == ".json" else files.read_jsonl
            value = repr(timeless(read(path))).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(value).hexdigest()
    return found


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "shared", "peak_memory", "fusing")}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def every(data, tmp_path_factory):
    """The plan with all rows."""
    out = tmp_path_factory.mktemp("every")
    run.run(plan.build(data), out, device="cpu")
    return out


# --- rows: ends ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ends(data, tmp_path_factory):
    """The plan without the rows between."""
    out = tmp_path_factory.mktemp("ends")
    run.run(plan.build(changed(data, sampling={"rows": "ends"})), out, device="cpu")
    return out


def test_the_cells_that_are_drawn_are_those_of_the_whole_matrix(every, ends):
    wanted = {(0, 0), (0, 1), (0, 2), (1, 0), (2, 1), (3, 0), (3, 1), (3, 2)}
    for method in ("merge_init", "naive"):
        whole, own = Lineage(every / method), Lineage(ends / method)
        measured = np.isfinite(own.matrix("clip_i"))
        assert set(zip(*map(list, np.nonzero(measured)), strict=True)) == wanted
        assert (own.matrix("clip_i")[measured] == whole.matrix("clip_i")[measured]).all()
        for mine, theirs in zip(own.rows, whole.rows, strict=True):
            for cell in mine.cells.glob("*"):
                assert tree_of(cell) == tree_of(theirs.cells / cell.name)
            assert mine.record.get("memory") == theirs.record.get("memory")
        assert [bool(row.drift) for row in own.rows] == [True, False, False, True]


def test_what_is_told_of_them(every, ends):
    """By hand: the average is the whole matrix's, forgetting is the fall since the own lesson where that is one."""
    for method in ("merge_init", "naive"):
        S, E = (Lineage(out / method).matrix("clip_i") for out in (every, ends))
        told, whole = matrix.summary(E), matrix.summary(S)
        for figure in ("average", "learning", "backward_transfer", "retention", "gain_over_base"):
            assert told[figure] == whole[figure]
        falls = [max(S[j + 1, j] - S[3, j], 0.0) for j in range(2)]
        assert told["forgetting"] == pytest.approx(sum(falls) / 2) and told["forgetting"] <= whole["forgetting"]
        assert np.isnan(told["running_average"]) and np.isnan(told["forward_transfer"])


def test_report_tables_and_comparison_say_what_is_missing(ends, tmp_path):
    lineages = [Lineage(ends / method) for method in ("merge_init", "naive")]
    page = report.build(lineages, tmp_path, "ends").read_text(encoding="utf-8")
    assert "no average along the way, no forward transfer" in page
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2 * 8
    found = study.of([ends])
    assert any("rows: ends" in told for told in sentences.cautions(found))
    assert np.isfinite(found.spread("clip_i", "average", "naive").mean)
    assert not np.isfinite(found.spread("clip_i", "running_average", "naive").mean)


def test_before_the_last_lesson_nothing_is_averaged(data, ends, tmp_path, perdure):
    own = shutil.copytree(ends / "naive", tmp_path / "own")
    assert perdure("undo", own)[0] == 0
    lineage = Lineage(own)
    (one,) = reading.read([lineage])
    assert not one.whole and np.isnan(matrix.average(lineage.matrix("clip_i"))) and status._scores(lineage) == {}
    page = report.build([lineage], tmp_path / "page", "undone").read_text(encoding="utf-8")
    assert "hardly raised any concept" not in page  # which would be told of whole rows
    code, told, _ = perdure("log", own)
    assert code == 0 and "nan" not in told
    assert status._scores(Lineage(ends / "naive"))["clip_i"] > 0


def test_a_gate_draws_what_it_compares_with(every, ends, tmp_path):
    paint(tmp_path / "bird", 3, seed=77)
    bird = Concept.model_validate({"name": "bird", "images": tmp_path / "bird", "token": "pdw", "class": "dog"})
    for out in (every, ends):
        lineage = Lineage(shutil.copytree(out / "naive", tmp_path / out.name))
        history.undo(lineage)
        with pytest.raises(GateRefused) as refused:
            run.teach(lineage, bird, gate=-2.0, device="cpu")
        assert all(np.isfinite(lineage.matrix("clip_i")[-1]))
        assert (lineage.matrix("clip_i")[-1] == Lineage(every / "naive").matrix("clip_i")[2, :2]).all()
        told = str(refused.value)
        assert told.count("fell from") == 2
        row = run.teach(Lineage(lineage.folder), bird, gate=2.0, device="cpu")
        assert {cell.name for cell in row.cells.glob("*")} == {"dog", "cat", "bird"}


def test_a_longer_plan_goes_on_and_work_is_counted(data, every, ends, photos, tmp_path):
    for rows, out in (("all", every), ("ends", ends)):
        made = plan.build(changed(data, sampling={"rows": rows}))
        drawn = len(list(out.glob("*/lessons/[0-9]*/cells/*/*.png"))) - len(
            list(out.glob("naive/lessons/000-*/cells/*/*.png"))
        )
        assert workload.of(made).images == drawn
        assert sum(status.images_of(made, lesson) for lesson in range(4)) * 2 - 6 == drawn
    paint(tmp_path / "bird", 3, seed=5)
    bird = {"name": "bird", "images": str(tmp_path / "bird"), "token": "pdw", "class": "dog"}
    values = changed(data, sampling={"rows": "ends"}, methods=["naive"], concepts=[*data["concepts"][:1], bird])
    values["methods"] = data["methods"][1:]
    (lineage,) = run.run(plan.build({**values, "concepts": values["concepts"][:1]}), tmp_path / "out", device="cpu")
    (lineage,) = run.run(plan.build(values), tmp_path / "out", device="cpu")
    assert np.isfinite(lineage.matrix("clip_i")).all(axis=1).tolist() == [True, False, True]


def test_only_rows_that_are_drawn_alike_are_shared_by_runs(data):
    """A run that ends where another goes on has a whole row there."""
    made = {rows: plan.build(changed(data, methods=["naive"], sampling={"rows": rows})) for rows in ("all", "ends")}
    for rows, shared in (("all", 2), ("ends", 1)):
        longer = made[rows]
        shorter = longer.model_copy(update={"concepts": longer.concepts[:2]})
        nodes = [list(tree._nodes(one)) for one in (longer, shorter)]
        assert sum(node in nodes[0] for node in nodes[1]) == shared
    with pytest.raises(PlanError, match="unseen draws concepts before they are taught"):
        plan.build(changed(data, sampling={"rows": "ends", "unseen": True}))


# --- cells by content ------------------------------------------------------------------------------------------------

KINDS = ("independent", "cidm", "c_lora", "merge_init", "naive")
"""Methods that are told nothing, the concept or the prompt when they draw; one with words."""


def of_kinds(data, *names, **sections):
    options = {name: {} if name == "joint" else {"rank": 2} for name in names}
    return changed(data, methods=[{"name": n, "label": n, **options[n]} for n in names], **sections)


@pytest.fixture
def alone(monkeypatch):
    """Nothing is taken over."""
    monkeypatch.setattr(Known, "cell", lambda self, lineage, concept, content: None)
    monkeypatch.setattr(Known, "features", lambda self, content, measure, images: measure.features(images))
    monkeypatch.setattr(Tools, "aside", lambda self, work: work())
    monkeypatch.setattr(Trained, "once", lambda self, content, parameters, train: train())


@pytest.fixture
def drawn(monkeypatch):
    """How many pictures the base draws, in batches."""
    seen, real = [], Backbone.draw

    def draw(self, prompts, negative, latents, *rest):
        seen.append(len(latents))
        return real(self, prompts, negative, latents, *rest)

    monkeypatch.setattr(Backbone, "draw", draw)
    return seen


@pytest.fixture(scope="module")
def kinds(data, tmp_path_factory):
    """Methods of all kinds, sharing what they can."""
    out = tmp_path_factory.mktemp("kinds")
    run.run(plan.build(of_kinds(data, *KINDS)), out, device="cpu")
    return out


def test_shared_cells_are_those_drawn_alone(kinds, data, tmp_path, alone):
    """Pictures, scores, confusion, digests: of every lineage, in every lesson."""
    run.run(plan.build(of_kinds(data, *KINDS)), tmp_path, device="cpu")
    for method in KINDS:
        assert tree_of(kinds / method) == tree_of(tmp_path / method), method


def test_what_is_recalled_alike_is_drawn_once(kinds, data, tmp_path, drawn):
    """Of independent one cell a concept; of merge_init and naive one for what both learn first."""
    run.run(plan.build(of_kinds(data, "independent")), tmp_path, device="cpu")
    assert sum(drawn) == 2 * (3 + 3) + 2  # the base's cells, one a concept, and the base's pictures of no concept
    one = Lineage(tmp_path / "independent")
    for row in one.lessons[1:]:
        cells = row.record["shared"]["cells"]
        assert cells == sorted(set(one.concepts[: row.number]) - set(row.concepts))
        assert row.record["shared"]["spared"] == pytest.approx(
            sum(row.cell(name).record["shared"]["spared"] for name in cells)
        )
        for name in cells:
            first, own = one.lessons[one.concepts.index(name)].cell(name), row.cell(name)
            assert [p.stat().st_ino for p in own.images] == [p.stat().st_ino for p in first.images]
            assert own.record["seconds"] == first.record["seconds"] > own.record["shared"]["spared"]
    shared = Lineage(kinds / "naive").lessons[0].cell("dog")
    assert (
        shared.record["shared"]
        and shared.record["content"] == (Lineage(kinds / "merge_init").lessons[0].cell("dog").record["content"])
    )
    assert "shared" not in Lineage(kinds / "merge_init").lessons[1].record


def test_what_moves_while_it_is_linked_is_written(kinds, data, tmp_path, drawn, monkeypatch):
    """Another lineage finishes the lesson that a cell lies in, which renames its folder, just then."""
    real = Known.cell

    def moved(self, *given):
        found = real(self, *given)
        return found and replace(found, cell=at(found.cell, tmp_path / "gone"))

    def at(cell, folder):
        there = Cell(folder)
        there.__dict__["record"] = cell.record  # which was read before
        return there

    monkeypatch.setattr(Known, "cell", moved)
    out = shutil.copytree(kinds, tmp_path / "out")
    again = [{"name": "merge_init", "rank": 2, "label": "again"}]
    run.run(plan.build(changed(data, methods=again)), out, device="cpu")
    left = ("lesson.json",)
    assert sum(drawn) == 4 * 2 and tree_of(out / "again/lessons", left) == tree_of(out / "merge_init/lessons", left)


def test_the_same_run_under_another_name_draws_nothing(kinds, data, tmp_path, drawn):
    out = shutil.copytree(kinds, tmp_path / "out")
    again = [{"name": "merge_init", "rank": 2, "label": "again"}]
    run.run(plan.build(changed(data, methods=again)), out, device="cpu")
    assert sum(drawn) == 4 * 2  # prompts that mention no concept are little, and drawn by each lineage
    left = ("lesson.json",)
    assert tree_of(out / "again/lessons", left) == tree_of(out / "merge_init/lessons", left)


def test_what_is_gone_or_damaged_is_drawn_again(kinds, data, tmp_path):
    """A kill in the middle leaves less than is known of: the index leads nowhere, or to half a picture."""
    out = shutil.copytree(kinds, tmp_path / "out")
    whole = tree_of(out / "naive")
    shutil.rmtree(out / "naive/lessons/001-dog/cells")
    shutil.rmtree(out / "naive")
    (out / "merge_init/lessons/001-dog/cells/dog/001.png").write_bytes(b"half")
    next((out / ".shared/cells").glob("*.json")).write_text("{")
    run.run(plan.build(of_kinds(data, *KINDS)), out, device="cpu")
    assert tree_of(out / "naive") == whole
    shutil.rmtree(out / "naive")
    shutil.rmtree(out / ".shared")
    run.run(plan.build(of_kinds(data, *KINDS)), out, device="cpu")
    assert tree_of(out / "naive") == whole


def test_an_index_never_leads_outside(kinds, tmp_path):
    """A name read from a file is never a path."""
    out = shutil.copytree(kinds, tmp_path / "out")
    shutil.copytree(out / "naive", tmp_path / "other")
    (place,) = [p for p in (out / ".shared/cells").glob("*") if files.read_json(p)["row"] == "002-cat"][:1]
    known = files.read_json(place)
    assert Commons(out).cell(place.stem) is not None
    for wrong in ({"lineage": ["..", "other"]}, {"row": "../001-dog"}, {"concept": "../dog"}, {"lineage": []}):
        files.write_json(place, {**known, **wrong})
        assert Commons(out).cell(place.stem) is None
    files.write_json(place, {**known, "row": "001-dog", "concept": "dog"})  # of another content
    assert Commons(out).cell(place.stem) is None


CHANGES = (
    {"seed": 1}, {"guidance": 2.0}, {"steps": 2}, {"negative_prompt": "cat"}, {"scheduler": "euler"},
    {"resolution": 16}, {"images_per_prompt": 1}, {"batch_size": 3},
    {"prompts": {"subject": ["{concept}"], "style": ["{concept}"]}},
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_whatever_decides_a_picture_decides_its_content(kinds, data, pico, change):
    made = [plan.build(of_kinds(data, "c_lora", sampling=own)) for own in ({}, change)]
    line, backbone = Lineage(kinds / "c_lora"), loading.load(str(pico), device="cpu")
    row = line.lessons[1]
    memory = memories.load(row.memory, line.store)
    keys = []
    for one in made:
        recall = Recall(backbone, methods.get("c_lora", {"rank": 2}), memory)
        keys.append(content.of(one, line, backbone, recall, "dog", one.prompts_for(one.concepts[0])))
    assert keys[0] == row.cell("dog").record["content"] != keys[1]


def test_words_weights_and_threads_decide_it_too(kinds, data, pico):
    made, line = plan.build(of_kinds(data, "c_lora")), Lineage(kinds / "c_lora")
    backbone, chosen = loading.load(str(pico), device="cpu"), methods.get("c_lora", {"rank": 2})
    memory = memories.load(line.lessons[1].memory, line.store)
    (token,) = [name for name in memory.tensors if name.startswith("words/zwz")]
    moved = next(name for name in memory.tensors if name.startswith("delta/"))
    found = []
    for name in (None, token, moved):
        held = {**memory.tensors, **({name: memory.tensors[name] + 1e-6} if name else {})}
        recall = Recall(backbone, chosen, replace(memory, tensors=held))
        found.append(content.of(made, line, backbone, recall, "dog", ["zwz dog"]))
    torch.set_num_threads(2)
    try:
        found.append(content.of(made, line, backbone, Recall(backbone, chosen, memory), "dog", ["zwz dog"]))
    finally:
        torch.set_num_threads(1)
    assert len(set(found)) == 4


def test_a_delta_is_put_together_once_a_lesson(data, tmp_path, monkeypatch):
    made, real = [], Laying.ready
    monkeypatch.setattr(Laying, "ready", lambda self, delta: made.append(len(delta)) or real(self, delta))
    run.run(plan.build(of_kinds(data, "merge_init")), tmp_path, device="cpu")
    assert len([count for count in made if count]) == 3 + 2  # once a lesson, and under the adapter from the second on


# --- first lessons ---------------------------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch):
    """How many training steps are taken."""
    seen, real = [], teaching._Told.step
    monkeypatch.setattr(teaching._Told, "step", lambda self, done: seen.append(1) or real(self, done))
    return seen


def trained_by(lineage):
    return [row.record.get("shared", {}).get("trained", "") for row in lineage.lessons]


def test_first_lessons_that_begin_alike_are_trained_once(kinds, data, tmp_path, steps):
    """`test_shared_cells_are_those_drawn_alone` holds them to those trained alone: memories, pictures, scores."""
    run.run(plan.build(of_kinds(data, "naive", "ewc", "magmax")), tmp_path, device="cpu")
    assert len(steps) == 3 * 3 * 2 - 2 * 2 and not list((tmp_path / ".shared/adapters").glob("*"))
    lines = [Lineage(tmp_path / name) for name in ("naive", "ewc", "magmax")]
    assert [trained_by(line) for line in lines] == [["", "", ""], *[["naive/001-dog", "", ""]] * 2]
    first, second = (line.lessons[0] for line in lines[:2])
    assert [{**row, "shared": "naive/001-dog"} for row in first.losses()] == second.losses()
    assert second.record["seconds"]["train"] == first.record["seconds"]["train"]
    spent = sum(row["seconds"] for row in second.losses()) + second.cell("dog").record["shared"]["spared"]
    assert second.record["shared"]["spared"] == pytest.approx(spent, abs=2e-3)
    page = report.build(lines, tmp_path, "shared").read_text(encoding="utf-8")
    assert "Of ewc: the adapter of naive/001-dog taken over" in page and "Of naive: " not in page
    of_all = {name: trained_by(Lineage(kinds / name))[0] for name in KINDS}
    assert of_all == dict.fromkeys(KINDS, "") | dict.fromkeys(("merge_init", "naive"), "independent/001-dog")


def test_what_is_taught_apart_is_trained_once(data, tmp_path, steps):
    """Every lesson of methods that begin on the untouched base; a method that stacks takes only its first one over."""
    made = plan.build(of_kinds(data, "independent", "mean", "ties_running", "naive"))
    lines = run.run(made, tmp_path / "shared", device="cpu")
    assert len(steps) == 2 * (3 + 2)
    own = ["independent/001-dog", "independent/002-cat", "independent/003-clock"]
    assert [trained_by(line) for line in lines] == [["", "", ""], own, own, [own[0], "", ""]]


def test_a_run_of_one_method_keeps_no_adapter(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Trained, "once", lambda *given: pytest.fail("nobody else begins here"))
    run.run(plan.build(of_kinds(data, "naive", concepts=data["concepts"][:1])), tmp_path, device="cpu")


@pytest.mark.parametrize("damage", [None, b"", b"half"])
def test_killed_between_training_and_remembering(data, tmp_path, steps, damage):
    """What was trained is taken up again by its own lesson, which is not called shared; damaged, it is trained anew."""
    made = plan.build(of_kinds(data, "merge_init", "naive", concepts=data["concepts"][:1]))
    run.run(made, tmp_path / "whole", device="cpu")
    del steps[:]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(memories, "save", raising)
        run.run(made, tmp_path / "killed", device="cpu")
    (kept,) = (tmp_path / "killed/.shared/adapters").glob("*.safetensors")
    if damage is not None:
        kept.write_bytes(damage)
    assert len(steps) == 2
    first, second = run.run(made, tmp_path / "killed", device="cpu")
    assert len(steps) == (2 if damage is None else 4)
    assert trained_by(first) == [""] and trained_by(second) == ["merge_init/001-dog"]
    for name in ("merge_init", "naive"):
        assert tree_of(tmp_path / "killed" / name) == tree_of(tmp_path / "whole" / name)


def raising(*given):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "change",
    [{"training": {"learning_rate": 2e-2}}, {"seed": 1}, {"training": {"flip": True}}, {"training": {"steps": 1}}],
)
def test_whatever_decides_an_adapter_decides_its_content(data, tmp_path, monkeypatch, change):
    seen, real = [], Trained.once
    monkeypatch.setattr(
        Trained, "once", lambda self, content, *rest: seen.append(content) or real(self, content, *rest)
    )
    for out, sections in ((tmp_path / "a", {}), (tmp_path / "b", change)):
        made = of_kinds(data, "naive", "merge_init", concepts=data["concepts"][:1], **sections)
        run.run(plan.build(made), out, device="cpu")
    assert seen[0] == seen[1] != seen[2] == seen[3] and all(seen)


@pytest.mark.slow
def test_every_method_learns_and_shows_what_it_would_alone(data, tmp_path, request, monkeypatch):
    """Two lessons with each method, side by side in one folder and each with nothing taken over.

    What is counted over many noised pictures is counted over a few.
    """
    for many in ("SAMPLES", "CALIBRATION", "NOISES"):
        monkeypatch.setattr(neurons, many, 2)
    names = [name for name in plugins.own(plugins.METHOD) if catalogue.card(name).needs != "classes"]
    few = [{"name": name, "label": name} | ({"samples": 2} if name in ("dsc", "ewc") else {}) for name in names]
    sections = {"training": {"steps": 1}, "sampling": {"images_per_prompt": 1}, "methods": few}
    made = plan.build(changed(data, concepts=data["concepts"][:2], **sections))
    run.run(made, tmp_path / "shared", device="cpu")
    request.getfixturevalue("alone")
    for line in run.run(made, tmp_path / "alone", device="cpu"):
        assert tree_of(line.folder) == tree_of(tmp_path / "shared" / line.folder.name), line.folder.name
    shared = [name for name in names if any(trained_by(Lineage(tmp_path / "shared" / name)))]
    assert {"merge_init", "magmax", "merge_ortho", "naive", "l2", "ewc", "lwf", "replay"} <= {"ewc", *shared}
    apart = [name for name in names if all(trained_by(Lineage(tmp_path / "shared" / name)))]
    assert {"sum", "mean", "ties", "ties_running", "knots", "svd", "least_squares"} <= {*apart}  # dare trains them


# --- at the same time ------------------------------------------------------------------------------------------------


def test_a_cell_is_scored_while_the_next_one_is_drawn(data, tmp_path, monkeypatch):
    """The second cell of a row is not drawn before the first one is written: side by side, that is no deadlock."""
    written, drawn, real_write, real_draw = threading.Event(), [], files.write_json, Backbone.draw

    def write(path, value):
        real_write(path, value)
        if path.parts[-3:-1] == ("cells", "dog.partial") and "002-cat.partial" in path.parts:
            written.set()

    def draw(self, *given):
        drawn.append(1)
        if (
            len(drawn) == 7
        ):  # dog by the base, after lesson 1, drift twice; cat by the base, dog, and now cat after lesson 2
            assert written.wait(60)
        return real_draw(self, *given)

    monkeypatch.setattr(files, "write_json", write)
    monkeypatch.setattr(Backbone, "draw", draw)
    (line,) = run.run(plan.build(of_kinds(data, "naive", concepts=data["concepts"][:2])), tmp_path, device="cpu")
    assert written.is_set() and np.isfinite(line.matrix("clip_i")[2]).all()


def test_what_fails_aside_fails_the_lesson(data, tmp_path, monkeypatch):
    real, model = Measure.score_features, tmp_path / "naive"

    def score(self, *given):
        if threading.current_thread() is not threading.main_thread() and Lineage(model).base_row.drawn:
            raise TrainingError("told aside")
        return real(self, *given)

    monkeypatch.setattr(Measure, "score_features", score)
    made = plan.build(of_kinds(data, "naive", concepts=data["concepts"][:1]))
    with pytest.raises(TrainingError, match="told aside"):
        run.run(made, tmp_path, device="cpu")
    assert Lineage(model).base_row.drawn and not Lineage(model).lessons
    monkeypatch.setattr(Measure, "score_features", real)
    (line,) = run.run(made, tmp_path, device="cpu")
    assert np.isfinite(line.matrix("clip_i")).all()


@pytest.mark.slow
def test_ctrl_c_stops_methods_side_by_side_and_the_same_plan_goes_on(data, tmp_path):
    """As a terminal does it: the signal reaches all, some still starting. What follows has the bits of one run."""
    long = changed(
        data, concepts=data["concepts"][:1], training={**data["training"], "steps": 100, "checkpoint_every": 10}
    )  # far more than are taken before the signal, on a busy machine as well
    (tmp_path / "plan.json").write_text(json.dumps(long))
    words = [sys.executable, "-m", "perdure", "run", str(tmp_path / "plan.json"), "--workers", "2", "--device", "cpu"]
    told, out = (tmp_path / "told").open("w"), tmp_path / "out"
    hearing = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells start what runs in the background deaf
    with subprocess.Popen(
        [*words, "--out", str(out)], stdout=told, stderr=told, start_new_session=True, preexec_fn=hearing
    ) as process:
        until(lambda: any(out.glob("*/lessons/*/checkpoint*")), meanwhile=lambda: process.poll() is None)
        workers = workers_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 130 and len(workers) == 2
    until(lambda: all(map(ended, workers)))
    said = (tmp_path / "told").read_text()
    assert "the same command continues where it was" in said and "Traceback" not in said
    assert "perdure report" in said
    lines = run.run(plan.build(long), out, device="cpu")
    for line, whole in zip(lines, run.run(plan.build(long), tmp_path / "whole", device="cpu"), strict=True):
        assert tree_of(line.folder) == tree_of(whole.folder)


@pytest.mark.slow
def test_methods_side_by_side_are_those_one_by_one(every, data, tmp_path):
    """Bit for bit; what one of them cannot do ends the others, and the same command goes on."""
    made, bars = plan.build(data), []

    @contextmanager
    def watch(what, total):
        bars.append(what)
        yield lambda count, note: None

    lessons = []
    lines = run.run(made, tmp_path / "two", watch, "cpu", lambda: lessons.append(1), workers=2)
    for line in lines:
        assert tree_of(line.folder) == tree_of(every / line.folder.name)
    assert len(lessons) == 6 and {bar.partition(":")[0] for bar in bars} == {"merge_init", "naive"}
    wild = [*data["methods"], {"name": "l2", "rank": 2, "label": "wild", "training": {"learning_rate": 1e30}}]
    with pytest.raises(TrainingError, match="diverged"):
        run.run(plan.build(changed(data, methods=wild)), tmp_path / "wild", device="cpu", workers=3)
    assert not multiprocessing.active_children()
    run.run(made, tmp_path / "wild", device="cpu")
    for line in lines:
        assert tree_of(line.folder) == tree_of(tmp_path / "wild" / line.folder.name)


# --- sampling.budget -------------------------------------------------------------------------------------------------


def test_an_interval_by_hand():
    """Of 4 noises .1 .2 .3 .4: mean .25, deviation .1291, standard error .06455; t(3) at 1 - .05 / 3 / 2 is 4.857."""
    assert enough.looks(4, 20) == [4, 8, 16, 20] and enough.looks(4, 4) == [4] and enough.looks(8, 4) == [4]
    assert enough.half_width(np.array([0.1, 0.2, 0.3, 0.4]), 3, 0.95) == pytest.approx(4.857 * 0.06455, rel=1e-3)
    assert enough.half_width(np.array([0.1]), 1, 0.95) == np.inf


def test_stopping_when_it_looks_good_does_not_spoil_the_interval():
    """Of 4000 cells of normal scores that stop at a width, at least 95 % hold the mean; by plain intervals fewer."""
    draws, looks, held = np.random.default_rng(0).normal(size=(4000, 32)), enough.looks(4, 32), {}
    for name, spread_over in (("ours", len(looks)), ("plain", 1)):
        inside = []
        for scores in draws:
            for count in looks:
                width = enough.half_width(scores[:count], spread_over, 0.95)
                if width <= 0.8:
                    break
            inside.append(abs(scores[:count].mean()) <= width)
        held[name] = np.mean(inside)
    assert held["ours"] >= 0.95 > held["plain"]


def test_a_cell_is_drawn_until_its_mean_is_known(every, data, tmp_path, drawn):
    """In batches of the same pictures these are the first of those drawn without; how many is told."""
    many = changed(data, methods=data["methods"][:1], sampling={"images_per_prompt": 6, "batch_size": 2})
    (whole,) = run.run(plan.build(many), tmp_path / "whole", device="cpu")
    everything = sum(drawn)
    del drawn[:]
    spread = np.std(whole.lessons[0].cell("dog").record["each"]["clip_i"], ddof=1)
    asked = {"half_width": float(40 * spread), "first": 2}
    (line,) = run.run(plan.build(changed(many, sampling={"budget": asked})), tmp_path / "some", device="cpu")
    assert sum(drawn) < everything
    for row, full in zip(line.rows, whole.rows, strict=True):
        for cell in row.drawn:
            told, other = cell.record["budget"], full.cell(cell.folder.name)
            count = told["noises"]
            assert count in (2, 4, 6) and told["most"] == 6 and len(cell.images) == count
            assert [p.read_bytes() for p in cell.images] == [p.read_bytes() for p in other.images[:count]]
            each = np.array(other.record["each"]["clip_i"][:count])
            assert told["half_width"] == pytest.approx(enough.half_width(each, 3, 0.95), abs=1e-4)
            assert told["half_width"] <= asked["half_width"] or count == 6
            assert cell.scores["clip_i"] == pytest.approx(each.mean(), abs=1e-5)
    assert "pictures a prompt" in report.build([line], tmp_path, "some").read_text(encoding="utf-8")
