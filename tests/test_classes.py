"""A classifier and its lessons: how classes are cut into tasks, what goes in, and lessons beside a plain loop."""

import copy
import math
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from perdure import memory as memories
from perdure import method, plan, run
from perdure.bases import classifier, loading
from perdure.errors import ImageError, ModelError, PlanError, TrainingError
from perdure.images import read_image, square
from perdure.lesson import examples
from perdure.lesson.classes import ClassLesson
from perdure.lesson.examples import ClassBatch
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.method import Context, Portion, Wanted
from perdure.parts import head
from perdure.photos import pictures
from perdure.plan import Training, workload
from perdure.seeds import generator
from perdure.toybox import world

# --- plans -----------------------------------------------------------------------------------------------------------


def test_classes_are_cut_as_the_public_code_does(class_plan, classes):
    """PILOT and InfLoRA: np.random.seed(seed); np.random.permutation(classes), cut in equal parts."""
    names = sorted(path.name for path in (classes / "train").iterdir())
    for seed in (0, 1993):
        np.random.seed(seed)
        order = [names[i] for i in np.random.permutation(len(names))]
        made = plan.build({**class_plan, "seed": seed})
        assert [c.classes for c in made.concepts] == [tuple(order[k : k + 2]) for k in (0, 2, 4)]
        own = plan.build({**class_plan, "concepts": {**class_plan["concepts"], "seed": seed}})
        assert [c.classes for c in own.concepts] == [c.classes for c in made.concepts]
    assert workload.of(made).steps == 3 * 2 * 3  # 8 pictures in batches of 3, twice, three tasks


@pytest.mark.parametrize(("changes", "told"), [
    ({"concepts": {"toybox": {"classes": 15, "tasks": 4}}}, "concepts.tasks is 4, and there are 15 classes"),
    ({"concepts": {"toybox": {"classes": 99, "tasks": 3}}}, "the world has 15 classes"),
    ({"concepts": {"toybox": {"classes": 6, "task": 3}}}, "'task' is not known"),
    ({"concepts": {"toybox": {"subjects": 2}}}, "with task: classification every concept is of kind: classes"),
    ({"task": None}, "is of classes; write `task: classification`"),
    ({"training": {"min_snr": 5}}, "training.min_snr is not for classifiers"),
    ({"training": {"crop": "random"}}, "training.crop: random is not for classifiers"),
    ({"methods": ["cidm"]}, "method 'cidm' needs prompts"),
])  # fmt: skip
def test_what_cannot_be_is_told(class_plan, changes, told):
    with pytest.raises(PlanError, match=told):
        plan.build({**class_plan, **changes})


def test_a_class_is_taught_once(class_plan):
    drawn = {"what": "classes", "index": 0}
    both = [
        {"name": n, "kind": "classes", "classes": c, "drawn": drawn} for n, c in (("a", ["cat", "dog"]), ("b", ["dog"]))
    ]
    with pytest.raises(PlanError, match="class 'dog' is in 'a' and in 'b'"):
        plan.build({**class_plan, "concepts": both})


def test_renditions_are_of_styles_that_the_base_did_not_see():
    train, test = (world.class_scenes("cat", 30, side) for side in (False, True))
    assert {scene.thing.class_name for scene in train + test} == {"cat"}
    assert {scene.style for scene in train} | {scene.style for scene in test} <= set(world.HELD_OUT_STYLES)
    assert {scene.style for scene in world.class_scenes("cat", 30, split="dev")} <= set(world.SEEN_STYLES)
    assert not {scene.seed for scene in train} & {scene.seed for scene in test}
    assert world.class_scenes("cat", 5) == train[:5] and world.class_scenes("cat", 5, index=1) != train[:5]


def test_pictures_of_a_task_come_in_turn(class_plan, classes):
    made = plan.build(class_plan)
    own = pictures.of(made.concepts[0])
    assert [picture.caption for picture in own.training[:4]] == [*made.concepts[0].classes] * 2
    assert own.labels == made.concepts[0].classes * 3 and own.held_out
    expected = read_image(classes / "test" / own.labels[1] / "00.png")
    assert np.array_equal(own.references[1], expected)
    (lost := classes / "train" / own.labels[0] / "zz.jpg").write_bytes(b"no picture")
    try:
        assert [told for told in pictures.check(made.concepts) if str(lost) in told]
    finally:
        lost.unlink()


def test_a_folder_that_lacks_a_class_is_told(class_plan, classes, tmp_path):
    shutil.copytree(classes, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "test" / "cow")
    made = plan.build({**class_plan, "concepts": {"folder": str(tmp_path / "data"), "tasks": 1}})
    assert "cow" in pictures.check(made.concepts)[0]
    with pytest.raises(ImageError, match="is no folder"):
        plan.build({**class_plan, "concepts": {"folder": str(tmp_path / "none"), "tasks": 1}})


# --- bases -----------------------------------------------------------------------------------------------------------


def test_features_are_those_of_transformers(pico_vit, class_plan):
    from transformers import ViTModel

    made = plan.build(class_plan)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    base = classifier.load(str(pico_vit))
    own = base.all_features(base.read([image], made.training), made.training)
    model = ViTModel.from_pretrained(pico_vit, add_pooling_layer=False).eval()
    values = torch.from_numpy(np.asarray(image) / np.float32(255)).permute(2, 0, 1)[None]
    with torch.no_grad():
        seen = model(pixel_values=(values - 0.5) / 0.5).last_hidden_state[:, 0]
    torch.testing.assert_close(own, seen)
    assert list(base.projections("cross_kv")) == [f"layers.{n}.attention.{p}_proj" for n in (0, 1) for p in "kv"]
    assert len(base.projections("attention")) == len(base.projections("cross")) == 8


