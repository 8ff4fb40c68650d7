"""Every plan that ships is checked as far as it can be without its data, models and hours."""

import shutil
from pathlib import Path

import pytest
from conftest import paint

from perdure import method, plan
from perdure.datasets.customconcept101 import CONCEPTS
from perdure.errors import PlanError
from perdure.photos import pictures
from perdure.plan import catalogue, workload
from perdure.plan.yaml_file import read

ROOT = Path(__file__).parent.parent
PLANS = sorted((ROOT / "plans").glob("*.yaml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_ready_plan_is_sound(path):
    made = plan.load(path)
    assert made.concepts and path.read_text(encoding="utf-8").startswith("#")
    for choice in made.methods:
        assert method.get(choice.name, choice.options).adapter.targets
    for concept in made.sequence:
        assert all(concept.phrase in prompt for prompt in made.prompts_for(concept))
        assert concept.token in concept.prompt
    for concept in [c for c in made.sequence if c.drawn is not None][-10:]:
        own = pictures.of(concept)
        assert own.held_out and len(own.training) == concept.drawn.images * max(1, len(concept.classes))
    assert plan.ready(path.stem) == path


def test_published_objects_are_those_of_the_paper():
    made = plan.load(plan.ready("low-rank-objects"))
    assert [c.phrase for c in made.sequence][:3] == ["ofl bowl", "psq cartoon", "zwz boot"]
    assert made.training.learning_rate == 1e-5 and made.training.steps == 850
    assert made.prompts_for(made.sequence[0])[4] == "a ofl bowl looking into a mirror"
    assert made.sequence[0].prompt == "a photo of ofl bowl"
    assert all(choice.options["rank"] == 64 for choice in made.methods)


def test_published_styles_are_those_of_the_paper():
    made = plan.load(plan.ready("low-rank-styles"))
    first = made.sequence[0]
    assert first.name == "Dapple" and first.prompt == "dapple image of bears"
    assert [p.name for p in first.images] == ["2.jpg", "15.jpg", "17.jpg", "11.jpg", "14.jpg"]
    assert len(first.references) == 10
    assert made.prompts_for(first)[0] == "dapple image of a wizard"


def test_items_of_t2i_conbench_go_on_pixart(folders, pico_clip, tmp_path, perdure):
    """The plan as it is, on a tiny PixArt: four lessons of one step, one picture a prompt."""
    for seed, name in enumerate(("dog", "dog3", "cat2", "shiny_sneaker")):
        paint(tmp_path / "data" / name, 3, seed)
    settings = {
        "base": folders("pixart_alpha"), "methods": "[c_lora]", "training.steps": 1, "training.resolution": 32,
        "training.precision": "fp32", "training.prior.images": 1, "sampling.steps": 2, "sampling.images_per_prompt": 1,
        "scoring.subject": "[clip_i]", "scoring.models.clip_i": pico_clip, "scoring.drift": 0,
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    code, out, told = perdure(
        "run", "t2i-conbench-items", "--data", tmp_path / "data", "--out", tmp_path / "run", *words
    )
    assert code == 0, out + told
    assert len(list((tmp_path / "run").rglob("lesson.json"))) == 4
    made = plan.load(plan.ready("t2i-conbench-items"))
    assert [c.phrase for c in made.sequence] == ["p0h1 dog", "k5f2 dog", "s5g3 cat", "b9l1 sneaker"]
    assert made.sampling.steps == 20 and made.training.prior.weight == 0.02


def test_concepts_of_cns_follow_their_stated_rule():
    """Kinds in turns, in the order of the data set's list; of each the first concept of a class noun not there yet."""
    kinds = dict.fromkeys(folder.partition("_")[0] for folder in CONCEPTS if not folder.startswith("person"))
    taken: dict[str, str] = {}
    while len(taken) < 20:
        for kind in kinds:
            fresh = [c for c in CONCEPTS if c.startswith(f"{kind}_") and CONCEPTS[c] not in taken.values()]
            taken |= {folder: CONCEPTS[folder] for folder in fresh[:1] if len(taken) < 20}
    made = plan.load(plan.ready("cns-20"))
    assert {c.name: c.noun for c in made.sequence} == taken and all(c.images.name == c.name for c in made.sequence)
    assert made.methods[0].name == "cns" and len({c.token for c in made.sequence}) == 20


@pytest.mark.parametrize("count", [20, 50])
def test_long_toybox_sequences_draw_little(count):
    made = plan.load(plan.ready(f"toybox-{count}"))
    work = workload.of(made)
    assert len(made.sequence) == len({c.token for c in made.sequence}) == count
    assert work.lessons == len(made.methods) * count
    assert work.images < 130 * work.lessons  # about as long as the lessons take


def written(section):
    """Keys that people write: those that are filled in from the files that a plan names are not."""
    return set(section.model_fields) - set(section.QUIET)


def test_template_shows_every_key():
    """The template names each key of the plan's sections, so that it cannot fall behind."""
    data, _ = read(plan.ready("template"))
    text = plan.ready("template").read_text(encoding="utf-8")
    sections = {
        "training": plan.Training,
        "sampling": plan.Sampling,
        "scoring": plan.Scoring,
        "performance": plan.Performance,
    }
    for name, section in sections.items():
        assert written(section) <= set(data[name]) <= set(section.model_fields)
    assert set(data) == written(plan.Plan)
    for key, field in plan.Concept.model_fields.items():
        assert f"{field.alias or key}:" in text


def test_defaults_are_the_template():
    """What the template shows as a default is one."""
    data, _ = read(plan.ready("template"))
    made = plan.build({"methods": ["naive"], "concepts": {"toybox": {"subjects": 1}}})
    for key, value in data["training"].items():
        shown = tuple(value) if isinstance(value, list) else value
        assert getattr(made.training, key) == shown, key
    assert catalogue.card("merge_init").options[0].default == 16


@pytest.mark.parametrize("name", ["low-rank-objects", "low-rank-styles", "cns-20", "stamina-50"])
def test_a_fast_plan_is_the_full_one_drawn_otherwise(name):
    """The same concepts, methods and lessons; no published numbers stand beside its scores."""
    full, fast = plan.load(plan.ready(name)), plan.load(plan.ready(f"{name}-fast"))
    assert fast.concepts == full.concepts and fast.methods == full.methods and fast.scoring == full.scoring
    assert fast.protocol is None and fast.name == f"{name}-fast"
    assert fast.training == full.training.model_copy(update={"precision": "bf16"})
    assert workload.of(fast).images < workload.of(full).images and fast.sampling.prompts == full.sampling.prompts
    assert (
        fast.sampling.steps < full.sampling.steps and fast.sampling.guidance_until < 1 == full.sampling.guidance_until
    )


def test_a_plan_begins_from_a_ready_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("like: toybox-5\nseed: 7\ntraining: {steps: 3}\n")
    made, ready = plan.load(tmp_path / "mine.yaml"), plan.load(plan.ready("toybox-5"))
    assert made.seed == 7 and made.training.steps == 3 and made.sampling == ready.sampling
    assert made.concepts == ready.concepts
    (tmp_path / "mine.yaml").write_text("like: toybox-4\n")
    with pytest.raises(PlanError, match="no ready plan of that name; did you mean 'toybox-5'"):
        plan.load(tmp_path / "mine.yaml")


def test_a_ready_plan_finds_its_data_where_it_was_got(tmp_path, monkeypatch):
    """Beside the plans in a clone, else in `data/` of the working folder; of a plan that begins from it, too."""
    ready = tmp_path / "site/plans"
    shutil.copytree(ROOT / "plans", ready)
    monkeypatch.setattr(plan.plan, "ready", lambda name: ready / f"{name}.yaml")
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "deep/mine.yaml"
    mine.parent.mkdir()
    mine.write_text("like: digits\nseed: 3\n")
    for path in (ready / "digits.yaml", mine):
        shutil.rmtree(tmp_path / "site/data", ignore_errors=True)
        assert plan.load(path).data == tmp_path / "data/digits"
        assert plan.values(path)[0]["data"] == str(tmp_path / "data/digits"), "as a grid reads it"
        (tmp_path / "site/data/digits").mkdir(parents=True)
        assert plan.load(path).data == tmp_path / "site/data/digits"
