"""What a model begins with: defaults, the first look at a base; scores later, what pictures and pages tell."""

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import paint
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file
from test_cli import quick  # noqa: F401
from test_report import make_run

from perdure import plan, report
from perdure.bases import first_look, loading, reading
from perdure.cli import growing
from perdure.compare import page, study
from perdure.errors import ModelError
from perdure.lesson import optimizing
from perdure.lineage import Lineage
from perdure.photos import pictures
from perdure.plan import defaults

SD, XL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"


# --- defaults --------------------------------------------------------------------------------------------------------


def kept(base, pipeline, side=None):
    found = plan.build({"base": base, "method": "naive"}, kept=defaults.of_model(base, pipeline, side))
    return found.training, found.sampling


@pytest.mark.parametrize(
    ("base", "pipeline", "side", "resolution", "rate", "steps"),
    [
        (SD, "StableDiffusionPipeline", 512, 512, 1e-4, 25),
        (SD, "StableDiffusionPipeline", None, 512, 1e-4, 25),
        ("owner/sd-2-1", "StableDiffusionPipeline", 768, 768, 1e-4, 25),
        (XL, "StableDiffusionXLPipeline", 1024, 1024, 1e-4, 25),
        ("owner/sd3", "StableDiffusion3Pipeline", None, 512, 4e-4, 25),
        ("owner/pixart", "PixArtSigmaPipeline", None, 512, 5e-6, 20),
        ("toybox", "StableDiffusionPipeline", 64, 64, 2e-3, 12),
    ],
)
def test_a_models_defaults_are_light_and_of_the_bases_size(base, pipeline, side, resolution, rate, steps):
    training, sampling = kept(base, pipeline, side)
    assert (training.resolution, training.learning_rate, sampling.steps) == (resolution, rate, steps)
    assert (len(sampling.prompts.subject), len(sampling.prompts.style), sampling.images_per_prompt) == (2, 2, 4)


def test_the_published_protocol_keeps_its_own():
    for base in (SD, XL):
        found = plan.build({"base": base, "method": "naive"})
        assert (found.training.resolution, found.training.steps, found.training.learning_rate) == (1024, 850, 1e-5)
        drawn = found.sampling
        assert (len(drawn.prompts.subject), drawn.images_per_prompt, drawn.steps) == (5, 8, 50)


def test_what_fits_the_device():
    name = "StableDiffusionXLPipeline"
    below, fit = defaults.checkpointing_below(name), first_look.fitting
    assert fit(name, int(below) + 1, True) == {"precision": "bf16", "gradient_checkpointing": False}
    assert fit(name, int(below) - 1, False) == {"precision": "fp32", "gradient_checkpointing": True}
    assert fit(name, None, False) == {}
    assert defaults.checkpointing_below("UnknownPipeline") == 0


def saving(every, seconds):
    return plan.build({
        "method": "naive", "training": {"checkpoint_every": every}, "performance": {"checkpoint_seconds": seconds},
    })  # fmt: skip


@pytest.mark.parametrize("pace", [[1.0] * 500, [25.0] * 20, [2.0, 30.0, 1.0, 40.0] * 20])
def test_a_stop_costs_at_most_a_minute(pace):
    now = [0.0]
    due, saved = optimizing.saving(saving(0, 60), lambda: now[0]), 0.0
    for step, took in enumerate(pace, start=1):
        now[0] += took
        if due(step):
            saved = now[0]
        following = pace[step] if step < len(pace) else 0
        assert now[0] - saved + min(took, following) <= 60, "as long as the next step is no longer than this one"
    never, often = optimizing.saving(saving(0, 0), lambda: now[0]), optimizing.saving(saving(3, 0), lambda: now[0])
    assert not any(map(never, range(1, 10))) and [s for s in range(1, 10) if often(s)] == [3, 6, 9]


# --- the first look --------------------------------------------------------------------------------------------------


def copied(base, tmp_path, part="unet", **changes):
    folder = shutil.copytree(base, tmp_path / "base")
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_base_is_looked_at_by_its_configurations(pico, tmp_path, folders):
    found = first_look.look(str(copied(pico, tmp_path, sample_size=64)))
    assert (found.pipeline, found.side) == ("StableDiffusionPipeline", 128)
    assert set(found.parts) == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert first_look.look(str(pico)).side is None, "32 pixels are too few to have been meant"
    assert first_look.look(folders("sd3")) == first_look.Look(
        "StableDiffusion3Pipeline", None, first_look.look(folders("sd3")).parts
    )
    with pytest.raises(ModelError, match="owner/not-here is neither a local folder nor in the hub cache"):
        first_look.look("owner/not-here")


def test_what_cannot_be_taught_is_refused_before_anything_is_loaded(perdure, pico, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "pipeline", lambda *args, **options: pytest.fail("it was loaded"))
    nine = copied(pico, tmp_path, in_channels=9)
    code, _, err = perdure("init", "mine", "--base", nine)
    assert code == 2 and "its UNet takes 9 channels and its autoencoder has 4" in err and "inpainting" in err
    index = nine / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"))
    code, _, err = perdure("init", "mine", "--base", nine)
    assert code == 2 and "is a StableDiffusionInpaintPipeline; perdure teaches" in err
    assert not (tmp_path / "mine").exists()


