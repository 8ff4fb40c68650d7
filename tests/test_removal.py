"""A concept taken out of a model: exact where lessons are added, learnt again elsewhere, told in the lineage."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import paint
from test_brought import kohya
from test_run import tree

from perdure import memory as memories
from perdure import method, plan, report, run
from perdure.analysis import analyse
from perdure.drawing import evaluate
from perdure.drawing.draw import draw
from perdure.errors import LineageError, PerdureError
from perdure.export import bringing, choosing
from perdure.lineage import Lineage, agreement, fsck, history
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Wanted
from perdure.plan import Concept, catalogue

TOKENS = {"dog": "zwz", "cat": "sbu", "clock": "uwu"}


@pytest.fixture(scope="module")
def values(pico, pico_clip, photos):
    return {
        "name": "m", "base": str(pico),
        "concepts": [
            {"name": n, "images": str(photos / n), "token": t, "class": n} for n, t in TOKENS.items()
        ],
        "training": {"resolution": 32, "steps": 2, "batch_size": 1, "learning_rate": 1e-2},
        "sampling": {
            "prompts": {"subject": ["{concept} in snow"], "style": ["{concept}"]},
            "images_per_prompt": 2, "steps": 1, "guidance": 1.0,
        },
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}, "drift": 1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(values, tmp_path_factory):
    """(method) -> a model that it has taught three concepts: read it only."""
    known = {}

    def of(name):
        if name not in known:
            chosen = {"name": name} | ({"rank": 2} if name not in ("cns", "magmax_full") else {})
            whole = plan.build({**values, "methods": [chosen]})
            (known[name],) = run.run(whole, tmp_path_factory.mktemp(name), device="cpu")
        return known[name].folder

    return of


def dense(lineage, row, concept=None):
    """Projection -> weight change as it is drawn with, in float64."""
    rules = method.of(lineage.plan().methods[0]).consolidate
    delta = rules.recall(memories.load(row.memory, lineage.store), Wanted(concept)) if row.number else Delta()
    return {name: change.matrix().double() for name, change in delta.items()}


def own_change(lineage, number):
    """What one lesson has added, by subtracting matrices."""
    before, after = dense(lineage, lineage.rows[number - 1]), dense(lineage, lineage.rows[number])
    return {name: matrix - before.get(name, 0) for name, matrix in after.items()}


ADDS = [
    name for name in catalogue.methods() if method.get(name).consolidate.adds and method.get(name).consolidate.forget
]


@pytest.mark.parametrize("which", ["dog", "cat"])
@pytest.mark.parametrize("name", ["merge_init", "merge_ortho", "cns"])
def test_exactly_the_lessons_own_change_is_taken_out(made, name, which, tmp_path):
    lineage = Lineage(shutil.copytree(made(name), tmp_path / "m"))
    number = lineage.concepts.index(which) + 1
    gone, was = own_change(lineage, number), dense(lineage, lineage.lessons[-1])
    expected = {name: matrix - gone.get(name, 0) for name, matrix in was.items()}
    row = run.remove(lineage, which, device="cpu")
    now = dense(lineage, row)
    for projection, matrix in expected.items():
        left = now.get(projection, torch.zeros_like(matrix))
        assert (left - matrix).abs().max() <= 1e-6 * max(1.0, matrix.abs().max())
    assert max(matrix.abs().max() for matrix in gone.values()) > 1e-3  # there was something to take out
    assert row.number == 4 and row.record["removed"]["how"] == "taken out"
    assert lineage.concepts == [other for other in TOKENS if other != which] and fsck.examine(lineage.folder) == []


@pytest.mark.parametrize("name", ADDS)
def test_every_method_that_adds_can_forget(name):
    """Beside the change, what is kept by the concept's name is gone; what lasts is named."""
    rules = method.get(name).consolidate
    generator = torch.Generator().manual_seed(0)

    def pair(n):
        return Delta({"p": Change(((torch.randn(2, 8, generator=generator), torch.randn(8, 2, generator=generator)),))})

    one, two = pair(1), pair(2)
    before = Memory().with_delta(one).with_tensors("past_a", {"p": torch.ones(2, 8)})
    before = before.with_tensors("past_rows", {"p": torch.eye(8)[:2]}).with_facts(captions={"dog": ["a"]})
    after = before.with_delta(one + two).with_tensors("past_a", {"p": torch.full((2, 8), 3.0)})
    after = after.with_tensors("past_rows", {"p": torch.eye(8)[:4]}).with_tensors("replay", {"cat": torch.ones(1)})
    after = after.with_facts(captions={"dog": ["a"], "cat": ["b"]}, replay={"cat": ["b"]})
    left = rules.forget(after.without("cat"), before, after)
    assert torch.equal(left.delta()["p"].matrix(), one["p"].matrix()) and "replay/cat" not in left.tensors
    assert left.facts["captions"] == {"dog": ["a"]} and left.facts["replay"] == {}
    if name == "merge_ortho":
        assert torch.equal(left.tensors["past_a/p"], torch.ones(2, 8))
    assert rules.lasting <= rules.carries and ("fisher" in rules.lasting) == ("fisher" in rules.carries)


