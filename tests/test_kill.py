"""A run that is killed and started again ends as one that was not: bit for bit, with nothing left over."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

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
