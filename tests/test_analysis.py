"""What `perdure analyse` says of updates: hand-made matrices first, then lineages and the command."""

import csv
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from perdure import files, method, plan, records, report, run
from perdure import memory as memories
from perdure.analysis import analyse, record, updates
from perdure.bases import families
from perdure.cli import app, screen
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.plan import FamilyChoice
from perdure.plan.fields import NEW
from perdure.report import weights_papers

LESSON = {
    "method": {"label": "naive"}, "steps": 4,
    "seconds": {"train": 1.0, "evaluate": 1.0}, "bytes": {"carried": 1, "stored": 1},
}  # fmt: skip
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
OTHER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"


def low(up, down):
    """The rank-1 update up x down."""
    return updates.Update(down=torch.tensor([down], dtype=torch.float64), up=torch.tensor([up], dtype=torch.float64).T)


def whole(matrix):
    return updates.Update(dense=torch.as_tensor(matrix, dtype=torch.float64))


def met(*those, apart=False):
    """The figures of a pair of updates of one projection."""
    return {name: m[0, 1] for name, m in analyse.pooled([analyse.of_updates(those)], apart).pairs.items()}


# --- hand-made updates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 30, 60, 90])
def test_rank_one_updates_at_a_known_angle(degrees):
    angle = math.radians(degrees)
    found = met(low([1, 2, 2], [1, 0, 0, 0]), low([1, 2, 2], [math.cos(angle), math.sin(angle), 0, 0]))
    assert found["cosine"] == pytest.approx(math.cos(angle), abs=1e-12)
    assert found["input overlap"] == pytest.approx(math.cos(angle) ** 2, abs=1e-12)
    assert found["output overlap"] == pytest.approx(1)


def test_equal_opposite_and_half_opposite_updates():
    u = low([1, -2], [3, 1, -1])
    same = met(u, u)
    assert (same["sign conflict"], same["overturned"], same["shared entries"]) == (0, 0, 1)
    assert [same[m] for m in ("cosine", "input overlap", "output overlap")] == pytest.approx([1, 1, 1])
    against = met(u, low([-1, 2], [3, 1, -1]))
    assert (against["sign conflict"], against["cosine"]) == (1, pytest.approx(-1))
    assert against["overturned"] == 0  # undone, not turned over
    assert met(u, low([-2, 4], [3, 1, -1]))["overturned"] == 1
    assert math.isnan(met(u, u, apart=True)["overturned"])
    half = met(whole([[1.0, 1], [1, 1]]), whole([[1.0, -1], [1, -1]]))
    assert (half["sign conflict"], half["cosine"]) == (0.5, 0)


def test_disjoint_and_overlapping_masks():
    one, two = whole([[1.0, 2, 0, 0]]), whole([[0, 0, 3.0, 0]])
    apart = met(one, two)
    assert apart["shared entries"] == 0 and math.isnan(apart["sign conflict"]) and apart["cosine"] == 0
    part = analyse.pooled([analyse.of_updates([one, whole([[0, 5.0, 1, 1]])])])
    assert part.pairs["shared entries"][0, 1] == pytest.approx(1 / 2)
    assert part.pairs["shared entries"][1, 0] == pytest.approx(1 / 3)
    assert part.moved.tolist() == [0.5, 0.75] and part.norms == pytest.approx([math.sqrt(5), math.sqrt(27)])


def test_overturned_counts_what_stands_the_other_way_in_the_end():
    found = analyse.of_updates([whole([[1.0, 1, 1, -1]]), whole([[-3.0, -0.5, 0, 0]]), whole([[5.0, -2, 0, 3]])])
    part = analyse.pooled([found])
    assert part.pairs["overturned"][0].tolist() == [0, 0.25, 0.5]  # -2 .5 1 -1, then 3 -1.5 1 2
    assert math.isnan(part.pairs["overturned"][1, 0])


