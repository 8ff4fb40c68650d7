"""What holds on Windows and macOS, as far as it can be tried elsewhere."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import torch
from conftest import SYNC

from perdure import files, plan, run
from perdure.bases import loading
from perdure.cli import doctor
from perdure.errors import LineageError, PerdureError
from perdure.lineage import Lineage, locks
from perdure.wording import name_from

SCRIPT = Path(__file__).with_name("windows.py")
PAIR = [{"name": n, "images": "/photos", "token": t, "class": "dog"} for n, t in (("dog", "zwz"), ("cat", "sbu"))]


@pytest.mark.slow
def test_a_model_lives_under_the_rules_of_windows(plan_data, tmp_path):
    """Taught, resumed, examined, taken back and shown; and what was learnt is what is learnt without those rules."""
    data = {**plan_data, "concepts": plan_data["concepts"][:2], "training": {**plan_data["training"], "steps": 2}}
    data["sampling"] = {**data["sampling"], "images_per_prompt": 1, "steps": 1}
    (tmp_path / "plan.json").write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / "there").mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "plan.json"), str(tmp_path / "there")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["lessons"] == told["again"] == ["dog", "cat"] and told["undone"] == ["dog"]
    assert told["held"] and "written by another process" in told["refused"] and told["findings"] == []
    assert told["peak"] > 1 << 20
    (line,) = run.run(plan.build(data), tmp_path / "here", device="cpu")
    assert told["memories"] == [row.record["memory"] for row in line.lessons]


@pytest.mark.parametrize(
    ("concepts", "methods", "told"),
    [
        ([{"name": "aux"}], ["naive"], r"concepts\.0\.name: 'aux' cannot be the name of a folder on Windows"),
        ([{"name": "COM1"}], ["naive"], "'COM1' cannot be the name of a folder"),
        ([{}, {"name": "Dog"}], ["naive"], r"two concepts are called 'dog' and 'Dog' \(one folder on Windows and mac"),
        ([], [{"name": "naive", "label": "mine."}], r"methods\.0: 'mine\.' cannot be the name of a folder"),
        ([], [{"name": "naive", "label": "nul.1"}], r"methods\.0: 'nul\.1' cannot be"),
        ([], ["naive", {"name": "ewc", "label": "Naive"}], "two methods are called 'naive' and 'Naive'"),
    ],
)
def test_what_only_some_systems_can_name_is_refused_in_new_plans(concepts, methods, told):
    given = [{**usual, **own} for usual, own in zip(PAIR, concepts, strict=False)]
    with pytest.raises(PerdureError, match=told):
        plan.build({"concepts": given, "methods": methods})


def test_a_model_that_was_made_with_such_names_opens(tmp_path):
    concepts = [{**PAIR[0], "name": "Aux"}, {**PAIR[1], "name": "aux"}]
    made = plan.build({"method": "naive"})
    line = Lineage.create(tmp_path / "model", made, "identity", {})
    facts = {"described": {}, "digest": "", "held_out": False}
    for concept in concepts:
        files.write_json(line.concept_folder(concept["name"]) / "concept.json", {"concept": concept, **facts})
    older = plan.Plan.model_validate({**line.settings, "name": "con", "concepts": concepts})
    assert [concept.name for concept in older.concepts] == ["Aux", "aux"]
    assert line.concept("aux").token == "sbu"


def test_a_folder_of_concepts_gets_names_for_every_system(tmp_path, photos):
    for name in ("aux", "Dog", "dog"):
        (tmp_path / name).symlink_to(photos / "dog", target_is_directory=True)
    made = plan.build({"method": "naive", "concepts": {"folder": str(tmp_path)}})
    assert sorted(concept.name for concept in made.concepts) == ["Dog", "aux-1", "dog-2"]
    assert name_from("NUL") == "NUL-1" and name_from("null") == "null"


def test_a_lock_that_somebody_only_looks_at_is_not_held(tmp_path, monkeypatch):
    """Whoever looks holds it for a moment: that one attempt fails says nothing, two do."""
    path = tmp_path / ".lock"
    with locks.holding(path) as mine, locks.holding(path) as another:
        assert mine and not another and locks.held(path)
    real, taken = filelock.lock_descriptor, iter([True, False])
    monkeypatch.setattr("filelock.lock_descriptor", lambda handle, **how: not next(taken) and real(handle, **how))
    assert not locks.held(path)
    monkeypatch.setattr("filelock.lock_descriptor", lambda handle, **how: False)
    assert locks.held(path)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def none(handle, *, blocking):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.lock_descriptor", none)
    with pytest.raises(LineageError, match="has no locks"), locks.alone(tmp_path):
        pass


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(tmp_path, monkeypatch):
    events, real = [], Path.replace

    def synced(handle):
        SYNC(handle)
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", lambda self, target: events.append("name") or real(self, target))
    files.write_text(tmp_path / "new" / "a.json", "x")
    assert events == ["folder", "file", "name", "folder"]


def test_a_name_that_a_scanner_holds_is_asked_for_again(tmp_path, monkeypatch):
    """Windows refuses to replace what another program has open at the moment."""
    (tmp_path / "a.json").write_text("old", encoding="utf-8")
    refusals, real = iter([True, True, False]), Path.replace

    def held(self, target):
        if next(refusals):
            raise PermissionError(13, "in use")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", held)
    monkeypatch.setattr(files, "PAUSES", (0, 0))
    files.write_text(tmp_path / "a.json", "new")
    assert files.read_text(tmp_path / "a.json") == "new" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(("told", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_wait_without_the_core_unless_told_otherwise(told, policy):
    """The variable is there before torch is, which reads it when it is loaded."""
    code = "import os, sys, perdure; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    alone = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | told
    done = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [policy, "False"]


def test_the_embedded_base_has_one_thread_unless_told_otherwise(monkeypatch, pico):
    try:
        for base, told, count in (("toybox", "", 1), ("toybox", "2", 2), (str(pico), "", 2)):
            monkeypatch.setenv("OMP_NUM_THREADS", told)
            torch.set_num_threads(2)
            loading.load(base, device="cpu")
            assert torch.get_num_threads() == count
            assert doctor.threads().startswith(f"{count} on ")
            assert ("as OMP_NUM_THREADS says" in doctor.threads()) == bool(told)
    finally:
        torch.set_num_threads(1)


def test_the_machine_is_examined_without_posix(monkeypatch):
    """`os.sysconf` is missing on Windows; what it said on POSIX is the twin of what is told."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.delattr(os, "sysconf")
    assert doctor.examine()["memory"] == f"{pages / 1e9:.0f} GB"
