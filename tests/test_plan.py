"""Plans: every mistake at once and in its place; the same plan wherever it lies."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import paint
from PIL import Image

from perdure import plan, wording
from perdure.errors import ImageError, PlanError
from perdure.photos import pictures
from perdure.plan import Concept, catalogue, sources, yaml_file

SOUND = """\
method: naive
concepts:
  - {name: dog, images: photos/dog, token: zwz, class: dog}
  - {name: cat, images: photos/cat, token: sbu, class: cat}
"""


def load(folder, text, *overrides):
    (folder / "plan.yaml").write_text(text)
    return plan.load(folder / "plan.yaml", overrides)


def problems(folder, text, *overrides):
    """The mistakes of a plan, the folder's name left out."""
    with pytest.raises(PlanError) as caught:
        load(folder, text, *overrides)
    assert all("\n" not in problem for problem in caught.value.problems)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


# --- YAML as people write it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1e5", 1e5), ("1E+2", 100.0), (".5", 0.5), ("-.5e1", -5.0), ("2.", 2.0), ("-1", -1), ("0", 0),
        ("12", 12), ("+3", 3), ("1_0", 10), ("0x1f", 31), ("'1e-4'", "1e-4"), ('"5"', "5"), ("1e", "1e"), ("e5", "e5"),
        ("1-2", "1-2"),        ("-", None), ("null", None), ("~", None), ("true", True), (".inf", float("inf")),
        ("1.2.3", "1.2.3"), ("2024-01-01x", "2024-01-01x"), ("2024-01-01", "2024-01-01"), ("2024-13-45", "2024-13-45"),
    ],
)  # fmt: skip
def test_numbers_and_strings(text, value):
    if text == "-":
        text = ""
    read = yaml_file.parse(f"x: {text}", "t")[0]["x"]
    assert read == value and type(read) is type(value)


def test_a_number_is_a_number_in_a_plan(tmp_path):
    made = load(tmp_path, SOUND + "training: {learning_rate: 1e-4, weight_decay: .5, steps: 1e2}\nseed: 7\n")
    assert (made.training.learning_rate, made.training.weight_decay, made.training.steps, made.seed) == (
        1e-4,
        0.5,
        100,
        7,
    )


def test_keys_given_twice(tmp_path):
    text = SOUND + "seed: 1\nseed: 2\ntraining:\n  steps: 1\n  steps: 2\n"
    assert problems(tmp_path, text) == ["plan.yaml:6: seed: given twice", "plan.yaml:9: training.steps: given twice"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: [1", "plan.yaml:1: not valid YAML"), ("", "a plan is a mapping"), ("- a", "a plan is a mapping"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML: !python/object/apply:os.getcwd is no plain value"),
        ("? [a]\n: 1", "not valid YAML"), ("1: 2\nmethod: naive", "keys should be strings"),
    ],
)  # fmt: skip
def test_what_is_no_plan(tmp_path, text, word):
    assert word in problems(tmp_path, text)[0]


LAUGHS = "a: &a0 [x, x]\n" + "".join(f"b{k}: &a{k + 1} [*a{k}, *a{k}]\n" for k in range(20))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (LAUGHS, "plan.yaml:12: not valid YAML: more than 10,000 values"),
        ("x: [" + "1," * 10_000 + "]", "plan.yaml:1: not valid YAML: more than 10,000 values"),
        ("name: &a [x, *a]", "plan.yaml:1: not valid YAML: *a stands inside what it stands for"),
        ("training: &a\n  <<: *a", "plan.yaml:2: not valid YAML: *a stands inside what it stands for"),
        ("x: " + "[" * 3000, "plan.yaml:1: not valid YAML: more than 50 values inside one another"),
        ("x: " + "{a: " * 3000, "more than 50 values inside one another"),
        ("x: " + "y" * 1_000_000, "plan.yaml: not valid YAML: it has more than 1,000,000 characters"),
        ("a: 1\nseed: !!int ''", "plan.yaml:2: not valid YAML: '' is no integer"),
        ("seed: !!int 0b", "'0b' is no integer"), ("seed: !!float x", "'x' is no number"),
        ("joint: !!bool maybe", "'maybe' is no boolean"), ("name: !!int [1]", "expected a scalar node"),
        ("seed: " + "9" * 5000, "plan.yaml:1: not valid YAML: a number of 5,000 characters; at most 100 are read"),
        ("seed: 1" + ":59" * 99, "a number of 298 characters"),
        ("name: !!timestamp 2024-13-45", "!timestamp is no plain value"), ("name: !!set {a}", "!set is no plain value"),
        ("name: !!binary '?'", "!binary is no plain value"), ("name: !mine x", "!!mine is no plain value"),
    ],
)  # fmt: skip
def test_what_no_plan_holds(tmp_path, text, word):
    (problem,) = problems(tmp_path, text)
    assert word in problem


@pytest.mark.parametrize("key", ["seed", "training.batch_size", "training.steps", "sampling.seed"])
def test_whole_numbers_that_no_tensor_takes_are_refused(key):
    section, _, name = key.rpartition(".")
    data = {"methods": ["naive"], "concepts": {"toybox": {"subjects": 1}}}
    data |= {section: {name: 10**40}} if section else {name: 10**40}
    with pytest.raises(PlanError, match=rf"{key}: .*(at most|the largest whole number that a plan can hold is) ?\d+"):
        plan.build(data)