def test_factors_and_dense_matrices_give_the_same_numbers(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(3, 7, generator=draw), torch.randn(9, 3, generator=draw)) for _ in range(3)]
    factors = [updates.Update(down=a.double(), up=b.double()) for a, b in pairs]
    dense = [updates.Update(dense=(b.double() @ a.double())) for a, b in pairs]
    expected = analyse.of_updates(factors)
    monkeypatch.setattr(analyse, "BLOCK", 50)  # two rows at a time
    for found in (analyse.of_updates(dense), analyse.of_updates([factors[0], dense[1], factors[2]])):
        for name in ("dot", "both", "opposed", "turned", "inputs", "outputs", "random_inputs"):
            assert np.allclose(getattr(found, name), getattr(expected, name), equal_nan=True), name
    matrix = [u.dense for u in dense]
    assert expected.dot[0, 1] == pytest.approx(float((matrix[0] * matrix[1]).sum()))
    assert expected.opposed[0, 1] == int(((matrix[0] * matrix[1]) < 0).sum())
    bases = [torch.linalg.svd(m, full_matrices=False).Vh[:3].T for m in matrix]
    cosines = torch.linalg.svdvals(bases[0].T @ bases[1])
    assert expected.inputs[0, 1] == pytest.approx(float(cosines.square().mean()))
    assert expected.random_inputs[0, 1] == pytest.approx(3 / 7)


def test_a_lesson_that_left_a_layer_alone_counts_as_nothing_there():
    part = analyse.pooled([analyse.of_updates([low([1, 1], [1, 1]), None])])
    assert part.norms.tolist() == [2, 0] and part.moved.tolist() == [1, 0]
    assert all(math.isnan(part.pairs[m][0, 1]) for m in ("sign conflict", "cosine", "input overlap"))
    assert part.pairs["shared entries"][0, 1] == 0


def test_layers_are_pooled_by_their_weights():
    small = analyse.of_updates([whole([[1.0]]), whole([[-1.0]])])
    large = analyse.of_updates([whole([[1.0, 1, 1]]), whole([[1.0, 1, 1]])])
    pooled = analyse.pooled([small, large])
    assert pooled.pairs["sign conflict"][0, 1] == 0.25 and pooled.pairs["cosine"][0, 1] == pytest.approx(0.5)
    assert pooled.weights == 4 and pooled.rms.tolist() == [1, 1]


def test_updates_are_differences_of_what_is_recalled():
    a, b = torch.tensor([[1.0, 2, 3, 4, 5, 6]]), torch.tensor([[1.0], [2], [3], [4], [5]])
    first = Change.low_rank(a, b)
    both = first.plus(Change.low_rank(2 * a, b))
    new = updates.difference(first, both)
    assert new.down.shape == (1, 6) and torch.equal(new.up @ new.down, (b @ (2 * a)).double())
    swapped = updates.difference(first, Change.low_rank(a, 3 * b))
    assert swapped.down.shape == (2, 6) and torch.allclose(swapped.rows(0, 5), 2 * (b @ a).double())
    assert updates.difference(first, first) is None and updates.difference(None, None) is None
    dense = updates.difference(first, Change.full(b @ a + 1))
    assert torch.equal(dense.rows(1, 3), torch.ones(2, 6).double())
    assert updates.difference(Change.full(b @ a), Change.full(b @ a)) is None


def test_kinds_of_layers():
    assert record.kinds_of(LAYER) == ["cross", "k", "down"] and record.kinds_of(OTHER) == ["self", "out", "mid"]
    assert record.kinds_of("something.else") == []


ROLES = {
    "sd3": ("transformer_blocks.3.attn2.to_k", ["self", "k"], "3 self k"),
    "flux": ("transformer_blocks.3.attn.add_v_proj", ["cross", "v"], "3 cross v"),
    "flux_kontext": ("single_transformer_blocks.7.attn.to_q", ["self", "q"], "single 7 self q"),
    "flux2_klein": ("transformer_blocks.1.attn.to_add_out", ["cross", "out"], "1 cross add_out"),
    "z_image": ("context_refiner.0.attention.to_out.0", ["self", "out"], "context 0 self out"),
    "pixart_alpha": ("transformer_blocks.9.attn2.to_out.0", ["cross", "out"], "9 cross out"),
}


