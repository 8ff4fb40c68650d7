"""Scenes in which nobody has placed the concepts: found by a detector or taken from columns, matched, counted."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from perdure import plan, run
from perdure.errors import ModelError, PlanError
from perdure.plan import workload
from perdure.plan.scenes import halves
from perdure.score import encoders
from perdure.score import scenes as scores
from perdure.score.measure import Measure, mean_cosine_among, mean_pairwise_cosine

MINE = Measure(
    "mine", "higher", (-1, 1), "references", {}, lambda images: torch.zeros(1, 2), mean_pairwise_cosine,
    among=mean_cosine_among,
)  # fmt: skip


@pytest.fixture(scope="module")
def owl(tmp_path_factory, pico):
    """A local OWLv2 folder of the real classes, random weights, 64 pixels."""
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor

    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("owl")
    tokenizer = CLIPTokenizer.from_pretrained(pico / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **small, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {**small, "image_size": 64, "patch_size": 16}
    model = Owlv2ForObjectDetection(Owlv2Config(text_config=text, vision_config=vision, projection_dim=16))
    with torch.no_grad():  # boxes of many sizes, and scores on both sides of the threshold
        model.box_head.dense2.weight.normal_(0, 2.0)
        model.class_head.logit_scale.weight.normal_(0, 1.0)
    model.save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessorPil(size={"height": 64, "width": 64}), tokenizer).save_pretrained(folder)
    return folder


def pictures(count=2, side=48):
    made = []
    for k in range(count):
        made.append(Image.new("RGB", (side, side), (40, 90, 30 + 60 * k)))
        ImageDraw.Draw(made[-1]).ellipse((4, 8, 20 + 4 * k, 30), fill=(200, 30, 40))
    return made


def test_boxes_are_those_of_transformers_without_doubles(owl):
    """By the model and processor called plainly, in loops: sure enough, the surest first, none over another."""
    from transformers import Owlv2ForObjectDetection, Owlv2Processor

    model, processor = Owlv2ForObjectDetection.from_pretrained(owl).eval(), Owlv2Processor.from_pretrained(owl)
    detector = encoders.load_owl(owl, "cpu")
    some = 0
    for image, found in zip(pictures(), detector(pictures(), ["dog", "cat", "dog"]), strict=True):
        told = processor(text=[["a photo of a dog", "a photo of a cat"]], images=image, return_tensors="pt")
        with torch.no_grad():
            seen = model(**told)
        sure = seen.logits[0].sigmoid().amax(dim=1)
        expected = []
        for k in sorted(range(len(sure)), key=lambda k: -float(sure[k])):
            x, y, w, h = (float(edge) * 48 for edge in seen.pred_boxes[0, k])
            box = (max(0, int(x - w / 2)), max(0, int(y - h / 2)), min(48, round(x + w / 2)), min(48, round(y + h / 2)))
            empty = box[0] >= box[2] or box[1] >= box[3]
            if sure[k] > 0.4 and not empty and all(shared(box, other) <= 0.5 for other in expected):
                expected.append(box)
        assert found == expected
        some += len(found)
    assert 0 < some < 2 * len(sure)


def shared(one, two):
    """Intersection over union, pixel by pixel."""
    cells = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (one, two)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def test_boxes_of_no_size_are_none_and_of_doubles_the_first_stays():
    tall, empty = (0, 0, 4, 10), [(5, 0, 3, 9), (5, 0, 5, 9), (0, 8, 9, 2), (0, 8, 9, 8)]
    half, more = (0, 0, 4, 5), (0, 0, 4, 6)  # of the union of both with `tall` a half, and six tenths
    assert encoders.apart([*empty, tall, more, half, (4, 0, 8, 10)]) == [tall, half, (4, 0, 8, 10)]
    assert encoders.apart([half, more]) == [half]
    assert encoders.inside((-3.7, 2.9, 7.4, 99.0), (20, 30)) == (0, 2, 7, 30)
    assert encoders.inside((1.2, -0.5, 25.0, 7.5), (20, 30)) == (1, 0, 20, 8)


def test_boxes_that_just_touch_share_nothing():
    """A pixel each, side by side, one below the other, corner at corner and apart."""
    ones = [(0, 0, 1, 1), (1, 0, 2, 1), (0, 1, 1, 2), (1, 1, 2, 2), (5, 5, 6, 6)]
    assert encoders.apart(ones) == ones
    assert {encoders._overlap(one, other) for one in ones for other in ones if one != other} == {0}
    one, other = (1, 2, 4, 6), (2, 4, 7, 7)
    assert encoders._overlap(one, other) == encoders._overlap(other, one) == shared(one, other) == 4 / 23


def test_a_detector_that_is_none(tmp_path, pico_clip):
    with pytest.raises(ModelError, match="Owlv2ForObjectDetection"):
        encoders.load_owl(pico_clip, "cpu")
    with pytest.raises(ModelError, match="no such folder or file"):
        encoders.load_owl(tmp_path / "nothing", "cpu")


def test_a_wrong_detector_is_told_before_anything_is_taught(plan_data, pico_clip, tmp_path):
    scenes = {"how": "plain", "detector": str(pico_clip)}
    made = plan.build({**plan_data, "sampling": {**plan_data["sampling"], "scenes": scenes}})
    with pytest.raises(ModelError, match="Owlv2ForObjectDetection"):
        run.run(made, tmp_path, device="cpu")
    assert not list(tmp_path.rglob("train.jsonl"))


def test_a_part_of_a_picture_stands_in_the_middle_of_a_white_square():
    """A margin that is odd is the larger one at the right, or below."""
    shown = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    tall, wide = np.full((6, 6, 3), 255), np.full((7, 7, 3), 255)
    tall[:, 2:3], wide[2:4] = shown[:, 4:5], shown[2:4]
    for box, expected in {(4, 0, 5, 6): tall, (0, 2, 7, 4): wide, (1, 1, 4, 4): shown[1:4, 1:4]}.items():
        square = scores.crop(Image.fromarray(shown), box)
        assert square.mode == "RGB" and np.array_equal(np.asarray(square), expected)


def test_what_was_found_is_matched_and_a_wrong_count_told():
    """Four pictures: both in the other order, one missing, one too many, the same concept twice."""
    a, b = torch.eye(2)
    references = {"a": a[None], "b": b[None], "c": (a - b)[None] / 2**0.5}
    crops = [torch.stack([b, a]), a[None], torch.stack([a, b, b]), torch.stack([a, a])]
    found = scores.matched(MINE, crops, references, ["a", "b"], torch.stack([a, b]))
    assert found["right"] == 0.25 and found["miscounted"] == 0.5 and found["chance"] == 0.5
    assert found["crop"] == {"a": 1.0, "b": (1 + 0 + 1 + 0) / 4} and found["least"] == 0.5
    assert found["confusion"]["a"]["share"] == 0 and found["confusion"]["b"]["taken_for"] == {"a": 1}
    assert found["confusion"]["b"]["share"] == pytest.approx(1 / 3)  # in one picture there was nothing to take for it
    nothing = scores.matched(MINE, [torch.empty(0, 2)], references, ["a", "b"], a[None])
    assert nothing["right"] == nothing["least"] == 0 and nothing["confusion"] == {} and nothing["miscounted"] == 1


def test_by_a_distance_the_least_is_best_and_what_is_missing_the_worst_there_is():
    """Points on a line: matched so that the sum of distances is least, though one crop is nearest to the other's."""
    far = Measure(
        "far", "lower", (0, 50), "references", {}, lambda images: torch.zeros(1, 1),
        lambda x, y: float((x - y.T).abs().mean()), among=lambda x: 0.0,
    )  # fmt: skip
    references = {"a": torch.tensor([[0.0]]), "b": torch.tensor([[10.0]]), "c": torch.tensor([[4.0]])}
    crops = [torch.tensor([[6.0], [11.0], [0.0]]), torch.tensor([[3.0]]), torch.tensor([[13.0], [1.0]])]
    found = scores.matched(far, crops, references, ["a", "b"], torch.tensor([[1.0], [3.0]]))
    # of the first picture 6 and 11 are taken: 6 + 1 is less than 11 + 4, though 6 is nearer to b; of the second b lacks
    assert found["crop"] == {"a": (6 + 3 + 1) / 3, "b": (1 + 50 + 3) / 3} and found["least"] == (6 + 50 + 3) / 3
    assert found["right"] == pytest.approx(1 / 3) and found["miscounted"] == pytest.approx(2 / 3)
    assert found["whole"] == {"a": 2.0, "b": 8.0} and found["chance"] == 0.5 and found["measure"] == "far"
    assert found["confusion"]["a"]["taken_for"] == {"c": 2} and found["confusion"]["a"]["among"] == 3
    assert found["confusion"]["b"]["share"] == 0.0
    placed = {"a": torch.tensor([[1.0], [6.0], [2.0]]), "b": torch.tensor([[9.0], [8.0], [9.0]])}
    found = scores.regions(far, placed, references, torch.tensor([[1.0], [3.0]]))
    assert found["crop"] == pytest.approx({"a": 3.0, "b": 4 / 3})
    assert found["least"] == (1 + 6 + 2) / 3 and found["right"] == pytest.approx(2 / 3)
    assert found["whole"] == {"a": 2.0, "b": 8.0} and found["chance"] == 0.25 and found["measure"] == "far"