def test_the_embedded_vit_is_the_clip_scorers_tower():
    from transformers import CLIPVisionModel

    base = classifier.load(plan.TOYBOX_VIT)
    tower = CLIPVisionModel.from_pretrained(classifier.vit(plan.TOYBOX_VIT), dtype=torch.float32).eval()
    made = plan.build({"task": "classification", "base": plan.TOYBOX_VIT, "methods": ["naive"]})
    picture = world.draw(world.class_scenes("dog", 1)[0])
    with torch.no_grad():
        values = torch.from_numpy(np.asarray(picture) / np.float32(255)).permute(2, 0, 1)[None]
        seen = tower(pixel_values=(values - 0.5) / 0.5).pooler_output
    torch.testing.assert_close(base.all_features(base.read([picture], made.training), made.training), seen)
    assert len(base.projections("attention")) == 20


def test_a_base_that_is_no_vit_is_told(pico, class_plan, tmp_path):
    with pytest.raises(ModelError, match="is a classifier"):
        loading.of(plan.build(class_plan))
    with pytest.raises(ModelError, match=r"config\.json"):
        classifier.load(str(pico))
    with pytest.raises(PlanError, match="this base reads pictures of 16 pixels; write 16"):
        made = plan.build({**class_plan, "training": {**class_plan["training"], "resolution": 32}})
        run.run(made, tmp_path / "out", device="cpu")


# --- a lesson, beside a plain loop ------------------------------------------------------------------------------------


def plain_lessons(pico_vit, made, logits, lessons_wanted, half=None):
    """FT as a loop of transformers and torch: B A on top of all attention, rows of the head, AdamW, cross entropy.

    `half`: the type of the base's weights, and of its products by torch's autocast; for the first lesson only.
    """
    from transformers import ViTModel

    model = ViTModel.from_pretrained(pico_vit, add_pooling_layer=False).eval().requires_grad_(False).to(half)
    names = [f"layers.{n}.attention.{p}_proj" for n in (0, 1) for p in "qkvo"]
    moved, heads, order = {name: torch.zeros(32, 32) for name in names}, [], []
    for concept in made.concepts[:lessons_wanted]:
        factors = {}
        draw = generator(made.seed, concept.name, "adapter")
        for name in names:
            a = torch.randn(4, 32, generator=draw) / 4
            factors[name] = (a.requires_grad_(), torch.zeros(32, 4, requires_grad=True))
        begun = torch.rand(2, 33, generator=generator(made.seed, concept.name, "head"))
        rows = ((2 * begun - 1) / 32**0.5).requires_grad_()
        order.append(list(concept.classes))
        _plain_lesson(model, made, concept, factors, moved, heads, rows, order, logits)
        for name, (a, b) in factors.items():
            moved[name] = moved[name] + (b @ a).detach()
        heads.append(rows.detach())
    return moved, heads


def _plain_features(model, pixels, moved, factors):
    from torch.func import functional_call

    if model.dtype == torch.float32:
        weights = {
            f"{name}.weight": model.get_submodule(name).weight + moved[name] + b @ a for name, (a, b) in factors.items()
        }
        return functional_call(model, weights, kwargs={"pixel_values": pixels}).last_hidden_state[:, 0]
    beside = [
        model.get_submodule(name).register_forward_hook(
            lambda layer, inputs, out, a=a, b=b: out + F.linear(F.linear(inputs[0], a), b)
        )
        for name, (a, b) in factors.items()
    ]
    with torch.autocast("cpu", model.dtype):
        feature = model(pixel_values=pixels.to(model.dtype)).last_hidden_state[:, 0].float()
    for hook in beside:
        hook.remove()
    return feature


