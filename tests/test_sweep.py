"""Grids of runs: what is read, what is shared, what survives kills; engines give the same bits."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from perdure import files, plan, run, sweep
from perdure.cli import sweeping
from perdure.errors import PlanError
from perdure.lineage import Lineage
from perdure.photos import pictures
from perdure.plan import yaml_file
from perdure.sweep import grid, places, status, tree, view, worker
from perdure.sweep.axes import random_order
from perdure.sweep.engine import Ended

GRIDS = sorted((Path(__file__).parent.parent / "plans" / "grids").glob("*.yaml"))
ORDERS = ["listed", [1, 3, 2], [2, 1, 3]]


@pytest.fixture(scope="module")
def tiny(data):
    """A grid of three concepts, as quick as can be, as plain values."""
    own = {key: value for key, value in data.items() if key not in ("name", "methods")}
    return {"name": "tiny", "plan": own, "axes": {"methods": data["methods"], "orders": ORDERS}}


class Here:
    """An engine of this very process; `before` is called with each stretch."""

    slots = 1

    def __init__(self, before=lambda order: None):
        self.queue, self.done, self.before = [], [], before

    def start(self, orders):
        self.queue += orders

    def ended(self, seconds):
        order = self.queue.pop(0)
        self.before(order)
        self.done.append(order.name)
        return [Ended(order, worker.carry_out(order, "cpu"))]

    def close(self):
        self.queue = []


def swept(data, root, engine=None):
    """Carry out a grid; returns its engine and the statuses."""
    engine = engine or Here()
    return engine, sweep.carry_out(sweep.task(grid.build(data), root), engine, lambda moment: None)


def results(root):
    """All that must not depend on how a run came about: memories, tensors, pictures, scores; by run."""
    found = {}
    for mark in sorted(root.glob("*/lineage.json")):
        folder = mark.parent
        bits = sorted(p for pattern in ("lessons/**/*.png", "store/*", "concepts/**/*") for p in folder.glob(pattern))
        found[folder.name] = {
            "memories": [row.record["memory"] for row in Lineage(folder).lessons],
            "steps": [[(log["step"], log["loss"]) for log in row.losses()] for row in Lineage(folder).lessons],
            "scores": str(Lineage(folder).matrix("clip_i").tolist()),
            "files": {str(p.relative_to(folder)): p.read_bytes() for p in bits if p.is_file()},
        }
    return found


@pytest.fixture(scope="module")
def ran(tiny, tmp_path_factory):
    """The grid, run in this process: read it only."""
    root = tmp_path_factory.mktemp("ran")
    engine, _ = swept(tiny, root)
    return root, engine.done


# --- reading -------------------------------------------------------------------------------------------------------


def test_a_grid_is_the_product_of_its_axes(tiny):
    made = grid.build({**tiny, "axes": {**tiny["axes"], "seeds": [0, 5], "training.steps": [2, 3]}})
    assert len(made.runs) == 2 * 3 * 2 * 2 and len({one.name for one in made.runs}) == 24
    last = made.runs[-1]
    assert last.axes == {"method": "naive", "order": "2-1-3", "seed": 5, "training.steps": "3"}
    assert last.plan.order == (2, 1, 3) and last.plan.seed == 5 and last.plan.training.steps == 3
    assert last.name.startswith("naive_2-1-3_seed-5_steps-3_")


def test_variants_set_several_keys_and_random_orders_are_fixed(tiny):
    axes = {
        "orders": {"random": [0, 5], "mine": [1, 3, 2]},
        "look": {"wide": {"sampling.images_per_prompt": 3, "training.steps": 5}, "as is": {}},
    }
    made = grid.build({**tiny, "set": {"methods": ["naive"], "training": {"steps": 4}}, "axes": axes})
    assert [(one.axes["order"], one.axes["look"]) for one in made.runs] == [
        ("random-0", "wide"), ("random-5", "wide"), ("mine", "wide"),
        ("random-0", "as is"), ("random-5", "as is"), ("mine", "as is"),
    ]  # fmt: skip
    assert {one.plan.training.steps for one in made.runs} == {4, 5}
    assert random_order(0, 5) == (5, 2, 1, 4, 3) and random_order(5, 5) == (3, 1, 5, 2, 4)
    assert sorted(random_order(42, 30)) == list(range(1, 31))


def test_a_joint_run_has_no_order_and_is_done_once(tiny):
    made = grid.build({**tiny, "plan": {**tiny["plan"], "joint": True}})
    (joint,) = [one for one in made.runs if one.axes["method"] == "joint"]
    assert joint.plan.joint and joint.plan.training.steps == 6 and len(made.runs) == 7


MISTAKEN = """plan: toybox-subjects
set: {training: {stepz: 3}}
axes:
  methods: [naiv, merge_init]
  orders: {random: [0, 5, 5], mine: [1, 1]}
  seeds: [0, -5]
  training.learning_rat: [1e-3]
  seed: [3]
  style:
    a: {sampling.prompts.style: ['dog']}
    b: 3