@pytest.mark.parametrize("family", ROLES)
def test_kinds_are_the_familys_roles(family):
    """Of transformers: SD3's `attn2` reads no text, joint attention's own projections of the text do."""
    name, kinds, shown = ROLES[family]
    own = families.get(FamilyChoice.model_validate(family, context=NEW))
    assert record.kinds_of(name, own.targets["cross"]) == kinds
    assert weights_papers.layer_name(name, kinds) == shown


# --- lineages ------------------------------------------------------------------------------------------------------


def made(folder, chosen, chain, facts=()):
    """A lineage whose lessons recall the given memories."""
    concepts = [{"name": f"c{k}", "class": "dog", "drawn": {"what": "subject", "index": k}} for k in range(len(chain))]
    lineage = Lineage.create(folder, plan.build({"methods": [chosen], "concepts": concepts}), "toy", {})
    for number, memory in enumerate(chain):
        row = folder / "lessons" / f"{number + 1:03d}-c{number}"
        memories.save(memory.with_facts(**dict(facts)), row / "memory.json", lineage.store)
        digest = files.read_json(row / "memory.json")["digest"]
        files.write_json(row / "lesson.json", {**LESSON, "concepts": [f"c{number}"], "memory": digest})
    return lineage


def summed(*values):
    """Memories that carry a sum of rank-1 changes, one more each time."""
    delta, chain = Delta(), []
    for up, down in values:
        up, down = torch.tensor([up]).T, torch.tensor([down])
        delta = delta + Delta({LAYER: Change(((down, up),)), OTHER: Change(((down, up),))})
        chain.append(Memory({"past_a/" + LAYER: down}).with_delta(delta))
    return chain


def three(folder):
    values = [([1.0] * 8, [1.0] + 11 * [0.0]), ([1.0] * 8, [0.0, 1.0] + 10 * [0.0]), ([-2.0] * 8, [1.0] + 11 * [0.0])]
    return made(folder, "merge_init", summed(*values))


def test_a_lineage_is_compared_layer_by_layer_and_by_kind(tmp_path):
    found = analyse.analyse(three(tmp_path / "m"))
    assert found.lessons == ("c0", "c1", "c2") and list(found.layers) == [LAYER, OTHER]
    assert list(found.parts) == ["all", "self", "cross", "k", "out", "down", "mid"]
    assert found.parts["all"].weights == 2 * found.parts["cross"].weights == 2 * 8 * 12
    assert found.parts["all"].norms == pytest.approx([4, 4, 8])
    assert found.layers[LAYER].pairs["cosine"][0] == pytest.approx([1, 0, -1])
    assert found.parts["all"].pairs["overturned"][0] == pytest.approx([0, 0, 1 / 12])
    assert found.chance["input overlap"] == pytest.approx(1 / 12) and found.selective


def test_concepts_kept_apart_are_compared_by_their_own_changes(tmp_path):
    a, b = torch.ones(1, 4), torch.ones(3, 1)
    one = Memory().with_delta(Delta({LAYER: Change(((a, b),))}), "own/c0")
    two = one.with_delta(Delta({LAYER: Change(((a, -b),))}), "own/c1")
    found = analyse.analyse(made(tmp_path / "m", "independent", [one, two]))
    assert found.apart and found.parts["all"].pairs["cosine"][0, 1] == pytest.approx(-1)
    assert found.parts["all"].norms.tolist() == pytest.approx([math.sqrt(12)] * 2)
    assert "overturned" not in found.telling