FILES = {
    "owner/sd": {
        "unet/diffusion_pytorch_model.safetensors": 3_000_000_000, "unet/model.fp16.safetensors": 1_500_000_000,
        "vae/model.safetensors": 300_000_000, "safety_checker/model.safetensors": 9_000_000_000,
        "big.safetensors": 10**10,
    },
    "openai/clip-vit-base-patch32": {"model.safetensors": 600_000_000, "pytorch_model.bin": 600_000_000},
    "facebook/dino-vits16": {"pytorch_model.bin": 80_000_000},
}  # fmt: skip


class Hub:
    def model_info(self, repo, files_metadata):
        if repo not in FILES:
            raise OSError("no answer")
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in FILES[repo].items()])


def test_every_download_to_come_is_named_with_its_size(monkeypatch):
    monkeypatch.setattr(first_look, "HfApi", Hub)
    monkeypatch.setattr(first_look, "offline", lambda: False)
    cached = {("owner/sd", "vae/model.safetensors")}
    monkeypatch.setattr(first_look, "try_to_load_from_cache", lambda r, n: "here" if (r, n) in cached else None)
    scoring = {"subject": ["dino", "clip_i", "clip_t"], "style": ["csd"]}
    made = plan.build({"base": "owner/sd", "method": "naive", "scoring": scoring})
    found = {d.what: (d.repo, d.nbytes) for d in first_look.downloads(made, ("unet", "vae"))}
    assert found["base"] == ("owner/sd", 3_000_000_000), "no variant, no checker, not what is here"
    assert found["dino"] == ("facebook/dino-vits16", 80_000_000) and found["clip_i"][1] == 600_000_000
    assert found["csd"] == ("tomg-group-umd/CSD-ViT-L", None)
    told = [first_look.size_of(d) for d in first_look.downloads(made, ("unet", "vae"))]
    assert told[0] == "3.0 GB" and "could not be asked for" in told[-1]
    toybox = plan.build({"method": "naive", "scoring": {"style": ["csd"]}})
    assert first_look.downloads(toybox, ()) == []


def test_a_hub_that_does_not_answer_is_asked_once_and_told_in_one_sentence(perdure, monkeypatch, tmp_path):
    """Its client warns of every new try; a base whose index is not had is not looked for again by loading it."""
    asked = []

    def dead(repo, name, **options):
        asked.append(name)
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub.")

    monkeypatch.setattr(first_look, "hf_hub_download", dead)
    for module in (first_look, loading):
        monkeypatch.setattr(module, "offline", lambda: False)
    code, out, told = perdure("init", tmp_path / "m", "--base", "somebody/nothing")
    assert code == 2 and asked == ["model_index.json"] and out.strip() == "" and told.strip().count("\n") == 0
    assert "neither a local folder nor in the hub cache, and it could not be fetched: An error happened" in told
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("made", ["sd3", "flux", "pixart_sigma"])
def test_one_step_and_one_picture_of_every_kind_of_base(folders, made):
    first_look.try_out(loading.load(folders(made), device="cpu"), made)


def test_a_base_that_does_not_work_is_refused(pico, tmp_path):
    first_look.try_out(loading.load(str(pico), device="cpu"), "pico")
    folder = copied(pico, tmp_path)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_out.bias"] = torch.full_like(weights["conv_out.bias"], torch.nan)
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"cannot be taught: of latents .* 0 of 256 numbers finite"):
        first_look.try_out(loading.load(str(folder), device="cpu"), "pico")


# --- teaching --------------------------------------------------------------------------------------------------------


def test_scores_can_be_taken_later(perdure, pico, photos, quick, tmp_path):  # noqa: F811
    for name, extra in (("later", ("--no-scores",)), ("now", ())):
        assert perdure("init", name, "--base", pico, "--method", "naive", *quick)[0] == 0
        for own, token in (("dog", "zwz"), ("cat", "sbu")):
            call = ("teach", name, photos / own, "--token", token, "--class", own, *extra)
            code, out, err = perdure(*call)
            assert code == 0, err
    later, now = Lineage(tmp_path / "later"), Lineage(tmp_path / "now")
    assert later.measures == [] and "–" in perdure("log", "later")[1]
    assert perdure("report", "later")[0] == 0
    more = ("teach", "later", photos / "clock", "--prompt", "a photo of uwu clock", "--max-forgetting", "0.1")
    code, _, err = perdure(*more, "--no-scores")
    assert code == 2 and "leave out --max-forgetting, or --no-scores" in err
    code, _, err = perdure(*more)
    assert code == 2 and "`perdure score later` first" in err and later.concepts == ["dog", "cat"]
    code, out, _ = perdure("score", "later")
    assert code == 0 and "5 cells of the score matrix scored" in out
    for here, there in zip(Lineage(later.folder).rows, now.rows, strict=True):
        assert here.drift == there.drift
        for name in now.concepts:
            if (cell := there.cell(name)) is not None:
                assert {**here.cell(name).record, "seconds": 0} == {**cell.record, "seconds": 0}
    assert "all is scored" in perdure("score", "later")[1]