"""


def test_every_mistake_is_told_at_once_with_its_line(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(MISTAKEN)
    with pytest.raises(PlanError) as caught:
        grid.load(path)
    told = str(caught.value)
    for line, words in {
        2: "training.stepz: no such key; did you mean 'steps'?", 4: "methods.0: no method 'naiv'; did you mean 'naive'",
        5: "axes.orders.mine: an order is", 6: "axes.seeds: give a list of whole numbers",
        7: "training.learning_rat: no such key; did you mean 'learning_rate'", 8: "write it as `axes.seeds`",
        10: "sampling.prompts.style: prompt 'dog' does not contain {concept}",
        11: "axes.style.b: a variant is a mapping",
    }.items():  # fmt: skip
        assert any(problem.startswith(f"{path}:{line}: ") and words in problem for problem in told.splitlines()), words


def test_the_command_line_wins_over_what_the_grid_sets():
    ready = grid.find(Path("toybox-subjects"))
    overrides = ("axes.seeds=[3]", "axes.orders=listed", "concepts={toybox: {subjects: 2}}", "training.steps=7")
    made = grid.load(ready, overrides)
    assert [one.axes["method"] for one in made.runs] == [
        "naive", "merge_init", "merge_ortho-code", "merge_ortho-paper", "magmax-code", "magmax-paper",
    ]  # fmt: skip
    assert {(one.plan.seed, len(one.plan.concepts), one.plan.training.steps) for one in made.runs} == {(3, 2, 7)}
    with pytest.raises(PlanError, match=r"--set seed: the grid has an axis of it; write --set axes.seeds="):
        grid.load(ready, ("seed=3",))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("axis: {}\nplan: demo", r"grid.yaml:1: axis: no such key; did you mean 'axes'"),
        ("plan: demos", r"grid.yaml:1: plan: no plan file 'demos', .* did you mean 'demo'"),
        ("plan: 3", r"write a plan file"),
        ("name: x", r"plan: is required and missing"),
        ("plan: demo\naxes: {orders: [[2, 1]]}", r"grid.yaml:2: axes.orders: order '2-1' has 2 positions; there are 4"),
        ("plan: demo\naxes: {orders: [listed, [1, 2, 3, 4]]}", r"order listed and 1-2-3-4 give one and the same run"),
        ("plan: {method: naive, trainin: {}}", r"grid.yaml:1: trainin: no such key"),
        ("plan: {method: naive}", "no concepts to teach"),
    ],
)
def test_grids_that_cannot_be_run(tmp_path, text, word):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(PlanError, match=word):
        grid.load(tmp_path / "grid.yaml")


def test_a_resolved_grid_is_the_same_grid_elsewhere(tiny, tmp_path):
    (tmp_path / "photos").mkdir()
    written = {**tiny, "plan": {**tiny["plan"], "base": os.path.relpath(tiny["plan"]["base"], tmp_path)}}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml_file.dump(written))
    made = grid.load(path)
    again = grid.build(yaml_file.parse(yaml_file.dump(made.resolved), "again")[0], tmp_path / "elsewhere")
    assert (
        [one.name for one in again.runs] == [one.name for one in made.runs] == [r.name for r in grid.build(tiny).runs]
    )
    assert again.runs[0].plan.concepts == made.runs[0].plan.concepts


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_ready_grid_is_sound(path):
    made = grid.load(path)
    assert path.read_text(encoding="utf-8").startswith("#") and grid.find(Path(path.stem)) == path
    assert len(made.runs) == len({one.fingerprint for one in made.runs})
    for one in made.runs:
        for concept in one.plan.concepts:
            assert concept.token in concept.prompt
            assert all(concept.phrase in prompt for prompt in one.plan.prompts_for(concept))


def test_published_grids_are_four_orders_and_two_seeds():
    for name in ("low-rank-objects", "low-rank-styles"):
        made = grid.load(grid.find(Path(name)))
        orders = {one.axes["order"]: one.plan.order for one in made.runs}
        assert orders["seed-5"] == (3, 4, 2, 1, 9, 8, 7, 6, 5, 10) and len(orders) == 4
        assert {one.plan.seed for one in made.runs} == {0, 5} and len(made.runs) == 6 * 4 * 2


def test_prompt_study_changes_training_and_evaluation():
    made = grid.load(grid.find(Path("toybox-prompts")))
    templates = {}
    for one in made.runs:
        first = one.plan.concepts[0]
        captions = [picture.caption for picture in pictures.of(first).training]
        assert len(set(captions)) == len(captions) and all(first.token in caption for caption in captions)
        templates[one.axes["template"]] = (captions[0], one.plan.prompts_for(first)[0], first.token)
    assert len(templates) == len(set(templates.values())) == 6
    assert templates["name-image"][0].startswith("stained glass image of a ")
    assert templates["token-style"][0].endswith(f"in {templates['token-style'][2]} style")


# --- a plan's training prompts -------------------------------------------------------------------------------------


def test_training_prompts_for_all_concepts_of_a_kind(photos):
    concepts = [
        {"name": "dog", "images": str(photos / "dog"), "token": "zwz", "class": "dog"},
        {"name": "cat", "images": str(photos / "cat"), "token": "sbu", "class": "cat", "prompt": "my {token}"},
        {"name": "ink", "images": str(photos / "clock"), "token": "ink", "class": "clock", "kind": "style"},
    ]
    prompts = {"subject": "a {token} {class}, close up", "style": "{class} in {token} style"}
    made = plan.build({"method": "naive", "concepts": concepts, "training": {"prompts": prompts}})
    assert [c.prompt for c in made.concepts] == ["a zwz dog, close up", "my sbu", "clock in ink style"]
    written = [{**c, "prompt": p.prompt} for c, p in zip(concepts, made.concepts, strict=True)]
    assert plan.build({"method": "naive", "concepts": written}).fingerprint() == made.fingerprint()
    assert plan.build({"method": "naive", "concepts": concepts}).fingerprint() != made.fingerprint()
    with pytest.raises(PlanError, match=r"training.prompts.style: prompt 'ink' does not contain \{token\}"):
        plan.build({"method": "naive", "training": {"prompts": {"style": "ink"}}})


def test_drawn_styles_keep_the_class_of_each_picture_and_may_have_rare_tokens():
    data = {"method": "naive", "concepts": {"toybox": {"styles": 2, "tokens": "rare"}}}
    data["training"] = {"prompts": {"style": "image of a {class} in {token} style"}}
    made = plan.build(data)
    assert [c.token for c in made.concepts] == ["sks", "zwz"]
    captions = [picture.caption for picture in pictures.of(made.concepts[1]).training]
    assert len(set(captions)) == 5 and all(
        c.startswith("image of a ") and c.endswith(" in zwz style") for c in captions
    )
    again = plan.build(json.loads(made.model_dump_json(by_alias=True)))
    assert again.fingerprint() == made.fingerprint()
    with pytest.raises(PlanError, match=r"tokens is own .* or rare"):
        plan.build({"method": "naive", "concepts": {"toybox": {"styles": 2, "tokens": "some"}}})


# --- what is shared ------------------------------------------------------------------------------------------------


def orders_of(data, root, done=None):
    homes = places.homes(root, grid.build(data).runs)
    return tree.stretches(root, homes, {folder: (done or {}).get(one.title, 0) for folder, one in homes.items()})


def test_runs_that_begin_alike_share_their_first_lessons(tiny, tmp_path):
    orders = orders_of(tiny, tmp_path)
    told = [(o.run.rpartition("_")[0], o.begin, o.lessons, o.donor and o.donor.name.rpartition("_")[0]) for o in orders]
    assert told[0][2] == 0 and told[1:] == [
        ("merge_init_listed_seed-0", 0, 1, None), ("merge_init_listed_seed-0", 1, 3, None),
        ("naive_listed_seed-0", 0, 1, None), ("naive_listed_seed-0", 1, 3, None),
        ("merge_init_1-3-2_seed-0", 1, 3, "merge_init_listed_seed-0"),
        ("naive_1-3-2_seed-0", 1, 3, "naive_listed_seed-0"),
        ("merge_init_2-1-3_seed-0", 0, 3, None), ("naive_2-1-3_seed-0", 0, 3, None),
    ]  # fmt: skip
    by_name = {order.name: order for order in orders}
    branch = next(order for order in orders if order.donor)
    assert set(branch.after) == {orders[0].name, f"{branch.donor.name}@1"} <= set(by_name)
    lost = tree.waiting_for(f"{branch.donor.name}@1", orders)
    assert {order.name for order in lost} == {f"{branch.donor.name}@3", branch.name}
    assert len(tree.waiting_for(orders[0].name, orders)) == 8


def test_what_is_there_already_is_the_donor(tiny, tmp_path):
    orders = orders_of(tiny, tmp_path, {"merge_init_1-3-2_seed-0": 3})
    first = next(order for order in orders if order.run.startswith("merge_init_listed"))
    assert (first.begin, first.lessons) == (1, 3) and first.donor.name.startswith("merge_init_1-3-2")
    assert [name for name in first.after if "1-3-2" in name] == []


def test_bases_are_shared_by_what_decides_how_they_draw(tiny, tmp_path):
    def bases(**axes):
        return sum(order.lessons == 0 for order in orders_of({**tiny, "axes": axes}, tmp_path))

    with_methods = {"methods": ["naive"]}
    assert bases(**with_methods, **{"training.steps": [2, 3]}, seeds=[0, 5]) == 1
    assert bases(**with_methods, **{"sampling.steps": [1, 2]}) == 2
    assert bases(**with_methods, **{"training.resolution": [32, 64]}) == 2
    assert bases(**with_methods, **{"concepts.0.token": ["zwz", "pdw"]}) == 2


@pytest.mark.slow
def test_swept_runs_are_those_run_alone(ran, tiny, tmp_path):
    root, done = ran
    assert len(done) == 9 and len(set(done)) == 9
    alone = {}
    for one in grid.build(tiny).runs:
        run.run(one.plan, tmp_path / one.name, device="cpu")
        (alone[one.name],) = results(tmp_path / one.name).values()
    assert results(root) == alone


def test_the_base_is_drawn_once(ran):
    root, _ = ran
    seconds = {
        (cell.parent.name, files.read_json(cell)["seconds"])
        for cell in root.glob("*/lessons/000-base/cells/*/cell.json")
    }
    assert len(seconds) == 3


def test_each_run_says_which_it_is(ran, tiny):
    root, _ = ran
    for one in grid.build(tiny).runs:
        told = files.read_json(root / one.name / "run.json")
        assert told == {"name": one.name, "axes": one.axes, "fingerprint": one.fingerprint}
        assert plan.load(root / one.name / "plan.yaml").fingerprint() == one.fingerprint


def test_a_finished_sweep_has_nothing_to_do_and_grows_by_what_is_new(tiny, tmp_path):
    small = {**tiny, "axes": {**tiny["axes"], "methods": ["naive"], "orders": ["listed"]}}
    engine, statuses = swept(small, tmp_path)
    assert len(engine.done) == 2 and [one.state for one in statuses] == ["done"]
    assert swept(small, tmp_path)[0].done == []
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*_listed*/lessons/**/*")}
    more = {**small, "axes": {**small["axes"], "orders": ["listed", [1, 2, 3][::-1]], "training.steps": [2]}}
    engine, statuses = swept(more, tmp_path)
    assert [name.partition("_seed")[0] for name in engine.done] == ["naive_3-2-1"] and len(statuses) == 2
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert files.read_json(next(tmp_path.glob("*_listed*/run.json")))["axes"]["training.steps"] == "2"
    assert len(list(tmp_path.glob("*/lineage.json"))) == 2
    assert [one.name for one in grid.load(places.grid_file(tmp_path)).runs] == [o.name for o in grid.build(more).runs]


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_failing_run_stops_no_other_and_is_tried_again(tiny, tmp_path):
    axes = {"methods": ["naive"], "orders": [[1, 2, 3], [1, 3, 2]], "training.learning_rate": [1e30, 1e-2]}
    engine, statuses = swept({**tiny, "axes": axes}, tmp_path)
    bad, bad_too = statuses[:2]
    assert [one.state for one in statuses] == ["failed", "failed", "done", "done"]
    assert "diverged" in bad.problem and "shares its beginning with" in bad_too.problem
    told = files.read_json(places.status_file(tmp_path))
    assert (told["failed"], told["done"], told["list"][0]["problem"]) == (2, 2, bad.problem)
    engine, statuses = swept({**tiny, "axes": axes}, tmp_path)
    assert [name.rpartition("@")[0] for name in engine.done] == [bad.name]


def test_a_run_of_another_sweep_is_waited_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LATER", 0.0)
    monkeypatch.setattr(sweep, "PAUSE", 0.0)
    small = {**tiny, "axes": {"methods": ["naive"], "orders": ["listed", [3, 2, 1]]}}
    name = grid.build(small).runs[0].name
    seen = []

    class Elsewhere(Here):
        def ended(self, seconds):
            if self.queue[0].run == name and len(seen) < 3:
                with places.claimed(tmp_path, name):  # as another process would hold it
                    found = super().ended(seconds)
                    moment = sweep.task(grid.build(small), tmp_path).read()[name]
                    seen.append((found[0].problem, moment.state))
                    return found
            return super().ended(seconds)

    _, statuses = swept(small, tmp_path, Elsewhere())
    assert seen == [(sweep.BUSY, "running")] * 3 and [one.state for one in statuses] == ["done", "done"]


def test_what_another_sweep_has_done_meanwhile_is_not_done_again(tiny, tmp_path):
    small = {**tiny, "axes": {"methods": ["naive"], "orders": ["listed", [3, 2, 1]]}}
    todo = sweep.task(grid.build(small), tmp_path)
    swept(small, tmp_path)
    engine = Here()
    assert [one.state for one in sweep.carry_out(todo, engine, lambda moment: None)] == ["done", "done"]
    assert engine.done == []


# --- other processes -----------------------------------------------------------------------------------------------


def lessons_in(root):
    return len(list(root.glob("*/lessons/*/lesson.json")))


def until(condition, meanwhile=lambda: True):
    """Wait for an event, however long it takes, as long as another thing holds."""
    while not condition():
        assert meanwhile()
        time.sleep(0.05)


def workers_of(pid):
    """Worker processes of a sweep: its children that are no helpers of the interpreter."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # it may end meanwhile
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def ended(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_killed_workers_and_a_killed_sweep_lose_nothing(ran, tiny, tmp_path):
    root, path = tmp_path / "out", tmp_path / "grid.yaml"
    small = {**tiny, "axes": {**tiny["axes"], "methods": tiny["axes"]["methods"][:1]}}
    path.write_text(yaml_file.dump(small))
    words = [sys.executable, "-m", "perdure", "sweep", str(path), "--workers", "1"]
    words += ["--out", str(root), "--device", "cpu"]
    told = (tmp_path / "told").open("w")
    begun, *others = (one.name for one in grid.build(small).runs)
    with ExitStack() as elsewhere, subprocess.Popen(words, stdout=told, stderr=told) as process:
        for name in others:  # so that the sweep cannot come to its end
            assert elsewhere.enter_context(places.claimed(root, name))

        def at_work():
            return process.poll() is None

        until(lambda: lessons_in(root) > 0, meanwhile=at_work)
        (first,) = workers_of(process.pid)
        first.kill()
        until(lambda: lessons_in(root) > 1 and {*workers_of(process.pid)} - {first}, meanwhile=at_work)
        (second,) = {*workers_of(process.pid)} - {first}
        process.kill()
    until(lambda: ended(second))
    assert "Traceback" not in (tmp_path / "told").read_text() and 2 <= lessons_in(root) <= 3
    assert [mark.parent.name for mark in root.glob("*/lineage.json")] == [begun]
    _, statuses = swept(small, root)
    assert {one.state for one in statuses} == {"done"} and len(statuses) == 3
    expected = results(ran[0])
    assert results(root) == {name: expected[name] for name in (begun, *others)}


@pytest.mark.slow
def test_ray_loses_nothing_with_a_node(ran, tiny, tmp_path):
    pytest.importorskip("ray", reason="perdure[ray] is not installed")
    root = tmp_path / "out"
    (tmp_path / "grid.json").write_text(json.dumps(tiny))
    script = Path(__file__).with_name("on_ray.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "grid.json"), str(root)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["states"] == ["done"] * 6 and told["lessons_when_killed"] < 18
    assert results(root) == results(ran[0])


def test_submitit_gives_the_same(ran, tiny, tmp_path):
    pytest.importorskip("submitit", reason="perdure[slurm] is not installed")
    from perdure.sweep.on_slurm import OnSlurm

    small = {**tiny, "axes": {**tiny["axes"], "methods": tiny["axes"]["methods"][:1], "orders": ["listed", [1, 3, 2]]}}
    _, statuses = swept(small, tmp_path, OnSlurm(tmp_path, {"cluster": "debug", "time": 10}, "cpu"))
    assert [one.state for one in statuses] == ["done", "done"]
    expected = results(ran[0])
    assert results(tmp_path) == {name: expected[name] for name in results(tmp_path)}


def test_jobs_that_the_queue_does_not_know_at_two_looks_are_lost(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="perdure[slurm] is not installed")
    from perdure.sweep import on_slurm

    def queue_is(text):
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "squeue").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(on_slurm, "LOOK", 0.0)
    queue, jobs = on_slurm._Queue(), {"7_0", "7_1", "9"}
    found = []
    for told in ("echo 7_1", "echo 7_1; echo 9", "exit 1", "echo 7_1"):
        queue_is(told)
        found.append(queue.lost(jobs))
    assert found == [set(), {"7_0"}, set(), {"7_0"}]


def test_parameters_of_jobs_by_their_names():
    pytest.importorskip("submitit", reason="perdure[slurm] is not installed")
    from perdure.sweep.on_slurm import _named

    assert _named({"time": 60, "gpus": 1, "partition": "gpu", "parallel": 4, "mail-type": "END"}) == {
        "name": "perdure", "timeout_min": 60, "gpus_per_node": 1, "slurm_partition": "gpu",
        "slurm_array_parallelism": 4, "slurm_additional_parameters": {"mail-type": "END"},
    }  # fmt: skip


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dry_run_counts_measures_and_touches_nothing(perdure, tiny, tmp_path):
    (tmp_path / "grid.yaml").write_text(yaml_file.dump(tiny))
    code, out, err = perdure("sweep", "grid.yaml", "--dry-run", "--workers", "1")
    assert code == 0, err
    assert "6 runs (2 methods x 3 orders x 1 seed), 18 lessons" in out and "\nTo do: 16 lessons (2 of" in out
    assert re.search(r"Time: about \d+ s with 1 at once, by a few steps and images just timed\.", out)
    assert re.search(r"6 waiting; time left: \d+ s", out)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


def test_a_dry_run_asks_its_engine_before_it_is_closed(perdure, tiny, tmp_path, monkeypatch):
    """A cluster that has been left does not say how large it is."""

    class Cluster(Here):
        at_hand = True

        @property
        def slots(self):
            assert self.at_hand
            return 3

        def paces(self, orders):
            return {"": status.Spent(1.0, 1, 1.0, 1)}

        def close(self):
            self.at_hand = False

    monkeypatch.setattr(sweeping, "_engine", lambda *how: Cluster())
    (tmp_path / "grid.yaml").write_text(yaml_file.dump(tiny))
    code, out, err = perdure("sweep", "grid.yaml", "--dry-run")
    assert code == 0 and "with 3 at once" in out, err


def test_a_published_grid_has_both_variants_of_two_methods(tmp_path):
    told = view.amount(sweep.task(grid.load(grid.find(Path("low-rank-objects"))), tmp_path))
    assert "48 runs (6 methods x 4 orders x 2 seeds), 480 lessons" in told


def test_status_reads_the_lineages(perdure, ran):
    root, _ = ran
    code, out, _ = perdure("sweep", "status", root)
    assert code == 0 and "6 done" in out and "clip_i" in out
    told = json.loads(perdure("sweep", "status", root, "--json")[1])
    assert told == files.read_json(places.status_file(root))
    assert [one["lessons"] for one in told["list"]] == [3] * 6 and told["runs"] == told["done"] == 6
    code, _, err = perdure("sweep", "status", root / "nothing")
    assert code == 2 and "no grid.yaml" in err


def test_a_finished_sweep_says_what_is_next(perdure, ran, tiny, tmp_path):
    root, _ = ran
    (tmp_path / "grid.yaml").write_text(yaml_file.dump(tiny))
    code, out, _ = perdure("sweep", "grid.yaml", "--out", root)
    assert code == 0 and "18 are done" in out and f"Next: perdure compare {root}" in out


@pytest.mark.parametrize(("engine", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_is_named(perdure, tiny, tmp_path, monkeypatch, engine, library):
    (tmp_path / "grid.yaml").write_text(yaml_file.dump(tiny))
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"perdure.sweep.on_{engine}", raising=False)
    code, _, err = perdure("sweep", "grid.yaml", "--engine", engine)
    assert code == 2 and f"pip install 'perdure[{engine}]'" in err


def test_a_method_is_timed_before_there_are_lessons(tiny, ran, tmp_path):
    todo = sweep.task(grid.build(tiny), tmp_path)
    found = worker.paces(todo.stretches, "cpu")
    assert set(found) == {"merge_init", "naive", ""} and list(tmp_path.iterdir()) == []
    assert found["naive"].steps == 2 and found["naive"].training > 0 and found["naive"].drawing > 0
    finished = sweep.task(grid.load(places.grid_file(ran[0])), ran[0])
    assert sweep.paces(finished, Here()) == {}


def test_a_joint_run_is_one_lesson_as_long_as_all(tiny, tmp_path):
    todo = sweep.task(grid.build({**tiny, "plan": {**tiny["plan"], "joint": True}}), tmp_path)
    (joint,) = [order for order in todo.stretches if order.plan.joint]
    assert status.work_of(joint, 0) == (3 * 2, 3 * 2)


def test_estimates_are_measured(ran):
    root, _ = ran
    todo = sweep.task(grid.load(places.grid_file(root)), root)
    statuses = todo.read()
    assert status.seconds_left(todo.stretches, {}, 1) == 0.0
    spent = status.paces(statuses.values())
    assert spent[""].steps == 36 and spent["naive"].images == 3 * (2 + 4 + 6)
    new = {"name": "x", "plan": dict(todo.grid.resolved["plan"]), "axes": {"methods": ["naive"], "seeds": [7]}}
    order = orders_of(new, root)[-1]
    one = status.seconds_left([order], statuses, 1)
    assert one == pytest.approx(spent["naive"].seconds(6, 12))
    assert status.seconds_left([order], {}, 1) is None
    measured = {"naive": status.Spent(10.0, 2, 3.0, 1)}
    assert status.seconds_left([order], {}, 1, measured) == pytest.approx(6 * 5.0 + 12 * 3.0)
    assert status.seconds_left([order], statuses, 1, measured) == one, "what lessons took is better known"
    assert [status.duration(s) for s in (5, 400, 12_000, 200_000)] == ["5 s", "7 min", "3 h 20 min", "2 d 7 h"]