def test_aliases_and_merges_within_bounds_are_read(tmp_path):
    text = "a: &a {steps: 2, betas: &b [0.5, 0.9]}\nb: {<<: *a, steps: 3}\nc: [*b, *b]"
    data, lines = yaml_file.parse(text, "t")
    assert data["b"] == {"steps": 3, "betas": [0.5, 0.9]} and data["c"] == [[0.5, 0.9]] * 2
    assert lines["b", "steps"] == 2 and yaml_file.parse(yaml_file.dump(data), "t")[0] == data
    half = yaml_file.DEPTH - 2
    assert yaml_file.parse("x: " + "[" * half + "]" * half, "t")[0]["x"]


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    for path, word in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "x.yaml", "not a text"),
    ):
        with pytest.raises(PlanError, match=word):
            plan.load(path)


# --- mistakes ------------------------------------------------------------------------------------------------------


MISTAKES = {
    "trainning: {steps: 3}": "plan.yaml:5: trainning: no such key; did you mean 'training'?",
    "training:\n  stesp: 3": "plan.yaml:6: training.stesp: no such key; did you mean 'steps'?",
    "training: {xyz: 3}": "training.xyz: no such key; known: accumulate, base_precision, batch_size, betas",
    "training: {prior: {image: 3}}": "plan.yaml:5: training.prior.image: no such key; did you mean 'images'?",
    "training: {steps: many}": "training.steps: input should be a valid integer",
    "training: {steps: 0}": "training.steps: input should be greater than or equal to 1 (got 0)",
    "training: {resolution: 100}": "training.resolution: input should be a multiple of 8 (got 100)",
    "training: {schedule: linear}": "training.schedule: input should be 'constant' or 'cosine' (got 'linear')",
    "training: {betas: [0.9, 1.0]}": "training.betas.1: input should be less than 1 (got 1.0)",
    "training: {betas: [-0.1, 0.9]}": "training.betas.0: input should be greater than or equal to 0 (got -0.1)",
    "base: toybx": "plan.yaml:5: base: 'toybx' is neither a path on this machine nor a hub id (owner/name); "
    "did you mean 'toybox'?",
    "base: /nowhere/at/all": "plan.yaml:5: base: '/nowhere/at/all' is neither a path on this machine nor a hub id",
    "base: ~perdurenobody/sd": "~perdurenobody/sd' is neither a path on this machine",
    "base: ''": "base: '' is neither a path",
    f"base: {'x' * 300}": "is neither a path on this machine nor a hub id",
    f"vae: ./{'é' * 300}": "plan.yaml:5: vae: ",
    "vae: https://hub.example/a/b": "vae: 'https://hub.example/a/b' is neither",
    "scoring: {models: {dino: ./nowhere}}": "plan.yaml:5: scoring.models.dino: ",
    "scoring: {models: {dno: a/b}}": "plan.yaml:5: scoring.models: no measure 'dno'; did you mean 'dino'?",
    r'description: "half \ud83d"': "description: '\\ud83d' is a character that no file can hold",
    r'description: "a\0b"': "description: '\\x00' is a character that no file can hold",
    r'sampling: {negative_prompt: "\udfff"}': "sampling.negative_prompt: '\\udfff' is a character",
    f"description: [{'x' * 300}]": "description: must be text (got ['" + "x" * 198 + " ...)",
    "training: {betas: [0.9]}": "training.betas.1: is required and missing",
    "training: {learning_rate: .nan}": "training.learning_rate: input should be a finite number (got nan)",
    "training:": "plan.yaml:5: training: must be a mapping of keys to values (got None)",
    "sampling: {prompts: {subject: a dog}}": "sampling.prompts.subject: must be a list (got 'a dog')",
    "sampling: {prompts: {subject: [a dog]}}": "prompt 'a dog' does not contain {concept}",
    "sampling: {prompts: {style: []}}": "sampling.prompts.style: needs at least one entry (got [])",
    "scoring: {subject: [clipi]}": "scoring.subject: no measure 'clipi'; did you mean 'clip_i'?",
    "scoring: {style: []}": "scoring.style: needs at least one entry",
    "order: [1, 1]": "plan.yaml: order [1, 1] is not an ordering of 1..2",
    "order: [0, 1]": "plan.yaml: order [0, 1] is not an ordering of 1..2",
    "order: first": "plan.yaml:5: order: must be a list (got 'first')",
    "version: 2": "plan.yaml:5: version: input should be 1 (got 2)",
    "base: 5": "plan.yaml:5: base: must be text (got 5)",
    "name: a b": "plan.yaml:5: name: may hold letters, digits, dashes and underscores only (got 'a b')",
    "methods: [naive]": "plan.yaml: give `method` or `methods`, not both",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_one_mistake_is_one_sentence_in_its_place(tmp_path, text):
    (problem,) = problems(tmp_path, SOUND + text + "\n")
    assert problem.startswith("plan.yaml:") and MISTAKES[text] in problem


CONCEPTS = {
    "{name: a, images: x, tokn: zwz}": "plan.yaml:3: concepts.0.tokn: no such key; did you mean 'token'?",
    "{name: a, images: 5, token: b}": "concepts.0.images: give a folder, or a list of files (got 5)",
    "{name: a, images: [x, 5], token: b}": "concepts.0.images: give a folder, or a list of files",
    r'{name: a, images: x, token: "b\ud800"}': "concepts.0.token: '\\ud800' is a character that no file can hold",
    r'{name: a, images: x, token: b, class: "\0"}': "concepts.0.class: '\\x00' is a character that no file can hold",
    r'{name: a, images: "x\0y", token: b}': "concepts.0.images: '\\x00' is a character that no file can hold",
    r'{name: a, images: ["x\0y"], token: b}': "concepts.0.images: '\\x00' is a character that no file can hold",
    "{name: a, images: x, kind: thing, token: b}": "concepts.0.kind: input should be 'subject', 'style' or 'classes'",
    "{name: a, token: b}": "concepts.0: give either `images` (a folder or files) or `drawn` (a toybox concept)",
    "{name: a, token: b, images: x, drawn: {index: 0}}": "concepts.0: give either `images`",
    "{name: a, images: x}": "concepts.0: give a `prompt`, or a `token` and a `class`",
    "{name: a, images: x, token: b, prompt: 'a {tokn} dog'}": "prompt: {tokn} is not known",
    "{images: x, token: b}": "concepts.0.name: is required and missing",
    "{drawn: {index: two}}": "concepts.0.drawn.index: input should be a valid integer",
    "{drawn: {index: 9999}}": "the toybox world has no number 9999",
    "{name: ../a, images: x, token: b}": "concepts.0.name: may hold letters",
    "just text": "concepts.0: must be a mapping of keys to values (got 'just text')",
}


@pytest.mark.parametrize("text", CONCEPTS)
def test_mistakes_of_a_concept(tmp_path, text):
    (problem,) = problems(tmp_path, f"method: naive\nconcepts:\n  - {text}\n")
    assert CONCEPTS[text] in problem


METHODS = {
    "method: naiv": "plan.yaml:1: method: no method 'naiv'; did you mean 'naive'?",
    "method: {name: magmax, operand: foo}": "method: option 'operand' of method 'magmax' is 'foo'; allowed: factors",
    "method: {name: naive, rnk: 3}": "method: method 'naive' has no option 'rnk'; did you mean 'rank'?",
    "method: {name: naive, rank: big}": "option 'rank' of method 'naive' is 'big'; it must be of type int",
    "method: {name: naive, rank: true}": "it must be of type int",
    "method: {name: naive, rank: 0}": "option 'rank' of method 'naive' is 0; it must be at least 1",
    "methods: [naive, {name: cns, vote: 2}]": "methods.1: option 'vote' of method 'cns' is 2; it must be above",
    "method: {name: cns, density: -1}": "option 'density' of method 'cns' is -1; it must be above 0 and at most 1",
    "method: {name: cns, base_share: 0}": "option 'base_share' of method 'cns' is 0; it must be above 0 and at most 1",
    "method: {name: dsc, temperature: 0}": "option 'temperature' of method 'dsc' is 0; it must be above 0",
    "method: {name: stamina, openness: 1}": "option 'openness' of method 'stamina' is 1; it must be above 0",
    "method: {name: ewc, weight: .nan}": "option 'weight' of method 'ewc' is nan; it must be a finite number",
    "method: {name: ewc, weight: .inf}": "option 'weight' of method 'ewc' is inf; it must be a finite number",
    "method: {name: naive, targets: all}": "'targets' of method 'naive' is 'all'; allowed: attention, cross, cross_kv",
    "method: {name: naive, label: a/b}": "label 'a/b' names a folder",
    "method: {name: naive, label: report.html}": "label 'report.html' is the name of another file beside the runs",
    "methods: [naive, {name: naive, label: Figures}]": "methods.1: label 'Figures' is the name of another file",
    f"method: {{name: naive, label: {'x' * 101}}}": "has more than 100 characters",
    "method: {rank: 3}": "method.name: is required and missing",
    "method:": "method: must be a mapping of keys to values (got None)",
    "methods: naive": "methods: must be a list (got 'naive')",
    "methods: []": "methods: needs at least one entry",
    "methods: [naive, naive]": "plan.yaml: two methods are called 'naive'; give each its own name",
    "methods: [{name: naive, label: joint}]\njoint: true": "two methods are called 'joint'",
    "concepts: []": "methods: is required and missing",
}


def test_a_path_that_is_nowhere_names_what_is_near(tmp_path):
    (tmp_path / "sd-base").mkdir()
    (problem,) = problems(tmp_path, SOUND, "base=./sd-bas")
    assert problem.endswith("did you mean 'sd-base'?")


def test_homes_of_nobody_are_folders_that_are_not_there(tmp_path):
    made = load(tmp_path, SOUND + "data: ~perdurenobody\n")
    assert made.concepts[0].images == tmp_path / "~perdurenobody/photos/dog"
    (problem,) = problems(tmp_path, "method: naive\nconcepts: {folder: ~perdurenobody}\n")
    assert problem.startswith("no folder ~perdurenobody")


@pytest.mark.parametrize(("key", "there"), [("subjects", 79), ("styles", 14)])
def test_the_toybox_world_ends(tmp_path, key, there):
    (problem,) = problems(tmp_path, f"method: naive\nconcepts: {{toybox: {{{key}: 1000000000000}}}}\n")
    assert problem == f"concepts.toybox: the world has {there} {key} (got 1000000000000)"
    assert len(load(tmp_path, f"method: naive\nconcepts: {{toybox: {{{key}: {there}}}}}\n").concepts) == there


def test_measures_of_sets_need_two_pictures_on_each_side(tmp_path):
    paint(tmp_path / "photos/dog", 3, 0)
    paint(tmp_path / "photos/cat", 1, 0)
    one = "sampling={images_per_prompt: 1, prompts: {subject: ['a {concept}'], style: ['{concept}']}}"
    made = load(tmp_path, SOUND, one, "scoring.subject=[clip_i, mmd]", "concepts.0.hold_out=1")
    assert pictures.check(made.concepts, [made, made]) == [
        f"concept {name!r}: mmd needs 2 pictures or more on each side; there is 1 drawn (sampling.images_per_prompt) "
        "and 1 to compare with"
        for name in ("dog", "cat")
    ]
    enough = load(tmp_path, SOUND, one, "sampling.images_per_prompt=2", "scoring.subject=[mmd]")
    assert len(pictures.check(enough.concepts, [enough])) == 1  # the cat's only picture
    other = load(tmp_path, SOUND, one, "scoring.style=[mmd]")
    assert pictures.check(other.concepts, [other]) == []


@pytest.mark.parametrize("text", METHODS)
def test_mistakes_of_a_method(tmp_path, text):
    (problem,) = problems(tmp_path, text + "\n")
    assert METHODS[text] in problem


def test_all_mistakes_at_once(tmp_path):
    text = """\
methods: [naive, {name: nave}]
trainig: 1
concepts:
  - {name: dog, images: x, token: zwz, clas: dog}
  - {name: cat, images: 7, token: sbu}
training:
  steps: -1
  precision: fp8
"""
    found = problems(tmp_path, text)
    assert len(found) == 6
    assert [p.split(": ")[0] for p in found] == [f"plan.yaml:{line}" for line in (1, 4, 5, 7, 8, 2)]


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ("name: dog, token: zwz", "name: dog, token: sbu", "two concepts are called 'dog'"),
        (
            "name: dog, token: zwz",
            "name: cat, token: blue zwz",
            "concept 'dog': its token 'zwz' is a part of 'blue zwz' of concept 'cat'",
        ),
        ("name: dog, token: ZWZ", "name: cat, token: zwz", "is the same as"),
        ("name: dog, token: old  zwz", "name: cat, token: Old zwz", "is the same as"),
        ("name: dog, prompt: a photo of zwz dog", "name: cat, token: zwz", "is a part of 'zwz dog' of concept 'dog'"),
    ],
)
def test_concepts_that_cannot_be_told_apart(tmp_path, first, second, word):
    (problem,) = problems(
        tmp_path, f"method: naive\nconcepts:\n  - {{{first}, images: x}}\n  - {{{second}, images: x}}\n"
    )
    assert word in problem


