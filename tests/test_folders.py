"""Folders and captions as people have them: what is read, and a sentence for all that is not."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import paint
from PIL import Image

from perdure import plan
from perdure.drawing.tools import Tools
from perdure.errors import ImageError, PlanError
from perdure.photos import captions, pictures
from perdure.plan import Concept, folders, yaml_file

CASES = Path(__file__).parents[2] / "shared" / "cases"


def case(name):
    """A folder of inputs that once went wrong, where this machine has them."""
    if not (CASES / name).is_dir():
        pytest.skip(f"no {name} in {CASES}")
    return CASES / name


def cat(folder, **more):
    return Concept.model_validate({"name": "cat", "images": folder, "token": "zwz", "class": "cat", **more})


def learnt(concept):
    return [picture.caption for picture in pictures.of(concept).training]


def notes(concept):
    return list(pictures.contents(concept).notes)


# --- pictures in a folder ------------------------------------------------------------------------------------------


def test_list_images_sorts_naturally_and_ignores_the_rest(tmp_path):
    for name in ("10.jpg", "2.JPG", "a.WebP", "1.png", ".hidden.png", "notes.txt", "._1.png", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [file.name for file in folders.list_images(tmp_path)] == ["1.png", "2.JPG", "10.jpg", "a.WebP"]


def test_list_images_says_what_is_wrong(tmp_path):
    with pytest.raises(ImageError, match="no such folder"):
        folders.list_images(tmp_path / "nowhere")
    with pytest.raises(ImageError, match=r"no images.*\.jpg.*\.webp"):
        folders.list_images(tmp_path)
    (tmp_path / "file.png").touch()
    with pytest.raises(ImageError, match="is a file"):
        folders.list_images(tmp_path / "file.png")
    paint(tmp_path / "dog/images", 4, 0)
    with pytest.raises(ImageError, match=r"no images.*dog/images: holds 4 pictures, not read from there; move them up"):
        folders.list_images(tmp_path / "dog")


def test_pictures_are_known_by_content_and_the_rest_is_named(tmp_path):
    paint(tmp_path, 2, 0)
    with Image.open(tmp_path / "00.png") as picture:
        picture.save(tmp_path / "02.gif")
        picture.save(tmp_path / "without-ending", "JPEG")
        picture.save(tmp_path / "raw.data", "TIFF")  # as camera raw files begin, with a small picture in front
    (tmp_path / "03.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "04.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "BMW on grass").write_text("BMW on grass")
    paint(tmp_path / "more", 3, 1)
    paint(tmp_path / "refs", 1, 2)
    (tmp_path / "refs/01.heif").touch()
    (tmp_path / "concept.yaml").write_text("class: cat")
    paint(tmp_path / ".ipynb_checkpoints", 1, 2)
    assert [file.name for file in folders.list_images(tmp_path)] == ["00.png", "01.png", "02.gif", "without-ending"]
    told = [note.removeprefix(f"{tmp_path}") for note in notes(cat(tmp_path))]
    assert told == [
        "/03.HEIC: HEIC is not read here; convert it to JPEG or PNG",
        "/04.jpg: is a link to a file that is not there; mend or delete it",
        "/more: holds 3 pictures, not read from there; move them up, or name that folder as the concept's images",
        "/pipe.jpg: is no file",
        ": neither pictures nor captions, and not read: BMW on grass, raw.data",
        "/refs/01.heif: HEIF is not read here; convert it to JPEG or PNG",
    ]
    apart = cat(tmp_path, references=tmp_path / "more")
    assert not any("/more" in note for note in notes(apart))


def test_folders_without_anything_odd_need_no_words(tmp_path):
    paint(tmp_path, 2, 0)
    assert notes(cat(tmp_path)) == []
    for number in range(2):
        (tmp_path / f"0{number}.txt").write_text("[trigger]")
    assert notes(cat(tmp_path)) == notes(cat(tmp_path, hold_out=1)) == []


def test_the_case_of_pictures_left_out():
    mixed = case("06-pictures-left-out") / "mixed"
    dead = any(path.is_symlink() for path in mixed.iterdir())
    assert len(folders.list_images(mixed)) == 8 and not pictures.check([cat(mixed)])
    (told, *rest) = notes(cat(mixed))
    assert told.startswith(f"{mixed}/08.HEIC: ") and len(rest) == dead
    assert pictures.check([cat(mixed.parent / "avifjpg")]) == []


# --- captions ------------------------------------------------------------------------------------------------------


ROWS = [(f"0{number}.png", f"a [trigger] on grass {number}") for number in range(4)]
EXPECTED = [f"a zwz cat on grass {number}" for number in range(4)]


def beside(ending):
    def write(folder):
        for name, text in ROWS:
            (folder / name.replace(".png", ending)).write_text(text, encoding="utf-8-sig")

    return write


def jsonl(above="", prefix="", key="text"):
    def write(folder):
        lines = [json.dumps({"file_name": f"{prefix}{name}", key: text}) for name, text in ROWS]
        (folder / above / "metadata.jsonl").write_text("\n".join(lines))

    return write


def table(above="", prefix="", newline="\r\n"):
    def write(folder):
        lines = ["file_name,width,text", *(f'{prefix}{name},3,"{text}"' for name, text in ROWS)]
        (folder / above / "metadata.csv").write_text(newline.join(lines), encoding="utf-8-sig", newline="")

    return write


CONVENTIONS = {
    ".txt": beside(".txt"), ".TXT": beside(".TXT"), ".caption": beside(".caption"), ".png.txt": beside(".png.txt"),
    ".png.caption": beside(".png.caption"), "jsonl": jsonl(), "jsonl ./": jsonl(prefix="./"),
    "jsonl prompt": jsonl(key="prompt"), "jsonl caption": jsonl(key="caption"), "jsonl above": jsonl("..", "cat/"),
    "jsonl above ./": jsonl("..", "./cat/"), "csv": table(), "csv \\n": table(newline="\n"),
    "csv above": table("..", "cat/"),
}  # fmt: skip


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_usual_conventions_arrive(tmp_path, convention):
    paint(tmp_path / "cat", 4, 0)
    CONVENTIONS[convention](tmp_path / "cat")
    concept = cat(tmp_path / "cat")
    assert learnt(concept) == list(pictures.contents(concept).captions) == EXPECTED and notes(concept) == []


def test_of_several_captions_the_first_counts_and_the_others_are_told(tmp_path):
    paint(tmp_path / "cat", 4, 0)
    for name in ("csv", "jsonl above ./", ".png.caption", ".caption", ".txt"):
        CONVENTIONS[name](tmp_path / "cat")
    (tmp_path / "cat/00.txt").write_text("first, [trigger]")
    (tmp_path / "cat/01.txt").write_text("  ")
    (tmp_path / "cat/metadata.csv").write_text("file_name,text\n01.png,from a table: [trigger]")
    assert learnt(cat(tmp_path / "cat")) == ["first, zwz cat", "from a table: zwz cat", *EXPECTED[2:]]
    told = notes(cat(tmp_path / "cat"))
    assert len(told) == 8 and all("is not read, for another caption of the same picture comes first" in n for n in told)


def test_captions_of_no_picture_and_pictures_without_one_are_told(tmp_path):
    paint(tmp_path, 3, 0)
    (tmp_path / "00.txt").write_text("[trigger] in snow")
    (tmp_path / "05.caption").write_text("[trigger] in snow")
    (tmp_path / "captions.parquet").write_bytes(b"PAR1")
    assert notes(cat(tmp_path)) == [
        f"{tmp_path}/05.caption: no picture has this name, so that it is the caption of none; rename or delete it",
        f"{tmp_path}: neither pictures nor captions, and not read: captions.parquet",
        f"{tmp_path}: no caption, and trained with 'a photo of zwz cat': 01.png, 02.png",
    ]


def test_a_caption_is_text_of_its_own_folder(tmp_path):
    own = paint(tmp_path / "photos/cat", 2, 0)
    assert captions.of([own / "00.png"]) == {}
    (tmp_path / "secret").write_text("password")
    for name in ("00.txt", "metadata.jsonl", "metadata.csv", "../metadata.jsonl"):
        (own / name).symlink_to(tmp_path / "secret")
        (problem,) = pictures.check([cat(own)])
        assert "is a link to a file outside of its folder; put a copy" in problem and Path(name).name in problem
        (own / name).unlink()
    (own / "text").write_text("[trigger] in snow")
    (own / "00.txt").symlink_to("text")
    assert learnt(cat(own))[0] == "zwz cat in snow"
    (own / "01.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ImageError, match=r"01\.txt: is not UTF-8"):
        captions.of([own / "01.png"])


def test_lines_of_a_table_end_at_a_newline_only(tmp_path):
    paint(tmp_path, 2, 0)
    lines = ["a [trigger]\u2028second line", "a [trigger]\x85here"]
    rows = [{"file_name": f"0{number}.png", "text": text} for number, text in enumerate(lines)]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    assert learnt(cat(tmp_path)) == ["a zwz cat second line", "a zwz cat here"]


def test_a_table_names_every_bad_line(tmp_path):
    (tmp_path / "outside.png").touch()
    tmp_path = paint(tmp_path / "cat", 0, 0)
    (tmp_path / "a.png").touch()
    good = json.dumps({"file_name": "a.png", "text": "x"})
    bad = ['{"file_name": "a.png"', '{"text": "x"}', '{"file_name": "a.png"}', good, "[" * 100_000]
    bad += [json.dumps({"file_name": name, "text": "x"}) for name in ("../outside.png", "nowhere.png", "\0", "n" * 300)]
    bad += ['{"file_name": "a.png", "text": "\\ud800"}', "9" * 10_000]
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n".join([good, *bad]))
    with pytest.raises(ImageError) as caught:
        captions.read_table(file, tmp_path)
    assert [f"line {number}:" in str(caught.value) for number in range(1, 13)] == [False] + [True] * 11
    assert "half of a character ('\\ud800')" in str(caught.value)


def test_a_table_above_is_about_other_folders_too(tmp_path):
    paint(tmp_path / "cat", 1, 0)
    lines = [
        {"file_name": name, "text": "[trigger]"} for name in ("dog/00.png", "../x.png", "cat/00.png", "/cat/1.png")
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert captions.of([tmp_path / "cat/00.png"]) == {tmp_path / "cat/00.png": "[trigger]"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "cat/01.png", "text": "x"}))
    with pytest.raises(ImageError, match=r"metadata\.jsonl: line 1: no file 'cat/01\.png'"):
        captions.of([tmp_path / "cat/00.png"])


def test_tables_of_values_that_are_none(tmp_path):
    paint(tmp_path, 1, 0)
    for text, word in (
        ("name,text\n00.png,x", 'line 2: an object with a "file_name"'),
        ("file_name,words\n00.png,x", "line 2: no caption"),
        ('file_name,text\n00.png,"' + "x" * 200_000, "is not a table of comma-separated values"),
    ):
        (tmp_path / "metadata.csv").write_text(text)
        with pytest.raises(ImageError, match=word):
            captions.of([tmp_path / "00.png"])


@pytest.mark.parametrize("name", ["caption", "csv", "dotslash", "doubled", "sub", "upper"])
def test_the_case_of_captions_that_never_arrive(name):
    made = plan.load(case("05-captions-that-never-arrive") / "plan.yaml")
    (concept,) = (concept for concept in made.concepts if concept.name == name)
    assert learnt(concept) == [f"a {concept.token} cat on grass 0{number}" for number in range(4)]
    assert notes(concept) == []


def test_the_case_of_line_separators():
    (concept,) = plan.load(case("08-jsonl-line-separator") / "plan.yaml").concepts
    assert learnt(concept)[:2] == ["a zwz dog on grass second line", "a zwz dog here"]


# --- folders of concepts -------------------------------------------------------------------------------------------


def planned(perdure, folder, tmp_path):
    """Write a plan, check it, and hand back its concepts as (name, token, class) and what was told."""
    code, out, err = perdure("plan", "new", folder, "--out", tmp_path / "new.yaml")
    assert code == 0, err
    told = [line.removeprefix("note: ") for line in out.splitlines() if line.startswith("note: ")]
    assert perdure("check", tmp_path / "new.yaml")[0] == 0
    made = plan.load(tmp_path / "new.yaml")
    whole = plan.build({"method": "naive", "concepts": {"folder": str(folder)}})
    assert whole.concepts == made.concepts and list(whole.notes) == told
    (tmp_path / "new.yaml").unlink()
    return {concept.name: (concept.token, concept.noun) for concept in made.concepts}, told


def test_folders_that_are_no_concepts(perdure, tmp_path):
    root = paint(tmp_path / "photos", 2, 0)
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "cat", "dog/images", "犬", "猫", "mug"):
        paint(root / name, 1, 0)
    (root / "empty").mkdir()
    (root / "mug/concept.yaml").write_text("prompt: a photo of my mug")
    found, told = planned(perdure, root, tmp_path)
    assert found == {
        "cat": ("sks", "cat"), "mug": ("", "mug"), "concept-3": ("zwz", ""), "concept-4": ("sbu", "")
    }  # fmt: skip
    assert told == [
        f"{root}: not read, for a concept is a folder: 00.png, 01.png; put them into one",
        f"dog is no concept: {root}/dog/images: holds 1 picture, not read from there; move them up, or name that "
        "folder as the concept's images",
        "'犬' tells no class noun; write its `class` in English, which most bases read",
        "'猫' tells no class noun; write its `class` in English, which most bases read",
    ]
    (tmp_path / "photos.yaml").write_text("method: naive\nconcepts: {folder: photos}\n")
    _, out, _ = perdure("check", "photos.yaml")
    assert [f"note: {note}" in out for note in told] == [True] * 4
    for name in ("cat", "mug", "犬", "猫"):
        shutil.rmtree(root / name)
    with pytest.raises(PlanError, match=r"photos has no sub-folder .* own; .*00\.png.*; dog .*images: holds 1 picture"):
        plan.build({"method": "naive", "concepts": {"folder": str(root)}})


def test_names_of_trainers_folders(perdure, tmp_path):
    names = ("20_ohwx", "1_dog", "10_zwz backpack", "2023_holiday", "1e5", "3 2_vlx cat", "mug x", "mug-x")
    long = ("my very dear " * 9).strip()
    names += (long, f"{long} mug")
    for name in names:
        paint(tmp_path / "img" / name, 1, 0)
    found, told = planned(perdure, tmp_path / "img", tmp_path)
    cut = long.replace(" ", "-")[:64]
    assert found == {
        "10_zwz-backpack": ("zwz", "backpack"), "1_dog": ("sks", "dog"), "1e5": ("sbu", ""),
        "2023_holiday": ("uwu", "holiday"), "20_ohwx": ("ohwx", ""), "3-2_vlx-cat": ("pdw", "vlx cat"),
        "mug-x": ("twt", "mug x"), "mug-x-2": ("zsn", "mug-x"), cut: ("ofl", long),
        f"{cut[:60]}-2": ("psq", f"{long} mug"),
    }  # fmt: skip
    assert told[:2] == [
        "'10_zwz backpack' is read as the trainers' REPEATS_TOKEN CLASS: token 'zwz', class 'backpack'; repeats do not "
        "count",
        "'1_dog' is read as the trainers' REPEATS_TOKEN CLASS: class 'dog'; repeats do not count",
    ]
    assert len(told) == 4 and told[2].startswith("'1e5' tells no class noun") and "token 'ohwx'; repeats" in told[3]


def test_a_concept_may_list_files_and_name_its_references(perdure, tmp_path):
    paint(tmp_path / "photos/cat", 3, 0)
    paint(tmp_path / "photos/dog", 1, 0)
    paint(tmp_path / "held", 2, 0)
    (tmp_path / "photos/cat/concept.yaml").write_text("images: [00.png, 01.png]\nreferences: ../../held\n")
    (tmp_path / "photos/dog/concept.yaml").write_text("references: [../../held/00.png]\n")
    planned(perdure, tmp_path / "photos", tmp_path)
    perdure("plan", "new", "photos", "--out", "deep/er/plan.yaml")
    cat, dog = plan.load(tmp_path / "deep/er/plan.yaml").concepts
    assert cat.images == (tmp_path / "photos/cat/00.png", tmp_path / "photos/cat/01.png")
    assert cat.references == tmp_path / "held" and dog.references == (tmp_path / "held/00.png",)
    for text, word in (("images: 5", "give a folder, or a list of files"), ("tokn: x", "did you mean 'token'")):
        (tmp_path / "photos/cat/concept.yaml").write_text(text)
        code, _, err = perdure("plan", "new", "photos", "--out", "other.yaml")
        assert code == 2 and word in err and not (tmp_path / "other.yaml").exists()
    (tmp_path / "photos/cat/concept.yaml").unlink()
    (tmp_path / "photos/prompts_and_classes.txt").write_bytes(b"\xff")
    code, _, err = perdure("plan", "new", "photos", "--out", "other.yaml")
    assert code == 2 and "prompts_and_classes.txt: cannot be read" in err


def test_a_lesson_is_named_whatever_the_script_of_its_folder(perdure, pico, tmp_path):
    paint(tmp_path / "犬", 1, 0)
    (tmp_path / "犬/01.heic").touch()
    perdure("init", "mine", "--base", pico)
    _, out, _ = perdure("teach", "mine", "犬", "--token", "zwz", "--device", "nowhere")
    assert "note: concept 'concept-1': " in out


@pytest.mark.parametrize(
    "text", ["1e5", "1e-3", ".5", "5", "null", "yes", "1_0", "~", "2.", "2024-01-01", "0x1f", ".inf"]
)
def test_what_is_written_as_text_is_read_as_text(text):
    written = yaml_file.dump({"token": text, "rate": 1e-5, "count": 3})
    assert yaml_file.parse(written, "t")[0] == {"token": text, "rate": 1e-5, "count": 3}


def test_the_case_of_folders_that_are_no_concepts(perdure, tmp_path):
    found, told = planned(perdure, case("04-folders-that-are-no-concepts") / "photos", tmp_path)
    assert list(found) == ["cat", "teapot", "concept-3", "concept-4"] and len(told) == 4


def test_the_case_of_trainers_folders(perdure, tmp_path):
    found, _ = planned(perdure, case("16-kohya-folder-names") / "img", tmp_path)
    assert len(found) == 7 and found["20_ohwx"] == ("ohwx", "") and found["10_zwz-backpack"] == ("zwz", "backpack")


# --- what is told of it --------------------------------------------------------------------------------------------


def test_check_run_and_teach_tell_what_was_left_out(perdure, pico, tmp_path):
    paint(tmp_path / "cat", 2, 0)
    for number in range(7):
        (tmp_path / f"cat/1{number}.heic").touch()
    (tmp_path / "plan.yaml").write_text(
        f"base: {pico}\nmethod: naive\nconcepts: [{{name: cat, images: cat, token: zwz, class: cat}}]\n"
    )
    code, out, _ = perdure("check", "plan.yaml")
    assert code == 0 and out.count("HEIC is not read here") == 7
    assert len(json.loads(perdure("check", "plan.yaml", "--json")[1])["concepts"][0]["notes"]) == 7
    _, out, _ = perdure("run", "plan.yaml", "--device", "nowhere")
    assert out.count("note: concept 'cat': ") == 5 and "note: 2 more; `perdure check` shows them all" in out
    perdure("init", "mine", "--base", pico)
    _, out, _ = perdure("teach", "mine", "cat", "--token", "zwz", "--device", "nowhere")
    assert out.count("HEIC is not read here") == 7


def test_nothing_in_a_caption_or_a_name_steers_the_terminal(perdure, tmp_path):
    paint(tmp_path / "cat", 1, 0)
    (tmp_path / "cat/00.txt").write_text("[trigger] \x1b]0;title\x07\x1b[31mred \u202egnp")
    (tmp_path / "cat/\x1b[2J.heic").touch()
    shutil.copy(tmp_path / "cat/00.png", os.fsencode(str(tmp_path / "cat")) + b"/\xff.jpg")
    (tmp_path / "plan.yaml").write_text("method: naive\nconcepts: [{name: cat, images: cat, token: zwz, class: cat}]\n")
    code, out, _ = perdure("check", "plan.yaml")
    assert code == 0 and "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert r"\x1b[31mred" in out and r"\x1b[2J.heic: HEIC is not read" in out and r"\udcff.jpg" in out
    (tmp_path / "cat/\x1b[2J.png").touch()
    code, _, err = perdure("check", "plan.yaml")
    assert code == 2 and r"\x1b[2J.png: is empty" in err and "\x1b" not in err


def test_a_run_keeps_the_photos_of_one_concept_and_small_copies_of_the_others(plan_data, monkeypatch):
    made, read = plan.build(plan_data), []
    of = pictures.of
    monkeypatch.setattr(pictures, "of", lambda concept: read.append(concept.name) or of(concept))
    tools = Tools(made, None)
    for _ in range(2):
        for concept in made.sequence:
            assert tools.sketch(concept).facts["digest"] == of(concept).digest
            assert max(max(image.size) for image in tools.sketch(concept).small.values()) <= 192
    assert read == ["dog", "cat", "clock"] and len(tools._pictures) == 1
    assert tools.pictures(made.sequence[0]).digest == of(made.sequence[0]).digest and read[3:] == ["dog"]


def test_looking_decodes_nothing(perdure, tmp_path, monkeypatch):
    """The check decodes one picture at a time and keeps none of them."""
    paint(tmp_path / "cat", 6, 0)
    (tmp_path / "plan.yaml").write_text("method: naive\nconcepts: [{name: cat, images: cat, token: zwz, class: cat}]\n")
    alive, most = set(), []
    decode = Image.Image.convert

    class Kept(Image.Image):
        def __del__(self):
            alive.discard(id(self))

    def counted(self, *how):
        made = decode(self, *how)
        made.__class__ = Kept
        alive.add(id(made))
        most.append(len(alive))
        return made

    monkeypatch.setattr(Image.Image, "convert", counted)
    assert perdure("check", "plan.yaml")[0] == 0 and len(most) == 6 and max(most) <= 2


def test_a_folder_whose_name_is_too_long_is_none(tmp_path):
    with pytest.raises(ImageError, match="no such folder"):
        folders.list_images(tmp_path / ("x" * 300))
