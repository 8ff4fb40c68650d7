"""What a base makes of a plan's words: tokens that are nothing, alike or ordinary, texts that are cut."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import paint

from perdure import method, plan
from perdure.bases import loading, outline, reading
from perdure.errors import PlanError
from perdure.lineage import Lineage
from perdure.method import WordSpec
from perdure.photos import pictures
from perdure.plan import catalogue
from perdure.run import run

LONG = "a red and blue dog in a city at night beside a bowl on the beach with a clock and a cat"
"""22 words of one id each: as many as the embedded base reads."""


def made(*concepts, **more):
    """A plan on the embedded base; concepts as (token, class) or as mappings."""
    listed = [c if isinstance(c, dict) else {"token": c[0], "class": c[1]} for c in concepts]
    named = [{"name": f"c{k}", "images": "nowhere", **c} for k, c in enumerate(listed)]
    return plan.build({"methods": ["naive"], **more, "concepts": named})


def read(found_plan, taught=()):
    """Without what is said of every photo on the embedded base, which has a test of its own."""
    found = reading.check((own, taught) for own in found_plan.runs)
    return replace(found, notes=tuple(note for note in found.notes if "draws toys" not in note))


def test_photos_on_the_embedded_base_are_told():
    (note,) = reading.check([(made(("zwz", "cat")), ())]).notes
    assert "base toybox draws toys at 64 pixels" in note and "scores of photos prove nothing" in note
    models = dict.fromkeys(("dino", "clip_i"), "owner/model")
    (note,) = reading.check([(made(("zwz", "cat"), scoring={"models": models}), ())]).notes
    assert "draws toys" in note and "scorers" not in note
    assert reading.check([(made(("zwz", "cat")), ("c0",))]).notes == ()
    drawn = {"token": "zwz", "class": "cat", "images": None, "drawn": {"index": 0}}
    assert reading.check([(made(drawn), ())]).notes == ()


def captioned(folder, *captions):
    """A folder of pictures with a caption each."""
    paint(folder, len(captions), 0)
    for number, caption in enumerate(captions):
        (folder / f"{number:02d}.txt").write_text(caption)
    return folder


# --- the cases -----------------------------------------------------------------------------------------------------


def test_case_tokens_of_another_script(perdure, cases):
    code, _, err = perdure("check", cases / "02-tokens-of-another-script/plan.yaml")
    first, second = err.splitlines()
    assert code == 2 and "concept 'neko': its token '猫' is nothing to base toybox (ids 917 917 917)" in first
    assert "concept 'inu': its token '犬' is nothing to base toybox (ids 917 917 917)" in second


def test_case_caption_over_the_limit(perdure, cases):
    code, _, err = perdure("check", cases / "03-caption-over-the-limit/plan.yaml")
    (told,) = err.splitlines()  # four pictures and two methods, one sentence
    lost = "'table next to a lamp in the city at night, it is a zwz backpack' is cut off"
    assert code == 2 and "concept 'pack': caption 'a photo of a small red and blue" in told and lost in told
    assert "is 46 ids long with both ends, and the base reads 24" in told and "and 'zwz' with it" in told


def test_case_token_that_is_a_word(perdure, cases):
    path = cases / "15-token-that-is-a-word/plan.yaml"
    code, _, err = perdure("check", path)
    photo, beach = err.splitlines()
    assert code == 2 and "concept 'pot': its token 'photo' is an ordinary word" in photo
    assert (
        "concept 'cat': its token 'beach' is an ordinary word" in beach
        and "'a photo of a beach cat on the beach'" in beach
    )
    code, out, err = perdure("check", path, "--set", "method=naive")
    assert code == 0 and err == "" and out.count("is an ordinary word") == 2


# --- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["猫", "🫖", "é", "<|endoftext|>"])
def test_a_token_of_which_nothing_is_left_is_refused(token):
    (problem,) = read(made((token, "cat"))).problems
    assert f"concept 'c0': its token {token!r} is nothing to base toybox (ids 917" in problem


def test_without_a_token_the_phrase_must_be_readable():
    (problem,) = read(made({"prompt": "a photo of 猫"})).problems
    assert "its token '猫' is nothing" in problem


def test_tokens_that_are_read_alike_are_refused_by_name():
    found = read(made(("q猫", "cat"), ("q犬", "dog"), ("sbu", "dog")))
    (problem,) = found.problems
    assert "concept 'c1': its token 'q犬' is to base toybox the same as 'q猫' of concept 'c0' (ids 16 917" in problem


def test_pieces_and_unknown_characters_are_told():
    found = read(made(("ohwx", "cat"), ("sbué", "dog"), ("zwz", "dog"), {"kind": "style", "token": "stained glass"}))
    assert found.problems == () and found.notes == (
        "concept 'c0': its token 'ohwx' is read in pieces, which other words share (ids 14 7 22 91)",
        "concept 'c1': its token 'sbué' holds characters that base toybox does not know (ids 288 20 917 917)",
    )


def test_of_what_is_taught_already_nothing_is_said():
    two = made(("猫", "cat"), ("sbu", "dog"))
    assert read(two).problems and read(two, ["c0"]) == reading.Findings((), ())
    for taught, new in (("c0", "c1"), ("c1", "c0")):
        (problem,) = read(made(("q猫", "cat"), ("q犬", "dog")), [taught]).problems
        assert problem.startswith(f"concept {new!r}: its token") and f"of concept {taught!r}" in problem


def test_a_word_needs_a_token_and_a_place():
    bare = made({"prompt": "a photo of a dog"}, methods=["naive", "cns"])
    assert read(bare).problems == ("method 'cns' learns a word for each concept's token; give a `token` to 'c0'",)
    many = made(*((f"zwz{number}", "cat") for number in range(129)), methods=["cidm"], scoring={"drift": 0})
    (problem,) = read(many).problems
    assert "258 vectors in all; there is room for 256" in problem


def test_a_training_prompt_that_does_not_hold_the_token_is_refused(tmp_path):
    """What would be learnt is "a photo of a pot", what is asked for "a photo of a zwz pot"."""
    folder = captioned(tmp_path / "bare", "a zwz pot on a chair")
    called = {"token": "zwz", "class": "pot", "images": folder, "prompt": "a photo of a pot"}
    assert read(made(called)).problems == ()  # the caption calls it
    (folder / "00.txt").unlink()
    (problem,) = read(made(called)).problems
    assert problem.startswith("concept 'c0' is taught by 'a photo of a pot', which does not hold its token 'zwz'")
    assert read(made({**called, "prompt": "a photo of a {token} pot"})).problems == ()


# --- words of the language -----------------------------------------------------------------------------------------


def ordinary(found_plan):
    """What is said of tokens that are ordinary words, by naive as a note and by c_lora as a mistake."""
    told = {}
    for name in ("naive", "c_lora"):
        found = read(found_plan.model_copy(update={"methods": (plan.MethodChoice(name=name),)}))
        told[name] = [one for one in (*found.problems, *found.notes) if "is an ordinary word" in one]
        assert [one for one in found.problems if "ordinary" in one] == (told[name] if name == "c_lora" else [])
    assert told["naive"] == told["c_lora"]
    return told["naive"]


@pytest.mark.parametrize(
    ("concepts", "more", "text"),
    [
        ([("photo", "teapot")], {}, "'a photo of a photo teapot'"),
        ([("dog", "dog")], {}, "'a photo of a dog dog'"),
        ([("teapot", "pot"), ("zwz", "teapot")], {}, "'a photo of a zwz teapot'"),
        ([("red", "pot")], {"sampling": {"negative_prompt": "red eyes"}}, "'red eyes'"),
        ([("real", "pot")], {"training": {"prior": {"prompt": "a real {class}"}}}, "'a real pot'"),
        ([("toy", "pot")], {}, "'a photo of a yellow toy on the grass'"),  # a prompt of the measure of drift
        ([{"kind": "style", "token": "dog"}], {}, "'dog image of a dog'"),
        ([("zwz", "pot"), {"token": "sbu", "class": "cat", "prompts": ["{concept} in Zwz"]}], {}, "'sbu cat in Zwz'"),
    ],
)
def test_a_token_that_is_a_word_of_other_texts_is_told_with_them(concepts, more, text):
    (told,) = ordinary(made(*concepts, **more))
    assert text in told


def test_captions_of_other_concepts_count_and_calls_do_not(tmp_path):
    own = captioned(tmp_path / "own", "zwz on a chair, a zwz pot")
    other = captioned(tmp_path / "other", "a sbu cat beside a zwz pot")
    prompts = ["{concept} beside a zwz pot"]
    pot, cat = {"token": "zwz", "class": "pot", "images": own}, {"token": "sbu", "class": "cat", "images": other}
    assert ordinary(made(pot, {**cat, "prompts": prompts})) == []
    (other / "00.txt").write_text("a sbu cat beside zwz")
    (told,) = ordinary(made(pot, {**cat, "prompts": prompts}))
    assert "'a sbu cat beside zwz'; choose a rare token, or write 'zwz pot' where it is meant" in told


def test_a_word_that_is_taught_already_is_told():
    two = made(("photo", "teapot"), ("zwz", "cat"), methods=["c_lora"])
    found = read(two, ["c0"])
    assert found.problems == () and "'a photo of a zwz cat'" in found.notes[0]
    assert "it is taught already, so word them otherwise" in found.notes[0] and len(found.notes) == 1


# --- lengths -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["pico", "pico_xl"])
def both(request):
    """A base that reads 16 ids, loaded and as an outline."""
    folder = str(request.getfixturevalue(request.param))
    return loading.load(folder, device="cpu"), outline.of(folder)


def same(backbone, one, other):
    conditions = [backbone.encode_prompts([text]) for text in (one, other)]
    return all(torch.equal(conditions[0][name], conditions[1][name]) for name in conditions[0])


def test_what_is_kept_is_all_that_the_encoder_reads(both):
    backbone, outlined = both
    text = "a photo of the dog, a cat and a clock in  the Beach snow of zwz style"
    cut = outlined.cut(text)
    assert cut.limit == 16 and cut.length > 16 and text.endswith(cut.lost) and cut.lost.split()[0] in text.split()
    assert same(backbone, text, cut.kept) and not same(backbone, text, cut.kept.rstrip().rpartition(" ")[0])
    assert outlined.cut(cut.kept) is None and outlined.cut("") is None


def test_learnt_words_count_as_many_ids_as_they_have_vectors(both):
    backbone, outlined = both
    word = backbone.vocabulary.begin(WordSpec(("random",) * 5, drop_noun=True), "zwz", "dog", torch.Generator())
    text = "a zwz dog and a zwz dog on the beach in snow"
    with backbone.speaking({"zwz": word}):
        (written,) = backbone._speech.write([text])
        cut = outlined.cut(written)
        assert (cut.length, cut.limit) == (2 + len(outlined.ids(written)[0]), 16)
        kept = backbone._speech.read(cut.kept)
        assert kept.startswith("a zwz and a zwz") and same(backbone, text, cut.kept)
    assert outlined.cut(text.replace("dog ", "")) is None


def test_what_methods_say_of_their_words_is_what_they_do():
    for name in catalogue.methods():
        for options in ({}, {"noun": "keep"}) if name == "c_lora" else ({},):
            spec, card = method.get(name, options).adapter.words, catalogue.card(name)
            assert (card.words, card.drops(options)) == ((len(spec.inits), spec.drop_noun) if spec else (0, False))


def test_captions_that_are_cut_are_told_and_refused_where_the_token_is(tmp_path):
    first = captioned(tmp_path / "first", f"zwz teapot, {LONG}")
    last = captioned(tmp_path / "last", f"{LONG} zwz teapot", f"{LONG} zwz teapot")
    begins = made({"token": "zwz", "class": "teapot", "images": first})
    (note,) = read(begins).notes
    assert (
        read(begins).problems == () and "is 27 ids long with both ends, and the base reads 24: 'and a cat' is" in note
    )
    ends = made({"token": "zwz", "class": "teapot", "images": last}, methods=["naive", "merge_init"])
    (problem,) = read(ends).problems
    assert "'zwz teapot' is cut off, and 'zwz' with it, which would not be learnt; shorten it" in problem


def test_a_dropped_noun_makes_room(tmp_path):
    folder = captioned(tmp_path / "pot", f"{LONG.replace('red and ', '')} zwz teapot teapot")
    concept = {"token": "zwz", "class": "teapot", "images": folder}
    (note,) = read(made(concept)).notes
    assert "'teapot' is cut off" in note
    assert read(made(concept, methods=["c_lora"])).notes == ()
    assert read(made(concept, methods=[{"name": "c_lora", "noun": "keep"}])).notes == (note,)


def test_prompts_that_are_cut_are_told(tmp_path):
    prompts = {"subject": [f"{LONG} with a {{concept}}", f"{{concept}} and {LONG}"], "style": ["{concept}"]}
    found = read(
        made(
            ("zwz", "teapot"),
            sampling={"prompts": prompts, "negative_prompt": f"no {LONG} and rain"},
            training={"prior": {"prompt": f"{{class}} and {LONG}, blue"}},
        )
    )
    assert len(found.problems) == 1 and f"prompt '{LONG} with a zwz teapot' is 28 ids" in found.problems[0]
    assert [note.partition(" is ")[0] for note in found.notes] == [
        f"concept 'c0': prompt 'zwz teapot and {LONG}'",
        f"prompt 'teapot and {LONG}, blue'",
        f"prompt 'no {LONG} and rain'",
    ]


# --- the base ------------------------------------------------------------------------------------------------------


def test_more_steps_than_noise_levels_are_refused(pico):
    steps = {number: read(made(("zwz", "dog"), base=str(pico), sampling={"steps": number})) for number in (100, 101)}
    assert steps[100].problems == ()
    assert steps[101].problems == (
        f"sampling.steps is 101, and base {pico} has 100 noise levels; ask for no more steps than that",
    )


def test_a_base_that_is_not_there_is_told(pico, tmp_path, perdure):
    far = read(made(("猫", "dog"), base="somebody/nothing"))
    assert far.problems == () and "base somebody/nothing is not on this machine" in far.notes[0]
    spoilt = shutil.copytree(pico, tmp_path / "spoilt")
    for text in ("{", "[]", '{"model_max_length": "x"}'):
        (spoilt / "tokenizer/tokenizer_config.json").write_text(text)
        (problem,) = read(made(("zwz", "dog"), base=str(spoilt))).problems
        assert f"base {spoilt}: its tokenizer/ cannot be read (" in problem
    shutil.rmtree(spoilt / "tokenizer")
    (problem,) = read(made(("zwz", "dog"), base=str(spoilt))).problems
    assert "is incomplete: its folder tokenizer/ is missing" in problem
    spoilt = shutil.copytree(pico, tmp_path / "unscheduled")
    for text in ("{", "[]", '{"num_train_timesteps": "x"}'):
        (spoilt / "scheduler/scheduler_config.json").write_text(text)
        (problem,) = read(made(("zwz", "dog"), base=str(spoilt))).problems
        assert "scheduler/scheduler_config.json cannot be read" in problem


# --- where it is asked ---------------------------------------------------------------------------------------------


def test_run_refuses_what_is_new_and_goes_on_with_what_was_taught(plan_data, tmp_path, monkeypatch):
    data = {**plan_data, "concepts": [{**plan_data["concepts"][0], "token": "é"}]}
    with pytest.raises(PlanError, match="its token 'é' is nothing"):
        run(plan.build(data), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with monkeypatch.context() as patch:
        patch.setattr(reading, "accept", lambda runs: ())
        run(plan.build(data), tmp_path / "runs")
    (lineage,) = run(plan.build({**data, "concepts": [*data["concepts"], plan_data["concepts"][1]]}), tmp_path / "runs")
    assert lineage.concepts == ["dog", "cat"]


def test_teach_tells_what_is_cut_once_and_refuses_a_token_that_is_nothing(perdure, pico, pico_clip, tmp_path):
    settings = {
        "training.resolution": 32, "training.steps": 3, "sampling.steps": 1, "sampling.images_per_prompt": 1,
        "sampling.prompts.subject": "['{concept} in snow']", "scoring.subject": "[clip_i]",
        "scoring.models": f"{{clip_i: {pico_clip}}}", "scoring.drift": 0,
    }  # fmt: skip
    changed = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert perdure("init", "mine", "--base", pico, "--method", "c_lora", *changed)[0] == 0
    photos = captioned(tmp_path / "dog", "a photo of zwz dog in snow on the beach of a clock in the snow of a cat")
    code, out, err = perdure("teach", "mine", photos, "--token", "zwz", "--class", "dog")
    assert code == 0 and out.count("is cut off") == 1 and "'snow of a cat' is cut off" in out
    assert "truncated" not in err + out and "Token indices" not in err + out  # as the libraries have it, at every step
    code, _, err = perdure("teach", "mine", captioned(tmp_path / "cat", "é on the beach"), "--token", "é")
    assert code == 2 and "its token 'é' is nothing" in err and Lineage(tmp_path / "mine").concepts == ["dog"]
    prompt = "a zwz dog in snow on the beach of a clock in the snow of a cat"
    code, out, err = perdure("draw", "mine", prompt, "--count", 1)
    assert code == 0 and out.count("is cut off") == 1 and "truncated" not in err


def test_check_tells_captions_that_begin_with_the_phrase(perdure, tmp_path):
    folder = captioned(tmp_path / "pot", "a zwz pot", "pots and zwzs", "[trigger] outside", "a pot")
    (tmp_path / "plan.yaml").write_text(
        f"method: naive\nconcepts: [{{name: pot, images: {folder}, token: zwz, class: pot}}]"
    )
    told = json.loads(perdure("check", "plan.yaml", "--json")[1])["concepts"][0]
    assert told["captions"] == ["a zwz pot", "zwz pot, pots and zwzs", "zwz pot outside", "zwz pot, a pot"]
    begin = f"{folder}: captions without 'zwz' begin with 'zwz pot, ' in training: 01.png, 03.png"
    assert told["notes"] == [begin] and pictures.notes(plan.load(tmp_path / "plan.yaml").concepts)[0].endswith(begin)


def test_ready_plans_of_the_embedded_base_have_nothing_to_be_told():
    for name in ("demo", "toybox-5", "toybox-styles", "toybox-20", "toybox-50"):
        assert read(plan.load(plan.ready(name))) == reading.Findings((), ()), name
