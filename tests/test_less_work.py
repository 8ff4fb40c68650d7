"""Less work for the same matrix: what is left out, shared or drawn once is what it would have been, bit for bit."""

import copy
import csv
import hashlib
import shutil

import numpy as np
import pytest
from conftest import paint

from perdure import files, plan, report, run
from perdure.compare import study, words
from perdure.errors import GateRefused, PlanError
from perdure.lineage import Lineage, history
from perdure.plan import Concept, workload
from perdure.report import reading
from perdure.score import matrix
from perdure.sweep import status, tree


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
        if path.suffix == ".json":
            value = repr(timeless(files.read_json(path))).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(value).hexdigest()
    return found


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "shared", "peak_memory")}
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
    assert any("rows: ends" in told for told in words.cautions(found))
    assert np.isfinite(found.spread("clip_i", "average", "naive").mean)
    assert not np.isfinite(found.spread("clip_i", "running_average", "naive").mean)


def test_before_the_last_lesson_nothing_is_averaged(data, ends, tmp_path, perdure):
    own = shutil.copytree(ends / "naive", tmp_path / "own")
    assert perdure("undo", own)[0] == 0
    lineage = Lineage(own)
    (one,) = reading.read([lineage])
    assert not one.whole and np.isnan(matrix.average(lineage.matrix("clip_i"))) and status._scores(lineage) == {}
    page = report.build([lineage], tmp_path / "page", "undone").read_text(encoding="utf-8")
    assert "until then only what a lesson taught is drawn" in page
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