def test_a_crop_lies_in_the_middle_of_a_white_square():
    """Wide, tall and square parts, pixel by pixel; an odd pixel of room is on the right, or below."""
    picture = Image.new("RGB", (9, 7))
    picture.putdata([(x, y, 7) for y in range(7) for x in range(9)])
    for x0, y0, x1, y1 in ((1, 2, 8, 4), (2, 0, 4, 7), (3, 3, 6, 6), (0, 0, 9, 6)):
        square, wide, tall = scores.crop(picture, (x0, y0, x1, y1)), x1 - x0, y1 - y0
        side = max(wide, tall)
        assert square.size == (side, side) and square.mode == "RGB"
        left, top = (side - wide) // 2, (side - tall) // 2
        for y in range(side):
            for x in range(side):
                inside = 0 <= x - left < wide and 0 <= y - top < tall
                wanted = (x0 + x - left, y0 + y - top, 7) if inside else (255, 255, 255)
                assert square.getpixel((x, y)) == wanted


def test_halves():
    assert halves(2) == [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]


@pytest.mark.parametrize("detected", [False, True])
def test_each_way_of_drawing_is_a_set_of_its_own(plan_data, tmp_path, owl, detected):
    asked = {"how": ["plain", "attention"], "prompts": ["a photo of {concepts}"], "images_per_prompt": 2}
    data = {**plan_data, "concepts": plan_data["concepts"][:2], "methods": ["sum"]}
    data["training"]["steps"] = 1
    data["sampling"]["scenes"] = {**asked, **({"detector": str(owl)} if detected else {})}
    made = plan.build(data)
    drawn = [image for row in (1, 2) for image in range(row * 2 * 2)]  # cells: concepts x prompts x images
    assert workload.of(made).images >= len(drawn) + 2 * 2
    (lineage,) = run.run(made, tmp_path, device="cpu")
    scenes = lineage.lessons[1].scenes
    assert list(scenes) == ["dog-and-cat-attention", "dog-and-cat-plain"]
    plain, regions = scenes["dog-and-cat-plain"]["regions"], scenes["dog-and-cat-attention"]["regions"]
    assert "miscounted" not in regions and regions["chance"] == 0.25 and plain["chance"] == 0.5
    if detected:
        folder = lineage.lessons[1].folder / "scenes" / "dog-and-cat-plain"
        images = [Image.open(folder / image["file"]).convert("RGB") for image in scenes["dog-and-cat-plain"]["images"]]
        assert [[tuple(box) for box in own] for own in plain["found"]] == encoders.load_owl(owl, "cpu")(
            images, ["dog", "cat"]
        )
        assert plain["miscounted"] == sum(len(own) != 2 for own in plain["found"]) / 2
    else:
        assert plain["found"] == [[[0, 0, 16, 32], [16, 0, 32, 32]]] * 2 and plain["miscounted"] == 0


def test_ways_that_cannot_be(plan_data):
    for how in ([], ["plain", "plain"]):
        data = {**plan_data, "sampling": {**plan_data["sampling"], "scenes": {"how": how}}}
        with pytest.raises(PlanError, match="each once"):
            plan.build(data)