def test_a_token_inside_a_word_is_another_token(tmp_path):
    made = load(tmp_path, SOUND, "concepts.0.token=wz", "concepts.1.token=zwzw")
    assert [concept.token for concept in made.concepts] == ["wz", "zwzw"]


def test_what_older_models_were_made_with_is_still_read(tmp_path):
    settings = load(tmp_path, SOUND).model_dump(by_alias=True)
    settings["methods"] = [{"name": "cns", "options": {"vote": 2}}]
    assert plan.Plan.model_validate(settings).methods[0].options == {"vote": 2}
    assert plan.build(settings, new=False).methods[0].label == "cns_vote-2"
    with pytest.raises(PlanError, match="'vote' of method 'cns' is 2"):
        plan.build(settings)
    gone = {**load(tmp_path, SOUND).model_dump(by_alias=True), "base": "/gone", "vae": "gone"}
    gone["methods"] = [{"name": "naive", "label": "table.tex"}]
    assert plan.build(gone, new=False).base == "/gone"


# --- overrides -----------------------------------------------------------------------------------------------------


def test_set(tmp_path):
    made = load(
        tmp_path, SOUND, "training.steps=7", "training.prior.images=3", "concepts.1.class=lion",
        "training.betas=[0.5, 0.9]", "training.learning_rate=1e-3", "description=a=b:'c'", "order=[2, 1]",
        "sampling.scheduler=ddim", "training.min_snr=", "concepts.0.hold_out=1",
    )  # fmt: skip
    assert made.training.steps == 7 and made.training.prior.images == 3 and made.training.betas == (0.5, 0.9)
    assert made.training.learning_rate == 1e-3 and made.training.min_snr is None and made.description == "a=b:'c'"
    assert [c.name for c in made.sequence] == ["cat", "dog"] and made.concepts[1].noun == "lion"
    assert made.concepts[0].hold_out == 1 and made.sampling.scheduler == "ddim"