def test_a_report_holds_no_path_of_the_machine(perdure, pico, pico_clip, photos, quick, tmp_path):  # noqa: F811
    assert perdure("init", "mine", "--base", pico, "--method", "naive", *quick)[0] == 0
    assert perdure("teach", "mine", photos / "dog", "--token", "zwz", "--class", "dog")[0] == 0
    assert perdure("report", "mine")[0] == 0
    text = (tmp_path / "mine" / "report.html").read_text()
    assert not [path for path in (photos, pico, pico_clip, tmp_path) if str(path) in text]
    for name in ("drawn.png", "drawn.jpg", "drawn.webp"):
        assert perdure("draw", "mine", "a photo of zwz dog, 猫", "--out", name, "--seed", 7, "--count", 1)[0] == 0
        with Image.open(tmp_path / name) as picture:
            assert picture.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name[6:]]
            comment = picture.getexif().get_ifd(0x8769).get(0x9286)
            told = comment and comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
            told = told or picture.info["parameters"]
        first, second = told.split("\n")
        assert first == "a photo of zwz dog, 猫" and "Steps: 1" in second and "Seed: 7" in second
        assert "Model: mine, Lessons: 1, Base: base" in second and str(tmp_path) not in told


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ({"token": "teapot"}, True), ({"prompt": "a photo of a teapot"}, True), ({"token": "zwz"}, False),
        ({"prompt": "a photo of a zwz teapot"}, False), ({"token": "xqzv"}, False),
        ({"token": "teapot", "kind": "style"}, False),
    ],
)  # fmt: skip
def test_an_ordinary_word_is_asked_about(words, asked):
    made = plan.build({"method": "naive"})
    found = reading.ordinary(made, plan.concept({"name": "pot", "images": "nowhere", **words}))
    assert (found is not None) == asked
    if asked:
        assert "'teapot' is an ordinary word of base toybox" in found and "'zwz teapot'" in found


def test_nobody_there_to_answer_is_only_told(monkeypatch, capsys):
    growing._sure(None)
    growing._sure("it is a word")
    assert capsys.readouterr().out.strip() == "note: it is a word"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(growing.typer, "confirm", lambda text, abort: asked.append((text, abort)))
    asked = []
    growing._sure("it is a word")
    assert asked == [("it is a word. Teach it so?", True)]


def test_pictures_that_are_cut_are_told_and_framed(tmp_path):
    folder = paint(tmp_path / "dog", 2, 0, size=(80, 40))
    paint(folder, 1, 1, size=(40, 32))  # 00.png again, of which a fifth is cut off
    concept = plan.concept({"name": "dog", "images": folder, "token": "zwz", "class": "dog"})
    (note,) = pictures.contents(concept).notes
    assert "of these much is left out" in note and note.endswith(": 01.png (50%)")
    (lineage,) = make_run(tmp_path / "run", ("naive",), side=8)
    Image.new("RGB", (90, 60)).save(lineage.concept_folder(lineage.concepts[0]) / "train-0.png")
    text = report.build([lineage], tmp_path / "out", "x").read_text()
    assert text.count('class="cut"') == 1 and "width:66.7%;height:66.7%" in text


# --- running and comparing -------------------------------------------------------------------------------------------


def test_progress_names_the_method_of_several(perdure, pico, pico_clip, photos, tmp_path):
    one = {"name": "dog", "images": str(photos / "dog"), "token": "zwz", "class": "dog"}
    made = {
        "base": str(pico), "methods": ["naive", "merge_init"], "concepts": [one],
        "training": {"resolution": 32, "steps": 1},
        "scoring": {"subject": ["clip_i"], "models": {"clip_i": str(pico_clip)}},
        "sampling": {"steps": 1, "images_per_prompt": 1, "prompts": {"subject": ["{concept}"]}},
    }  # fmt: skip
    (tmp_path / "plan.yaml").write_text(json.dumps(made))
    code, out, err = perdure("run", "plan.yaml")
    assert code == 0, err
    assert "naive: lesson 1 dog" in out and "merge_init: lesson 1 dog" in out and "merge_init: drawing dog" in out


def test_compare_shows_pictures(tmp_path):
    lineages = make_run(tmp_path, side=8)
    shown = page.view(study.of([tmp_path]), "x", None)
    assert [line.head for line in shown.sheet.lines] == sorted(
        ("naive", "merge_init"), key=lambda row: study.of([tmp_path]).rows.index(row)
    )
    text = page.render(shown)
    assert text.count('<img class="shot') == 2 * (1 + 1 + 4) and 'id="seen"' in text
    assert str(tmp_path.parent) not in text and all(one.folder.name in text for one in lineages)
