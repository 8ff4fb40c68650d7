"""A run that is killed and started again ends as one that was not: bit for bit, with nothing left over."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import files, plan, run
from perdure.lineage import Lineage, branching, fsck, history
from perdure.lineage.rows import Row

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("killing.py")
WRITES = ["@lineage.json", "@plan.yaml", "@memory.json", "@002-cat.partial/begun", "@lesson.json", "@003-clock"]
"""Names before which a process dies: the first files of all, a stored memory, the beginning and ends of lessons."""


@pytest.fixture(scope="module")
def killed(pico, pico_clip, photos, tmp_path_factory):
    """Three lessons, killed at ten random moments spread over the run and at some writes; each resumed."""
    folder = tmp_path_factory.mktemp("killed")
    tokens = {"dog": "zwz", "cat": "sbu", "clock": "uwu"}
    data = {
        "base": str(pico),
        "method": "merge_ortho",
        "concepts": [
            {"name": name, "images": str(photos / name), "token": token, "class": name}
            for name, token in tokens.items()
        ],
        "training": {"resolution": 32, "steps": 4, "batch_size": 2, "learning_rate": 1e-2, "checkpoint_every": 2},
        "sampling": {
            "prompts": {"subject": ["{concept} in snow"], "style": ["{concept}"]},
            "images_per_prompt": 1, "steps": 2, "batch_size": 4,
        },
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}, "drift": 2},
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(data))
    chance = random.Random(0)
    moments = [f"{(tenth + chance.random()) / 10:.3f}" for tenth in range(10)]
    told = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "plan.json"), str(folder), ",".join(moments + WRITES)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_every_moment_falls_into_the_run(killed):
    assert all(attempt["killed"] for attempt in killed["attempts"])
    assert {attempt["lessons"] for attempt in killed["attempts"]} >= {0, 1, 2}


def test_resumed_runs_end_bit_equal(killed):
    for attempt in killed["attempts"]:
        assert attempt["resumed"], attempt["moment"]
        for what in ("digests", "pictures", "steps"):
            assert attempt[what] == killed["whole"][what], (what, attempt["moment"])


def test_nothing_is_left_over(killed):
    for attempt in [killed["whole"], *killed["attempts"]]:
        assert attempt["left"] == [] and attempt["orphans"] == []
        assert attempt["listing"] == killed["whole"]["listing"]


# --- ways back: killed before each name that they give or take --------------------------------------------------------


def undone(folder):
    with Lineage(folder).locked():
        history.undo(Lineage(folder))


def put_back(folder):
    with Lineage(folder).locked():
        history.redo(Lineage(folder))


def accepted(folder):
    with Lineage(folder).locked():
        history.accept(Lineage(folder))


def dropped(folder):
    with Lineage(folder).locked():
        history.drop(Lineage(folder))


def set_aside(folder):
    """The last lesson as if a gate had refused it: it is staged, and set aside."""
    lineage = Lineage(folder)
    with lineage.locked():
        last = lineage.lessons[-1].folder
        staged = last.with_name(f"{last.name}.partial")
        last.rename(staged)
        record = files.read_json(staged / "lesson.json")
        files.write_json(staged / "lesson.json", {**record, "refusal": {"gate": 0.1, "told": ["dog fell"]}})
        history.refuse(lineage, Row(staged))


def branched(folder):
    branching.branch(Lineage(folder), folder.parent / "branch", None, 2)


def removed(folder):
    run.remove(Lineage(folder), "dog", device="cpu")


WAYS = {
    "undo": ([], undone), "redo": ([undone, undone], put_back), "accept": ([set_aside], accepted),
    "drop": ([undone, set_aside], dropped), "branch": ([], branched), "remove": ([], removed),
}  # fmt: skip


@pytest.fixture(scope="module")
def three(pico, pico_clip, photos, tmp_path_factory):
    tokens = {"dog": "zwz", "cat": "sbu", "clock": "uwu"}
    concepts = [{"name": n, "images": str(photos / n), "token": t, "class": n} for n, t in tokens.items()]
    data = {
        "base": str(pico), "method": {"name": "merge_init", "rank": 2}, "concepts": concepts,
        "training": {"resolution": 32, "steps": 1, "batch_size": 1, "learning_rate": 1e-2},
        "sampling": {
            "prompts": {"subject": ["{concept} in snow"], "style": ["{concept}"]}, "images_per_prompt": 1, "steps": 1,
        },
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}, "drift": 0},
    }  # fmt: skip
    (lineage,) = run.run(plan.build(data), tmp_path_factory.mktemp("three"), device="cpu")
    return lineage.folder


def chain(folder):
    """What a model is and what stands beside it: digests of memories."""
    lineage = Lineage(folder)
    beside = [(row.why, row.number, row.record["memory"]) for row in history.beside(lineage)]
    return [row.record["memory"] for row in lineage.lessons], sorted(beside)


def events_of(change, folder, moment=None):
    """Make a change in a child, which dies before its n-th name given or taken; how many there were, -1 if it died."""
    counted = folder.parent / "events"
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            seen = []

            def watched(real):
                def call(*args, **options):
                    seen.append(1)
                    if len(seen) == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **options)

                return call

            for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
                setattr(Path, name, watched(getattr(Path, name)))
            change(folder)
            counted.write_text(str(len(seen)))
            code = 0
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WIFSIGNALED(status), "it failed, and was not killed"
    return int(counted.read_text()) if status == 0 else -1


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_way_back_leaves_one_state_or_the_other(three, way, tmp_path):
    before, change = WAYS[way]
    start = shutil.copytree(three, tmp_path / "start" / "m")
    for step in before:
        step(start)
    whole = shutil.copytree(start, tmp_path / "whole" / "m")
    events = events_of(change, whole)
    ends, died = (chain(start), chain(whole)), 0
    for moment in range(1, events + 1, max(1, events // 12)):
        folder = shutil.copytree(start, tmp_path / str(moment) / "m")
        died += events_of(change, folder, moment) == -1
        assert [one for one in fsck.examine(folder) if one.damage and one.file != "plan.yaml"] == []
        with Lineage(folder).locked():
            pass
        assert chain(folder) in ends, moment
        if chain(folder) == ends[0]:
            change(folder)
        assert chain(folder) == ends[1] and not list(folder.rglob("*.partial")), moment
        assert fsck.examine(folder, mend=True) == [] or way == "drop"
        assert (folder.parent / "branch").is_dir() == (way == "branch")
    assert died >= 3
