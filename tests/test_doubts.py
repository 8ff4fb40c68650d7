"""What speaks against a score, by plain loops and by hand; headlines, tables and advice of what holds."""

import csv
import json

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image
from test_compare import make
from test_failings import RNG, SETS, distance, measure
from test_report import make_run

from perdure import report
from perdure.advise import sentences as advising
from perdure.advise import verdict
from perdure.cli import screen
from perdure.compare import page, study
from perdure.compare import sentences as comparing
from perdure.lineage import Lineage
from perdure.report import reading, sentences, summary
from perdure.run import harm
from perdure.score import doubts, failings


def picture(values):
    return Image.fromarray(np.asarray(values, np.uint8))


def noise(low, high, seed, side=64):
    return picture(np.random.default_rng(seed).integers(low, high, (side, side, 3)))


def test_looks_are_those_of_plain_loops():
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3))
    value = [[(0.299 * r + 0.587 * g + 0.114 * b) / 255 for r, g, b in row] for row in pixels.tolist()]
    flat = [v for row in value for v in row]
    mean = sum(flat) / 4096
    aside = [abs(row[x + 1] - row[x]) for row in value for x in range(63)]
    below = [abs(value[y + 1][x] - value[y][x]) for y in range(63) for x in range(64)]
    rough = (sum(aside) / len(aside) + sum(below) / len(below)) / 2
    colour = sum((max(p) - min(p)) / 255 for row in pixels.tolist() for p in row) / 4096
    deviation = (sum((v - mean) ** 2 for v in flat) / 4096) ** 0.5
    (found,) = failings.looks([picture(pixels)])
    assert found == pytest.approx([mean, 2 * deviation, colour, rough])
    assert failings.looks([]).shape == (0, 4)
    big = picture(np.kron(pixels, np.ones((3, 3, 1))))
    assert failings.looks([big])[0] == pytest.approx(found), "size alone makes no difference"
    grey = Image.new("L", (64, 64))
    grey.paste(255, (32, 0, 64, 64))  # half white: one edge in each row
    assert failings.looks([grey])[0] == pytest.approx([0.5, 1, 0, 1 / 63 / 2])


def test_pictures_beyond_all_that_is_known_are_counted():
    known = [noise(80, 180, seed) for seed in range(4)]
    murk = [noise(0, 12, seed) for seed in range(3)]
    found = failings.outside([*known[:1], *murk], known)
    assert found["share"] == 0.75 and found["how"]["darker"] == 3 and "brighter" not in found["how"]
    assert failings.outside(murk, [*known, *murk])["share"] == 0, "photos may be as dark as they are"
    assert failings.outside(known[:1], known[:1]) == {"share": 0.0, "how": {}}, "one known picture leaves some room"


def test_likeness_among_pictures_and_the_best_reference():
    own, drawn = SETS["dog"], torch.as_tensor(RNG.normal(0, 1, (4, 2)))
    found = failings.alike(measure(), drawn, own)
    rows = own.numpy()
    assert found["best"] == pytest.approx(min(distance(rows[k], np.delete(rows, k, 0)) for k in range(5)))
    pairs = [distance(a, b) for i, a in enumerate(drawn.numpy()) for j, b in enumerate(drawn.numpy()) if i != j]
    assert found["among"] == pytest.approx(np.mean(pairs))
    assert failings.alike(measure(among=None), drawn, own) is None
    assert failings.alike(measure(), drawn[:1], own) is None is failings.alike(measure(), drawn, own[:1])


