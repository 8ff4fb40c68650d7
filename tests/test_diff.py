"""Names of lessons, branches of models, and two models beside each other."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from test_removal import dense, values  # noqa: F401
from test_run import tree

from perdure import files, plan, run
from perdure import memory as memories
from perdure.compare import diff
from perdure.errors import LineageError
from perdure.lineage import Lineage, agreement, branching, fsck, history


@pytest.fixture(scope="module")
def three(values, tmp_path_factory):  # noqa: F811
    (lineage,) = run.run(
        plan.build({**values, "methods": [{"name": "merge_init", "rank": 2}]}),
        tmp_path_factory.mktemp("t"),
        device="cpu",
    )
    return lineage.folder


@pytest.fixture
def model(three, tmp_path):
    """A copy of a model that has learnt dog, cat and clock."""
    return Lineage(shutil.copytree(three, tmp_path / "m"))


def test_a_tag_is_of_one_lesson_only(model, bird):
    with agreement.writing(model):
        history.tag(model, "good", 2)
        history.tag(model, "last", 3)
        history.undo(model)
    assert history.numbered(model, "good") == 2 and history.numbered(model, "1") == 1
    assert history.numbered(model, None) is None
    with pytest.raises(LineageError, match="tag 'last' is of a lesson 3 that is undone or was taught anew"):
        history.numbered(model, "last")
    with agreement.writing(model):
        history.redo(model)
        assert history.numbered(model, "last") == 3
        history.undo(model)
    run.teach(model, bird, device="cpu")
    with pytest.raises(LineageError, match="taught anew"):
        history.numbered(model, "last")
    with pytest.raises(LineageError, match="no lesson 'goood': it is neither a number nor a tag; did you mean 'good'"):
        history.numbered(model, "goood")
    assert fsck.examine(model.folder) == []
    (model.folder / "tags.json").write_text("{")
    assert [one.file for one in fsck.examine(model.folder, mend=True)] == ["tags.json"]
    assert fsck.examine(model.folder) == [] and history.tags(model) == {}


@pytest.mark.parametrize("name", ["7", "a/b", "..", "", "a b"])
def test_what_cannot_be_a_tag(model, name):
    with pytest.raises(LineageError, match="cannot be a tag"):
        history.tag(model, name, 1)
    with pytest.raises(LineageError, match="no lesson 9 to tag"):
        history.tag(model, "fine", 9)
    assert not (model.folder / "tags.json").exists()


def test_tags_serve_where_numbers_do(model, perdure, tmp_path):
    assert "lesson 3 is called now" in perdure("tag", model.folder, "now")[1]
    perdure("tag", model.folder, "first", "--after", "1")
    assert perdure("tag", model.folder)[1].splitlines() == ["now: lesson 3", "first: lesson 1"]
    assert "tag first: lesson 1" in perdure("log", model.folder)[1]
    for after in ("first", "1"):
        perdure("draw", model.folder, "zwz dog", "--after", after, "--out", f"{after}.png", "--count", 1)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    code, _, err = perdure("draw", model.folder, "zwz dog", "--after", "frist")
    assert code == 2 and "did you mean 'first'" in err
    perdure("branch", model.folder, "b", "--after", "first")
    assert Lineage(tmp_path / "b").concepts == ["dog"] and list(history.tags(Lineage(tmp_path / "b"))) == ["first"]
    assert perdure("tag", model.folder, "first", "--delete")[0] == 0 and list(history.tags(model)) == ["now"]


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_branch_is_its_first_lessons_bit_for_bit(model, bird, count, tmp_path):
    before = tree(model.folder)
    made = branching.branch(model, tmp_path / "b", None, count)
    assert tree(model.folder) == before and fsck.examine(made.folder) == []
    assert made.concepts == ["dog", "cat", "clock"][:count] and made.facts["name"] == "b"
    inside = tree(made.folder)
    assert all(before[name] == digest for name, digest in inside.items() if name.startswith("lessons/"))
    row = run.teach(made, bird, device="cpu")
    assert row.number == count + 1 and tree(model.folder) == before
    if count == 3:
        assert run.teach(model, bird, device="cpu").record["memory"] == row.record["memory"]


def test_branches_of_models_with_a_past(model, bird, tmp_path):
    """Settings of a lesson's own, and a removal."""
    run.remove(model, "cat", device="cpu")
    run.teach(model, bird, device="cpu", own={"steps": 1})
    made = branching.branch(model, tmp_path / "b", None, 5)
    assert made.concepts == ["dog", "clock", "bird"] and fsck.examine(made.folder) == []
    assert np.array_equal(made.matrix("clip_i"), model.matrix("clip_i"), equal_nan=True)
    with pytest.raises(LineageError, match="has 5 lessons; there is no lesson 6"):
        branching.branch(model, tmp_path / "c", None, 6)
    with pytest.raises(LineageError, match="exists; choose a new folder"):
        branching.branch(model, tmp_path / "b", None, 1)