def test_a_method_may_train_its_own_way(tmp_path):
    made = load(tmp_path, SOUND, "training.steps=7", "method={name: naive, training: {learning_rate: 0.01}}")
    own = made.narrowed(made.methods[0])
    assert (own.training.learning_rate, own.training.steps) == (0.01, 7) and made.methods[0].options == {}
    assert made.training.learning_rate != 0.01
    again = load(tmp_path, plan.plan_text(made))
    assert again.fingerprint() == made.fingerprint() != load(tmp_path, SOUND, "training.steps=7").fingerprint()
    with pytest.raises(PlanError, match=r"learning_rat: no such key; did you mean 'learning_rate'\?"):
        load(tmp_path, SOUND, "method={name: cns, training: {learning_rat: 0.01}}")


def test_set_changes_the_way_a_method_is_named(tmp_path):
    assert [m.label for m in load(tmp_path, SOUND, "methods=[naive, magmax]").methods] == ["naive", "magmax"]
    several = SOUND.replace("method: naive", "methods: [naive, magmax]")
    assert [m.label for m in load(tmp_path, several, "method={name: naive, rank: 4}").methods] == ["naive_rank-4"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("training.steps", "write KEY=VALUE"), ("=3", "write KEY=VALUE"), ("training.steps=[1", "not valid YAML"),
        ("concepts.7.class=x", "'7' is not a position in a list of 2"), ("concepts.x.class=y", "'x' is not a position"),
        ("seed=!!int ''", "the value is not valid YAML: '' is no integer"), (f"a{'.a' * 99}=1", "a key of 100 parts"),
        ("method.rank.x=3", "'rank' lies below a plain value"), ("training.stesp=3", "did you mean 'steps'?"),
    ],
)  # fmt: skip
def test_bad_overrides(tmp_path, text, word):
    (problem,) = problems(tmp_path, SOUND, text)
    assert word in problem


