"""Comparing methods: made-up lineages with known scores, numbers checked against those done by hand."""

import csv
import io
import json
import math
import shutil
import subprocess
from dataclasses import replace
from itertools import permutations
from xml.etree import ElementTree

import numpy as np
import pytest
from test_statistics import by_order
from typer.testing import CliRunner

from perdure import compare, plan
from perdure.cli import app
from perdure.compare import charts, page, published, sentences, study, tables
from perdure.errors import LineageError, PlanError
from perdure.lineage import Lineage
from perdure.report.charts import Series, line_chart, look_of

ORDERS = ((1, 2, 3), (3, 1, 2), (2, 3, 1))
MANY = tuple(permutations((1, 2, 3, 4)))[::3]
"""Eight orders: enough to settle something among three methods."""
KEPT = {"naive": 0.5, "merge_init": 0.8, "magmax": 0.79, "independent": 1.0, "joint": 1.0}
LEARNT = {"naive": 0.4, "merge_init": 0.38, "magmax": 0.3, "independent": 0.42, "joint": 0.36}
TEMPLATES = {"subject": ["a photo of {concept}"], "style": ["{concept} image of a dog"]}


def score(method, order, seed, lesson, own, k):
    """Base .3; a lesson adds LEARNT, later ones keep KEPT of it; order and seed add a little."""
    if not lesson:
        return 0.3
    place = (ORDERS if order in ORDERS else MANY).index(order)
    shift = 0.01 * place + 0.004 * seed + 0.002 * ((3 * seed + place + len(method)) % 4)
    return 0.3 + LEARNT[method] * KEPT[method] ** (lesson - own) + shift


def make(
    folder, method="naive", order=ORDERS[0], seed=0, lessons=None, score=score, better="higher", **changes
):  # fmt: skip
    """One lineage on disk: lesson.json and cell.json as a run writes them, no pictures, no tensors."""
    joint = method == "joint"
    data = {
        "name": "fake", "methods": [{"name": "naive" if joint else method, "label": method}], "order": list(order),
        "seed": seed, "concepts": {"toybox": {"subjects": len(order)}}, "scoring": {"subject": ["dino", "clip_i"]},
        "training": {"steps": 10 * (len(order) if joint else 1)}, **changes,
    }  # fmt: skip
    made = plan.build(data)
    lineage = Lineage.create(folder, made, "weights", {})
    taught = [made.sequence] if joint else [(c,) for c in made.sequence[:lessons]]
    seen = [c for group in taught for c in group]
    for concept in seen:
        lineage.adopt_concept(concept, {"digest": "0", "held_out": True})
    for number in range(len(taught) + 1):
        name = "base" if not number else "joint" if joint else taught[number - 1][0].name
        row = folder / "lessons" / f"{number:03d}-{name}"
        row.mkdir(parents=True)
        if number:
            record = {
                "concepts": [c.name for c in taught[number - 1]], "method": {"label": method}, "memory": str(number),
                "steps": 10, "seconds": {"train": 10.0 + seed, "evaluate": 1.0},
                "bytes": {"carried": 1000 * (number if method == "independent" else 1), "stored": 1},
            }  # fmt: skip
            (row / "lesson.json").write_text(json.dumps(record))
        for k, concept in enumerate(seen if joint or not number else seen[:number]):
            value = score(method, order, seed, number, 1 if joint else k + 1, k)
            cell = row / "cells" / concept.name
            cell.mkdir(parents=True)
            scores = {"dino": value, "clip_i": value / 2 + 0.4}
            measures = {m: {"direction": better, "model": "toy", "spec": {}} for m in scores}
            taken = {m: v for m, v in scores.items() if v is not None}
            found = {"concept": concept.name, "scores": taken, "measures": measures, "images": []}
            (cell / "cell.json").write_text(json.dumps(found))
    return folder