def test_rows_that_a_lesson_added_to_a_basis():
    forget = method.get("merge_ortho", {"orthogonality": "rowspace"}).consolidate.forget
    rows = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    delta = Delta({"p": Change(((rows[:1], rows[:1].T),))})
    chain = [Memory().with_delta(delta).with_tensors("past_rows", {"p": rows[:count]}) for count in (2, 4, 6)]
    assert torch.equal(forget(chain[2], chain[0], chain[1]).tensors["past_rows/p"], torch.cat([rows[:2], rows[4:6]]))
    assert torch.equal(forget(chain[2], Memory(), chain[0]).tensors["past_rows/p"], rows[2:6])


def test_dense_changes_are_reckoned_in_double():
    a, b, c = (torch.randn(6, 6, generator=torch.Generator().manual_seed(n)) for n in range(3))
    one, two, three = (
        Delta({"p": Change.full(a)}),
        Delta({"p": Change.full(a + b)}),
        Delta({"p": Change.full(a + b + c)}),
    )
    left = three.without(one, two)["p"].matrix()
    assert (left.double() - (a.double() + c.double())).abs().max() < 1e-6
    low = Change(((torch.ones(1, 6), torch.ones(6, 1)),))
    mixed = Delta({"p": low.plus(Change.full(a))}).without(Delta(), Delta({"p": low}))["p"].matrix()
    assert (mixed - a).abs().max() < 1e-6
    assert dict(Delta({"p": low}).without(Delta(), Delta({"p": low}))) == {}


def test_the_lineage_says_so_and_everything_reads_it(made, tmp_path, perdure):
    lineage = Lineage(shutil.copytree(made("merge_init"), tmp_path / "m"))
    before = {name: lineage.lessons[-1].cell(name).scores["clip_i"] for name in TOKENS}
    whole = tree(lineage.folder)
    code, out, _ = perdure("remove", lineage.folder, "cat", "--device", "cpu")
    assert code == 0 and "cat, which lesson 2 had taught, is out (its own change is subtracted)" in out
    row = lineage.lessons[-1]
    told = row.record["removed"]["likeness"]["clip_i"]
    assert told["before"] == before["cat"] and told["base"] == lineage.base_row.cell("cat").scores["clip_i"]
    assert told["after"] == row.cell("cat").scores["clip_i"] != before["cat"] and f"after {told['after']:.3f}" in out
    assert set(row.record["cost"]) == {"dog", "clock"} and row.record["cost"]["dog"]["before"] == before["dog"]
    scores = lineage.matrix("clip_i")
    assert scores.shape == (3, 2) and scores[2, 1] == row.cell("clock").scores["clip_i"]
    assert scores[1, 0] == lineage.lessons[0].cell("dog").scores["clip_i"]
    page = report.build([lineage], tmp_path / "page", "x").read_text()
    assert (
        "Lesson 4 of merge_init_rank-2 removed cat, which lesson 2 had taught (taken out)" in page
        and (tmp_path / "page/scores.csv").read_text().count("clip_i") == 5
    )
    assert len(analyse.analyse(lineage).lessons) == 4
    assert [entry["concept"] for entry in json.loads(perdure("log", lineage.folder, "--json")[1])] == ["dog", "clock"]
    assert "lesson 4 removed cat, which lesson 2 had taught" in perdure("log", lineage.folder)[1]
    assert [c.name for c in choosing.content(lineage).concepts] == ["dog", "clock"]
    assert plan.load(lineage.folder / "plan.yaml").sequence[1].name == "clock"
    with pytest.raises(LineageError, match="knows no concept 'cat' after lesson 4"):
        choosing.content(lineage, only="cat")
    choosing.content(lineage, after=3, only="cat")
    draw(lineage, "sbu cat", tmp_path / "cat.png", count=1, device="cpu")
    with pytest.raises(LineageError, match="cat was removed from it, and a plan only teaches"):
        agreement.on_plan(lineage, lineage.plan())
    with agreement.writing(lineage):
        history.undo(lineage)
        history.drop(lineage)
    whole.pop("analysis.json"), (lineage.folder / "analysis.json").unlink()
    assert tree(lineage.folder) == whole


