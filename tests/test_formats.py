"""What earlier versions wrote opens, goes on and reports the same: formats have a history.

`fixtures/before_rooms` was made by the version before the modules moved into rooms: `perdure run plan.yaml`, a third
concept of `longer.yaml` taught to a copy (`longer-scores.csv`), `perdure sweep run grid.yaml` and `perdure compare`.
"""

import csv
import hashlib
import shutil
from pathlib import Path

import pytest

from perdure import plan, report, run
from perdure.compare import study, tables
from perdure.lineage import Lineage, fsck

MADE = Path(__file__).parent / "fixtures" / "before_rooms"
LABELS = ("naive_rank-1", "c_lora_rank-1")


@pytest.fixture
def old(tmp_path):
    """A copy, to be worked on."""
    return Path(shutil.copytree(MADE, tmp_path / "old"))


def rows(path, *without):
    with open(path, encoding="utf-8", newline="") as handle:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(handle)]


LATER = ("doubts",)
"""Columns that earlier versions did not write."""


def contents(folder):
    """Digests of all files but the plan for people, which is written anew, and the lock."""
    paths = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("plan.yaml", ".lock", "analysis.json"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


@pytest.mark.parametrize("label", LABELS)
def test_an_old_lineage_is_whole(old, label):
    assert fsck.examine(old / "plan" / label) == []


def test_its_report_has_the_same_scores(old):
    report.build([Lineage(old / "plan" / label) for label in LABELS], old / "again", title="before")
    now = rows(old / "again" / "scores.csv", "run", "fingerprint", *LATER)
    assert now == rows(MADE / "plan" / "scores.csv", "run", "fingerprint")


def test_an_old_sweep_compares_the_same(old):
    found = study.of([old / "sweep"])
    (old / "compare.csv").write_text(tables.runs_csv(found), encoding="utf-8", newline="")
    then = rows(MADE / "compare.csv", "fingerprint")
    known = {(row["measure"], row["figure"]) for row in then}
    now = rows(old / "compare.csv", "fingerprint")
    assert [row for row in now if (row["measure"], row["figure"]) in known] == then
    assert {row["figure"] for row in now if (row["measure"], row["figure"]) not in known} <= {"fusing", "fusing_memory"}


@pytest.mark.slow
def test_it_is_taught_on(old):
    before = {label: contents(old / "plan" / label) for label in LABELS}
    lineages = run.run(plan.load(old / "longer.yaml"), old / "plan", device="cpu")
    report.build(lineages, old / "again", title="before")
    for lineage in lineages:
        now = contents(lineage.folder)
        assert {path: now[path] for path in before[lineage.folder.name]} == before[lineage.folder.name]
    told = rows(old / "again" / "scores.csv", "run", "fingerprint", "score", *LATER)
    assert told == rows(MADE / "longer-scores.csv", "run", "fingerprint", "score")
    scores, theirs = ([float(row["score"]) for row in rows(path)] for path in (
        old / "again" / "scores.csv", MADE / "longer-scores.csv"
    ))  # fmt: skip
    assert scores == pytest.approx(theirs, abs=2e-3)  # bit-equal on the machine that made them
