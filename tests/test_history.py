"""What stands beside a chain of lessons: refused and undone ones, taken back, put back, kept after all, dropped."""

import json
import shutil

import numpy as np
import pytest
from conftest import paint
from scipy import stats
from test_run import tree

from perdure import files, plan, report, run
from perdure import memory as memories
from perdure.errors import GateRefused, LineageError, PlanError
from perdure.lineage import Lineage, agreement, fsck, history
from perdure.lineage.rows import aside
from perdure.plan import Concept, choice
from perdure.run import teaching


@pytest.fixture(scope="module")
def two(pico, pico_clip, photos, tmp_path_factory):
    """A model that has learnt dog and cat: read it only."""
    data = {
        "name": "m", "base": str(pico), "method": {"name": "merge_init", "rank": 2},
        "concepts": [
            {"name": n, "images": str(photos / n), "token": t, "class": n} for n, t in (("dog", "zwz"), ("cat", "sbu"))
        ],
        "training": {"resolution": 32, "steps": 2, "batch_size": 1, "learning_rate": 1e-2},
        "sampling": {
            "prompts": {"subject": ["{concept} in snow", "{concept} on a beach"], "style": ["{concept}"]},
            "images_per_prompt": 2, "steps": 1, "guidance": 1.0,
        },
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}, "drift": 0},
    }  # fmt: skip
    out = tmp_path_factory.mktemp("two")
    (lineage,) = run.run(plan.build(data), out, device="cpu")
    return lineage.folder


@pytest.fixture
def model(two, tmp_path):
    """A copy of it, to be changed."""
    return Lineage(shutil.copytree(two, tmp_path / "m"))


def refused(model, concept, **more):
    with pytest.raises(GateRefused) as caught:
        run.teach(model, concept, gate=-2.0, device="cpu", **more)  # cosines differ by less than that
    return str(caught.value)


def locked(model, change):
    with agreement.writing(model):
        return change(model)


def state(model):
    """All that a chain is, without what stands beside it."""
    beside = tree(model.folder)
    return {name: digest for name, digest in beside.items() if not name.startswith("aside/")}


# --- a refused lesson ------------------------------------------------------------------------------------------------


def test_a_refused_lesson_stands_beside_the_model_whole(model, bird):
    before = state(model)
    told = refused(model, bird)
    assert model.concepts == ["dog", "cat"] and "dog fell from" in told and "perdure accept" in told
    row = history.candidate(model)
    assert row.name == "bird" and row.cell("bird").scores and (row.folder / "sheet.png").is_file()
    assert row.record["refusal"] == {"gate": -2.0, "told": row.record["refusal"]["told"]} and "dog fell" in row.refusal
    memories.load(row.memory, model.store)
    assert fsck.examine(model.folder) == []
    page = report.build([model], model.folder.parent / "page", "x").read_text()
    assert "Refused: lesson 3, bird" in page and "perdure accept" in page
    locked(model, history.drop)
    assert state(model) == before and aside(model.folder) == [] and not (model.folder / "aside").exists()


def test_an_accepted_lesson_is_the_one_that_no_gate_would_have_refused(model, bird, two, tmp_path):
    plain = Lineage(shutil.copytree(two, tmp_path / "plain"))
    run.teach(plain, bird, device="cpu")
    refused(model, bird)
    row = locked(model, history.accept)
    assert model.concepts == ["dog", "cat", "bird"] and row.number == 3 and row.refusal
    assert row.record["memory"] == plain.lessons[-1].record["memory"]
    np.testing.assert_array_equal(model.matrix("clip_i"), plain.matrix("clip_i"))
    assert set(state(model)) - {"lessons/003-bird/sheet.png"} == set(state(plain))
    with pytest.raises(LineageError, match="has no refused lesson"):
        history.candidate(model)