def test_choices_of_weights_are_reported(tmp_path):
    noted = {"neurons": {"c0": {"density": 0.06, "moved before": 0.0}}, "density": {"c1": 0.4}}
    one = Memory().with_delta(Delta({LAYER: Change.full(torch.tensor([[1.0, 0, 0, 0]]))}))
    two = one.with_delta(Delta({LAYER: Change.full(torch.tensor([[2.0, 1, 0, 0]]))}))
    found = analyse.analyse(made(tmp_path / "m", "cns", [one, two], noted.items()))
    assert found.selection == {"c1": {"density": 0.4}, "c0": {"density": 0.06, "moved before": 0.0}}
    assert found.parts["all"].moved.tolist() == [0.25, 0.5] and found.telling[-1] == "shared entries"


def test_shared_entries_by_chance():
    """Lesson 1 moves 1 of 4 and 4 of 4 entries of two projections, lesson 2 moves 2 and 1: expected 0.5 + 1 shared."""
    first = analyse.of_updates([whole([[1.0, 0, 0, 0]]), whole([[1.0, 1, 0, 0]])])
    second = analyse.of_updates([whole([[1.0, 1, 1, 1]]), whole([[0, 0, 1.0, 0]])])
    expected = analyse.shared_at_random([first, second])
    assert expected[0, 1] == pytest.approx(1.5 / 5) and expected[1, 0] == pytest.approx(1.5 / 3)


def test_the_record_is_read_back_and_never_when_stale(tmp_path):
    lineage = three(tmp_path / "m")
    found = analyse.analyse(lineage)
    assert record.read(lineage) is None
    record.write(lineage, found)
    kept = record.read(lineage)
    assert kept.lessons == found.lessons and kept.chance == pytest.approx(found.chance, rel=1e-5) and not kept.layers
    for measure, matrix in found.parts["cross"].pairs.items():
        assert np.allclose(kept.parts["cross"].pairs[measure], matrix, rtol=1e-5, equal_nan=True), measure
    (lineage.folder / "lessons" / "003-c2").rename(tmp_path / "gone")  # as `undo` leaves it
    assert record.read(lineage) is None
    (lineage.folder / records.ANALYSIS_FILE).write_text("{")
    assert record.read(lineage) is None


def test_a_run_compares_small_models_only(tmp_path, monkeypatch):
    lineage = three(tmp_path / "m")
    assert analyse.work(lineage) == 3 * 2 * 8 * 12
    monkeypatch.setattr(analyse, "CHEAP", analyse.work(lineage) - 1)
    analyse.after_run(lineage)
    assert record.read(lineage) is None
    monkeypatch.setattr(analyse, "CHEAP", analyse.work(lineage))
    analyse.after_run(lineage)
    assert record.read(lineage) is not None