RECORD = {
    "scores": {"dino": 0.5}, "ceiling": {"dino": 0.6}, "images": [{}] * 8,
    "measures": {"dino": {"direction": "higher", "model": "dino"}},
}  # fmt: skip
TOY = {"base": "toybox", "scoring": {"models": {}}}
PHOTOS, DRAWN = {"images": "photos/dog"}, {"drawn": {"index": 0}}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"scores": {"dino": 0.61}}, ["above"]),
        ({"scores": {"dino": 0.61}, "alike": {"dino": {"among": 0.5, "best": 0.65}}}, []),
        ({"scores": {"dino": 0.66}, "alike": {"dino": {"among": 0.5, "best": 0.65}}}, ["above"]),
        ({"alike": {"dino": {"among": 0.91, "best": 0.65}}}, ["alike"]),
        ({"alike": {"dino": {"among": 0.89, "best": 0.65}}}, []),
        ({"outside": {"share": 0.5, "how": {"darker": 4}}}, []),
        ({"outside": {"share": 0.75, "how": {"darker": 6}}}, ["outside"]),
        ({"confusion": {"share": 0.75, "taken_for": {"cat": 5, "dog": 1}, "real": 0.2}}, ["confused"]),
        ({"confusion": {"share": 0.75, "taken_for": {"cat": 6}, "real": 0.75}}, []),
        ({"scores": {}}, []),
    ],
)
def test_what_speaks_against_a_score(changes, kinds):
    found = doubts.of({**RECORD, **changes}, "dino", TOY, DRAWN)
    assert [doubt.kind for doubt in found] == kinds
    assert all(doubt.murk == (doubt.kind != "confused") for doubt in found)
    if kinds == ["confused"]:
        assert found[0].told == "6 of 8 pictures look more like cat"


def test_embedded_scorers_are_for_drawings():
    assert [d.kind for d in doubts.of(RECORD, "dino", TOY, PHOTOS)] == ["foreign"]
    assert [d.kind for d in doubts.of(RECORD, "dino", {**TOY, "scoring": {}}, PHOTOS)] == ["foreign"], "no models named"
    hub = {"base": "toybox", "scoring": {"models": {"dino": "facebook/dino-vits16"}}}
    real = {**RECORD, "measures": {"dino": {"direction": "higher", "model": "facebook/dino-vits16"}}}
    for settings, record in ((hub, RECORD), (TOY, real), ({**TOY, "base": "owner/sd"}, RECORD)):
        assert doubts.of(record, "dino", settings, PHOTOS) == ()


def test_a_lower_is_better_ceiling_is_a_floor():
    lower = {**RECORD, "measures": {"dino": {"direction": "lower", "model": "x"}}}
    assert doubts.of(lower, "dino", TOY, DRAWN)[0].kind == "above"
    assert doubts.of({**lower, "scores": {"dino": 0.7}}, "dino", TOY, DRAWN) == ()


def test_what_is_said_of_a_score():
    """Each kind's clause with its numbers, all of them at once in one order, and what an old record leaves out."""
    wrong = {
        **RECORD, "scores": {"dino": 0.7, "clip_i": 0.2}, "images": [{}] * 8,
        "alike": {"dino": {"among": 0.931, "best": 0.65}},
        "outside": {"share": 0.75, "how": {"darker": 6, "rougher": 1}},
        "confusion": {"share": 0.875, "taken_for": {"dog": 1, "cat": 5, "owl": 1}, "real": None},
    }  # fmt: skip
    assert [(d.kind, d.told) for d in doubts.of(wrong, "dino", TOY, PHOTOS)] == [
        ("foreign", "dino was made for drawings of the embedded world, and these are photos"),
        ("above", "0.700 is above what its own references reach (0.650)"),
        ("alike", "its pictures are nearly one and the same (0.93 alike, the references 0.60)"),
        ("outside", "6 of 8 pictures look like none of the base's or the concept's (darker, rougher)"),
        ("confused", "7 of 8 pictures look more like cat"),
    ]
    assert [d.kind for d in doubts.of({**wrong, "ceiling": {}}, "dino", TOY, DRAWN)] == ["outside", "confused"]
    old = {key: RECORD[key] for key in ("scores", "images", "measures")}
    assert doubts.of({**old, "scores": {"dino": 9.0}}, "dino", TOY, DRAWN) == ()
    assert doubts.of({**RECORD, "alike": {"dino": None}}, "dino", TOY, DRAWN) == ()


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"scores": {"dino": 0.6}}, []),  # as good as the references, no better
        ({"ceiling": {"dino": 0.0}, "alike": {"dino": {"among": 0.75, "best": 0.65}}}, []),  # just a quarter of it
        ({"ceiling": {"dino": 0.0}, "alike": {"dino": {"among": 0.7501, "best": 0.65}}}, ["alike"]),
        ({"ceiling": {"dino": 0.0}, "alike": {"dino": {"among": 0.0, "best": 0.65}}}, []),
        ({"ceiling": {"dino": 0.4}, "alike": {"dino": {"among": 0.9}}}, ["above", "alike"]),  # of before `best`
        ({"outside": {"share": 0.5001, "how": {"darker": 5}}}, ["outside"]),
        ({"confusion": {"share": 0.5, "taken_for": {"cat": 4}, "real": 0.0}}, []),
        ({"confusion": {"share": 0.6, "taken_for": {"cat": 4}, "real": None}}, ["confused"]),
        ({"confusion": {"share": 0.6, "taken_for": {"cat": 4}, "real": 0.6}}, []),
        ({"confusion": None, "outside": None}, []),
    ],
)
def test_where_doubt_begins(changes, kinds):
    assert [doubt.kind for doubt in doubts.of({**RECORD, **changes}, "dino", TOY, DRAWN)] == kinds


