"""The report: looked at through a made-up run whose pictures fade as its scores fall."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from perdure import files, plan, report, wording
from perdure.analysis import record
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.report import charts, heat, palette, papers, reading, samples, sentences, summary, tables, trends
from perdure.report.reading import outdated
from perdure.toybox import world

DECAY = {
    "naive": 0.4,
    "merge_init": 0.8,
    "independent": 1.0,
    "merge_ortho": 0.83,
    "magmax": 0.7,
    "joint": 0.9,
    "replay": 0.9,
    "lwf": 0.9,
}
DECLARED = {
    "independent": {"knows": "concept", "strict": False, "carries": {"own": 2_600_000, "words": 900}},
    "replay": {"knows": "nothing", "strict": False, "carries": {"delta": 1_300_000, "replay": 70_000}},
}
SPEC = {"model": "toy", "preprocessing": "resize to 64", "averaging": "all pairs"}
TEMPLATES = {"subject": ["a photo of {concept}", "{concept} in snow"], "style": ["{concept} image of a dog"]}
EVIL = 'a "photo" of <script>alert(1)</script> & {{ 7 * 7 }}'


def make_run(root, methods=("naive", "merge_init"), subjects=3, styles=1, lessons=None, prompt=EVIL, side=64):
    """One lineage a method below `root`; `lessons` stops early; plain tiny pictures where side < 64."""
    pictures = [_pictures(k, subjects, side) for k in range(subjects + styles)]
    return [_make_lineage(root / m, m, pictures, subjects, styles, lessons, prompt) for m in methods]


def _pictures(k, subjects, side):
    """(own, of the base): what a concept looks like, and what the base draws instead."""
    if side < 64:
        return [Image.new("RGB", (side, side), tone) for tone in ((5 * k % 256, 90, 200), (200, 5 * k % 256, 90))]
    concept = world.subjects(k + 1)[k] if k < subjects else world.style_concepts(k - subjects + 1)[k - subjects]
    own = concept.reference_scenes(1)[0]
    plain = replace(own, style="photo", thing=replace(own.thing, pattern="none", accessory=None))
    return [world.draw(own), world.draw(plain)]


def _make_lineage(folder, method, pictures, subjects, styles, lessons, prompt):
    joint = method == "joint"
    data = {
        "name": "fake", "methods": [{"name": "naive" if joint else method, "label": method}],
        "concepts": [
            {"name": f"{'thing' if kind == 'subject' else kind}_{k}", "kind": kind, "class": "dog",
             "drawn": {"what": "subject", "index": k}, "token": f"t{k:02d}x", "prompt": prompt}
            for k, kind in enumerate(["subject"] * subjects + ["style"] * styles)
        ],
        "sampling": {"prompts": TEMPLATES, "images_per_prompt": 1},
        "scoring": {"subject": ["dino", "clip_i"]},
    }  # fmt: skip
    whole = plan.build(data)
    lineage = Lineage.create(folder, whole, "toy", {"torch": "2"})
    taught = [(c,) for c in whole.sequence[:lessons]] if not joint else [whole.sequence]
    order = [c for group in taught for c in group]
    for k, concept in enumerate(order):
        lineage.adopt_concept(
            concept,
            {
                "digest": "0",
                "held_out": k != 1,
                "training_images": 5,
                "reference_images": 12 if k != 1 else 0,
            },
        )
        for name in ("train-0.png", "ref-0.png") if k != 1 else ("train-0.png",):
            pictures[k][0].save(lineage.concept_folder(concept.name) / name)
    for number in range(len(taught) + 1):
        _make_row(lineage, whole, method, number, taught, order, pictures)
    return lineage


def _make_row(lineage, whole, method, number, taught, order, pictures):
    name = "base" if number == 0 else "joint" if method == "joint" else taught[number - 1][0].name
    row = lineage.folder / "lessons" / f"{number:03d}-{name}"
    if number:
        facts = {
            "concepts": [c.name for c in taught[number - 1]], "steps": 40,
            "seconds": {"train": 41.5, "evaluate": 9.0},
            "bytes": {"carried": 1_300_000 * (number if method != "naive" else 1), "stored": 1_300_000},
            "peak_memory": 812_000_000, "device": "cpu", "precision": "fp32", "final_loss": 0.21,
            "fingerprint": "feedbeef", "method": {"label": method}, "versions": {}, "memory": f"{method} {number}",
            **DECLARED.get(method, {"knows": "nothing", "strict": True, "carries": {"delta": 1_300_000}}),
        }  # fmt: skip
        row.mkdir(parents=True)
        (row / "lesson.json").write_text(json.dumps(facts))
        noise = np.random.default_rng(number).normal(0, 0.05, 40)
        steps = [{"step": i, "loss": 0.3 - i / 400 + e, "rate": 1e-3, "seconds": 1} for i, e in enumerate(noise)]
        (row / "train.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    seen = order if not number else [c for group in taught[:number] for c in group]
    for concept in seen:
        k = order.index(concept)
        own = 1 if method == "joint" else k + 1
        _make_cell(row, whole, concept, k, 0.0 if not number else DECAY[method] ** (number - own), pictures[k])


def _make_cell(row, whole, concept, k, kept, pictures):
    folder = row / "cells" / concept.name
    folder.mkdir(parents=True)
    Image.blend(pictures[1], pictures[0], 0.93 * kept).save(folder / "000.png")
    wanted = whole.measures_for(concept)
    scores = {m: 0.3 + 0.03 * n + 0.01 * (k % 7) + 0.4 * kept for n, m in enumerate(wanted)}
    record = {
        "concept": concept.name, "scores": scores,
        "ceiling": {m: 0.78 if m == "dino" else None for m in wanted},
        "measures": {m: {"direction": "higher", "model": "toy", "spec": SPEC} for m in wanted},
        "images": [{"file": "000.png", "prompt": whole.prompts_for(concept)[0], "latent": 0}], "seconds": 1.0,
    }  # fmt: skip
    (folder / "cell.json").write_text(json.dumps(record))


class Reader(HTMLParser):
    """Every element of the page; open and close tags must match."""

    VOID = ("meta", "img", "input", "br", "rect", "path", "circle", "polygon")

    def __init__(self, text):
        super().__init__()
        self.elements, self.stack = [], []
        self.feed(text)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def check_page(path, bound):
    """What every page has to fulfil; returns its text and elements."""
    text = path.read_text(encoding="utf-8")
    page = Reader(text)
    assert len(text) < bound
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(a["src"].startswith("data:image/") and a["alt"] for a in page.all("img"))
    assert all(a["href"].startswith("#") for a in page.all("a"))
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//|@import|url\((?!#)", text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) and all(a["href"][1:] in ids for a in page.all("a"))
    assert ">nan<" not in text and ".nan" not in text and "NaN" not in text.split("<pre>")[0]
    return text, page


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return make_run(root), report.build([Lineage(p) for p in sorted(root.iterdir())][::-1], root / "out", "fake run")


def test_page_is_one_safe_file(two):
    text, page = check_page(two[1], 700_000)
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text and "{{ 7 * 7 }}" in text
    triangle = 4 * 6  # rows x (reference, base, lessons) less what was not drawn
    grids, comparison, strips = 2 * (triangle - 6), 2 * 6, 4 + 3
    assert len(page.all("img")) == grids + comparison + strips
    assert len(page.all("table")) >= 6 and all("scope" in a for a in page.all("th"))
    assert "reward copying" in text and text.count('class="own"') == 2 * 4 + 2
    assert text.count("stroke: var(--mark, ") == 2 * (4 + 3 + 1)  # in the score matrices
    assert sum(a.get("type") == "radio" for a in page.all("input")) == 2


def test_lessons_of_an_older_version_are_marked_where_their_teacher_was_wrong(tmp_path):
    lineages = make_run(tmp_path, ("lwf", "naive"), side=16)
    wrong = "lwf was held to base plus twice the past"
    page = report.build(lineages, tmp_path / "old", "old").read_text()
    assert page.count(wrong) == 1 and "naive was held" not in page
    for row in lineages[0].lessons:
        files.write_json(row.folder / "lesson.json", {**row.record, "revision": 3})
    assert wrong not in report.build(lineages, tmp_path / "new", "new").read_text()


@pytest.mark.parametrize(
    ("name", "options", "training", "count"),
    [
        ("naive", {}, {}, 0),
        ("cns", {"importance": "wanda"}, {}, 0),
        ("cns", {"importance": "fisher"}, {}, 1),
        ("naive", {}, {"preserve": {"weight": 1.0}}, 1),
        ("dsc", {}, {"precision": "bf16"}, 2),
        ("stamina", {}, {"gradient_checkpointing": True}, 1),
    ],
)
def test_what_is_known_to_be_wrong_with_old_lessons(name, options, training, count):
    settings = {"methods": [{"name": name, "options": options}], "training": training}
    assert len(outdated(settings, [{}, {}])) == count
    assert outdated(settings, [{"revision": 2}] * 2) == () == outdated(settings, [])
    if not training:
        assert outdated(settings, [{}]) == ()  # the first lesson has no past


def test_what_is_known_to_be_wrong_with_figures_of_the_second_revision():
    def told(name, options, scoring, revision, lessons=2):
        settings = {"methods": [{"name": name, "options": options}], "training": {}, "scoring": scoring}
        return " ".join(outdated(settings, [{"revision": revision}] * lessons))

    for revision, wrong in ((2, True), (3, False)):
        assert ("ridge by sums that were rounded" in told("ranpac", {"ridge": None}, {}, revision)) == wrong
        for scoring in ({"subject": ["dino", "mmd"]}, {"subject": [], "style": ["mmd"]}):
            assert ("shift of mmd that is too low" in told("naive", {}, scoring, revision)) == wrong
    assert told("ranpac", {"ridge": 1.0}, {}, 2) == told("naive", {}, {"subject": ["dino"]}, 2) == ""
    assert told("naive", {}, {"subject": ["mmd"]}, 2, lessons=1) == ""  # nothing has moved yet


def test_headline_and_figures_are_computed(two):
    runs = reading.read(two[0])
    shares = {run.label: sentences.retained(run) for run in runs}
    for run in runs:
        d = DECAY[run.label]
        subjects, last = (d**3 + d**2 + d) / 3, run.scores["dino"]
        assert shares[run.label] == pytest.approx(subjects)
        assert summary.figures(run, "dino")["average"] == pytest.approx(float(last[-1].mean()))
        csd = summary.figures(run, "csd")  # taken of the last concept only
        assert csd["average"] == pytest.approx(run.scores["csd"][-1, 3]) and np.isnan(csd["forgetting"])
        clip = summary.figures(run, "clip_i")  # taken of the first three: all of them earlier ones
        assert clip["forgetting"] == pytest.approx(0.4 * (1 - subjects))
    text = two[1].read_text()
    assert f"After 4 lessons, naive kept {100 * shares['naive']:.0f} %" in text
    assert "One seed, one order" in text and "One run a method settles nothing about the methods" in text


def test_csv_holds_the_matrix(two):
    rows = list(csv.DictReader(io.StringIO((two[1].parent / "scores.csv").read_bytes().decode(), newline="")))
    count = 0
    for lineage in two[0]:
        label = lineage.settings["methods"][0]["label"]
        for measure in lineage.measures:
            S = lineage.matrix(measure)
            found = {(int(r["lesson"]), r["concept"]): float(r["score"]) for r in rows
                     if r["method"] == label and r["measure"] == measure}  # fmt: skip
            expected = {(i, lineage.concepts[j]): S[i, j] for i, j in zip(*np.nonzero(np.isfinite(S)), strict=True)}
            assert found == expected
            count += len(found)
    assert count == len(rows) and rows[-1]["fingerprint"] and {r["run"] for r in rows} == {"fake"}


def test_tex_escapes_and_bolds_the_best(two, tmp_path):
    text = tables.table_tex(reading.read(two[0]))
    rows = {line.split(" & ")[0]: line for line in text.splitlines()}
    assert r"\textbf" in rows[r"merge\_init"] and r"\textbf" not in rows["naive"]
    assert "one a method, which settles nothing about the methods" in text
    assert r"{clip\_i}" in text and tables.escape(r"a_b & 5% {x} \y^~#$<") == (
        r"a\_b \& 5\% \{x\} \textbackslash{}y\textasciicircum{}\textasciitilde{}\#\$\textless{}"
    )
    assert len({line.count("&") for line in text.splitlines() if line.endswith(r"\\")} - {3}) == 1
    if shutil.which("pdflatex"):
        source = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "t.tex").write_text(source)
        subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_bounds_are_never_best(tmp_path):
    lineages = make_run(tmp_path, ("naive", "merge_init", "independent", "joint"), 2, 1, side=8)
    text, _ = check_page(report.build(lineages, tmp_path / "out", "bounds"), 300_000)
    assert "Taught all concepts at once" in text
    runs = reading.read(lineages)
    table = summary.table(runs, "dino")
    best = {run.label: sum(e.best for e in entries) for run, entries in table.rows}
    assert best["independent"] == best["joint"] == 0 and best["merge_init"] > best["naive"]
    assert tables.table_tex(runs).index(r"\midrule" + "\nindependent") > 0


def test_who_breaks_the_rules_is_marked(tmp_path):
    """In the tables of figures, in a table of its own, in the LaTeX table, in the CSV."""
    lineages = make_run(tmp_path, ("naive", "replay", "independent", "joint"), 2, 1, side=8)
    text, page = check_page(report.build(lineages, tmp_path / "out", "rules"), 400_000)
    daggers = [a["title"] for tag, a in page.elements if a.get("class") == "dagger" and tag == "a"]
    figures = 3  # dino, clip_i, csd; and the table of rules
    assert sorted(set(daggers)) == [
        "independent keeps every concept's adapter and is told which concept is meant",
        "joint saw the images of all concepts at once",
        "replay keeps images of past concepts",
    ]
    assert len(daggers) == 3 * (figures + 1)
    assert text.count('<p class="footnote">') == figures
    assert 'every concept&#39;s adapter <span class="soft">2.6 MB' in text and "learnt words" in text
    tex = (tmp_path / "out" / "table.tex").read_text()
    assert r"replay$^{\dagger}$ &" in tex and r"joint$^{\dagger}$ &" in tex and "naive &" in tex
    assert r"replay keeps images of past concepts;" in tex
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open(newline="")))
    assert {(r["method"], r["knows"], r["strict"]) for r in rows} == {
        ("naive", "nothing", "yes"), ("replay", "nothing", "no"), ("independent", "concept", "no"),
        ("joint", "nothing", "no"),
    }  # fmt: skip


def test_records_of_old_say_nothing_of_rules_and_are_not_marked(tmp_path):
    lineages = make_run(tmp_path, ("naive",), 2, 0, side=8)
    for row in lineages[0].lessons:
        kept = {k: v for k, v in row.record.items() if k not in ("knows", "strict", "carries")}
        (row.folder / "lesson.json").write_text(json.dumps(kept))
    text, _ = check_page(report.build(lineages, tmp_path / "out", "x"), 300_000)
    assert 'class="dagger"' not in text and "<td>–</td><td>–</td><td>–</td>" in text


def analysed(lineage, moved=1.0):
    """An analysis of made-up numbers kept beside a lineage."""
    count = len(lineage.lessons)
    pairs = {m: np.full((count, count), 0.1 * (k + 1)) for k, m in enumerate(record.PAIR_FIGURES)}
    pairs["cosine"] = -pairs["cosine"]
    part = record.Part(100, np.arange(1.0, count + 1), np.full(count, moved), pairs)
    parts = dict.fromkeys(("all", "self", "cross", "q", "k", "v", "out", "down", "mid", "up"), part)
    names, digests = tuple(record.names(lineage)), tuple(record.digests(lineage))
    selection = {"thing_0": {"density": 0.06, "moved before": 0.4, "moved of all": 0.123}} if moved < 1 else {}
    record.write(lineage, record.Analysis(names, digests, False, parts, {"input overlap": 0.123}, selection))


def test_the_weights_are_shown_where_they_were_compared(tmp_path):
    lineages = make_run(tmp_path, ("naive", "merge_init", "magmax"), 3, 1, side=8)
    analysed(lineages[0])
    analysed(lineages[1], moved=0.06)
    text, page = check_page(report.build(lineages, tmp_path / "out", "x"), 500_000)
    labels = [a["aria-label"] for a in page.all("svg") if "aria-label" in a]
    for measure in ("sign conflict", "overturned", "cosine", "input overlap", "output overlap"):
        shown = {label.split(" of ")[1].split(":")[0] for label in labels if label.startswith(f"{measure} of ")}
        assert shown == {"naive", "merge_init"}, measure
    assert [label.split(":")[0] for label in labels if "shared entries of" in label] == ["shared entries of merge_init"]
    assert "0.12 by chance" in text and 'href="#weights"' in text and ">−.300<" in text
    assert "Weights moved by each lesson" in text and "Weights chosen for each concept" in text


def test_a_stale_comparison_is_not_shown(tmp_path):
    lineage = make_run(tmp_path, ("naive",), 3, 0, side=8)[0]
    analysed(lineage)
    assert 'id="weights"' in report.build([lineage], tmp_path / "out", "x").read_text()
    shutil.rmtree(lineage.lessons[-1].folder)
    assert 'id="weights"' not in report.build([lineage], tmp_path / "out", "x").read_text()


def test_many_lessons_in_the_weights_stay_small(tmp_path):
    lineage = make_run(tmp_path, ("naive",), 14, 0, side=8)[0]
    analysed(lineage)
    text, page = check_page(report.build([lineage], tmp_path / "out", "x"), 900_000)
    assert "Maps show 12 of 14 lessons" in text
    assert len([a for a in page.all("svg") if a.get("aria-label", "").startswith("cosine of naive")]) == 1


STAGES = [
    (0, "No lesson has finished yet"),
    (1, "nothing could have been forgotten"),
    (2, "Unfinished, concepts taught so far: naive has 2 of 4"),
]


@pytest.mark.parametrize(("lessons", "says"), STAGES)
def test_unfinished_runs(tmp_path, lessons, says):
    text, _ = check_page(report.build(make_run(tmp_path, lessons=lessons, side=8), tmp_path / "out", "x"), 300_000)
    assert says in text


def test_uneven_runs_are_not_ranked(tmp_path):
    lineages = make_run(tmp_path / "a", ("naive",), side=8) + make_run(tmp_path / "b", ("magmax",), lessons=2, side=8)
    text, _ = check_page(report.build(lineages, tmp_path / "out", "x"), 300_000)
    assert "naive (4 lessons)" in text and "(best of" not in text and "One run a method" not in text


def test_one_concept_and_joint_alone(tmp_path):
    one = make_run(tmp_path / "a", ("naive",), 1, 0, side=8)
    check_page(report.build(one, tmp_path / "out", "x"), 200_000)
    joint = make_run(tmp_path / "b", ("joint",), side=8)
    assert "Taught all 4 concepts at once" in check_page(report.build(joint, tmp_path / "out", "x"), 200_000)[0]


def test_fifty_concepts_stay_small(tmp_path):
    lineages = make_run(tmp_path, ("naive",), 50, 0, side=8)
    text, page = check_page(report.build(lineages, tmp_path / "out", "x"), 900_000)
    assert "8 of 50 concepts and 8 of 50 lessons" in text and len(page.all("img")) < 160
    assert samples.pick(50) == [0, 7, 14, 21, 28, 35, 42, 49] and samples.pick(3) == [0, 1, 2]


def test_page_of_three_methods_and_five_concepts_is_modest(tmp_path):
    lineages = make_run(tmp_path, ("naive", "merge_init", "magmax"), 4, 1)
    assert report.build(lineages, tmp_path / "out", "x").stat().st_size < 1_500_000


def test_close_shares_are_called_close(tmp_path):
    runs = reading.read(make_run(tmp_path, ("naive", "merge_init", "merge_ortho"), side=8))
    assert "too little to tell apart merge_ortho and merge_init." in sentences.finding(runs).caution


def test_lost_pictures_and_wrong_numbers_do_not_break_the_page(tmp_path):
    lineages = make_run(tmp_path, ("naive",), side=8)
    next(lineages[0].lessons[0].folder.glob("cells/*/000.png")).write_bytes(b"torn")
    check_page(report.build(lineages, tmp_path / "out", "x"), 300_000)
    with pytest.raises(ValueError, match="at least one"):
        report.build([], tmp_path, "x")


def test_same_lineages_same_bytes(two, tmp_path):
    drawings = {
        "album": lambda p: papers.write(two[0], p)[-1],
        "heat.png": lambda p: papers.heatmap(two[0][0], "dino", p),
        "heat.pdf": lambda p: papers.heatmap(two[0][0], "dino", p),
        "curves": lambda p: papers.curves(two[0], "dino", p)[-1],
        "r/report.html": lambda p: report.build(two[0], p.parent, "x"),
    }
    for name, draw in drawings.items():
        first, second = draw(tmp_path / "1" / name), draw(tmp_path / "2" / name)
        assert first.read_bytes() == second.read_bytes(), name
    with Image.open(next((tmp_path / "1/album").glob("grid-*.png"))) as picture:
        assert picture.width > 6 * 128 and picture.height > 4 * 128
    assert not list(tmp_path.rglob(f"*{files.TEMPORARY}"))
    with pytest.raises(ValueError, match="taken: "):
        papers.heatmap(two[0][0], "nope", tmp_path / "x.png")


def test_learning_is_each_concepts_score_after_its_own_lesson(two):
    for run in reading.read(two[0]):
        S = run.scores["dino"]
        found = trends.learning(run, "dino")
        assert math.isnan(found[0])
        if not run.joint:
            assert found[1:] == [S[i, i - 1] for i in range(1, len(S))]
    assert "Each concept right after its own lesson: dino" in two[1].read_text(encoding="utf-8")


def test_parts_of_numbers_and_colours():
    assert [wording.size(v) for v in (0, 999, 1000, 1_300_000, 186e6, 2.5e9)] == [
        "0 B", "999 B", "1.0 kB", "1.3 MB", "186 MB", "2.5 GB"
    ]  # fmt: skip
    assert [summary.seconds(v) for v in (0.25, 42, 600, 9000)] == ["0.2 s", "42 s", "10 min", "2.5 h"]
    assert [wording.short_number(v) for v in (0.7134, -0.042, 1.5, 12.34, float("nan"))] == [
        ".713",
        "−.042",
        "1.50",
        "12.3",
        "–",
    ]
    lightness = [sum(palette.sequential(k / 20)) for k in range(21)]
    assert lightness == sorted(lightness, reverse=True)
    assert palette.fraction_of(1, 0, 4, "lower") == 0.75 and palette.fraction_of(1, 1, 1) == 0.5
    drawn = charts.inline(heat.heat_map(np.ones((2, 1)), ["evil<", "$b^$"], ["c"], (0, 1)), 'a "t"')
    assert "evil<" not in drawn and "$b^$" in drawn and 'aria-label="a &quot;t&quot;"' in drawn
    assert "var(--m1, " in charts.inline(charts.spark([3.0, 2.0, 1.0], palette.METHODS[1]), "t")
    assert "<title>$b^$: c 1.0000</title>" in drawn and "var(--mark" not in drawn


def test_what_a_plan_may_leave_out_of_a_concept_may_be_left_out(tmp_path):
    (lineage,) = make_run(tmp_path / "run", ("naive",), side=8)
    path = lineage.concept_folder(lineage.concepts[0]) / "concept.json"
    told = files.read_json(path)
    files.write_json(path, {**told, "concept": {"name": told["concept"]["name"]}})
    assert report.build([Lineage(lineage.folder)], tmp_path / "out", "x").is_file()


def test_what_records_may_leave_out_may_be_left_out(tmp_path):
    (lineage,) = make_run(tmp_path / "run", ("naive",), 2, 0, side=8)
    analysed(lineage)
    whole = files.read_json(lineage.folder / "lineage.json")
    files.write_json(lineage.folder / "lineage.json", {k: v for k, v in whole.items() if k != "versions"})
    for path in lineage.folder.rglob("cell.json"):
        told = files.read_json(path)
        bare = {name: {k: v for k, v in one.items() if k != "spec"} for name, one in told["measures"].items()}
        files.write_json(path, {**told, "measures": bare, "confusion": None, "copying": None})
    compared = files.read_json(lineage.folder / "analysis.json")
    files.write_json(lineage.folder / "analysis.json", {**compared, "chance": {"input overlap": None}})
    text, _ = check_page(report.build([Lineage(lineage.folder)], tmp_path / "out", "x"), 300_000)
    assert "<dt>model</dt><dd>toy</dd>" in text and 'id="weights"' in text and "by chance" not in text


@pytest.mark.parametrize(("key", "value"), [("peak_memory", [1]), ("device", 7), ("precision", {}), ("fingerprint", 0)])
def test_costs_of_another_kind_are_damage(tmp_path, key, value):
    (lineage,) = make_run(tmp_path, ("naive",), 1, 0, side=8)
    path = lineage.lessons[-1].folder / "lesson.json"
    files.write_json(path, {**files.read_json(path), key: value})
    with pytest.raises(LineageError, match=rf"lesson\.json is damaged: {key}: "):
        report.build([Lineage(lineage.folder)], tmp_path / "out", "x")