def test_two_lessons_of_one_model_by_hand(model):
    found = diff.of(diff.State.of(f"{model.folder}@1"), diff.State.of(str(model.folder)))
    assert found.lessons == (1, 3) and found.shared == 1 and found.settings == ""
    assert found.concepts == (["dog"], [], ["cat", "clock"]) and found.words == []
    one, other = dense(model, model.lessons[0]), dense(model, model.lessons[2])
    (weights,) = found.weights
    flat = [torch.cat([side.get(name, torch.zeros_like(m)).flatten() for name, m in other.items()])
            for side in (one, other)]  # fmt: skip
    assert (weights.a, weights.b) == pytest.approx([float(side.norm()) for side in flat])
    assert weights.apart == pytest.approx(float((flat[0] - flat[1]).norm()))
    assert weights.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(*flat, dim=0)))
    assert weights.moved == len(other) and weights.equal == 0
    (score,) = found.scores
    each = [row.cell("dog").record["each"]["clip_i"] for row in (model.lessons[0], model.lessons[2])]
    low, high = stats.ttest_rel(each[1], each[0]).confidence_interval(0.95)
    assert (score.low, score.high) == pytest.approx((low, high)) and score.b - score.a == pytest.approx(
        np.mean(each[1]) - np.mean(each[0]), abs=1e-5
    )


def test_a_model_and_itself(model, values, tmp_path):  # noqa: F811
    state = diff.State.of(str(model.folder))
    found = diff.of(state, state)
    assert found.shared == 3 and found.weights[0].apart == 0 and found.weights[0].equal == found.weights[0].moved
    assert found.weights[0].cosine == pytest.approx(1) and all(score.a == score.b for score in found.scores)
    base = diff.State.of(f"{model.folder}@0")
    assert np.isnan(diff.of(base, base).weights[0].cosine if diff.of(base, base).weights else np.nan)
    kept = {**values, "methods": ["independent"], "training": {**values["training"], "steps": 3}}
    (other,) = run.run(plan.build({**kept, "concepts": kept["concepts"][:1]}), tmp_path / "o", device="cpu")
    found = diff.of(state, diff.State.of(str(other.folder)))
    assert "methods.0.name is 'merge_init' in" in found.settings and [one.concept for one in found.weights] == ["dog"]


def test_the_command_tells_and_draws(model, perdure, tmp_path):
    perdure("tag", model.folder, "early", "--after", "1")
    code, out, _ = perdure("diff", f"{model.folder}@early", model.folder)
    assert code == 0 and "the first 1 are the same" in out and f"of {model.folder} alone: cat, clock" in out
    assert "of 0 moved" not in out and "clip_i" in out and "pictures: diff.png" in out
    with Image.open(tmp_path / "diff.png") as sheet:
        assert sheet.width > 300
    told = json.loads(perdure("diff", f"{model.folder}@0", model.folder, "--json")[1])
    assert told["shared"] == 0 and told["weights"][0]["cosine"] is None and not (tmp_path / "diff-2.png").exists()
    for words, sentence in (
        (("nothing", model.folder), "not a perdure model"),
        ((f"{model.folder}@x", "m"), "no lesson"),
    ):
        code, _, err = perdure("diff", *words)
        assert code == 2 and sentence in err


def test_learnt_words_are_compared(values, tmp_path):  # noqa: F811
    (lineage,) = run.run(
        plan.build({**values, "methods": ["cns"], "concepts": values["concepts"][:2]}), tmp_path, device="cpu"
    )
    found = diff.of(diff.State.of(f"{lineage.folder}@1"), diff.State.of(str(lineage.folder)))
    assert found.words == ["sbu"]
    memory = memories.load(lineage.lessons[1].memory, lineage.store)
    row = run.remove(lineage, "cat", device="cpu")
    assert "sbu" in str(memory.facts["words"])
    left = memories.load(row.memory, lineage.store)
    assert list(left.facts["words"]) == ["zwz"] and not [key for key in left.tensors if "sbu" in key]
    assert files.read_json(row.folder / "lesson.json")["removed"]["concepts"] == ["cat"]