def test_a_model_goes_on_after_a_removal(made, tmp_path, photos):
    """Another concept, the removed one again, and the removal of what stands between two removals."""
    lineage = Lineage(shutil.copytree(made("merge_init"), tmp_path / "m"))
    run.remove(lineage, "cat", device="cpu")
    paint(tmp_path / "bird", 2, seed=77)
    bird = Concept.model_validate({"name": "bird", "images": tmp_path / "bird", "token": "pdw", "class": "dog"})
    assert run.teach(lineage, bird, device="cpu").number == 5
    cat = Concept.model_validate({"name": "cat", "images": photos / "cat", "token": "sbu", "class": "cat"})
    assert run.teach(lineage, cat, device="cpu").number == 6
    assert lineage.concepts == ["dog", "clock", "bird", "cat"] and lineage.matrix("clip_i").shape == (5, 4)
    assert np.isfinite(lineage.matrix("clip_i")[4]).all() and fsck.examine(lineage.folder) == []
    sums = [dense(lineage, row) for row in (lineage.lessons[5], lineage.lessons[3])]
    gone = {name: sums[0][name] - dense(lineage, lineage.lessons[4])[name] for name in sums[0]}
    row = run.remove(lineage, "clock", device="cpu")
    clock = own_change(Lineage(made("merge_init")), 3)
    for name, matrix in dense(lineage, row).items():
        assert (matrix - (sums[0][name] - clock[name])).abs().max() < 1e-6
    assert gone and lineage.concepts == ["dog", "bird", "cat"]
    for name in ("bird", "cat", "dog"):
        last = run.remove(lineage, name, device="cpu")
    assert lineage.concepts == [] and all(m.abs().max() < 1e-6 for m in dense(lineage, last).values())
    assert lineage.matrix("clip_i").shape == (1, 0) and fsck.examine(lineage.folder) == []


@pytest.mark.parametrize("which", ["dog", "cat"])
def test_what_came_after_is_learnt_again(made, values, which, tmp_path):
    """As if the concept had never been taught: bit-equal to a model that was not taught it."""
    lineage = Lineage(shutil.copytree(made("naive"), tmp_path / "m"))
    others = [concept for concept in values["concepts"] if concept["name"] != which]
    chosen = {"name": "naive", "rank": 2}
    (plain,) = run.run(plan.build({**values, "methods": [chosen], "concepts": others}), tmp_path / "p", device="cpu")
    row = run.remove(lineage, which, device="cpu")
    assert row.record["removed"]["how"] == "learnt again" and row.record["memory"] == plain.lessons[-1].record["memory"]
    for name in plain.concepts:
        assert row.cell(name).scores == plain.lessons[-1].cell(name).scores
    assert (row.folder / "002-clock" / "train.jsonl").is_file() and fsck.examine(lineage.folder) == []


def test_the_last_lesson_of_any_method_is_put_back(made, tmp_path):
    lineage = Lineage(shutil.copytree(made("magmax"), tmp_path / "m"))
    row = run.remove(lineage, "clock", device="cpu")
    assert row.record["removed"]["how"] == "put back"
    assert row.record["memory"] == lineage.lessons[1].record["memory"]


def test_what_is_kept_apart_is_forgotten_alone(made, tmp_path):
    lineage = Lineage(shutil.copytree(made("independent"), tmp_path / "m"))
    kept = {name: dense(lineage, lineage.lessons[-1], name) for name in ("dog", "clock")}
    row = run.remove(lineage, "cat", device="cpu")
    for name, was in kept.items():
        assert all(torch.equal(matrix, was[p]) for p, matrix in dense(lineage, row, name).items())
    assert dense(lineage, row, "cat") == {} and row.record["removed"]["likeness"]["clip_i"]["after"] == pytest.approx(
        lineage.base_row.cell("cat").scores["clip_i"]
    )