def test_overrides_do_not_change_what_they_are_given():
    data = {"a": {"b": [1, {"c": 2}]}}
    assert yaml_file.override(data, ("a.b.1.c=3", "a.d=4")) == {"a": {"b": [1, {"c": 3}], "d": 4}}
    assert data == {"a": {"b": [1, {"c": 2}]}}


# --- paths ---------------------------------------------------------------------------------------------------------


def test_relative_paths_start_from_the_file(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "models/sd").mkdir(parents=True)
    (tmp_path / "models/vae").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    made = load(
        tmp_path, SOUND + "base: models/sd\nvae: ./models/vae\nscoring: {models: {clip_i: models/sd, dino: a/b}}\n"
    )
    assert made.concepts[0].images == tmp_path / "photos/dog"
    assert made.base == str(tmp_path / "models/sd") and made.vae == str(tmp_path / "models/vae")
    assert made.scoring.models == {"clip_i": str(tmp_path / "models/sd"), "dino": "a/b"}
    text = SOUND.replace("images: photos/dog", "images: [a.png, /b.png, sub/../c.png], references: ~/refs")
    dog = load(tmp_path, text).concepts[0]
    assert (
        dog.images == (tmp_path / "a.png", Path("/b.png"), tmp_path / "c.png")
        and dog.references == Path.home() / "refs"
    )


def test_data_is_where_images_start_from(tmp_path):
    made = load(tmp_path, SOUND + "data: elsewhere\n")
    assert made.concepts[0].images == tmp_path / "elsewhere/photos/dog"
    assert load(tmp_path, SOUND, "data=/abs").concepts[0].images == Path("/abs/photos/dog")


# --- fingerprint ---------------------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_plan_not_of_its_text_or_place(tmp_path):
    (tmp_path / "a/base").mkdir(parents=True)
    text = "base: ./base\nmethod: naive\ntraining: {steps: 3, resolution: 64}\n"
    text += "concepts: [{name: d, images: x, token: t, class: c}]\n"
    one = load(tmp_path / "a", text)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    lines = text.splitlines()
    other = "description: words\n" + "\n".join(
        [lines[2], lines[3].replace("token: t, class: c", "class: c, token: t"), *lines[:2]]
    )
    assert load(tmp_path / "b", other + "\nseed: 0\n").fingerprint() == one.fingerprint()
    assert load(tmp_path / "b", text.replace("images: x", "images: y")).fingerprint() == one.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        "seed=1", "base=other/base", "method=merge_init", "method={name: naive, rank: 4}", "joint=true", "order=[2, 1]",
        "training.steps=3", "training.flip=true", "sampling.seed=1", "sampling.prompts.subject=['a {concept}']",
        "scoring.models={dino: a/b}", "concepts.0.class=cow", "concepts.0.prompt=x", "concepts.1.hold_out=1", "vae=a/b",
        "concepts.0.name=other",
    ],
)  # fmt: skip
def test_fingerprint_changes_with_every_setting(tmp_path, change):
    text = SOUND + "base: some/base\ntraining: {resolution: 64}\n"
    assert load(tmp_path, text, change).fingerprint() != load(tmp_path, text).fingerprint()


def test_a_plan_written_back_is_the_same_plan(tmp_path):
    text = SOUND.replace("method: naive", "methods: [naive, {name: magmax, operand: delta}]")
    text += "order: [2, 1]\ntraining: {prior: {images: 3}, min_snr: 5}\nscoring: {models: {dino: ./m}}\n"
    text += "data: d\njoint: true\n"
    (tmp_path / "m").mkdir()
    made = load(tmp_path, text)
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "far/away/plan.yaml").write_text(plan.plan_text(made))
    again = plan.load(tmp_path / "far/away/plan.yaml")
    assert again == made and again.fingerprint() == made.fingerprint()
    assert plan.build(json.loads(made.model_dump_json(by_alias=True))) == made


