"""Scenes: what is read of them, what is recalled for their regions, and what is drawn."""

import json
import re

import pytest
import torch
from conftest import paint
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image
from test_regions import ByHand, mixed, put, touched

from perdure import method, plan, report, run, score
from perdure.bases import loading
from perdure.drawing import sample, scenes
from perdure.errors import PlanError
from perdure.lineage import fsck
from perdure.memory import Memory
from perdure.memory.delta import Change, Delta
from perdure.photos import pictures as pictures_of
from perdure.plan import workload
from perdure.plan.scenes import Scene, columns, load, of_texts, sets
from perdure.report import reading
from perdure.report import scenes as shown_scenes
from perdure.score import scenes as scene_scores
from perdure.score.measure import Measure, mean_cosine_among, mean_pairwise_cosine
from perdure.wording import listed

BOXES = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.25, 1.0, 1.0)]
SCENE = {
    "prompt": "a photo of {concepts}",
    "base": 0.1,
    "regions": [{"concept": name, "box": box} for name, box in zip(("dog", "cat"), BOXES, strict=True)],
}
CALLED = {"dog": "dog", "cat": "cat"}


@pytest.fixture(scope="module")
def backbone(pico):
    return loading.load(str(pico), device="cpu")


@pytest.fixture
def concepts(plan_data):
    return {concept.name: concept for concept in plan.build(plan_data).concepts[:2]}


@pytest.fixture
def sampling(plan_data):
    return plan.build(plan_data).sampling


def deltas(backbone):
    draw = torch.Generator().manual_seed(3)
    return {
        name: Delta(
            {
                at: Change.low_rank(torch.randn(2, k, generator=draw) * 0.2, torch.randn(m, 2, generator=draw) * 0.2)
                for at, (m, k) in backbone.projections("attention").items()
            }
        )
        for name in ("dog", "cat")
    }


def plain(pico, delta):
    """The plain pipeline with a delta added to its weights by hand."""
    pipe = DiffusionPipeline.from_pretrained(pico)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for name, change in delta.items():
            pipe.unet.get_submodule(name).weight += change.matrix()
    return pipe


def drawn(backbone, method_name, memory, scene, concepts, sampling, side=32):
    return scenes.images(backbone, method.get(method_name, {}), memory, scene, concepts, CALLED, sampling, side)


class OwnKeys(ByHand):
    """Keys and values of a region by its own concept's weights."""

    def __init__(self, names, own, **settings):
        super().__init__(**settings)
        self.names, self.own = names, own

    def told(self, attn, text, number):
        if number is None:
            return attn.to_k(text), attn.to_v(text)
        weights = (
            self.own[number].unet.get_submodule(self.names[id(attn)] + part).weight for part in (".to_k", ".to_v")
        )
        return [text @ weight.T for weight in weights]


def test_each_region_is_drawn_with_the_weights_of_its_concept(backbone, pico, concepts, sampling):
    """Noise and attention beside plain pipelines: under the sum of both concepts' weights, and under each alone."""
    own = deltas(backbone)
    memory = Memory().with_delta(own["dog"], name="own/dog").with_delta(own["cat"], name="own/cat")
    whole, *alone = (plain(pico, delta) for delta in (own["dog"] + own["cat"], own["dog"], own["cat"]))
    latents = sample.latents(backbone, 2, 32, sampling.seed)
    words = ["a photo of a zwz dog and a sbu cat", "a photo of a zwz dog", "a photo of a sbu cat"]

    def text(pipe, prompts):
        return pipe.encode_prompt(prompts, "cpu", 1, False)[0]

    def called():
        return whole(
            prompt=words[:1] * 2, latents=latents.clone(), height=32, width=32, num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance, output_type="latent",
        ).images  # fmt: skip

    names = {id(module): name for name, module in whole.unet.named_modules()}
    usual = whole.unet.attn_processors
    put(
        whole, OwnKeys, names=names, own=alone, texts=text(whole, words[1:]), shape=(16, 16), weight=0.1, boxes=BOXES
    )  # fmt: skip
    by_attention = called()
    whole.unet.set_attn_processor(dict(usual))

    scheduler, noise = DDIMScheduler.from_config(whole.scheduler.config), latents.clone()
    scheduler.set_timesteps(sampling.steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            guided = []
            for pipe, prompt in zip((whole, *alone), words, strict=True):
                away, to = (pipe.unet(noise, t, text(pipe, [said] * 2)).sample for said in ("", prompt))
                guided.append(away + sampling.guidance * (to - away))
            noise = scheduler.step(mixed(guided[0], guided[1:], touched(BOXES, 16, 16), 0.1), t, noise).prev_sample

    for how, expected in {"attention": by_attention, "noise": noise, "plain": called()}.items():
        ours = drawn(backbone, "independent", memory, Scene(**SCENE, how=how), concepts, sampling)
        theirs = backbone.decode(expected)
        assert all(worst(a, b) <= 2 for a, b in zip(ours, theirs, strict=True)), how
        assert how == "plain" or any(worst(a, b) > 20 for a, b in zip(ours, backbone.decode(called()), strict=True))


def worst(a, b):
    """Largest difference of two pictures' pixels, of 255."""
    return max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True))