def make_sweep(root, methods=("naive", "merge_init", "magmax"), orders=ORDERS, seeds=(0, 1), **changes):
    """One run a method, order and seed, each in a folder of its own with its run.json."""
    for method in methods:
        for k, order in enumerate(orders):
            for seed in seeds:
                folder = make(root / f"{method}-{k}-{seed}", method, order, seed, **changes)
                axes = {"method": method, "order": f"order {k}", "seed": seed}
                (folder / "run.json").write_text(json.dumps({"name": folder.name, "axes": axes, "fingerprint": "x"}))
    return root


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return make_sweep(tmp_path_factory.mktemp("sweep"), ("naive", "merge_init", "magmax", "independent", "joint"))


@pytest.fixture(scope="module")
def whole(sweep):
    return of(sweep)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Three methods and a bound over eight orders, one seed."""
    root = tmp_path_factory.mktemp("many")
    return make_sweep(root, ("naive", "merge_init", "magmax", "independent"), MANY, seeds=(0,))


def of(folders, **how):
    return study.of([folders] if not isinstance(folders, list) else folders, **how)


# --- finding and matching runs ---------------------------------------------------------------------------------------


def test_sweep_is_found_and_counted(whole):
    assert whole.rows == ("merge_init", "magmax", "naive", "independent", "joint")
    assert len(whole.entries) == 30 and len(whole.orders) == 3 and whole.seeds == (0, 1) and not whole.unfinished
    values = [
        np.mean([score("naive", order, seed, 3, j + 1, j) for j in range(3)]) for order in ORDERS for seed in (0, 1)
    ]
    got = whole.spread("dino", "average", "naive")
    assert (got.n, got.mean, got.std) == (6, pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    T = 3
    for row in ("naive", "magmax"):
        mine = [whole.spread("dino", key, row).mean for key in ("forgetting", "forgetting_reference")]
        assert mine[1] == pytest.approx(mine[0] * (T - 1) / T)
    assert whole.spread("dino", "forgetting", "joint").n == 0 and whole.bases["base"]["dino"] == pytest.approx(0.3)
    assert [d.n for *_, d in whole.differences("dino", "average")] == [3, 3, 3]
    assert set(whole.standing("dino", "average").rank) == {"merge_init", "magmax", "naive"}


def test_without_run_json_the_lineages_tell(tmp_path):
    for seed in (0, 3):
        for method in ("naive", "joint"):
            make(tmp_path / f"run-{seed}" / method, method, ORDERS[1], seed)
    found = of([tmp_path / "run-0", tmp_path / "run-3" / "naive", tmp_path, tmp_path / "run-0"])
    assert [(e.row, e.seed) for e in found.entries] == [("joint", 0), ("naive", 0), ("naive", 3), ("joint", 3)]
    assert found.bounds == ("joint",) and found.entries[0].order[0].startswith("can")
    again = of(tmp_path / "run-0")
    assert again.spread("dino", "average", "naive").n == 1


def test_a_run_folder_with_several_lineages_keeps_their_labels(tmp_path):
    for method in ("naive", "magmax"):
        make(tmp_path / "run" / method, method)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"axes": {"method": "both", "seed": 0}}))
    assert set(of(tmp_path).rows) == {"naive", "magmax"}
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(LineageError, match="axes"):
        of(tmp_path)


def test_depth_and_what_is_no_run(tmp_path):
    make(tmp_path / "1/2/3/4", "naive")
    with pytest.raises(LineageError, match="no finished run"):
        of(tmp_path)
    assert len(of(tmp_path / "1").entries) == 1
    with pytest.raises(LineageError, match="not a folder"):
        of(tmp_path / "nope")
    make(tmp_path / "a" / "model.partial", "naive")
    with pytest.raises(LineageError, match="no finished run"):
        of(tmp_path / "a")


def test_unfinished_runs_are_named_and_left_out(tmp_path):
    make_sweep(tmp_path, ("naive", "magmax"), seeds=(0,))
    make(tmp_path / "cut", "naive", seed=1)
    shutil.rmtree(next((tmp_path / "cut" / "lessons").glob("003-*")))
    found = of(tmp_path)
    assert len(found.entries) == 6 and found.unfinished == (f"{tmp_path / 'cut'} (2 of 3 concepts)",)
    assert "cut (2 of 3 concepts)" in sentences.cautions(found)[0]
    with pytest.raises(LineageError, match="2 of 3 concepts"):
        of(tmp_path / "cut")


def test_axes_of_a_sweep_make_rows(tmp_path):
    templates = {"plain": ["a photo of {concept}"], "rare": ["a picture of {concept}"]}
    for label, prompts in templates.items():
        for method in ("naive", "magmax"):
            changes = {"sampling": {"prompts": {"subject": prompts}}}
            own = score if label == "plain" else lambda *run: score(*run) - 0.1
            folder = make(tmp_path / f"{method}-{label}", method, score=own, **changes)
            axes = {"method": method, "order": "listed", "seed": 0, "template": label, "training.steps": 10}
            (folder / "run.json").write_text(json.dumps({"axes": axes}))
    found = of(tmp_path)
    assert set(found.rows) == {"naive · plain", "naive · rare", "magmax · plain", "magmax · rare"}
    bases = {name: base["dino"] for name, base in found.bases.items()}
    assert bases == {"base · plain": pytest.approx(0.3), "base · rare": pytest.approx(0.2)}, "asked otherwise each"
    shown = compare.as_json(found)
    assert shown["bases"]["base · rare"]["dino"] == pytest.approx(0.2)
    assert "Base · rare & 0.20" in tables.table_tex(found)
    assert '<th scope="row">base · plain</th>' in page.render(page.view(found, "prompts", None))
    make(tmp_path / "other", "naive", seed=1, sampling={"prompts": {"subject": templates["rare"]}})
    make(tmp_path / "third", "naive", seed=2)
    with pytest.raises(LineageError, match=r"cannot be compared: sampling\.prompts"):
        of(tmp_path)


def test_other_training_makes_rows_and_other_worlds_are_refused(tmp_path):
    make(tmp_path / "a" / "naive", "naive")
    make(tmp_path / "a" / "joint", "joint")
    make(tmp_path / "b" / "naive", "naive", training={"steps": 20, "checkpoint_every": 5})
    assert set(of(tmp_path).rows) == {"naive · steps=10", "naive · steps=20", "joint · steps=10"}
    four = make(tmp_path / "c" / "naive", "naive", (1, 2, 3, 4), score=lambda *_: 0.5)
    with pytest.raises(LineageError, match="cannot be compared: concepts has"):
        of([tmp_path / "a", four])


def test_a_method_may_train_in_its_own_way(tmp_path):
    make(tmp_path / "naive", "naive")
    own = {"name": "magmax", "label": "magmax", "training": {"learning_rate": 0.5}}
    made = plan.build({"methods": [own]})
    make(tmp_path / "magmax", "magmax", training={"steps": 10, "learning_rate": 0.5})
    path = tmp_path / "magmax" / "lineage.json"
    facts = json.loads(path.read_text())
    facts["settings"]["methods"] = made.settings()["methods"]
    path.write_text(json.dumps(facts))
    assert set(of(tmp_path).rows) == {"naive", "magmax"}


def test_twins_and_namesakes_are_refused(tmp_path):
    make(tmp_path / "a" / "naive", "naive")
    make(tmp_path / "b" / "naive", "naive")
    with pytest.raises(LineageError, match="the same method, order and seed"):
        of(tmp_path)
    shutil.rmtree(tmp_path / "b")
    make(tmp_path / "b" / "naive", "naive", seed=1, methods=[{"name": "naive", "label": "naive", "rank": 2}])
    with pytest.raises(LineageError, match="both called 'naive', but options"):
        of(tmp_path)


def test_methods_without_common_pairs_are_called_so(tmp_path):
    make(tmp_path / "a", "naive", seed=0)
    make(tmp_path / "b", "magmax", seed=1)
    found = of(tmp_path)
    assert found.standing("dino", "average").n == 0
    assert "shares no order and seed" in sentences.finding(found, "dino", "average")
    assert any("not all run on the same orders and seeds" in told for told in sentences.cautions(found))
    text = page.render(page.view(found, "x", None))
    assert "no common order" in text and "No order and seed is common" in text


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_finding_in_words(whole, many, tmp_path):
    said = sentences.finding(of(many), "dino", "average")
    assert said.startswith("merge_init is better than magmax (8 of 8 orders, +0.0") and "p = 0.023)" in said
    said = sentences.finding(whole, "dino", "forgetting")
    assert said.startswith("magmax is ahead of merge_init (3 of 3 orders, −0.0")
    assert said.endswith("too few to settle it (a verdict among 3 comparisons takes 7).") and "p =" not in said
    assert not sentences.cautions(of(many))
    assert sentences.cautions(whole) == [
        "3 orders, whatever the seeds, settle nothing: the exact sign-flip test cannot give less than p = 0.25 there; "
        "a verdict among 3 comparisons takes 7."
    ]
    few = of(make_sweep(tmp_path / "few", ("naive", "magmax"), orders=ORDERS[:1]))
    said = sentences.finding(few, "dino", "forgetting")
    assert said.startswith("magmax is ahead of naive in 1 of 1 order, −0.1") and "a verdict takes 6" in said
    alone = of(make_sweep(tmp_path / "one", ("naive",), orders=ORDERS[:1], seeds=(0,)))
    assert "nothing to compare" in sentences.finding(alone, "dino", "average")

    def noisy(method, order, seed, lesson, own, k):
        wave = {"naive": seed + 2 * ORDERS.index(order), "magmax": 3 * seed + ORDERS.index(order) + 1}[method]
        return 0.3 + 0.01 * (wave % 4) * bool(lesson)

    alike = of(make_sweep(tmp_path / "alike", ("naive", "magmax"), score=noisy))
    assert "cannot be told apart from" in sentences.finding(alike, "dino", "average")


def test_where_lower_is_better(tmp_path):
    root = make_sweep(tmp_path, ("naive", "magmax"), better="lower", score=lambda *a: 1 - score(*a))
    found = of(root)
    assert found.better("dino", "average") == found.better("dino", "forgetting") == "lower"
    assert found.better("dino", "gain_over_base") == "higher"
    assert found.contenders == ("magmax", "naive") and found.spread("dino", "forgetting", "naive").mean > 0.1
    assert sentences.finding(found, "dino", "average").startswith("magmax is ahead of naive in 3 of 3 orders, −0.0")
    assert r"dino $\downarrow$" in tables.table_tex(found)


def test_pareto_front_keeps_what_nobody_beats():
    points = {"cheap": (1, 0.2), "good": (5, 0.9), "worse": (5, 0.5), "dear": (9, 0.9), "twin": (1, 0.2)}
    assert charts.pareto(points, "higher") == ["cheap", "twin", "good"]
    assert charts.pareto(points, "lower") == ["cheap", "twin"]


def test_the_longest_name_ends_inside_the_chart():
    name = "stamina_sparsity-0.03_w"
    _, axes = charts._framed("across", "up", [name, "cns"])
    charts._finished(axes, [(name, look_of(0), 0.2), ("cns", look_of(1), 0.1)])
    lines = line_chart([Series(name, (0.1, 0.2), replace(look_of(0), hollow=True))], ["a", "b"])
    for figure in (axes.figure, lines):
        figure.canvas.draw()
        (axes,) = figure.axes
        ends = [text.get_window_extent().x1 for text in axes.texts if text.get_text().startswith("stamina")]
        assert len(ends) == 1 and ends[0] <= figure.bbox.x1


def test_charts_are_files_of_their_own(whole, tmp_path):
    written = page.write(whole, tmp_path)
    keys = ("trade-off", "mean", "first", "carried", "seconds")
    assert {path.name for path in written} == {f"{key}-{m}.svg" for key in keys for m in ("dino", "clip_i")}
    for path in written:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in path.read_text(encoding="utf-8")  # the colours are its own
        assert "merge_init" in "".join(root.itertext())


def test_page_is_one_safe_file(whole, tmp_path):
    from test_report import check_page

    text, parsed = check_page(compare.write(whole, tmp_path, "a <b> & c"), 200_000)
    assert "a &lt;b&gt; &amp; c" in text and "merge_init is ahead of magmax" in text and "none: 3 orders" in text
    assert 'class="best"' not in text, "nothing is settled over three orders"
    assert sum(a["height"] == "360" for a in parsed.all("svg")) == 5 and len(parsed.all("table")) > 10
    assert not list(tmp_path.glob("*.tmp"))
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    compare.write(whole, tmp_path / "again", "a <b> & c")
    assert first == {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()}
    assert set(first) == {"compare.html", "compare.csv", "compare-summary.csv", "compare.tex"}


@pytest.mark.parametrize("concepts", [1, 3])
def test_one_run_still_makes_a_page(tmp_path, concepts):
    from test_report import check_page

    order = tuple(range(1, concepts + 1))
    found = of(make(tmp_path / "m", "naive", order, score=lambda *a: 0.3 + 0.4 * bool(a[3])))
    text, _ = check_page(compare.write(found, tmp_path / "out", "x"), 100_000)
    assert "nothing to compare" in text and "±" not in (tmp_path / "out/compare.tex").read_text().split("\n", 1)[1]
    assert compare.as_json(found)["differences"][0]["pairs"] == []


def test_scores_that_are_missing_are_counted(tmp_path):
    """A lesson that was not scored must not be stood for by the one before."""
    make_sweep(tmp_path, ("naive", "magmax"), seeds=(0,))
    for path in (tmp_path / "naive-1-0" / "lessons").glob("003-*/cells/*/cell.json"):
        record = json.loads(path.read_text())
        del record["scores"]["dino"]
        path.write_text(json.dumps(record))
    found = of(tmp_path)
    assert [found.spread(m, "average", "naive").n for m in ("dino", "clip_i")] == [2, 3]
    assert [d.n for *_, d in found.differences("dino", "average")] == [2]
    text = page.render(page.view(found, "x", None))
    assert "n = 2" in text


def test_csv_is_tidy(whole):
    rows = list(csv.DictReader(io.StringIO(tables.runs_csv(whole), newline="")))
    one = [r for r in rows if (r["method"], r["measure"], r["figure"], r["seed"]) == ("naive", "dino", "average", "1")]
    assert len(rows) == 30 * (2 * 9 + 5 + 6) and len(one) == 3
    expected = {np.mean([score("naive", order, 1, 3, j + 1, j) for j in range(3)]) for order in ORDERS}
    assert sorted(float(r["value"]) for r in one) == pytest.approx(sorted(expected))
    assert all(len(r["order"].split(">")) == 3 for r in one)
    summary = list(csv.DictReader(io.StringIO(tables.summary_csv(whole), newline="")))
    assert len(summary) == 5 * (2 * 9 + 5 + 6)
    joint = next(r for r in summary if (r["method"], r["figure"]) == ("joint", "forgetting"))
    assert (joint["bound"], joint["n"], joint["mean"]) == ("1", "0", "")
    naive = next(r for r in summary if (r["method"], r["measure"], r["figure"]) == ("naive", "dino", "average"))
    total = sum(float(naive[f"squares_{k}"]) for k in ("order", "seed", "residual"))
    assert total == pytest.approx(5 * float(naive["std"]) ** 2)


def test_only_what_is_settled_is_parted_and_marked(many, whole):
    found = of(many)
    assert found.tiers("dino", "average") == [["merge_init"], ["magmax"], ["naive"]]
    assert found.best("dino", "average") == "merge_init" and found.best("dino", "forgetting") == "magmax"
    assert 'class="best"' in page.render(page.view(found, "x", None))
    assert (
        whole.tiers("dino", "average") == [["merge_init", "magmax", "naive"]] and whole.best("dino", "average") is None
    )
    assert r"\textbf" not in tables.table_tex(whole)


def test_tiers_part_only_where_all_above_beat_all_below(monkeypatch):
    """a beats b; c's mean is below b's, but c varies too much to be told from a unless it is steady."""
    monkeypatch.setattr(study.Study, "contenders", ("a", "b", "c"))

    def tiers(c):
        values = {row: by_order(v) for row, v in {"a": [1.0] * 8, "b": [0.5] * 8, "c": c}.items()}
        one = study.Study((), (), ("dino",), ("dino",), {("dino", "average"): values}, {}, {"dino": "higher"})
        assert one.differences("dino", "average")[0][2].verdict == "better"
        return one.tiers("dino", "average")

    assert tiers([0.1] * 5 + [1.1] * 3) == [["a", "b", "c"]] and tiers([0.4] * 7 + [0.6]) == [["a"], ["b", "c"]]


def test_tex_has_the_layout_of_papers(many, tmp_path):
    text = tables.table_tex(of(many))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    heads = [r"dino $\uparrow$", r"clip\_i $\uparrow$", r"dino forg. $\downarrow$", r"clip\_i forg. $\downarrow$"]
    assert rows[0] == " & ".join(["Method", *heads]) + r" \\"
    assert rows[1].startswith("Base & 0.300 & 0.550 & -- & --") and "ddof = 1" in text
    bold = {row.split(" & ")[0]: row.count(r"\textbf") for row in rows}
    assert bold[r"merge\_init"] == 2 and bold["magmax"] == 2 and bold["independent"] == bold["naive"] == 0
    if shutil.which("pdflatex"):
        source = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "t.tex").write_text(source)
        subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


# --- published numbers -----------------------------------------------------------------------------------------------


def test_published_beside_another_model_is_marked(whole):
    assert published.beside(whole) is None
    shown = published.beside(whole, "low-rank-objects")
    assert not shown.same and "Another model and other data" in sentences.beside_sentences(shown)[0]
    by = {(o.measure, o.figure): o for o in shown.rankings}
    order = by["dino", "average"]
    assert order.there == ("merge_init", "naive") and order.tiers == (("merge_init", "naive"),) and order.tau == 1
    assert sentences.ranking(order).endswith("settled here: nothing")
    ortho = next(line for line in shown.lines if line.method == "merge_ortho")
    assert ortho.row is None and ortho.cells[0] == ((0.403, 0.025), None)
    naive = next(line for line in shown.lines if line.method == "naive")
    column = shown.columns.index(("dino", "forgetting"))
    assert naive.cells[column][1] == whole.spread("dino", "forgetting_reference", "naive")
    text = tables.table_tex(whole, shown)
    assert "naive (published, other model and data) & 0.402" in text and "over T concepts" in text
    assert "another model" in str(tables.published_table(shown).title)
    with pytest.raises(PlanError, match="did you mean 'low-rank-styles'"):
        published.beside(whole, "low-rank-style")


def test_a_published_row_stands_beside_its_own_variant(tmp_path):
    """The tables are of the reference code's operands; the paper's equations are shown, but not beside them."""
    given = {
        "naive": {"name": "naive"}, "magmax-code": {"name": "magmax", "operand": "delta"},
        "magmax-paper": {"name": "magmax"}, "ortho-code": {"name": "merge_ortho", "merge": "factor_sum"},
        "ortho-rows": {"name": "merge_ortho", "merge": "factor_sum", "orthogonality": "rowspace"},
    }  # fmt: skip
    for label, choice in given.items():
        make(tmp_path / label, label, methods=[{**choice, "label": label}], score=lambda *_: 0.5)
    shown = published.beside(of(tmp_path), "low-rank-objects")
    rows = {(line.method, line.row, line.other) for line in shown.lines}
    assert rows == {
        ("naive", "naive", False), ("merge_init", None, False), ("magmax", "magmax-code", False),
        ("magmax", "magmax-paper", True), ("merge_ortho", "ortho-code", False), ("merge_ortho", "ortho-rows", True),
    }  # fmt: skip
    other = next(line for line in shown.lines if line.row == "magmax-paper")
    assert all(math.isnan(there[0]) and here.n == 1 for there, here in other.cells)
    said = sentences.beside_sentences(shown)[1]
    assert "merge_ortho with merge=factor_sum, orthogonality=column and magmax with operand=delta" in said
    assert said.endswith("magmax-paper and ortho-rows are other variants.")
    assert set(shown.rankings[0].there) == {"naive", "magmax", "merge_ortho"}
    text = page.render(page.view(of(tmp_path), "x", shown))
    assert "magmax (operand=delta)" in text and "magmax-paper (not the published variant)" in text
    assert "magmax, operand=delta (published" in tables.table_tex(of(tmp_path), shown)
    cells = [str(cell) for column in tables.published_table(shown).columns for cell in column.cells]
    assert "magmax-paper (not the published variant)" in cells
    told = compare.as_json(of(tmp_path), shown)["published"]
    assert told["other_variants"] == ["ortho-rows", "magmax-paper"] and told["variants"]["magmax"] == {
        "operand": "delta"
    }


@pytest.mark.parametrize("name", ["low-rank-objects", "low-rank-styles", "toybox-subjects", "toybox-styles"])
def test_ready_plans_have_both_variants_and_one_of_each_is_the_published_one(name):
    made, table = plan.load(plan.ready(name)), published.get("low-rank-objects")
    found = {choice.label: table.has(choice.model_dump()) for choice in made.methods if choice.name in table.variants}
    assert found == {f"{method}-{kind}": kind == "code" for method in table.variants for kind in ("code", "paper")}


def test_the_plan_names_its_protocol(tmp_path):
    for method in ("naive", "magmax"):
        make(tmp_path / method, method, protocol="low-rank-objects")
    found = of(tmp_path)
    assert published.protocol_of(found) == "low-rank-objects"
    shown = published.beside(found)
    assert shown.table.name == "low-rank-objects" and not shown.same  # the base is another one
    ready = plan.load(plan.ready("low-rank-styles"))
    assert ready.protocol == "low-rank-styles" and published.get(ready.protocol).base == ready.base
    assert "protocol" not in ready.settings()
    assert ready.fingerprint() == ready.model_copy(update={"protocol": None}).fingerprint()
    with pytest.raises(PlanError, match="no published protocol is called 'low-rank-object'; did you mean"):
        plan.build({"methods": ["naive"], "protocol": "low-rank-object"})


def test_published_tables_name_methods_that_exist():
    from perdure.plan import catalogue

    for table in map(published.get, published._tables()):
        assert set(table.methods) - set(table.elsewhere) <= set(catalogue.methods())
        assert set(table.elsewhere) <= set(table.methods) and not set(table.elsewhere) & set(catalogue.methods())
    styles = published.get("low-rank-styles")
    assert styles.value("magmax", "csd", "forgetting") == (0.093, 0.013)
    assert math.isnan(styles.value("magmax", "clip_i", "average")[0])


# --- command line ----------------------------------------------------------------------------------------------------


def test_command(sweep, tmp_path):
    runner = CliRunner()
    done = runner.invoke(app, ["compare", str(sweep), "--out", str(tmp_path / "o"), "--beside", "low-rank-objects"])
    assert done.exit_code == 0, done.output
    assert "merge_init is ahead of magmax" in done.output and "Kendall's tau" in done.output
    assert (tmp_path / "o" / "compare.html").is_file()
    told = runner.invoke(app, ["compare", str(sweep), "--out", str(tmp_path / "o"), "--measure", "clip_i", "--json"])
    found = json.loads(told.stdout)
    assert {m["measure"] for m in found["means"]} == {"clip_i", "cost", "failings"} and len(found["runs"]) == 30
    pair = found["differences"][0]["pairs"][0]
    assert (pair["verdict"], pair["n"], pair["p"], pair["p_holm"]) == ("ahead", 3, None, None)
    wrong = runner.invoke(app, ["compare", str(sweep), "--measure", "dinno"])
    assert isinstance(wrong.exception, PlanError) and "did you mean 'dino'" in str(wrong.exception)
