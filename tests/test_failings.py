"""Confusion, copying, drift, ceiling and shift beside plain numpy on made-up features and on a run's own files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from perdure import plan, run, score
from perdure.lineage import Lineage
from perdure.report import reading
from perdure.report import tables as shown
from perdure.score import failings
from perdure.score.measure import Measure, mean_cosine_among, mean_paired_cosine, mean_pairwise_cosine
from perdure.score.measures.mmd import mmd
from perdure.wording import without


def near(x, y):
    """Mean Euclidean distance over pairs: lower is better, and no dot product."""
    return float(torch.cdist(x, y).mean())


def near_among(x):
    return float(torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)))


def measure(**changes):
    def flat(images):
        return torch.stack([torch.as_tensor(np.asarray(i, np.float32) / 255).flatten() for i in images])

    plain = {"name": "near", "direction": "lower", "range": (0, 9), "against": "references", "spec": {},
             "encode_images": flat, "compare": near, "among": near_among}  # fmt: skip
    return Measure(**{**plain, **changes})


RNG = np.random.default_rng(3)
SETS = {name: torch.as_tensor(RNG.normal(k, 1.0, (5, 2))) for k, name in enumerate(("dog", "cat", "clock"))}
DRAWN = torch.as_tensor(RNG.normal(0.6, 1.0, (12, 2)))


def distance(x, y):
    return np.mean([np.linalg.norm(a - b) for a in np.atleast_2d(x) for b in np.atleast_2d(y)])


def test_the_ceiling_is_the_measures_own():
    rows = SETS["dog"].numpy()
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    assert measure().ceiling(SETS["dog"]) == pytest.approx(np.mean(pairs))
    assert measure(among=None).ceiling(SETS["dog"]) is None and measure().ceiling(SETS["dog"][:1]) is None


def test_confusion_is_by_the_most_alike_concept():
    found = failings.confusion(measure(), DRAWN, SETS, "dog")
    taken = [min(SETS, key=lambda name: distance(row, SETS[name].numpy())) for row in DRAWN.numpy()]
    assert found["share"] == np.mean([name != "dog" for name in taken]) and 0 < found["share"] < 1
    assert found["taken_for"] == {name: taken.count(name) for name in taken if name != "dog"}
    own, wrong = SETS["dog"].numpy(), 0
    for k in range(5):
        others = {**{name: rows.numpy() for name, rows in SETS.items()}, "dog": np.delete(own, k, axis=0)}
        wrong += min(others, key=lambda name: distance(own[k], others[name])) != "dog"
    assert found["real"] == wrong / 5 and found["among"] == 3


@pytest.mark.parametrize("held_out", [True, False])
def test_copying_is_the_nearest_training_picture_beside_real_ones(held_out):
    training, real = SETS["dog"].numpy(), SETS["cat"].numpy()
    found = failings.copying(measure(), DRAWN, SETS["dog"], SETS["cat"] if held_out else None)
    assert found["nearest"] == pytest.approx(np.mean([min(distance(r, t) for t in training) for r in DRAWN.numpy()]))
    fresh = [(row, training) for row in real] if held_out else [
        (row, np.delete(training, k, axis=0)) for k, row in enumerate(training)
    ]  # fmt: skip
    assert found["real"] == pytest.approx(np.mean([min(distance(row, t) for t in rest) for row, rest in fresh]))


def test_drift_pairs_pictures_of_one_place():
    before, after = (RNG.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8) for _ in range(2))
    found = failings.drift(measure(), *([Image.fromarray(p) for p in each] for each in (before, after)))
    difference = (before.astype(float) - after.astype(float)) / 255
    assert found["pixels"] == pytest.approx(np.abs(difference).mean())
    assert found["likeness"] == pytest.approx(np.mean([np.linalg.norm(d) for d in difference]), rel=1e-5)


def test_a_token_is_left_out_where_it_stands_as_words():
    assert without("a ZWZ dog, zwzx and zwz", "zwz") == "a dog, zwzx and"
    assert without("a dog", "") == "a dog"


def test_a_run_records_them_and_an_old_lineage_goes_on(plan_data, pico_clip, tmp_path):
    names = ("clip_i", "clip_t", "clip_t_class", "mmd")
    scoring = {"subject": list(names), "models": dict.fromkeys(names, str(pico_clip)), "drift": 2}
    (own,) = run.run(plan.build({**plan_data, "scoring": scoring, "concepts": plan_data["concepts"][:2]}), tmp_path)
    for path in own.folder.glob("lessons/*/drift"):  # as an older version leaves it
        [file.unlink() for file in path.glob("*")]
        path.rmdir()
    for path in (*own.folder.glob("concepts/*/*-training.safetensors"),):
        path.unlink()
    for path in own.folder.glob("lessons/*/cells/*/cell.json"):
        old = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in old.items() if k not in ("confusion", "copying", "shift")}))
    facts = json.loads((own.folder / "lineage.json").read_text())
    facts["settings"]["scoring"].pop("drift")
    (own.folder / "lineage.json").write_text(json.dumps(facts))
    (own.folder / "plan.yaml").unlink()
    assert shown.failings(reading.read([Lineage(own.folder)])) == ()  # nothing measured, nothing shown
    scoring.pop("drift")
    (own,) = run.run(plan.build({**plan_data, "scoring": scoring}), tmp_path)
    last = own.lessons[-1]
    clip = score.load("mmd", str(pico_clip))
    for name in ("dog", "cat"):
        then = next(row for row in own.lessons if name in row.concepts).cell(name)
        features = [clip.features([Image.open(p) for p in cell.images]) for cell in (then, last.cell(name))]
        assert last.cell(name).record["shift"]["mmd"] == pytest.approx(mmd(*features, paired=True), rel=1e-6)
        assert "copying" not in last.cell(name).record  # its photos may be gone
        assert last.cell(name).record["confusion"]["among"] == 3
    assert "shift" not in last.cell("clock").record and last.cell("clock").record["copying"]["measure"] == "clip_i"
    drawn = [[np.asarray(Image.open(p), float) for p in sorted((row.folder / "drift").glob("*.png"))]
             for row in (own.base_row, last)]  # fmt: skip
    assert last.drift["pixels"] == pytest.approx(np.abs(np.array(drawn[0]) - np.array(drawn[1])).mean() / 255)
    assert last.drift["pixels"] > 0 and last.drift["likeness"] < 1 and len(drawn[0]) == 8
    (read,) = reading.read([own])
    moved = [last.cell(name).record["shift"]["mmd"] for name in ("dog", "cat")]
    assert reading.figures(read, "mmd")["shift"] == pytest.approx(np.mean(moved))
    assert len(shown.failings([read])) == 1 and shown.failing_figures(read)["drift_pixels"] == last.drift["pixels"]
    text = score.load("clip_t_class", str(pico_clip))
    cell = last.cell("dog")
    prompts = [image["prompt"].replace("zwz ", "") for image in cell.record["images"]]
    again = text.score([Image.open(p).convert("RGB") for p in cell.images], prompts, None)
    assert cell.scores["clip_t_class"] == pytest.approx(again, rel=1e-6)


def test_by_a_likeness_the_most_is_best():
    """Integers by hand, by the mean product: a picture is taken for the concept with the largest one."""
    likeness = measure(name="likeness", direction="higher", compare=lambda x, y: float((x @ y.T).mean()))
    drawn = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    known = {"a": torch.tensor([[1.0, 0.0], [3.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]]),
             "c": torch.tensor([[0.0, 4.0], [1.0, 1.0]])}  # fmt: skip
    assert [failings.most_alike(likeness, row[None], known) for row in drawn] == ["a", "c", "a"]
    assert failings.confusion(likeness, drawn, known, "a") == {
        "measure": "likeness", "share": 1 / 3, "taken_for": {"c": 1}, "real": 0.0, "among": 3,
    }  # fmt: skip
    assert failings.confusion(likeness, drawn, known, "b") == {  # its only reference cannot be compared with others
        "measure": "likeness", "share": 1.0, "taken_for": {"a": 2, "c": 1}, "real": None, "among": 3,
    }  # fmt: skip
    copied = {"measure": "likeness", "nearest": (6 + 0 + 3) / 3}
    assert failings.copying(likeness, drawn, known["a"], None) == {**copied, "real": 3.0}
    assert failings.copying(likeness, drawn, known["a"], torch.tensor([[0.0, 1], [1, 0]])) == {**copied, "real": 1.5}
    single = failings.copying(likeness, drawn, known["b"], None)
    assert single == {"measure": "likeness", "nearest": 1.0, "real": None}


def test_what_has_moved_is_compared_with_what_was():
    """Each later picture with the earlier one of its place, in this order."""
    images = [[Image.new("RGB", (1, 1), colour) for colour in colours]
              for colours in (((255, 0, 0), (0, 51, 0)), ((255, 255, 0), (0, 0, 102)))]  # fmt: skip
    found = failings.drift(measure(compare=lambda x, y: float((x - 3 * y).sum())), *images)
    assert found == {"measure": "near", "likeness": pytest.approx((2 - 3 + 0.4 - 0.6) / 2),
                     "pixels": pytest.approx((1 / 3 + 0.2) / 2)}  # fmt: skip


def worded(**changes):
    """A measure of prompts: a text is the number of its letters, and a picture scores its sum times that."""
    asked = []

    def read(texts):
        asked.append(list(texts))
        return torch.tensor([[float(len(text))] for text in texts])

    made = measure(name="words", against="prompts", encode_prompts=read, among=None,
                   compare=lambda x, y: float((x.sum(1) * y[:, 0]).mean()), **changes)  # fmt: skip
    return made, asked


def test_a_measure_of_references_compares_with_them_alone():
    images = [Image.new("RGB", (1, 1), colour) for colour in ((255, 0, 0), (0, 51, 0))]
    own = measure(compare=lambda x, y: float((x.sum(1)[:, None] - 3 * y.sum(1)).mean()))
    rows = torch.tensor([[1.0, 0, 0], [0, 0.2, 0]])
    assert torch.equal(own.features(images), rows) and torch.equal(own.reference_features(images), rows)
    references = torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    assert own.score(images, None, references) == pytest.approx(0.6 - 3)
    assert own.score(images, ["a", "b"], references) == own.score_features(rows, None, references)
    assert own.each(rows, ["a", "b"], references) == pytest.approx([1 - 3, 0.2 - 3])
    assert measure(among=None).each(rows, None, references) == []
    assert own.ceiling(references) == near_among(references) and own.ceiling(references[:1]) is None
    for told, call in {
        "near: no images to score": lambda: own.features([]),
        "near compares with reference pictures; reference features are needed": lambda: own.score(images, ["a"], None),
        "near compares pictures with pictures; it has no text features": lambda: own.text_features(["a"]),
    }.items():
        with pytest.raises(ValueError) as refused:
            call()
        assert str(refused.value) == told


def test_a_measure_of_prompts_reads_each_prompt_once():
    images = [Image.new("RGB", (1, 1), colour) for colour in ((255, 0, 0), (0, 51, 0), (0, 0, 255))]
    own, asked = worded()
    assert own.reference_features(images).shape == (0, 0) and not asked
    rows, prompts = own.features(images), ["abc", "a", "abc"]
    assert own.each(rows, prompts, torch.empty(0, 0)) == pytest.approx([3, 0.2, 3]) and asked == [["abc", "a"]]
    assert own.score(images, prompts, None) == pytest.approx(6.2 / 3) == own.score_features(rows, prompts, rows)
    assert own.text_features(["ab"]).tolist() == [[2.0]]
    with pytest.raises(ValueError, match="shorter"):
        own.each(rows, prompts[:2], None)
    for call in (lambda: own.each(rows, None, rows), lambda: own.score_features(rows, None, rows)):
        with pytest.raises(ValueError) as refused:
            call()
        assert str(refused.value) == "words compares each picture with its prompt; prompts are needed"


def test_cosines_are_means_over_their_pairs():
    """In float64, whatever the features are kept in."""
    x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    assert mean_pairwise_cosine(x, y) == pytest.approx((1 + 0 + 0.8 + 0.6 + 0.8 + 0.96) / 6)
    assert mean_paired_cosine(x, y[:2]) == pytest.approx((1 + 0.8) / 2)
    assert mean_cosine_among(y) == pytest.approx((0 + 0.8 + 0.6) / 3) and mean_cosine_among(x) == pytest.approx(0.6)
    with pytest.raises(ValueError) as told:
        mean_paired_cosine(x, y)
    assert str(told.value) == "one prompt an image is needed: 2 images, 3 prompts"
    small = torch.tensor([[2.0**-12, 1.0]])  # its square is lost beside 1 in float32
    assert mean_pairwise_cosine(small, small) == mean_paired_cosine(small, small) == 1 + 2.0**-24
    assert mean_cosine_among(torch.cat([small, small])) == 1 + 2.0**-24


def test_a_picture_on_the_bound_is_inside(monkeypatch):
    """Half the known range beyond it, and a twentieth where that is more: just so much is not too much."""
    monkeypatch.setattr(failings, "looks", np.array)
    known = [[0.25, 0.5, 0.5, 0.0], [0.5, 0.5, 0.25, 1.0]]
    on = [[0.125, 0.5 - 0.05, 0.125, -0.5], [0.625, 0.5 + 0.05, 0.625, 1.5]]
    assert failings.outside(on, known) == {"share": 0.0, "how": {}}
    beyond = np.nextafter(on, [[-1] * 4, [2] * 4]).tolist()
    words = ["darker", "flatter", "greyer", "smoother", "brighter", "harsher", "more colourful", "rougher"]
    assert failings.outside(beyond, known) == {"share": 1.0, "how": dict.fromkeys(words, 1)}
    one = [on[0], beyond[0][:1] + on[0][1:], on[1][:3] + beyond[1][3:], beyond[0][:1] + on[0][1:]]
    assert failings.outside(one, known) == {"share": 0.75, "how": {"darker": 2, "rougher": 1}}


def test_two_pictures_on_a_side_are_enough_to_be_alike():
    """By distances on a line; of the references 0, 1 and 5 the one in the middle is nearest to the others."""
    drawn, references = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [1.0], [5.0]])
    assert failings.alike(measure(), drawn, references) == {"among": 3.0, "best": (1 + 4) / 2}
    assert failings.alike(measure(), references, drawn) == {"among": pytest.approx((1 + 5 + 4) / 3), "best": 3.0}
    likeness = measure(direction="higher")
    assert failings.alike(likeness, drawn, references) == {"among": 3.0, "best": (5 + 4) / 2}
    assert failings.alike(measure(), drawn[:1], references) is None is failings.alike(measure(), drawn, references[:1])
    assert failings.alike(measure(among=None), drawn, references) is None
    assert failings.alike(measure(against="prompts"), drawn, references) is None
