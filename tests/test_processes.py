"""Several processes in one run: what is drawn and learnt is what one process draws and learns, and nobody waits for a
process that is gone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killing import state

from perdure import plan, run

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("several.py")
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def data(pico, pico_clip, photos):
    """Two concepts; replay and preservation draw something at random for each row of a batch."""
    return {
        "base": str(pico),
        "method": {"name": "replay", "label": "replay"},
        "concepts": [
            {"name": name, "images": str(photos / name), "token": token, "class": name}
            for name, token in (("dog", "zwz"), ("cat", "sbu"))
        ],
        "training": {
            "resolution": 32, "steps": 4, "batch_size": 2, "learning_rate": 1e-3, "checkpoint_every": 2,
            "preserve": {"weight": 1.0}, "prior": {"images": 2},
        },
        "sampling": {
            "prompts": {"subject": ["{concept} in snow", "{concept} on beach"], "style": ["{concept}"]},
            "images_per_prompt": 3, "steps": 1, "guidance": 1.0, "batch_size": 2,
            "scenes": {"prompts": ["a photo of {concepts}"], "images_per_prompt": 3, "how": "noise"},
        },
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def told(data, tmp_path_factory):
    """The plan run by one process; by two; by two that are killed and started again; by two of which one is killed."""
    return ran(data, tmp_path_factory.mktemp("several"))


def ran(data, folder):
    """What tests/several.py tells of a plan."""
    (folder / "plan.json").write_text(json.dumps(data))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "plan.json"), str(folder)],
        capture_output=True, text=True, env=QUIET,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_batches_shared_out_teach_what_one_process_learns(told):
    one, two = told["alone"], told["two"]
    assert two["ended"] == [0, 0] and two["steps"] == one["steps"]
    for method, scores in one["scores"].items():
        np.testing.assert_allclose(two["scores"][method], scores, atol=1e-3)
    by_content = ("/store/", ".shared/")  # weights that two processes learn differ in the last digits
    names = [[n for n in run["listing"] if not any(part in n for part in by_content)] for run in (one, two)]
    assert names[0] == names[1] and two["left"] == []  # one set of files
    scenes = [name for name in two["pictures"] if "/scenes/" in name]
    assert len(scenes) == 3


def test_both_processes_draw_and_train(told):
    (alone,), (first, second) = told["alone"]["counts"], told["two"]["counts"]
    assert first["predict"] == second["predict"] == alone["predict"]  # each its rows of every batch
    assert first["draw"] + second["draw"] == alone["draw"]  # each some of the batches
    assert second["draw"] > alone["draw"] // 4


def test_a_killed_run_is_taken_up_by_both(told):
    assert told["killed"]["ended"][0] != 0 and told["killed"]["steps"] != told["two"]["steps"]
    assert told["resumed"]["ended"] == [0, 0]
    for what in ("digests", "pictures", "steps", "listing", "left"):
        assert told["resumed"][what] == told["two"][what], what


@pytest.mark.parametrize("which", ["killed", "helper killed"])
def test_nobody_waits_for_a_process_that_is_gone(told, which):
    assert all(code != 0 for code in told[which]["ended"])
    assert 14 not in told[which]["ended"], "one had to be woken by the alarm"


def test_the_command_line_spreads_the_drawing(data, tmp_path):
    """With a batch of 1 the first process trains alone, and all is bit-equal to one process."""
    data = {**data, "training": {**data["training"], "batch_size": 1}}
    made = plan.build(data)
    run.run(made, tmp_path / "alone", device="cpu")
    (tmp_path / "plan.yaml").write_text(json.dumps(data))
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    plain = ["--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    # a launcher that finds no GPU starts processes on the CPU
    done = subprocess.run(
        [*launch, *plain, "--main_process_port=0", "-m", "perdure", "run", "plan.yaml", "--out", "two"],
        capture_output=True, text=True, env={**QUIET, "CUDA_VISIBLE_DEVICES": ""}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("lesson 1 dog") == 1  # only the first process speaks
    assert done.stdout.count("the first trains alone") == 1
    one, two = state(tmp_path / "alone"), state(tmp_path / "two")
    for what in ("digests", "pictures", "steps"):
        assert two[what] == one[what], what


@pytest.mark.parametrize("method", ["ewc", "replay"])
def test_classes_are_learnt_by_two_as_by_one(class_plan, tmp_path, method):
    """Each process takes its rows of every batch; what is shown is the same pictures and the same files."""
    data = {**class_plan, "methods": [method], "training": {**class_plan["training"], "batch_size": 4, "flip": True}}
    told = ran(data, tmp_path)
    one, two = told["alone"], told["two"]
    assert two["ended"] == [0, 0] and two["left"] == [] and two["steps"] == one["steps"]
    np.testing.assert_allclose(two["scores"][method], one["scores"][method], atol=1e-6)
    (alone,), (first, second) = one["counts"], two["counts"]
    assert first["learnt"] == second["learnt"] > 0
    if method == "replay":  # whose batches are of one size; ewc weighs pictures one by one, on all
        assert first["learnt"] + second["learnt"] == alone["learnt"]