def test_a_distance_is_not_called_nearly_one():
    lower = {**RECORD, "measures": {"dino": {"direction": "lower", "model": "x"}}, "scores": {"dino": 0.7}}
    among = {"dino": {"among": 0.99, "best": 0.5}}
    assert doubts.of({**lower, "alike": among}, "dino", TOY, DRAWN) == ()
    low = {**lower, "scores": {"dino": 0.499}, "alike": among}
    assert [d.told for d in doubts.of(low, "dino", TOY, DRAWN)] == [
        "0.499 is above what its own references reach (0.500)"
    ]
    assert doubts.of({**low, "scores": {"dino": 0.5}}, "dino", TOY, DRAWN) == ()


# --- what is said of runs --------------------------------------------------------------------------------------------


def spoil(lineage, row, concept, **changes):
    path = lineage.rows[row].folder / "cells" / concept / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


MURK = {"outside": {"share": 1.0, "how": {"darker": 1}}}
TAKEN = {"confusion": {"share": 1.0, "taken_for": {"thing_1": 1}, "real": 0.0}}


def by_hand(run, counted, lost):
    """Share kept of the subjects `counted`, those of `lost` having kept nothing."""
    S = run.scores["dino"]
    gained = sum(S[j + 1, j] - S[0, j] for j in counted)
    return sum((min(S[-1, j], S[0, j]) if j in lost else S[-1, j]) - S[0, j] for j in counted) / gained


@pytest.mark.parametrize("changes", [MURK, TAKEN])
def test_a_share_is_computed_of_what_holds(tmp_path, changes):
    (lineage,) = make_run(tmp_path, ("naive",), side=8)
    names = lineage.concepts
    spoil(lineage, 4, names[0], **changes)
    (run,) = reading.read([Lineage(lineage.folder)])
    assert sentences.retained(run) == pytest.approx(by_hand(run, (0, 1, 2), (0,))), (
        "a last score that is murk kept nothing"
    )
    spoil(lineage, 2, names[1], **changes)
    (run,) = reading.read([Lineage(lineage.folder)])
    assert sentences.retained(run) == pytest.approx(by_hand(run, (0, 2), (0,))), "what was never learnt does not count"
    found = sentences.finding([run])
    assert [told.split(":")[1] for told in found.doubts] == [
        f" naive, {names[0]} after lesson 4", f" naive, {names[1]} after lesson 2",
    ]  # fmt: skip
    text = report.build([Lineage(lineage.folder)], tmp_path / "out", "x").read_text()
    kinds = {row["doubts"] for row in csv.DictReader((tmp_path / "out" / "scores.csv").open())}
    assert kinds == {"", "outside" if changes is MURK else "confused"}
    assert str(escape(found.doubts[0])) in text and ">?</span>" in text