def _plain_lesson(model, made, concept, factors, moved, heads, rows, order, logits):
    training = made.training
    shown = [(np.asarray(square(p.image, 16).image), p.caption) for p in pictures.of(concept).training]
    parameters = [t for pair in factors.values() for t in pair]
    optimizer = torch.optim.AdamW([
        {"params": parameters, "scale": 1.0},
        {"params": [rows], "scale": training.word_learning_rate / training.learning_rate},
    ], lr=1.0, betas=training.betas, eps=training.epsilon, weight_decay=training.weight_decay)  # fmt: skip
    steps = training.epochs * -(-len(shown) // training.batch_size)
    flat = [name for own in order for name in own]
    for step in range(steps):
        rate = training.learning_rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        picked = []
        for k in range(training.batch_size):
            epoch, place = divmod(training.batch_size * step + k, len(shown))
            picked.append(
                int(torch.randperm(len(shown), generator=generator(made.seed, concept.name, "order", epoch))[place])
            )
        pixels = torch.stack([torch.tensor(shown[i][0]).permute(2, 0, 1) for i in picked]).float() / 255
        feature = _plain_features(model, (pixels - 0.5) / 0.5, moved, factors)
        every = torch.cat([*heads, rows])
        out = feature @ every[:, :32].T + every[:, 32]
        wanted = torch.tensor([flat.index(shown[i][1]) for i in picked])
        if logits == "own":
            out, wanted = out[:, -2:], wanted - (len(flat) - 2)
        loss = F.cross_entropy(out, wanted)
        grads = torch.autograd.grad(loss, [*parameters, rows])
        for tensor, gradient in zip([*parameters, rows], grads, strict=True):
            tensor.grad = gradient
        torch.nn.utils.clip_grad_norm_([*parameters, rows], training.max_grad_norm)
        optimizer.step()


@pytest.mark.parametrize("logits", ["own", "all"])
def test_lessons_are_those_of_a_plain_loop(class_plan, pico_vit, tmp_path, logits):
    """merge_init, three tasks: weights and rows; the loss over the task's own logits, and over all."""
    data = copy.deepcopy(class_plan)
    data["methods"] = [{"name": "merge_init", "rank": 4}]
    data["training"] |= {"word_learning_rate": 5e-2, "weight_decay": 0.1, "flip": False}
    data["training"]["head"] |= {"logits": logits}
    made = plan.build(data)
    (lineage,) = run.run(made, tmp_path / "run", device="cpu")
    moved, heads = plain_lessons(pico_vit, made, logits, 3)
    kept = memories.load(lineage.lessons[-1].memory, lineage.store)
    for name, change in kept.delta().items():
        torch.testing.assert_close(change.matrix(), moved[name], atol=2e-5, rtol=1e-3)
    for number, rows in enumerate(heads, start=1):
        torch.testing.assert_close(kept.tensors[f"heads/task-{number}/rows"], rows, atol=2e-5, rtol=1e-3)


def test_a_base_in_bf16_learns_what_the_plain_loop_does(class_plan, pico_vit, tmp_path):
    """Weights and products in bf16, what is learnt and the head in fp32: the first task beside torch's own autocast."""
    data = copy.deepcopy(class_plan)
    data["methods"] = [{"name": "merge_init", "rank": 4}]
    data["training"] |= {"word_learning_rate": 5e-2, "weight_decay": 0.1, "flip": False, "precision": "bf16"}
    made = plan.build(data)
    (lineage,) = run.run(made, tmp_path / "run", device="cpu")
    moved, (rows,) = plain_lessons(pico_vit, made, "own", 1, torch.bfloat16)
    kept = memories.load(lineage.lessons[0].memory, lineage.store)
    assert {tensor.dtype for tensor in kept.tensors.values()} == {torch.float32}
    for name, change in kept.delta().items():
        torch.testing.assert_close(change.matrix(), moved[name], atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(kept.tensors["heads/task-1/rows"], rows, atol=2e-5, rtol=1e-3)
    assert np.isfinite(lineage.matrix("class_il")[3]).all()


@pytest.mark.parametrize("method", ["merge_init", "stamina", "ewc"])
def test_checkpointing_computes_layers_again_and_changes_nothing(class_plan, tmp_path, monkeypatch, method):
    from transformers.models.vit.modeling_vit import ViTMLP

    calls, forward = [], ViTMLP.forward

    def counted(self, *args, **options):
        calls.append(torch.is_grad_enabled())
        return forward(self, *args, **options)

    monkeypatch.setattr(ViTMLP, "forward", counted)
    found, data = [], {**copy.deepcopy(class_plan), "methods": [method]}
    for on in (False, True):
        data["training"]["gradient_checkpointing"] = on
        calls.clear()
        (lineage,) = run.run(plan.build(data), tmp_path / str(on), device="cpu")
        kept = memories.load(lineage.lessons[-1].memory, lineage.store)
        found.append((sum(calls), kept.tensors, lineage.matrix("class_il")))
    (plain, tensors, scores), (again, same, other) = found
    assert again > plain and tensors.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in tensors.items())
    assert np.array_equal(scores, other, equal_nan=True)


def test_heads_begin_and_answer_as_their_formulas_say():
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    labels = ["a", "b", "c"] * 3
    centres = head.means(features, labels, ["a", "b", "c"])
    torch.testing.assert_close(centres[1], features[1::3].mean(dim=0))
    linear, cosine = (plan.Head(kind=kind, begin="means") for kind in ("linear", "cosine"))
    draw = torch.Generator().manual_seed(1)
    rows = head.begun(linear, 3, 5, centres, draw)
    nearest = torch.cdist(features, centres).argmin(dim=1)
    assert torch.equal(head.logits(features, rows, linear).argmax(dim=1), nearest)
    rows = head.begun(cosine, 3, 5, centres, draw)
    wanted = 16 * F.cosine_similarity(features[:, None], centres[None], dim=2)
    torch.testing.assert_close(head.logits(features, rows, cosine), wanted)
    assert head.begun(linear, 3, 5, None, draw).shape == (3, 6) and head.begun(cosine, 3, 5, None, draw).shape == (3, 5)


def test_heads_are_formulas_on_numbers_of_ones_own():
    """Logits, beginnings and the rows that a memory keeps, entry by entry."""
    draw = torch.Generator().manual_seed(2)
    features, rows = torch.randn(4, 5, generator=draw), torch.randn(3, 6, generator=draw)
    linear, cosine = (plan.Head(kind=kind, scale=7.0) for kind in ("linear", "cosine"))
    x, w = features.double().numpy(), rows.double().numpy()
    np.testing.assert_allclose(head.logits(features, rows, linear).numpy(), x @ w[:, :5].T + w[:, 5], rtol=1e-5)
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w[:, :5], axis=1)
    expected = x @ w[:, :5].T / lengths
    np.testing.assert_allclose(head.nearest(features, rows[:, :5]).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(head.logits(features, rows[:, :5], cosine).numpy(), 7 * expected, rtol=1e-5)
    centres = rows[:, :5]
    squares = (w[:, :5] ** 2).sum(axis=1)
    begun = head.begun(linear, 3, 5, centres, draw).numpy()
    np.testing.assert_allclose(begun[:, :5], 7 / squares.mean() * w[:, :5], rtol=1e-5)
    np.testing.assert_allclose(begun[:, 5], -7 / squares.mean() * squares / 2, rtol=1e-5)
    begun = head.begun(cosine, 3, 5, centres, draw).numpy()
    np.testing.assert_allclose(begun, w[:, :5] / np.sqrt(squares)[:, None], rtol=1e-5)
    for kind, columns in ((linear, 401), (cosine, 400)):
        drawn = head.begun(kind, 50, 400, None, torch.Generator().manual_seed(3))
        again = torch.rand(50, columns, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(drawn, again * 0.1 - 0.05)  # between -1 and 1 over the root of 400
    more = torch.cat([rows, -rows[:2]])
    memory = head.with_classes(Memory(), {"zero": ["a", "b"], "one": ("c",), "two": ["d", "e"]}, more)
    assert head.classes_of(memory) == {"zero": ["a", "b"], "one": ["c"], "two": ["d", "e"]}
    own = (memory.tensors[f"heads/{task}/rows"] for task in ("zero", "one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(own, (more[:2], more[2:3], more[3:]), strict=True))
    assert torch.equal(head.rows_of(memory), more) and head.classes_of(Memory()) == {}
    memory = head.with_classes(Memory(), {"one": ["a", "b", "c"]}, rows)
    asked = head.classified(method.get("merge_init", {"rank": 2}), memory, features, linear)
    assert torch.equal(asked, head.logits(features, rows, linear))
    more = head.with_classes(memory, {"three": ["d"]}, 2 * rows[:1])
    assert torch.equal(head.rows_of(more), torch.cat([rows, 2 * rows[:1]]))
    assert list(head.classes_of(more)) == ["one", "three"]
    bare = head.with_classes(Memory(), {"one": ["a"]}, None)
    assert head.rows_of(bare) is None and not bare.tensors and head.classes_of(bare) == {"one": ["a"]}


class Embedded:
    """A model of which only the features of its own pictures are asked."""

    def __init__(self, features, labels):
        self.embedded = lambda: (features, labels)


def lesson_of(number, features, labels):
    """What a method is told of a lesson: draws by their owner, those in common alike in all lessons."""

    def draw(*owner):
        return torch.Generator().manual_seed(sum(map(ord, f"{number}{owner}")))

    def common(*owner):
        return torch.Generator().manual_seed(sum(map(ord, f"{owner}")))

    model = Embedded(features, labels)
    return Context(f"t{number}", number, 1, "", "", model, draw, common)


TASKS = [("b", "a", "b", "a"), ("d", "c", "d", "d")]


@pytest.fixture
def two_tasks():
    draw = torch.Generator().manual_seed(75)  # of the second, whichever picture is held out asks for another ridge
    return [torch.randn(4, 6, generator=draw) + 0.2 for _ in TASKS]


def test_the_nearest_mean_of_two_lessons_by_hand(two_tasks):
    """A row a class as they first occur, those of the first lesson first; a picture is of the class of most cosine."""
    chosen, memory = method.get("class_means", {}), Memory()
    for number, (features, labels) in enumerate(zip(two_tasks, TASKS, strict=True), start=1):
        memory = chosen.consolidate.remember(None, memory, lesson_of(number, features, labels))
    x, y = (t.double().numpy() for t in two_tasks)
    means = np.stack([x[[0, 2]].mean(axis=0), x[[1, 3]].mean(axis=0), y[[0, 2, 3]].mean(axis=0), y[1]])
    np.testing.assert_allclose(memory.tensors["means/all"].numpy(), means, rtol=1e-5)
    assert set(memory.bytes_by_name()) == set(chosen.consolidate.carries) == {"means"}
    shown = two_tasks[0][:3]
    u, v = shown.double().numpy(), means
    cosines = u @ v.T / np.linalg.norm(u, axis=1)[:, None] / np.linalg.norm(v, axis=1)
    found = head.classified(chosen, memory, shown, head.PLAIN)
    np.testing.assert_allclose(found.numpy(), cosines, rtol=1e-4, atol=1e-6)
    assert not chosen.consolidate.recall(memory, Wanted("t1")) and chosen.adapter.head is False


@pytest.mark.parametrize("ridge", [0.3, None])
def test_random_features_of_two_lessons_by_hand(two_tasks, ridge):
    """relu(F W) with one W, sums of both lessons, numpy's solution; a ridge that nobody gave is of the last lesson."""
    chosen, memory = method.get("ranpac", {"features": 2, "ridge": ridge}), Memory()
    for number, (features, labels) in enumerate(zip(two_tasks, TASKS, strict=True), start=1):
        memory = chosen.consolidate.remember(None, memory, lesson_of(number, features, labels))
    drawn = torch.randn(6, 2, generator=lesson_of(1, None, None).common("random features 2")).double().numpy()
    wide = [np.maximum(x.double().numpy() @ drawn, 0) for x in two_tasks]
    wanted = [np.array([[float(label == name) for name in "badc"] for label in labels]) for labels in TASKS]
    least = ridge
    if ridge is None:
        order = torch.randperm(4, generator=lesson_of(2, None, None).generator("ridge")).tolist()
        fit, held = order[:3], order[3:]

        def error(one):
            gram = wide[1][fit].T @ wide[1][fit] + one * np.eye(2)
            solved = np.linalg.solve(gram, wide[1][fit].T @ wanted[1][fit][:, 2:])
            return ((wide[1][held] @ solved - wanted[1][held][:, 2:]) ** 2).mean()

        least = min((10.0**power for power in range(-8, 9)), key=error)
    assert memory.facts["ridge"] == least
    rows, targets = np.concatenate(wide), np.concatenate(wanted)
    solved = np.linalg.solve(rows.T @ rows + least * np.eye(2), rows.T @ targets)
    shown = two_tasks[1][:2]
    expected = np.maximum(shown.double().numpy() @ drawn, 0) @ solved
    np.testing.assert_allclose(head.classified(chosen, memory, shown, head.PLAIN).numpy(), expected, atol=1e-3)
    assert set(memory.bytes_by_name()) == set(chosen.consolidate.carries) == {"gram", "projection"}
    assert not chosen.consolidate.recall(memory, Wanted("t1"))
    half = {"G": torch.diag(torch.tensor([4.0, 0.0])), "C": torch.arange(8.0).view(2, 4)}  # nothing was seen of one
    least = memory.with_tensors("gram", half).with_facts(ridge=0.0)
    expected = np.maximum(shown.double().numpy() @ drawn, 0)[:, :1] @ np.array([[0, 0.25, 0.5, 0.75]])
    np.testing.assert_allclose(head.classified(chosen, least, shown, head.PLAIN).numpy(), expected, atol=1e-5)
    none = {"G": torch.zeros(2, 2), "C": torch.eye(2)}  # a tenth of the identity remains, in float64
    tenth = memory.with_tensors("gram", none).with_facts(ridge=0.1)
    expected = 10 * torch.relu(shown @ memory.tensors["projection/W"]).double().numpy()
    np.testing.assert_allclose(head.classified(chosen, tenth, shown, head.PLAIN).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_the_ridge_of_fewer_pictures_than_features_is_no_rounding(seed):
    """By the other form, X^T (X X^T + ridge I)^-1 Y, which is regular there; in the second lesson."""
    chosen, memory = method.get("ranpac", {"features": 60}), Memory()
    draw = torch.Generator().manual_seed(seed)
    labels = [["a", "b"] * 10, ["c", "d"] * 10]
    tasks = [torch.randn(20, 6, generator=draw) + torch.tensor([[3.0], [0.0]]).repeat(10, 1) for _ in labels]
    for number in (1, 2):
        memory = chosen.consolidate.remember(None, memory, lesson_of(number, tasks[number - 1], labels[number - 1]))
    drawn = memory.tensors["projection/W"].double().numpy()
    x = np.maximum(tasks[1].double().numpy() @ drawn, 0)
    y = np.array([[float(label == name) for name in "cd"] for label in labels[1]])
    order = torch.randperm(20, generator=lesson_of(2, None, None).generator("ridge")).tolist()
    fit, held = order[:16], order[16:]

    def error(one):
        solved = x[fit].T @ np.linalg.solve(x[fit] @ x[fit].T + one * np.eye(16), y[fit])
        return ((x[held] @ solved - y[held]) ** 2).mean()

    assert memory.facts["ridge"] == min((10.0**power for power in range(-8, 9)), key=error)


def test_a_ridge_is_chosen_where_there_is_something_to_choose_by():
    wide, wanted = torch.eye(6), torch.ones(6, 1)
    assert head.chosen_ridge(wide, wanted, torch.arange(1)) == head.chosen_ridge(wide, wanted, torch.arange(0)) == 1.0
    same = torch.ones(6, 1)  # what is held out is what was learnt: the least ridge; of the opposite the most
    assert head.chosen_ridge(same, wanted, torch.arange(2)) == 1e-8
    assert head.chosen_ridge(same, torch.tensor([[1.0], [-1.0]] * 3), torch.arange(2)) == 1e8


def test_ranpac_does_not_depend_on_the_order_of_tasks_and_solves_the_ridge(class_plan, tmp_path):
    """The last head is that of all pictures at once: (G + ridge I)^-1 C, by numpy."""
    data = {**class_plan, "methods": [{"name": "ranpac", "features": 40, "ridge": 0.5}]}
    one = run.run(plan.build(data), tmp_path / "one", device="cpu")[0]
    two = run.run(plan.build({**data, "order": [3, 1, 2]}), tmp_path / "two", device="cpu")[0]
    mine, other = (memories.load(line.lessons[-1].memory, line.store) for line in (one, two))
    torch.testing.assert_close(mine.tensors["gram/G"], other.tensors["gram/G"], atol=1e-3, rtol=1e-4)
    base, made = classifier.load(class_plan["base"]), plan.build(data)
    shown = [p for c in made.concepts for p in pictures.of(c).training]
    features = base.all_features(base.read([p.image for p in shown], made.training), made.training)
    wide = np.maximum(features.double().numpy() @ mine.tensors["projection/W"].double().numpy(), 0)
    names = [name for own in head.classes_of(mine).values() for name in own]
    wanted = np.array([[float(p.caption == name) for name in names] for p in shown])
    solved = np.linalg.solve(wide.T @ wide + 0.5 * np.eye(40), wide.T @ wanted)
    own = head.classified(drive_method(made), mine, features, made.training.head)
    np.testing.assert_allclose(own.numpy(), wide @ solved, atol=1e-3)


def drive_method(made):
    return method.of(made.methods[0])


def part_by_hand(high, wide, draws):
    """RandomResizedCrop as torchvision documents it: ten tries of area .08 to 1 and log-uniform ratio 3/4 to 4/3, then
    the middle; `draws` are uniform in [0, 1).
    """
    for _ in range(10):
        area = wide * high * (0.08 + 0.92 * next(draws))
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * next(draws))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= wide and h <= high:
            return math.floor(next(draws) * (high - h + 1)), math.floor(next(draws) * (wide - w + 1)), h, w
    if wide / high < 3 / 4:
        w, h = wide, round(wide / (3 / 4))
    elif wide / high > 4 / 3:
        w, h = round(high * 4 / 3), high
    else:
        w, h = wide, high
    return (high - h) // 2, (wide - w) // 2, h, w


@pytest.mark.parametrize(("high", "wide"), [(256, 256), (256, 384), (300, 256), (256, 3000), (2000, 256)])
def test_random_parts_are_torchvisions(high, wide):
    middles = 0
    for seed in range(200):
        own, same = (torch.Generator().manual_seed(seed) for _ in range(2))
        found = examples.random_part(high, wide, own)
        assert found == part_by_hand(high, wide, iter(lambda same=same: float(torch.rand((), generator=same)), None))
        top, left, height, width = found
        assert 0 <= top <= high - height and 0 <= left <= wide - width
        middles += (top, left) == ((high - height) // 2, (wide - width) // 2)
    assert middles < 20 if max(high, wide) < 1000 else middles > 20, "no draw fits in what is too long"


@pytest.mark.parametrize(("high", "wide"), [(1, 1), (2, 3), (3, 1), (4, 1), (1, 6)])
def test_parts_of_tiny_pictures_have_a_pixel(high, wide):
    """A draw of less than half a pixel a side is no part, as torchvision has it: then another is drawn."""
    for seed in range(60):
        random, again = (torch.Generator().manual_seed(seed) for _ in range(2))
        draws = iter(lambda again=again: float(torch.rand((), generator=again)), None)
        for _ in range(10):
            area, aspect = high * wide * (0.08 + 0.92 * next(draws)), 0.75 * (16 / 9) ** next(draws)
            width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 1 <= width <= wide and 1 <= height <= high:
                wanted = math.floor(next(draws) * (high - height + 1)), math.floor(next(draws) * (wide - width + 1))
                assert examples.random_part(high, wide, random) == (*wanted, height, width)
                break
        else:
            top, left, height, width = examples.random_part(high, wide, random)
            assert height >= 1 and width >= 1 and (top, left) == ((high - height) // 2, (wide - width) // 2)


def test_a_step_cuts_parts_of_whole_pictures(class_plan, pico_vit, monkeypatch):
    """Pictures of 40 x 32: parts lie beyond the middle square too, and are what Pillow makes of them."""
    data = {**class_plan, "training": {**class_plan["training"], "crop": "resized", "flip": False}}
    made, base = plan.build(data), classifier.load(str(pico_vit))
    shown = pictures.of(made.concepts[0]).training
    own = examples.encode_classes(base, shown, made.training)
    assert own.pictures.shape[1:] == (3, 18, 18) and base.middle(own.pictures).shape[-1] == 16
    assert {one.shape for one in own.whole} == {torch.Size([3, 18, 22])}
    assert torch.equal(own.whole[0][:, :, 2:20], own.pictures[0]), "the square is the middle of the whole"
    for part in ((0, 0, 9, 9), (2, 15, 16, 7), (0, 0, 18, 22)):
        parts = {(18, 22): part}
        monkeypatch.setattr(examples, "random_part", lambda *size, parts=parts: parts[size[:2]])
        top, left, height, width = part
        image = Image.fromarray(own.whole[1].permute(1, 2, 0).numpy())
        box = (left, top, left + width, top + height)
        plain = torch.from_numpy(np.asarray(image.crop(box).resize((16, 16), Image.Resampling.BILINEAR)).copy())
        cut = own.cut(own.whole[1], torch.Generator())
        assert (cut.int() - plain.permute(2, 0, 1).int()).abs().max() <= 1


def test_pictures_that_show_no_class_are_shuffled_tiles(class_plan, pico_vit):
    """8 x 8 tiles of 2 pixels, each from a picture of its own drawing, put together by hand."""
    made, base = plan.build(class_plan), classifier.load(str(pico_vit))
    own = examples.encode_classes(base, pictures.of(made.concepts[0]).training, made.training)
    classes = list(made.concepts[0].classes)

    def draw(purpose, number=0):
        return generator(0, purpose, number)

    lesson = ClassLesson(base, own, Memory(), Delta(), made, [], draw, {"one": classes})
    found = lesson.general(2, 3)
    assert [len(copies) for copies in found] == [3, 3]
    for number, batch in enumerate(batch for copies in found for batch in copies):
        random = generator(0, "general", number)
        picked = torch.randint(len(own), (64,), generator=random).tolist()
        places = torch.randperm(64, generator=random).tolist()
        wanted = torch.zeros(3, 16, 16, dtype=torch.uint8)
        for k, (picture, place) in enumerate(zip(picked, places, strict=True)):
            (i, j), (y, x) = (divmod(cell, 8) for cell in (k, place))
            tile = own.pictures[picture, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            wanted[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = tile
        assert torch.equal(batch.pictures, wanted[None])
        assert batch.captions == (classes[int(torch.randint(2, (), generator=random))],)


def test_parts_are_drawn_anew_and_the_same_for_a_step(class_plan, pico_vit):
    data = {**class_plan, "training": {**class_plan["training"], "crop": "resized", "flip": True}}
    made, base = plan.build(data), classifier.load(str(pico_vit))
    own = examples.encode_classes(base, pictures.of(made.concepts[0]).training, made.training)
    whole = examples.together_classes([own, own])
    assert len(whole.whole) == len(whole) == 2 * len(own)

    def draw(purpose, number=0):
        return generator(0, purpose, number)

    batch, again = own.batch(4, draw, 7), own.batch(4, draw, 7)
    assert batch.pictures.shape == (4, 3, 16, 16) and torch.equal(batch.pictures, again.pictures)
    assert not torch.equal(own.batch(4, draw, 8).pictures, batch.pictures)


# --- a lesson on a tower that is arithmetic ---------------------------------------------------------------------------


class Tower:
    """Features (b, 2) are bytes / 255 by a matrix: the base's, what is laid under it, and what a lesson has learnt."""

    device, width, side = torch.device("cpu"), 2, 19

    def __init__(self):
        draw = torch.Generator().manual_seed(8)
        self.base, self.live = ((torch.randn(2, 3 * 19**2, generator=draw) / 30).to(self.device) for _ in range(2))
        self.laying, self.alone, self.told = None, False, []

    @contextmanager
    def bare(self):
        self.alone = True
        yield
        self.alone = False

    @contextmanager
    def laid(self, delta):
        self.laying = delta["p"].matrix()
        yield
        self.laying = None

    def features(self, shown, training):
        self.told.append(training)
        weight = self.base + (0 if self.alone else self.live) + (0 if self.laying is None else self.laying)
        return shown.flatten(1).float() / 255 @ weight.T

    def all_features(self, shown, training):
        return self.features(shown, training).detach()

    def middle(self, shown):
        return shown[..., 1:20, 1:20]


KNOWN, NEW = {"one": ["a", "b"], "two": ["c"]}, {"three": ["d", "e"], "four": ["f"]}
SHOWN = torch.randint(0, 256, (4, 3, 21, 21), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
BEFORE = torch.tensor([[0.5, -1.0, 0.2], [1.5, 0.3, -0.4], [-0.7, 0.8, 0.1]])
PAST = torch.randn(2, 3 * 19**2, generator=torch.Generator().manual_seed(9)) / 30


def draw_of(purpose, number=None):
    return torch.Generator().manual_seed(sum(map(ord, f"{purpose}{number}")))


def third_lesson(learns=True, memory=None, **head_of):
    """A lesson of two tasks at once after two others, of pictures of 21 pixels that are read at 19."""
    training = Training(resolution=16, batch_size=4, crop="center", flip=True, head=head_of or None)
    if memory is None:
        rows = BEFORE if head_of.get("kind") != "cosine" else BEFORE[:, :2]
        memory = head.with_classes(Memory(), KNOWN, rows)
    own = examples.ClassExamples(SHOWN, ("d", "f", "e", "d"), 19, training)
    planned = SimpleNamespace(training=training, methods=[SimpleNamespace(label="mine")])
    return ClassLesson(Tower(), own, memory, Delta({"p": Change.full(PAST)}), planned, [], draw_of, NEW, learns)


def logits_by_hand(weight, shown, rows, scale=None):
    """Of pictures one by one: a row's product with the feature, and its bias, or `scale` times their cosine."""
    found = []
    for picture in shown:
        x = weight.double().numpy() @ (picture.double().numpy().reshape(-1) / 255)
        if scale is None:
            found.append([x @ row[:2] + row[2] for row in rows.double().numpy()])
        else:
            found.append([scale * x @ row / np.linalg.norm(x) / np.linalg.norm(row) for row in rows.double().numpy()])
    return np.array(found)


OTHER = ClassBatch(SHOWN[..., 2:21, :19], ("e", "b", "f", "c"))
ROWS = torch.tensor([[0.9, 0.1, -0.3], [-0.2, 0.6, 0.7], [0.4, -0.5, 1.1]])


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_lesson_predicts_what_it_knows_and_then_what_is_new(kind):
    lesson, scale = third_lesson(kind=kind, scale=3.0), {"linear": None, "cosine": 3.0}[kind]
    before, rows = (each if kind == "linear" else each[:, :2] for each in (BEFORE, ROWS))
    assert not lesson.rows.any() and lesson.rows.shape == rows.shape and lesson.parameters == [lesson.rows]
    lesson.rows.data.copy_(rows)
    tower = lesson.backbone
    found = lesson.predict(OTHER)
    wanted = logits_by_hand(tower.base + tower.live, OTHER.pictures, torch.cat([before, rows]), scale)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(found.sum(), lesson.rows)[0].any()
    for answered, change in (
        (lesson.before(OTHER), PAST),
        (lesson.under(Delta({"p": Change.full(2 * PAST)}), OTHER), 2 * PAST),
    ):
        wanted = logits_by_hand(tower.base + change, OTHER.pictures, before, scale)
        np.testing.assert_allclose(answered.numpy(), wanted, rtol=1e-4, atol=1e-5)
        assert not answered.requires_grad
    assert all(told is lesson.plan.training for told in tower.told)
    apart = found.detach()[:, :3] - answered
    assert float(lesson.difference(found.detach(), answered)) == pytest.approx(float((apart**2).sum()) / 12, rel=1e-5)


@pytest.mark.parametrize("logits", ["own", "all"])
def test_a_lessons_loss_is_among_its_own_classes_or_all(logits):
    """Tasks that are taught together are one; what is shown may be of an older task too."""
    lesson = third_lesson(logits=logits)
    predicted = torch.randn(4, 6, generator=torch.Generator().manual_seed(6))
    wanted = []
    for row, name in zip(predicted.tolist(), OTHER.captions, strict=True):
        among = next(own for own in ("ab", "c", "def") if name in own) if logits == "own" else "abcdef"
        total = sum(math.exp(row["abcdef".index(other)]) for other in among)
        wanted.append(math.log(total) - row["abcdef".index(name)])
    np.testing.assert_allclose(lesson.error(OTHER, predicted).numpy(), wanted, rtol=1e-5, atol=1e-6)
    lesson.rows.data.copy_(ROWS)
    errors = lesson.error(OTHER, lesson.predict(OTHER))
    assert lesson.loss(OTHER).item() == pytest.approx(errors.sum().item() / 4)


def order_of(purpose, step, size, seen=4):
    """Which pictures a step sees, and which of them are mirrored: an order an epoch, a draw a picture."""
    index = []
    for k in range(size * step, size * step + size):
        index.append(int(torch.randperm(seen, generator=draw_of(f"{purpose}order", k // seen))[k % seen]))
    mirror = draw_of(f"{purpose}cut", step)
    return index, [float(torch.rand((), generator=mirror)) < 0.5 for _ in index]


def mirrored(shown, flips):
    return torch.stack([one.flip(-1) if flip else one for one, flip in zip(shown, flips, strict=True)])


def test_a_lessons_batches_are_its_pictures_in_drawn_orders():
    lesson, labels = third_lesson(), ("d", "f", "e", "d")
    lesson.backbone.side = 21
    lesson.backbone.base = lesson.backbone.live = torch.ones(2, 3 * 21**2) / 500
    for step in range(3):
        index, flips = order_of("", step, 4)
        batch, predicted, parts = lesson.step(step, Portion())
        assert torch.equal(batch.pictures, mirrored(SHOWN[index], flips))
        assert batch.captions == tuple(labels[i] for i in index)
        assert torch.equal(predicted, lesson.predict(batch)) and list(parts) == ["cross_entropy"]
        assert parts["cross_entropy"].item() == pytest.approx(lesson.loss(batch).item())
        half, short, _ = lesson.step(step, Portion(1, 2))
        assert (
            torch.equal(half.pictures, batch.pictures[2:]) and half.captions == batch.captions[2:] and len(short) == 2
        )
    found = lesson.batches("fisher", 3, 2)
    for k, batch in enumerate(found):
        index, flips = order_of("fisher ", k, 2)
        assert torch.equal(batch.pictures, mirrored(SHOWN[index], flips))
        assert batch.captions == tuple(labels[i] for i in index)
    other = lesson.batch_of(SHOWN.flip(0), ["a", "b", "c", "d"], "replay", 7)
    draw = draw_of("replay cut", 7)
    flips = [float(torch.rand((), generator=draw)) < 0.5 for _ in range(4)]
    assert torch.equal(other.pictures, mirrored(SHOWN.flip(0), flips)) and other.captions == ("a", "b", "c", "d")
    assert len(found) == 3 and 0 < sum(flips) < 4


def test_rows_begin_at_random_or_at_the_means_and_are_remembered():
    lesson = third_lesson()
    lesson.begin()
    torch.testing.assert_close(lesson.rows.detach(), (2 * torch.rand(3, 3, generator=draw_of("head")) - 1) / 2**0.5)
    features, labels = lesson.embedded()
    weight = lesson.backbone.base + lesson.backbone.live
    assert len(lesson.backbone.told) == 1 and lesson.backbone.told[0] is lesson.plan.training
    shown = SHOWN[..., 1:20, 1:20].flatten(1).double() / 255
    torch.testing.assert_close(features, (shown @ weight.double().T).float())
    assert labels == lesson.captions == ("d", "f", "e", "d") and torch.equal(lesson.latents, SHOWN)
    lesson = third_lesson(kind="cosine", begin="means")
    lesson.begin()
    means = torch.stack([(features[0] + features[3]) / 2, features[2], features[1]])
    torch.testing.assert_close(lesson.rows.detach(), means / means.square().sum(1, keepdim=True).sqrt())
    kept = lesson.remembered(lesson.memory)
    assert head.classes_of(kept) == {**KNOWN, **NEW}
    assert torch.equal(kept.tensors["heads/three/rows"], lesson.rows[:2])
    assert torch.equal(kept.tensors["heads/four/rows"], lesson.rows[2:])


def test_a_lesson_without_rows_learns_none():
    lesson = third_lesson(learns=False)
    lesson.begin()
    assert lesson.rows is None and lesson.parameters == []
    assert head.rows_of(lesson.remembered(Memory())) is None
    assert head.classes_of(lesson.remembered(Memory())) == NEW
    found = lesson.predict(OTHER).numpy()
    weight = lesson.backbone.base + lesson.backbone.live
    np.testing.assert_allclose(found, logits_by_hand(weight, OTHER.pictures, BEFORE), rtol=1e-4, atol=1e-5)
    lesson = third_lesson(memory=Memory())
    assert lesson.predict(OTHER).shape == (4, 3) and lesson.head == head.PLAIN


def test_tiles_that_do_not_fill_a_picture_are_carried_on_to_its_edge():
    """Of 19 pixels a side 8 tiles of 2: the last row and column of them stand for the 3 that are left."""
    lesson = third_lesson()
    found = lesson.general(2, 2)
    assert [len(copies) for copies in found] == [2, 2]
    for number, batch in enumerate(batch for copies in found for batch in copies):
        draw = draw_of("general", number)
        picked = torch.randint(4, (64,), generator=draw).tolist()
        places = torch.randperm(64, generator=draw).tolist()
        label = "def"[int(torch.randint(3, (), generator=draw))]
        for y in range(19):
            for x in range(19):
                k = 8 * (min(y, 15) // 2) + min(x, 15) // 2
                top, left = 2 * (places[k] // 8) + min(y, 15) % 2, 2 * (places[k] % 8) + min(x, 15) % 2
                assert torch.equal(batch.pictures[0, :, y, x], SHOWN[picked[k], :, top, left])
        assert batch.pictures.shape == (1, 3, 19, 19) and batch.pictures.dtype == torch.uint8
        assert batch.captions == (label,)


@pytest.mark.parametrize("logits", ["own", "all"])
def test_a_lesson_is_where_its_base_is(monkeypatch, logits):
    """Torch's device without memory stands for any that is not the CPU: what lies elsewhere cannot be reckoned with."""
    monkeypatch.setattr(Tower, "device", torch.device("meta"))
    lesson = third_lesson(logits=logits)
    assert lesson.rows.is_meta and lesson._before.is_meta
    batch = lesson.batch_of(OTHER.pictures, OTHER.captions, "replay", 1)
    predicted = lesson.predict(batch)
    assert batch.pictures.is_meta and predicted.shape == (4, 6) and predicted.is_meta
    assert lesson.error(batch, predicted).is_meta


def test_a_classifier_has_no_prompts_to_ask_for():
    lesson = third_lesson()
    for ask in (
        lambda: lesson.calibration, lambda: lesson.features(["a"]), lambda: lesson.tokens(["a"]),
        lambda: lesson.draw(["a"], 1),
    ):  # fmt: skip
        with pytest.raises(TrainingError, match=r"^method 'mine' asks for prompts, .*which a classifier has not$"):
            ask()
    assert lesson.told == ()