def test_one_region_of_all_is_the_plain_picture(backbone, concepts, sampling):
    """For a method that recalls one delta: no bit moves."""
    memory = Memory().with_delta(deltas(backbone)["dog"])
    whole = {"prompt": "a photo of {concepts}", "regions": [{"concept": "dog", "box": (0, 0, 1, 1)}]}
    pictures = [
        drawn(backbone, "naive", memory, Scene(**whole, how=how), concepts, sampling)
        for how in ("plain", "attention", "noise")
    ]
    usual = sample.images(
        backbone, method.get("naive", {}), memory, "dog", ["a photo of a zwz dog"], sampling, 32
    )  # fmt: skip
    for others in pictures:
        assert [p.tobytes() for p in others] == [p.tobytes() for p in usual]


def test_masks_are_boxes(tmp_path, backbone, concepts, sampling):
    """A mask that is white where a box is draws the same picture."""
    Image.new("L", (32, 32)).save(tmp_path / "half.png")
    with Image.open(tmp_path / "half.png") as picture:
        picture.paste(255, (0, 0, 16, 32))
        picture.save(tmp_path / "half.png")
    (tmp_path / "scene.json").write_text(
        json.dumps({"prompt": "{concepts} in snow", "regions": [{"concept": "dog", "mask": "half.png"}]})
    )
    masked = load(tmp_path / "scene.json")
    boxed = Scene(prompt="{concepts} in snow", regions=[{"concept": "dog", "box": (0, 0, 0.5, 1)}])
    for one, other in zip(
        *(drawn(backbone, "naive", Memory(), s, concepts, sampling) for s in (masked, boxed)), strict=True
    ):
        assert one.tobytes() == other.tobytes()


def test_what_is_written(concepts):
    assert listed(["a x dog", "a y cat", "a z clock"]) == "a x dog, a y cat and a z clock" and listed(["one"]) == "one"
    scene = of_texts("a beach", ["0, .1,.45,1: a photo of a ZWZ dog", "0.55,0,1,1: snow: white"])
    assert scene.named(concepts) == ("dog", None) and scene.regions[0].box == (0, 0.1, 0.45, 1)
    assert scene.written(concepts) == ("a beach", ("a photo of a ZWZ dog", "snow: white"))


def region(**changes):
    return {"prompt": "x", "regions": [{"prompt": "dog", "box": [0, 0, 1, 1], **changes}]}