def test_a_retried_lesson_starts_where_the_refused_one_did(model, bird, two, tmp_path):
    plain = Lineage(shutil.copytree(two, tmp_path / "plain"))
    run.teach(plain, bird, device="cpu", own={"steps": 3})
    refused(model, bird)
    with pytest.raises(GateRefused):  # by the same gate
        run.retry(model, device="cpu", own={"steps": 3})
    kept = history.candidate(model)
    assert kept.record["training"] == {"steps": 3} and kept.own == "training.steps=3"
    assert len(aside(model.folder)) == 1
    row = run.retry(model, gate=2.0, device="cpu")  # with the settings that the last one had
    assert row.record["memory"] == plain.lessons[-1].record["memory"] and row.record["steps"] == 3
    assert aside(model.folder) == [] and state(model).keys() == state(plain).keys()


def test_the_next_lesson_drops_what_stood_beside(model, bird, photos):
    refused(model, bird)
    clock = Concept.model_validate({"name": "clock", "images": photos / "clock", "token": "uwu", "class": "clock"})
    run.teach(model, clock, device="cpu")
    assert aside(model.folder) == [] and not model.concept_folder("bird").exists()
    assert fsck.examine(model.folder) == []


def test_other_photos_under_the_name_of_a_refused_concept(model, bird, tmp_path):
    refused(model, bird)
    paint(tmp_path / "other", 2, seed=5)
    other = bird.model_copy(update={"images": tmp_path / "other"})
    refused(model, other)
    assert len(aside(model.folder)) == 1 and fsck.examine(model.folder) == []
    locked(model, history.accept)
    assert model.concept("bird") == other


# --- undo and redo ---------------------------------------------------------------------------------------------------


def test_redo_puts_back_what_undo_took(model):
    whole = tree(model.folder)
    for _ in range(2):
        locked(model, history.undo)
    assert model.lessons == [] and [row.number for row in aside(model.folder)] == [1, 2]
    assert fsck.examine(model.folder) == []
    for number in (1, 2):
        assert locked(model, history.redo).number == number
    assert tree(model.folder) == whole
    with pytest.raises(LineageError, match="no undone lesson"):
        locked(model, history.redo)


def test_a_lesson_after_undo_is_another_past(model, bird):
    locked(model, history.undo)
    run.teach(model, bird, device="cpu")
    assert aside(model.folder) == [] and model.concepts == ["dog", "bird"]
    with pytest.raises(LineageError, match="no undone lesson"):
        history.redo(model)


def test_a_candidate_waits_for_the_lesson_that_it_starts_from(model, bird):
    refused(model, bird)
    locked(model, history.undo)
    with pytest.raises(LineageError, match=r"the refused lesson 3 \(bird\) starts from lesson 2.*perdure redo"):
        locked(model, history.accept)
    with agreement.writing(model):  # a writer sweeps only what can never go back
        assert len(history.beside(model)) == 2
    locked(model, history.redo)
    assert locked(model, history.accept).number == 3


def test_retry_takes_the_undone_lesson_where_none_was_refused(model):
    memory = model.lessons[-1].record["memory"]
    locked(model, history.undo)
    row = run.retry(model, device="cpu", own={"learning_rate": 1e-3})
    assert row.number == 2 and row.record["memory"] != memory and model.concepts == ["dog", "cat"]
    assert row.record["training"] == {"learning_rate": 1e-3}


def test_a_kill_between_the_renames_leaves_nothing_to_go_back_to(model, bird, monkeypatch):
    """A new lesson is committed, and its process dies before what stood beside the chain is dropped."""
    locked(model, history.undo)
    with monkeypatch.context() as patch:
        patch.setattr("perdure.lineage.rows.drop_aside", lambda *rows: None)
        patch.setattr(Lineage, "tidy", lambda *keep: None)
        run.teach(model, bird, device="cpu")
    assert len(aside(model.folder)) == 1 and history.beside(model) == []
    (found,) = fsck.examine(model.folder)
    assert found.file.endswith("002-cat") and not found.damage and "has no more" in found.what
    with model.locked():
        pass
    assert aside(model.folder) == []