def photographed(lineage):
    """The same model as if it had been taught photos with embedded scorers."""
    for name in lineage.concepts:
        path = lineage.concept_folder(name) / "concept.json"
        facts = json.loads(path.read_text())
        facts["concept"] |= {"drawn": None, "images": "/photos"}
        path.write_text(json.dumps(facts))
    for path in lineage.folder.glob("lessons/*/cells/*/cell.json"):
        record = json.loads(path.read_text())
        for kind in record["measures"].values():
            kind["model"] = "dino"
        path.write_text(json.dumps(record))
    return Lineage(lineage.folder)


def test_photos_scored_by_embedded_scorers_get_no_praise(tmp_path):
    lineages = [photographed(one) for one in make_run(tmp_path, side=8)]
    runs = reading.read(lineages)
    found = sentences.finding(runs)
    assert found.headline == "Nothing can be said of what was kept: the scores do not hold."
    assert "drawings of the embedded world" in found.doubts[0] and found.doubts[1].endswith("look at the pictures.")
    assert summary.contenders(runs) == []
    table = screen.log_table(lineages[0])
    assert "drawings of the embedded world" in str(table.caption) and any("?" in str(c) for c in table.columns[5].cells)
    assert screen.log_entries(lineages[0])[0]["doubts"].keys() == {"dino", "clip_i"}


def test_sound_runs_are_not_doubted(tmp_path):
    lineages = make_run(tmp_path, side=8)
    assert sentences.doubted(reading.read(lineages)) == () and summary.contenders(reading.read(lineages))
    assert screen.log_table(lineages[0]).caption is None


def test_a_gate_tells_what_speaks_against_the_scores_that_it_refuses_by(tmp_path, monkeypatch):
    (lineage,) = make_run(tmp_path, ("naive",), side=8)
    name, staged = lineage.concepts[0], lineage.rows[-1]
    lost = {"measure": "dino", "before": 0.5, "after": 0.25, "drop": 0.25}
    monkeypatch.setattr(harm, "costs", lambda *rest: {name: lost})
    fell = f"{name} fell from 0.500 to 0.250 (dino)"
    assert "refusal" not in harm.noted(None, lineage, staged, 0.25)
    assert harm.noted(None, lineage, staged, 0.2)["refusal"] == {"gate": 0.2, "told": [fell]}
    spoil(lineage, 4, name, **TAKEN)
    assert harm.noted(None, Lineage(lineage.folder), staged, 0.2)["refusal"]["told"] == [fell], (
        "taken for another: lost"
    )
    told = harm.noted(None, photographed(lineage), staged, 0.2)["refusal"]["told"]
    said = f"{fell}, which proves nothing: dino was made for drawings of the embedded world, and these are photos"
    assert told == [said]


def test_neither_comparison_nor_advice_stands_on_murk(tmp_path):
    folders = {m: make(tmp_path / m, m) for m in ("naive", "merge_init")}
    sound = study.of([tmp_path])
    assert sound.murky == () and "prove nothing" not in " ".join(comparing.cautions(sound))
    lineage = Lineage(folders["naive"])
    spoil(lineage, 3, lineage.concepts[0], images=[{"file": "0.png", "prompt": "x", "latent": 0}], **MURK)
    murky = study.of([tmp_path])
    assert murky.murky == ("naive",) and murky.best("dino", "average") is None
    assert "1 of 2 runs prove nothing (naive)" in " ".join(comparing.cautions(murky))
    assert page.view(murky, "x", None).headline == "Of naive scores do not hold: no finding."
    found = verdict.of([{m: Lineage(f) for m, f in folders.items()}])
    assert (found.kind, found.choice) == ("unsound", None) and "do not hold" in advising.headline(found)
    assert "look like none of" in advising.reason(found) and "--base" in advising.reason(found)