def test_plans_are_frozen(tmp_path):
    made = load(tmp_path, SOUND)
    with pytest.raises(ValueError, match="frozen"):
        made.seed = 3
    assert made.narrowed(made.methods[0]).fingerprint() == made.fingerprint()


def test_defaults_depend_on_the_base(tmp_path):
    toybox, published = load(tmp_path, SOUND), load(tmp_path, SOUND + "base: a/b\n")
    assert toybox.training.resolution == 64 and published.training.resolution == 1024
    assert published.training.steps == 850 and published.sampling.guidance == 5.0


def test_defaults_of_a_family(tmp_path):
    """By a known hub id, or the index of a local folder; what cannot be read is as any other base."""
    (tmp_path / "mine").mkdir()
    index = tmp_path / "mine" / "model_index.json"
    index.write_text('{"_class_name": "FluxPipeline"}')
    known, local = (load(tmp_path, SOUND + f"base: {b}\n") for b in ("black-forest-labs/FLUX.1-dev", "./mine"))
    for made in (known, local):
        assert (made.training.steps, made.training.precision, made.sampling.guidance) == (500, "bf16", 3.5)
        assert made.sampling.images_per_prompt == 8  # as published
    for odd in ("[]", "{", '{"_class_name": "StableDiffusionPipeline"}'):
        index.write_text(odd)
        assert load(tmp_path, SOUND + "base: ./mine\n").training.steps == 850
    with pytest.raises(PlanError, match="base"):
        load(tmp_path, SOUND + "base: [1]\n")


# --- what a concept is called --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "prompt", "phrase"),
    [
        ({"token": "zwz", "class": "dog"}, "a photo of zwz dog", "zwz dog"),
        ({"token": "zwz"}, "a photo of zwz", "zwz"),
        ({"prompt": "a photo of zwz dog", "class": "dog"}, "a photo of zwz dog", "zwz dog"),
        ({"class": "dog"}, "a photo of dog", "dog"),
        ({"prompt": "a photo of  zwz dog"}, "a photo of zwz dog", "zwz dog"),
        ({"token": "zwz", "class": "dog", "prompt": "{class} {token}, {trigger}"}, "dog zwz, zwz dog", "zwz dog"),
        ({"kind": "style", "token": "dapple", "class": "bears"}, "dapple image of bears", "dapple"),
        ({"token": "zwz", "class": "dog", "phrase": "my zwz"}, "a photo of zwz dog", "my zwz"),
        ({"prompt": "a photo of a zwz teapot"}, "a photo of a zwz teapot", "zwz teapot"),
        ({"prompt": "An image of the zwz"}, "An image of the zwz", "zwz"),
        ({"prompt": "a zwz teapot on an oak"}, "a zwz teapot on an oak", "zwz teapot on an oak"),
        ({"prompt": "andes zwz"}, "andes zwz", "andes zwz"),
        ({"prompt": "a photo of a {class}", "class": "dog"}, "a photo of a dog", "dog"),
        ({"kind": "style", "token": "watercolour"}, "watercolour image", "watercolour"),
        ({"token": "zwz", "prompt": "a photo of a {token} {class}"}, "a photo of a zwz", "zwz"),
        ({"class": "dog", "prompt": "a photo of a {token} {class}"}, "a photo of a dog", "dog"),
    ],
)
def test_prompt_and_phrase(given, prompt, phrase):
    concept = Concept.model_validate({"name": "x", "images": "y", **given})
    assert (concept.prompt, concept.phrase) == (prompt, phrase)
    assert Concept.model_validate(concept.model_dump(by_alias=True)) == concept


@pytest.mark.parametrize(
    ("given", "empty"),
    [
        ({"kind": "style", "token": "dapple", "prompt": "{token} image of {class}"}, "class"),
        ({"kind": "style", "token": "dapple", "prompt": "{token} image of a {class}"}, "class"),
        ({"kind": "style", "token": "dapple", "prompt": "a {class} in {token} style"}, "class"),
        ({"class": "dog", "prompt": "a {class} in {token} style"}, "token"),
    ],
)
def test_a_prompt_has_no_holes(given, empty):
    with pytest.raises(PlanError, match=rf"there is nothing to fill in for \{{{empty}\}}; give a `{empty}`"):
        plan.concept({"name": "x", "images": "y", **given})


def test_a_prompt_alone_gives_whole_evaluation_prompts(tmp_path):
    concept = plan.concept({"name": "pot", "images": "y", "prompt": "a photo of a zwz teapot"})
    made = plan.build({"method": "naive", "concepts": [concept]})
    assert "a photo of a zwz teapot on the beach" in made.prompts_for(concept)
    assert not [prompt for prompt in made.prompts_for(concept) if " a a " in prompt]


@pytest.mark.parametrize("where", ["training", "methods"])
def test_prior_preservation_needs_a_class(perdure, photos, tmp_path, where):
    prior = {"prior": {"images": 2}}
    data = {"methods": ["naive"], "concepts": [
        {"name": "dog", "images": str(photos / "dog"), "prompt": "a photo of zwz dog"},
        {"name": "cat", "images": str(photos / "cat"), "token": "sbu", "class": "cat"},
    ]}  # fmt: skip
    data |= (
        {"training": prior} if where == "training" else {"methods": [{"name": "naive", "training": prior}, "magmax"]}
    )
    (tmp_path / "plan.yaml").write_text(json.dumps(data))
    for command in ("check", "run"):
        code, _, err = perdure(command, "plan.yaml")
        assert code == 2 and err.count("\n") == 1 and "'dog': prior preservation draws images of its class" in err
    prior["prior"]["prompt"] = "a photo of a pet"
    (tmp_path / "plan.yaml").write_text(json.dumps(data))
    assert perdure("check", "plan.yaml")[0] == 0