def test_what_cannot_be_removed_is_refused(made, values, photos, tmp_path):
    lineage = Lineage(shutil.copytree(made("naive"), tmp_path / "m"))
    with pytest.raises(LineageError, match="knows no concept 'cta'; did you mean 'cat'"):
        run.remove(lineage, "cta", device="cpu")
    path = lineage.concept_folder("clock") / "concept.json"
    path.write_text(path.read_text().replace(str(photos / "clock"), str(tmp_path / "gone")))
    before = tree(lineage.folder)
    with pytest.raises(
        LineageError, match=r"naive does not add lessons .* learning clock again, .* are needed: .*gone"
    ):
        run.remove(lineage, "cat", device="cpu")
    assert tree(lineage.folder) == before
    joint = plan.build({**values, "methods": ["merge_init"], "concepts": values["concepts"][:2], "joint": True})
    both = run.run(joint, tmp_path / "j", device="cpu")[-1]
    with pytest.raises(LineageError, match="taught together with others"):
        run.remove(both, "cat", device="cpu")


def test_of_a_classifier_only_whole_lessons_are_taken_back(class_plan, tmp_path, perdure):
    (lineage,) = run.run(
        plan.build({**class_plan, "training": {**class_plan["training"], "epochs": 1}}), tmp_path / "c"
    )
    before = tree(lineage.folder)
    code, _, told = perdure("remove", lineage.folder, "task-1")
    assert code == 2 and "is a classifier, of which only whole lessons can be taken back: undo" in told
    assert told.count("\n") == 1 and tree(lineage.folder) == before


def test_what_was_brought_is_subtracted_but_never_learnt_again(values, photos, tmp_path, perdure):
    """A LoRA file's lesson goes exactly where lessons are added; elsewhere it stands in the way of what came before."""
    data = {**values, "concepts": values["concepts"][:1]}
    mixing = {"name": "magmax", "options": {"rank": 2, "operand": "delta"}}
    for name, chosen in (("adds", {"name": "merge_init", "rank": 2}), ("mixes", mixing)):
        (lineage,) = run.run(plan.build({**data, "methods": [chosen]}), tmp_path / name, device="cpu")
        file, changes = kohya(values["base"], tmp_path / f"{name}.safetensors", seed=3)
        was = dense(lineage, lineage.lessons[0])
        cat = Concept.model_validate({"name": "cat", "images": photos / "cat", "token": "sbu", "class": "cat"})
        run.teach(lineage, cat, brought=bringing.read(file)[0])
        both, before = dense(lineage, lineage.lessons[1]), tree(lineage.folder)
        if name == "adds":
            alone = dense(lineage, run.remove(Lineage(shutil.copytree(lineage.folder, tmp_path / "copy")), "dog"))
            assert set(alone) <= set(both) and any(matrix.any() for matrix in changes.values())
            for projection, whole in both.items():
                matrix, expected = (found.get(projection, torch.zeros_like(whole)) for found in (alone, changes))
                assert (matrix - expected).abs().max() < 1e-6 * max(1.0, expected.abs().max())
        else:
            code, _, told = perdure("remove", lineage.folder, "dog")
            assert code == 2 and "learning cat again, which was not trained here but brought from a file" in told
            assert told.count("\n") == 1 and tree(lineage.folder) == before
        row = run.remove(lineage, "cat", device="cpu")
        assert row.record["removed"]["how"] == "put back"
        left = dense(lineage, row)
        assert set(left) == set(was) and all(torch.equal(matrix, was[p]) for p, matrix in left.items())


def test_a_removal_that_was_killed_goes_on(made, tmp_path, monkeypatch):
    lineage = Lineage(shutil.copytree(made("naive"), tmp_path / "m"))
    plain = Lineage(shutil.copytree(made("naive"), tmp_path / "plain"))
    real, before = evaluate._cell, {row.folder.name for row in lineage.lessons}
    seen = []

    def stopping(*args, **options):
        seen.append(1)
        if len(seen) == 2:
            raise PerdureError("stop")
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_cell", stopping)
        with pytest.raises(PerdureError, match="stop"):
            run.remove(lineage, "cat", device="cpu")
    assert {row.folder.name for row in lineage.lessons} == before and lineage.concepts == list(TOKENS)
    for one in (lineage, plain):
        run.remove(one, "cat", device="cpu")
    assert lineage.lessons[-1].record["memory"] == plain.lessons[-1].record["memory"]
    assert tree(lineage.folder).keys() == tree(plain.folder).keys()