def test_damage_is_named(tmp_path):
    lineage = three(tmp_path / "m")
    pack = max(lineage.store.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(bytes(data))
    with pytest.raises(LineageError, match=pack.name):
        analyse.analyse(lineage)
    pack.unlink()
    with pytest.raises(LineageError, match=pack.name):
        analyse.analyse(lineage)
    empty = Lineage.create(tmp_path / "e", plan.build({"methods": ["naive"]}), "toy", {})
    with pytest.raises(LineageError, match="no lesson"):
        analyse.analyse(empty)


# --- the command, on a lineage that was really taught --------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(tmp_path_factory, pico, pico_clip, photos):
    """Two concepts by merge_init on the pico base."""
    concepts = [
        {"name": name, "images": str(photos / name), "token": token, "class": name}
        for name, token in (("dog", "zwz"), ("cat", "sbu"))
    ]
    clip = {"clip_i": str(pico_clip)}
    data = {
        "base": str(pico), "methods": [{"name": "merge_init", "options": {"rank": 2}}], "concepts": concepts,
        "training": {"resolution": 32, "steps": 2, "batch_size": 1, "learning_rate": 1e-2},
        "sampling": {"prompts": {"subject": ["a photo of {concept}"]}, "images_per_prompt": 1, "steps": 1},
        "scoring": {"subject": ["clip_i"], "models": clip},
    }  # fmt: skip
    out = tmp_path_factory.mktemp("taught")
    return run.run(plan.build(data), out)[0]


def call(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_run_keeps_its_comparison_and_the_report_shows_it(taught, tmp_path):
    kept = record.read(taught)
    assert kept.lessons == ("dog", "cat") and kept.memories[-1] == taught.lessons[-1].record["memory"]
    text = report.build([taught], tmp_path, "x").read_text()
    assert "How the lessons meet in the weights" in text and "sign conflict" in text


def test_json_says_what_the_memories_say(taught):
    told = json.loads(call("analyse", taught.folder, "--json"))
    last, first = (memories.load(row.memory, taught.store) for row in taught.lessons[::-1])
    assert told["memories"][-1] == last.digest and told["lessons"] == ["dog", "cat"]
    recall = method.get("merge_init").consolidate.recall
    before, after = recall(first, None), recall(last, None)
    assert set(told["layers"]) == set(after)
    dots, squares = 0.0, np.zeros(2)
    for name, change in after.items():
        one = before[name].matrix().double()
        two = change.matrix().double() - one
        layer = told["layers"][name]
        assert layer["weights"] == one.numel()
        assert layer["norms"] == pytest.approx([float(one.norm()), float(two.norm())], rel=1e-4)
        assert layer["pairs"]["sign conflict"][0][1] == pytest.approx(
            float(((one * two) < 0).double().mean()), abs=0.01
        )
        dots += float((one * two).sum())
        squares += np.array([float(one.square().sum()), float(two.square().sum())])
    assert told["parts"]["all"]["pairs"]["cosine"][0][1] == pytest.approx(dots / math.sqrt(squares.prod()), rel=1e-3)


def test_tables_fit_a_terminal_and_files_are_written(taught, tmp_path, monkeypatch):
    monkeypatch.setattr(screen.console, "width", 80)
    text = call("analyse", taught.folder, "--out", tmp_path / "out")
    assert "cosine: row with column" in text and "by chance" in text and "1 dog" in text
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "pairs.csv", "lessons.csv", "sizes.png", "pairs.png", "layers.png"
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out" / "pairs.csv").open(newline="")))
    kept = record.read(taught).parts["cross"].pairs["cosine"][0, 1]
    (mine,) = [r for r in rows if (r["where"], r["lesson"], r["other"]) == ("cross", "dog", "cat")]
    assert float(mine["cosine"]) == pytest.approx(kept, rel=1e-4)
    assert {r["where"] for r in rows} >= set(record.read(taught).parts) and len(rows) > 2 * 10


@pytest.mark.parametrize(("lessons", "fits"), [(10, True), (11, False)])
def test_ten_lessons_fit_and_more_get_a_hint(tmp_path, monkeypatch, lessons, fits):
    monkeypatch.setattr(screen.console, "width", 80)
    values = [([1.0, -1.0], [(-1.0) ** k, float(k)] + 100 * [0.0]) for k in range(lessons)]
    lineage = made(tmp_path / "m", "merge_init", summed(*values))
    text = call("analyse", lineage.folder)
    assert ("sign conflict: row with column" in text) == fits and ("do not fit" in text) != fits
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_instead_of_a_pack_is_told(tmp_path):
    """In a process of its own: opened by safetensors, it would wait for ever."""
    lineage = three(tmp_path / "m")
    for pack in (lineage.folder / "store").glob("*.safetensors"):
        pack.unlink()
        os.mkfifo(pack)
    words = [sys.executable, "-m", "perdure", "analyse", str(lineage.folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode not in (0, 1) and "no regular file" in done.stderr and "Traceback" not in done.stderr


def test_a_model_that_may_not_be_written_is_still_shown(tmp_path):
    lineage = three(tmp_path / "m")
    (lineage.folder / records.ANALYSIS_FILE).mkdir()
    done = CliRunner().invoke(app, ["analyse", str(lineage.folder)])
    assert done.exit_code == 0 and "by chance" in done.stdout and "not kept for the report" in done.stderr