def test_teaching_with_prior_preservation_needs_a_class(perdure, pico, photos):
    perdure("init", "mine", "--base", pico, "--set", "training.prior.images=2")
    code, _, err = perdure("teach", "mine", photos / "dog", "--prompt", "a photo of zwz dog")
    assert code == 2 and "'dog': prior preservation draws images of its class, and it has none" in err


def test_evaluation_prompts(tmp_path):
    text = SOUND + "sampling: {prompts: {subject: ['a  {concept} in snow', '{concept}'], style: ['{concept} x']}}\n"
    made = load(tmp_path, text, "concepts.1.prompts=[a cat of mine]")
    assert made.prompts_for(made.concepts[0]) == ("a zwz dog in snow", "zwz dog")
    assert made.prompts_for(made.concepts[1]) == ("a cat of mine",)


def test_one_concept_from_plain_values():
    with pytest.raises(PlanError, match=r"^teach x: tokn: no such key; did you mean 'token'"):
        plan.concept({"name": "x", "images": "y", "tokn": 3}, where="teach x")
    assert plan.concept({"name": "x", "images": "y", "token": "t"}).images == Path("y").absolute()


# --- folders, captions, the toybox world ---------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    """A folder with three sub-folders of images, one without, and a file."""
    for number, name in enumerate(("backpack", "10_zwz red dog", "bear_plushie2")):
        paint(tmp_path / "photos" / name, 2, number)
    (tmp_path / "photos/notes").mkdir()
    (tmp_path / "photos/readme.txt").write_text("hello")
    return tmp_path / "photos"


def test_a_folder_of_concepts(many):
    made = plan.build({"method": "naive", "concepts": {"folder": str(many)}})
    kohya, backpack, bear = made.concepts
    assert (kohya.name, kohya.token, kohya.noun) == ("10_zwz-red-dog", "zwz", "red dog")
    assert (backpack.name, backpack.noun, backpack.images) == ("backpack", "backpack", many / "backpack")
    assert bear.noun == "bear plushie" and len({c.token for c in made.concepts}) == 3


def test_class_nouns_of_the_dreambooth_data_set(many):
    (many / "prompts_and_classes.txt").write_text(
        "Classes\nsubject_name,class\nbackpack,backpack\nbear_plushie2,stuffed animal\n\nprompt_list = [\n'a {0}'\n]\n"
    )
    assert {c.name: c.noun for c in plan.build({"method": "naive", "concepts": {"folder": many}}).concepts} == {
        "10_zwz-red-dog": "red dog", "backpack": "backpack", "bear_plushie2": "stuffed animal"
    }  # fmt: skip


def test_concept_yaml_overrides_what_is_guessed(many):
    (many / "backpack/concept.yaml").write_text("token: psq\nclass: bag\nreferences: ../bear_plushie2\nhold_out: 0\n")
    backpack = plan.build({"method": "naive", "concepts": {"folder": many}}).concepts[1]
    assert (backpack.token, backpack.noun, backpack.references) == ("psq", "bag", many / "bear_plushie2")
    (many / "backpack/concept.yaml").write_text("prompt: a photo of my old bag\n")
    backpack = plan.build({"method": "naive", "concepts": {"folder": many}}).concepts[1]
    assert (backpack.token, backpack.phrase) == ("", "my old bag")
    (many / "backpack/concept.yaml").write_text("tokn: psq\n")
    with pytest.raises(PlanError, match="tokn: no such key; did you mean 'token'"):
        plan.build({"method": "naive", "concepts": {"folder": many}})


@pytest.mark.parametrize(
    ("concepts", "word"),
    [
        ({"folder": "none"}, "no folder .*/none; give"), ({"folder": "photos/notes"}, "has no sub-folder with images"),
        ({"folder": "photos", "kind": "style"}, "must be a list"), ({"toybox": {"subjects": "two"}}, "whole numbers"),
        ({"toybox": {"subjects": -1}}, "whole numbers"), ({"toybox": {"subjects": 1, "split": "x"}}, "test or dev"),
        ({"toybox": {"subject": 1}}, "write `{subjects: N}`"), ({"toybox": 3}, "write `{subjects: N}`"),
        ({"toybox": {"styles": 10**6}}, "has 14 styles"), (None, "must be a list"), ("all", "must be a list"),
    ],
)  # fmt: skip
def test_concepts_from_nowhere(many, concepts, word):
    with pytest.raises(PlanError, match=word):
        plan.build({"method": "naive", "concepts": concepts}, folder=many.parent)


