"""Trackers: what a run tells them, read back from what the real libraries have written; and what goes wrong."""

import logging
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from typer.testing import CliRunner

from perdure import plan, run
from perdure.cli import app
from perdure.errors import PlanError
from perdure.run import trackers

STEPS = 2


@pytest.fixture(scope="module")
def data(pico, pico_clip, photos):
    """Two lessons, as quick as can be."""
    return {
        "name": "tiny", "base": str(pico), "method": {"name": "merge_init", "rank": 2, "label": "merge_init"},
        "concepts": [
            {"name": name, "images": str(photos / name), "token": token, "class": name}
            for name, token in (("dog", "zwz"), ("cat", "sbu"))
        ],
        "training": {"resolution": 32, "steps": STEPS, "batch_size": 1, "learning_rate": 1e-2},
        "sampling": {
            "prompts": {"subject": ["{concept} in snow", "{concept} on beach"], "style": ["{concept}"]},
            "images_per_prompt": 3, "steps": 1, "guidance": 1.0,
        },
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}},
    }  # fmt: skip


def tracked(data, out, name):
    """Run the plan with a tracker; returns its lineage."""
    (lineage,) = run.run(plan.build(data), out, device="cpu", track=[name])
    return lineage


@pytest.fixture
def wandb():
    """The library, which keeps its settings until it is torn down."""
    library = pytest.importorskip("wandb", reason="perdure[wandb] is not installed")
    yield library
    library.teardown()


@pytest.fixture(scope="module")
def followed(data, tmp_path_factory):
    """The plan, run with TensorBoard where that is installed."""
    names = ["tensorboard"] if find_spec("tensorboard") else []
    (lineage,) = run.run(plan.build(data), tmp_path_factory.mktemp("followed"), device="cpu", track=names)
    return lineage


# --- what is told --------------------------------------------------------------------------------------------------


def test_tensorboard_shows_losses_scores_and_samples(followed):
    pytest.importorskip("tensorboard", reason="perdure[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = followed.folder.parent
    events = EventAccumulator(str(out / "tensorboard/merge_init")).Reload()
    losses = [log["loss"] for row in followed.lessons for log in row.losses()]
    told = events.Scalars("train/loss")
    assert [event.step for event in told] == [1, 2, 3, 4]  # one run, whose steps go on from lesson to lesson
    np.testing.assert_allclose([event.value for event in told], losses, atol=1e-5)
    scores = followed.matrix("clip_i")
    for column, (concept, steps) in enumerate({"dog": [2, 4], "cat": [4]}.items()):
        shown = events.Scalars(f"score/clip_i/{concept}")
        assert [event.step for event in shown] == steps
        np.testing.assert_allclose([event.value for event in shown], scores[column + 1 :, column], atol=1e-6)
        assert events.Scalars(f"base/clip_i/{concept}")[0].value == pytest.approx(scores[0, column])
    picture = events.Images("samples/cat")[0]
    assert (picture.step, picture.width, picture.height) == (4, 3 * 32, 2 * 32)  # latents side by side, prompts below
    settings = "".join(path.read_text() for path in out.rglob("hparams.yml"))
    assert "training.learning_rate: 0.01" in settings and "methods:" in settings


def test_wandb_keeps_it_offline_and_knows_its_run_again(wandb, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    runs, told, real = {}, [], wandb.Run.log

    def log(self, values, step):
        runs[self.id] = (self.project, self.name, dict(self.config))
        told.append((step, values))
        return real(self, values, step=step)

    monkeypatch.setattr(wandb.Run, "log", log)
    tracked({**data, "concepts": data["concepts"][:1]}, tmp_path, "wandb")
    lineage = tracked(data, tmp_path, "wandb")  # one more concept: the same run goes on
    ((project, label, config),) = runs.values()
    assert (project, label) == ("tiny", "merge_init") and config["training.steps"] == STEPS
    assert str(tmp_path) not in str(config)
    assert [step for step, values in told if "train/loss" in values] == [1, 2, 3, 4]
    scores = [(step, values["score/clip_i/dog"]) for step, values in told if "score/clip_i/dog" in values]
    assert scores == list(zip((2, 4), lineage.matrix("clip_i")[1:, 0], strict=True))
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/samples/cat_*.png"))


def test_trackio_writes_its_database(data, tmp_path, monkeypatch):
    assert "trackio" not in sys.modules  # it reads where to write when it is imported
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="perdure[trackio] is not installed")
    from trackio import sqlite_storage

    lineage = tracked(data, tmp_path / "out", "trackio")
    (name,) = sqlite_storage.SQLiteStorage.get_runs("tiny")
    rows = sqlite_storage.SQLiteStorage.get_logs("tiny", name)
    assert name == f"merge_init-{trackers.identity(lineage)}"
    assert {row["step"] for row in rows if "train/loss" in row} == {1, 2, 3, 4}
    assert any(row.get("score/clip_i/cat") == pytest.approx(lineage.matrix("clip_i")[2, 1]) for row in rows)
    assert list((tmp_path / "trackio").rglob("*.png"))


def test_a_finished_lineage_is_told_to_nobody(followed, data, monkeypatch):
    monkeypatch.setattr(trackers, "_started", lambda *given: pytest.fail("a tracker was started"))
    monkeypatch.setattr(trackers, "check", lambda names: None)
    tracked(data, followed.folder.parent, "tensorboard")


# --- what goes wrong -----------------------------------------------------------------------------------------------


class Broken:
    """A tracker that loses its connection at its second call."""

    def __init__(self):
        self.calls = 0

    def log(self, values, step):
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("no route to host\nand more")

    def finish(self):
        raise AssertionError("it was dropped")


def test_a_tracker_that_fails_is_dropped_and_training_goes_on(data, tmp_path, monkeypatch, caplog):
    broken = Broken()
    monkeypatch.setattr(trackers, "check", lambda names: None)
    monkeypatch.setattr(trackers, "_started", lambda *given: broken)
    with caplog.at_level(logging.WARNING):
        lineage = tracked(data, tmp_path, "tensorboard")
    assert lineage.concepts == ["dog", "cat"] and broken.calls == 2
    told = [record.getMessage() for record in caplog.records if record.name == "perdure.run.trackers"]
    assert told == ["tensorboard failed (no route to host); training goes on without it, see train.jsonl"]


def test_one_that_cannot_start_stops_before_training(data, tmp_path, monkeypatch):
    def refuse(self):
        raise OSError("disk full")

    monkeypatch.setattr(trackers, "check", lambda names: None)
    monkeypatch.setattr(trackers.TensorBoardTracker, "start", refuse)
    with pytest.raises(PlanError, match=r"tensorboard cannot be started \(disk full\), and nothing was trained"):
        tracked(data, tmp_path, "tensorboard")
    assert not list(tmp_path.rglob("lessons"))


def test_wandb_without_a_login_says_what_to_do(wandb, data, tmp_path, monkeypatch):
    for variable in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(PlanError, match=r"`wandb login`.*WANDB_MODE=offline.*leave out --track wandb"):
        tracked(data, tmp_path / "out", "wandb")


def test_unknown_and_missing_trackers(data, tmp_path, monkeypatch):
    (tmp_path / "plan.json").write_text(plan.plan_text(plan.build(data)))
    told = CliRunner().invoke(app, ["run", str(tmp_path / "plan.json"), "--out", str(tmp_path), "--track", "wandbb"])
    assert isinstance(told.exception, PlanError) and "did you mean 'wandb'" in str(told.exception)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match=r"trackio is not installed; pip install 'perdure\[trackio\]'"):
        trackers.check(["trackio"])