@pytest.mark.parametrize("file", ["lesson.json", "memory.json", "cells/cat/000.png"])
def test_damage_beside_the_chain_can_go(model, file):
    locked(model, history.undo)
    (row,) = aside(model.folder)
    (row.folder / file).write_bytes(b"{")
    assert [one.damage for one in fsck.examine(model.folder)] == [True]
    fsck.examine(model.folder, mend=True)
    assert [one for one in fsck.examine(model.folder, mend=True) if one.damage] == []
    assert aside(model.folder) == [] and model.concepts == ["dog"]


# --- what a lesson costs ---------------------------------------------------------------------------------------------


def test_the_cost_of_a_lesson_by_hand(model, bird):
    """Two older concepts: paired t intervals of scipy at 97.5 %, over the pictures' own scores."""
    row = run.teach(model, bird, device="cpu")
    for name in ("dog", "cat"):
        old, new = (np.array(r.cell(name).record["each"]["clip_i"]) for r in (model.lessons[1], row))
        assert old.mean() == pytest.approx(model.lessons[1].cell(name).scores["clip_i"], abs=1e-5)
        low, high = stats.ttest_rel(old, new).confidence_interval(0.975)
        cost = row.record["cost"][name]
        assert (cost["low"], cost["high"]) == pytest.approx((low, high), rel=1e-6) and cost["pictures"] == 4
        assert cost["drop"] == pytest.approx((old - new).mean(), abs=1e-5)
        assert (name in " ".join(row.harm)) == (low > 0)


def test_cells_of_older_versions_are_scored_again(model, bird):
    known = {}
    for name in ("dog", "cat"):
        path = model.lessons[1].cell(name).folder / "cell.json"
        record = files.read_json(path)
        known[name] = record.pop("each")
        files.write_json(path, record)
    row = run.teach(model, bird, device="cpu")
    for name, each in known.items():
        new = np.array(row.cell(name).record["each"]["clip_i"])
        low, _ = stats.ttest_rel(each["clip_i"], new).confidence_interval(0.975)
        assert row.record["cost"][name]["low"] == pytest.approx(low, abs=1e-5)


# --- settings of a lesson's own, and of the file ---------------------------------------------------------------------


def test_settings_of_a_lessons_own(model, bird):
    own = choice.of_lesson(["training.steps=3", "training.prior.images=1"])
    assert own == {"steps": 3, "prior": {"images": 1}}
    row = run.teach(model, bird, device="cpu", own=own)
    assert row.record["training"] == own and row.record["steps"] == 3 and len(row.losses()) == 3
    assert row.losses()[0]["parts"]["prior"] > 0
    assert model.settings["training"]["steps"] == 2 and plan.load(model.folder / "plan.yaml").training.steps == 2
    with pytest.raises(LineageError, match=r"lesson 3 \(bird\) .* \(training.steps=3, training.prior.images=1\)"):
        agreement.on_plan(model, model.plan())
    for wrong in ("sampling.steps=3", "training.resolution=64", "training=3", "base=toybox"):
        with pytest.raises(PlanError, match=f"--set {wrong.partition('=')[0]}: a lesson may have of its own"):
            choice.of_lesson([wrong])
    with pytest.raises(PlanError, match=r"training\.steps"):
        run.teach(model, bird.model_copy(update={"name": "fish", "token": "image"}), device="cpu", own={"steps": 0})