WRONG = {
    "outside": (region(box=[0, 0, 1.2, 1]), "is no part of the picture; give x0, y0, x1, y1 in fractions between 0"),
    "inverted": (region(box=[0.5, 0, 0.2, 1]), "x0 less than x1 and y0 less than y1"),
    "both": (region(mask="half.png"), "give either a `box`"),
    "three": (region(box=[0, 0, 1]), "regions.0.box"),
    "nobody": (region(prompt="a {concept}"), "has a place for a concept; give the `concept`"),
    "many": ({"prompt": "x", "regions": region()["regions"] * 17}, "17 regions in one picture; at most 16"),
    "key": ({**region(), "feathers": 1}, "no such key; did you mean 'feather'?"),
    "none": ({"prompt": "x", "regions": 3}, "regions: must be a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_scene_that_cannot_be(tmp_path, case):
    data, told = WRONG[case]
    (tmp_path / "scene.json").write_text(json.dumps(data))
    with pytest.raises(PlanError) as error:
        load(tmp_path / "scene.json")
    assert told in str(error.value) and str(error.value).startswith(str(tmp_path / "scene.json"))


def test_masks_that_cannot_be(tmp_path, concepts):
    paint(tmp_path, 1, 0)
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    for name, told in {
        "00.png": "is 40 x 32 pixels, and pictures are 32 x 32",
        "black.png": "is black everywhere",
    }.items():
        scene = Scene(prompt="x", regions=[{"prompt": "dog", "mask": tmp_path / name}])
        with pytest.raises(PlanError, match=told):
            scenes.check(scene, concepts, 32)
    with pytest.raises(PlanError, match="shows 'cow', which the model has not learnt; it knows dog, cat"):
        scenes.check(Scene(prompt="x", regions=[{"concept": "cow", "box": (0, 0, 1, 1)}]), concepts, 32)


# --- after lessons ----------------------------------------------------------------------------------------------------


def test_pairs_are_drawn_and_scored_after_each_lesson(plan_data, tmp_path):
    """The third lesson draws two pairs, of which the first again; scores are those of a loop over what is on disk."""
    settings = {"prompts": ["{concepts} in snow", "a photo of {concepts}"], "images_per_prompt": 2, "how": "noise"}
    data = {**plan_data, "sampling": {**plan_data["sampling"], "scenes": settings}}
    data["training"]["steps"] = 1
    data["methods"] = ["independent"]
    made = plan.build(data)
    (lineage,) = run.run(made, tmp_path, device="cpu")
    assert [list(row.scenes) for row in lineage.rows] == [[], [], ["dog-and-cat"], ["cat-and-clock", "dog-and-cat"]]
    row = lineage.lessons[2]
    assert row.record["fusing"]["seconds"] > 0 and not (row.folder / "fusing.json").exists()
    scene, folder = row.scenes["dog-and-cat"], row.folder / "scenes" / "dog-and-cat"
    words = ["a zwz dog and a sbu cat in snow", "a photo of a zwz dog and a sbu cat"]
    assert [image["prompt"] for image in scene["images"]] == [words[0], words[0], words[1], words[1]]
    pictures = [Image.open(folder / image["file"]).convert("RGB") for image in scene["images"]]
    measure = score.load("clip_i", plan_data["scoring"]["models"]["clip_i"], "cpu")
    references = {c: torch.cat([measure.features([p]) for p in shown(lineage, made, c)]) for c in lineage.concepts}
    boxes = {"dog": (0, 3, 15, 32), "cat": (17, 3, 32, 32)}  # .45 and .55 of 32 pixels are 14.4 and 17.6
    own = {}
    for concept, (x0, y0, x1, y1) in boxes.items():
        squares = [Image.new("RGB", (29, 29), "white") for _ in pictures]
        for square, picture in zip(squares, pictures, strict=True):
            square.paste(picture.crop((x0, y0, x1, y1)), (7, 0))
        own[concept] = torch.stack([measure.features([square])[0] for square in squares])
    likeness = {c: {o: (own[c] @ references[o].T).mean(dim=1) for o in references} for c in own}
    found = scene["regions"]
    assert found["chance"] == 0.25 and found["measure"] == "clip_i"
    for concept in own:
        assert found["crop"][concept] == pytest.approx(float(likeness[concept][concept].mean()), abs=1e-5)
        most = [max(likeness[concept], key=lambda other: float(likeness[concept][other][k])) for k in range(4)]
        assert found["confusion"][concept]["share"] == sum(one != concept for one in most) / 4
        assert found["confusion"][concept]["among"] == 3
    least = torch.minimum(likeness["dog"]["dog"], likeness["cat"]["cat"])
    assert found["least"] == pytest.approx(float(least.mean()), abs=1e-5)
    right = (likeness["dog"]["dog"] > likeness["dog"]["cat"]) & (likeness["cat"]["cat"] > likeness["cat"]["dog"])
    assert found["right"] == float(right.float().mean())
    text = score.load("clip_t", plan_data["scoring"]["models"]["clip_t"], "cpu")
    prompts = [words[0], words[0], words[1], words[1]]
    assert scene["scores"] == pytest.approx({"clip_t": text.score(pictures, prompts, None)}, abs=1e-6)
    check_shown(lineage, tmp_path)
    (folder / "001.png").write_bytes(b"")
    (finding,) = fsck.examine(lineage.folder)
    assert finding.damage and finding.file.endswith("001.png")


def check_shown(lineage, tmp_path):
    """The report's figures of scenes, from the records, and what stands on its page."""
    records = [row.scenes for row in lineage.lessons]
    last = [records[2][name]["regions"] for name in ("cat-and-clock", "dog-and-cat")]
    (shown,) = reading.read([lineage])
    found = shown_scenes.figures(shown, "noise")
    assert found["Worst region"] == pytest.approx(sum(one["least"] for one in last) / 2)
    assert found["All right"] == sum(one["right"] for one in last) / 2 and found["By chance"] == 0.25
    assert found["Taken for another"] == sum(c["share"] for one in last for c in one["confusion"].values()) / 4
    then = records[1]["dog-and-cat"]["regions"]["least"]  # only this pair was drawn twice
    assert found["Forgetting"] == pytest.approx(max(then, last[1]["least"]) - last[1]["least"])
    text = report.build([lineage], tmp_path / "out", "pairs").read_text(encoding="utf-8")
    section = text.partition('id="scenes"')[2].partition("</section>")[0]
    assert section.count("<img") == 2 * 2 + 3 and "a zwz dog and a sbu cat in snow" in section  # one pair is too early
    assert "Fusing, last lesson" in text
    sheet = shown_scenes.compared([shown])
    assert [column.title for column in sheet.columns] == [*["reference"] * 2, "noise"] * 2
    (line,) = sheet.lines
    assert [sample.path for sample in line.samples[2::3]] == [
        lineage.lessons[2].folder / "scenes" / name / "000.png" for name in ("dog-and-cat", "cat-and-clock")
    ]
    assert [sample.score for sample in line.samples[2::3]] == pytest.approx([last[1]["least"], last[0]["least"]])


def shown(lineage, made, concept):
    return pictures_of.of(next(c for c in made.concepts if c.name == concept)).references


def test_right_and_least_by_hand():
    """Two pictures of two concepts, of which the second has the first concept twice."""
    one, other = torch.eye(2)
    measure = Measure(
        "mine", "higher", (-1, 1), "references", {}, lambda images: torch.zeros(1, 2), mean_pairwise_cosine,
        among=mean_cosine_among,
    )  # fmt: skip
    references = {"a": torch.stack([one, one]), "b": other[None]}
    crops = {"a": torch.stack([one, one]), "b": torch.stack([other, one])}
    found = scene_scores.regions(measure, crops, references, torch.stack([one, one]))
    assert found["right"] == 0.5 and found["least"] == 0.5 and found["crop"] == {"a": 1.0, "b": 0.5}
    assert found["whole"] == {"a": 1.0, "b": 0.0} and found["confusion"]["b"]["taken_for"] == {"a": 1}


def test_sets_of_a_plan(plan_data):
    def planned(**scenes):
        return plan.build({**plan_data, "sampling": {**plan_data["sampling"], "scenes": scenes}})

    made = planned(pairs=1)
    assert sets(made.sampling.scenes, made.sequence) == {"dog-and-cat": ("dog", "cat")}
    assert workload.of(made).images == workload.of(plan.build(plan_data)).images + 2 * 2 * 4  # after lessons 2 and 3
    made = planned(sets={"all": ["clock", "dog", "cat"]})
    assert sets(made.sampling.scenes, made.sequence[:2]) == {}
    assert sets(made.sampling.scenes, made.sequence) == {"all": ("clock", "dog", "cat")}
    assert [tuple(round(edge, 6) for edge in box) for box in columns(3)] == [
        (0, 0.1, 0.3, 1), (0.35, 0.1, 0.65, 1), (0.7, 0.1, 1, 1)
    ]  # fmt: skip
    for wrong, told in {
        "sets": ({"x": ["dog", "cut"]}, "sampling.scenes: no subject is called 'cut'; did you mean 'cat'?"),
        "prompts": (["two dogs"], "does not contain {concepts}"),
        "pairs": (0, "greater than or equal to 1"),
    }.items():
        with pytest.raises(PlanError, match=re.escape(told[1])):
            planned(**{wrong: told[0]})
    with pytest.raises(PlanError, match="give 2 to 16 different concepts"):
        planned(sets={"x": ["dog", "dog"]})


def test_draw_on_the_command_line(perdure, pico, tmp_path):
    settings = ("training.resolution=32", "sampling.steps=1")
    perdure("init", "mine", "--base", pico, *(word for s in settings for word in ("--set", s)))
    said = ("draw", "mine", "dog on beach", "--count", 1)
    assert perdure(*said, "--out", "plain.png")[0] == 0
    assert perdure(*said, "--out", "two.png", "--region", "0,0,.5,1: cat", "--region", ".5,0,1,1: clock")[0] == 0
    (tmp_path / "scene.yaml").write_text(
        "{prompt: dog on beach, regions: [{prompt: cat, box: [0, 0, .5, 1]}, {prompt: clock, box: [.5, 0, 1, 1]}]}"
    )
    assert perdure("draw", "mine", "--scene", "scene.yaml", "--out", "file.png", "--count", 1)[0] == 0
    pixels = [Image.open(tmp_path / f"{name}.png").tobytes() for name in ("plain", "two", "file")]
    assert pixels[1] == pixels[2] != pixels[0]
    (tmp_path / "wrong.yaml").write_text("{prompt: x, regions: [{concept: cow, box: [0, 0, 1, 1]}]}")
    for words, told in {
        ("dog", "--region", "0,0,1: cat"): "region '0,0,1: cat': write x0,y0,x1,y1: prompt",
        ("dog", "--region", "0,0,one,1: cat"): "--region: regions.0.box.2",
        ("dog", "--scene", "scene.yaml"): "give a PROMPT",
        ("--scene", "wrong.yaml"): "shows 'cow', which the model has not learnt; it knows no concept",
        (): "give a PROMPT",
    }.items():
        code, _, wrong = perdure("draw", "mine", *words, "--out", "none.png")
        assert code and told in wrong and not (tmp_path / "none.png").exists()