def test_toybox_concepts():
    made = plan.build({"method": "naive", "concepts": {"toybox": {"subjects": 2, "styles": 1, "split": "dev"}}})
    assert [c.kind for c in made.concepts] == ["subject", "subject", "style"] and made.concepts[1].drawn.index == 1
    assert {c.drawn.split for c in made.concepts} == {"dev"}
    other = plan.build({"method": "naive", "concepts": {"toybox": {"subjects": 2}}})
    assert made.concepts[0].name != other.concepts[0].name
    own = pictures.of(other.concepts[0])
    assert own.held_out and len(own.training) == 5 and len(own.references) == 12
    assert own.training[0].caption == other.concepts[0].prompt
    named = plan.build(
        {"method": "naive", "concepts": [{"drawn": {"index": 1}, "name": "mine", "token": "abc"}]}
    ).concepts[0]
    assert (named.name, named.token, named.noun) == ("mine", "abc", other.concepts[1].noun)


def test_captions(many):
    folder = many / "backpack"
    paint(folder, 4, 0)
    (folder / "00.txt").write_text("[trigger] on a  table\n")
    (folder / "01.txt").write_text("a {token} {class} in the rain")
    (folder / "02.txt").write_text("something red")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "03.png", "text": "{trigger}, seen from above"}\n{"file_name": "00.png", "text": "no"}\n'
    )
    concept = Concept.model_validate({"name": "b", "images": folder, "token": "zwz", "class": "bag"})
    assert [p.caption for p in pictures.of(concept).training] == [
        "zwz bag on a table", "a zwz bag in the rain", "zwz bag, something red", "zwz bag, seen from above"
    ]  # fmt: skip
    (folder / "00.txt").unlink()
    (folder / "metadata.jsonl").unlink()
    assert [p.caption for p in pictures.of(concept).training][::3] == ["a photo of zwz bag"] * 2
    (folder / "metadata.jsonl").write_text("{\n")
    (problem,) = pictures.check([concept])
    assert problem.startswith("concept 'b': ") and "metadata.jsonl: line 1" in problem


def test_references_and_held_out_images(many):
    folder = many / "backpack"
    paint(folder, 4, 0)
    given = {"name": "b", "images": folder, "token": "zwz"}
    none, last = (pictures.of(Concept.model_validate({**given, "hold_out": n})) for n in (0, 1))
    assert not none.held_out and len(none.references) == len(none.training) == 4
    assert last.held_out and len(last.references) == 1 and len(last.training) == 3
    paint(folder / "refs", 2, 9)
    beside = pictures.of(Concept.model_validate(given))
    assert beside.held_out and len(beside.references) == 2 and len(beside.training) == 4
    files = {"images": [folder / "00.png"], "references": [folder / "01.png"]}
    listed = pictures.of(Concept.model_validate({**given, **files}))
    assert listed.held_out and len(listed.training) == len(listed.references) == 1
    assert len({p.digest for p in (none, last, beside, listed)}) == 4
    shutil.rmtree(folder / "refs")
    with pytest.raises(PlanError, match="hold_out is 4, but there are only 4 images"):
        pictures.of(Concept.model_validate({**given, "hold_out": 4}))


def test_every_bad_picture_is_named(many):
    (many / "backpack/00.png").write_text("text")
    Image.new("RGB", (1, 1)).save(many / "backpack/01.png")
    (many / "bear_plushie2/00.png").write_bytes((many / "bear_plushie2/00.png").read_bytes()[:60])
    made = plan.build({"method": "naive", "concepts": {"folder": many}})
    found = pictures.check(made.concepts)
    assert len(found) == 3 and all(
        word in text for word, text in zip(("00.png", "01.png", "00.png"), found, strict=True)
    )
    with pytest.raises(ImageError):
        pictures.of(made.concepts[1])


def test_a_plan_from_a_folder(many, tmp_path):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/mine.yaml").write_text(sources.folder_plan(many, tmp_path / "plans", "toybox"))
    text = (tmp_path / "plans/mine.yaml").read_text()
    assert text.startswith("# Plan of 3 concepts") and "images: ../photos/backpack" in text
    made = plan.load(tmp_path / "plans/mine.yaml")
    assert made.name == "mine" and [c.images.name for c in made.concepts] == [
        "10_zwz red dog",
        "backpack",
        "bear_plushie2",
    ]
    assert pictures.check(made.concepts) == []


def test_names_from_files(tmp_path):
    assert [wording.name_from(t) for t in ("a b", "_x_", "ünï", "...", "a" * 99)] == ["a-b", "x", "n", "plan", "a" * 64]
    (tmp_path / "-odd name.yaml").write_text(SOUND)
    assert plan.load(tmp_path / "-odd name.yaml").name == "odd-name"


def test_ready_plans_by_name():
    assert plan.load(plan.ready("demo")).name == "demo"
    with pytest.raises(PlanError, match="did you mean 'demo'"):
        plan.ready("dmeo")


def test_catalogue_reads_every_option():
    card = catalogue.card("magmax")
    options = {option.name: option for option in card.options}
    assert options["operand"].choices == ("factors", "delta") and options["targets"].choices == (
        "attention",
        "cross",
        "cross_kv",
    )
    assert options["rank"].default == 16 and card.consolidate and "\n" not in card.source


@pytest.mark.parametrize("what", ["pipe", "nothing", "no plan"])
def test_a_plan_kept_beside_a_model_may_be_anything(tmp_path, what):
    path = tmp_path / "plan.yaml"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "no plan":
        path.write_text("[")
    assert yaml_file.kept(path) == {}