def test_a_lesson_with_other_settings_is_not_gone_on_with(model, bird, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "_score", lambda *rest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.teach(model, bird, device="cpu", own={"steps": 3})
    assert run.teach(model, bird, device="cpu", own={"steps": 1}).record["steps"] == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("steps: 2", "steps: 9", 1), "training.steps is 2 in the model and 9 in the file"),
        (lambda text: text.replace("token: zwz", "token: abc"), "concepts.dog.token is 'zwz' in the model and 'abc'"),
        (lambda text: text.replace("  steps: 2", "  stops: 2", 1), "stops"),
        (lambda text: "steps: [", "not valid YAML"),
    ],
)
def test_an_edited_plan_is_noticed(model, bird, change, told):
    path = model.folder / "plan.yaml"
    path.write_text(change(path.read_text()))
    before = tree(model.folder)
    for write in (lambda: run.teach(model, bird, device="cpu"), lambda: locked(model, history.undo)):
        with pytest.raises(LineageError, match="was edited by hand") as caught:
            write()
        assert told in str(caught.value) and "perdure init NEW" in str(caught.value)
    assert tree(model.folder) == before
    assert len(fsck.examine(model.folder, mend=True)) == 1 and fsck.examine(model.folder) == []
    locked(model, history.undo)


def test_a_plan_of_an_older_version_is_not_edited(model):
    """It lacks keys that are new since."""
    path = model.folder / "plan.yaml"
    kept = [line for line in path.read_text().splitlines() if "checkpoint_every" not in line and "drift" not in line]
    facts = files.read_json(model.folder / "lineage.json")
    facts["settings"]["training"].pop("checkpoint_every"), facts["settings"]["scoring"].pop("drift")
    files.write_json(model.folder / "lineage.json", facts)
    path.write_text("\n".join(kept))
    agreement.on_file(Lineage(model.folder))


# --- on the command line ---------------------------------------------------------------------------------------------


def test_the_way_of_a_refused_lesson(model, bird, perdure):
    words = ("teach", model.folder, bird.images, "--token", "pdw", "--class", "dog")
    code, _, err = perdure(*words, "--max-forgetting", "-2", "--set", "training.steps=1")
    assert code == 3 and "lesson refused, the model is unchanged" in err and "perdure drop" in err
    out = perdure("log", model.folder)[1]
    assert "refused: lesson 3 (bird): dog fell" in out
    assert perdure("retry", model.folder, "--set", "training.steps=3")[0] == 3
    code, out, _ = perdure("accept", model.folder)
    assert code == 0 and "lesson 3 (bird) is accepted, though it was refused" in out
    out = perdure("log", model.folder)[1]
    assert "was taught with training.steps=3" in out and "though its gate had refused it" in out
    assert json.loads(perdure("log", model.folder, "--json")[1])[2]["training"] == {"steps": 3}
    assert "perdure redo" in perdure("undo", model.folder)[1]
    assert "undone: lesson 3 (bird)" in perdure("log", model.folder)[1]
    assert "lesson 3 (bird) is back" in perdure("redo", model.folder)[1]
    perdure("undo", model.folder)
    assert "dropped: lesson 3 (bird)" in perdure("drop", model.folder)[1]
    for command, told in (("drop", "no refused and no undone"), ("accept", "no refused"), ("redo", "no undone")):
        code, _, err = perdure(command, model.folder)
        assert code == 2 and told in err
    code, _, err = perdure(*words, "--set", "sampling.steps=1")
    assert code == 2 and "--set sampling.steps: a lesson may have of its own training.steps" in err


def test_a_harmful_lesson_without_a_gate_says_how_to_take_it_back(model, perdure, monkeypatch):
    row = model.lessons[1]
    cost = {"measure": "clip_i", "before": 0.86, "after": 0.42, "drop": 0.44, "low": 0.3, "high": 0.6, "pictures": 4}
    files.write_json(row.folder / "lesson.json", {**row.record, "cost": {"dog": cost}})
    from perdure.cli import screen

    said = []
    monkeypatch.setattr(screen, "say", said.append)
    screen.taught(model, Lineage(model.folder).lessons[1])
    assert said[1] == (
        "warning: dog fell from 0.860 to 0.420 (clip_i), by 0.300 to 0.600 as its 4 pictures vary (95 %)"
    ) and f"perdure undo {model.folder}" in said[2]  # fmt: skip
