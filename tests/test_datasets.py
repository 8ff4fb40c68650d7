"""Public data sets from a local copy: complete, verified, never overwritten, and safe to unpack."""

import errno
import io
import json
import os
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from perdure import datasets, plan
from perdure.datasets import customconcept101, dreambooth, fetching, unlearncanvas
from perdure.errors import DataError
from perdure.images import read_image, sha256_of
from perdure.photos import pictures
from perdure.plan import sources
from tests import conftest

CLASSES = "Classes\n\nsubject_name,class\nbackpack,backpack\nbear_plushie,stuffed animal\n\nPrompts\n\n'a {0}, x'\n"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def fill(folder, name):
    """A fake copy of data set `name` in `folder`: every picture there, each with bytes of its own."""
    module = {"dreambooth": dreambooth, "unlearncanvas": unlearncanvas}[name]
    for number, file in enumerate(module.PICTURES):
        paint(folder / file, number)
    if module is dreambooth:
        (folder / "prompts_and_classes.txt").write_text(CLASSES)
    return folder


def paint(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), (number % 256, number // 256, 0), np.uint8)).save(path)


def tree(folder):
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("copy"), "dreambooth")


@pytest.fixture(scope="module")
def photos():
    """The real DreamBooth photos, where this machine has them."""
    folder = Path(os.environ.get("PERDURE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "dreambooth"
    if not folder.is_dir():
        pytest.skip(f"no DreamBooth photos in {folder} (PERDURE_DATA names the folder above)")
    return folder


@pytest.mark.parametrize("name, count", [("dreambooth", 158), ("unlearncanvas", 150)])
def test_a_local_copy_is_copied_whole_with_a_manifest(tmp_path, name, count):
    source = fill(tmp_path / "source", name)
    (source / "extra.jpg").write_text("not asked for")
    before = tree(source)
    done = datasets.get(name, tmp_path / "out", source)
    folder = tmp_path / "out" / name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert done.folder == folder and done.kept == 0 and done.copied == len(tree(folder)) == len(manifest["files"]) + 1
    assert sum(file.endswith(".jpg") for file in manifest["files"]) == count and manifest["licence"]
    assert all(
        sha256_of(folder / file) == digest == sha256_of(source / file) for file, digest in manifest["files"].items()
    )
    assert tree(source) == before


def test_again_keeps_everything_and_mends_what_is_missing(tmp_path, copy):
    first = datasets.get("dreambooth", tmp_path, copy)
    before = tree(first.folder)
    again = datasets.get("dreambooth", tmp_path, copy)
    assert (again.copied, again.kept) == (0, first.copied) and tree(first.folder) == before
    (first.folder / "vase" / "05.jpg").unlink()
    mended = datasets.get("dreambooth", tmp_path, copy)
    assert (mended.copied, mended.kept) == (1, first.copied - 1)
    assert {k: v[0] for k, v in tree(first.folder).items()} == {k: v[0] for k, v in before.items()}


def test_other_contents_are_refused_by_name_and_nothing_changes(tmp_path, copy):
    folder = tmp_path / "dreambooth"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "00.jpg").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=r"1 files with other contents .*cat/00\.jpg.*nothing was changed"):
        datasets.get("dreambooth", tmp_path, copy)
    assert tree(tmp_path) == before


def test_an_incomplete_or_damaged_copy_is_refused_before_anything_is_written(tmp_path):
    source = fill(tmp_path / "source", "dreambooth")
    (source / "teapot" / "03.jpg").write_text("no picture")
    (source / "can" / "01.jpg").write_bytes((source / "can" / "01.jpg").read_bytes()[:300])
    with pytest.raises(DataError) as caught:
        datasets.get("dreambooth", tmp_path / "out", source)
    assert all(part in str(caught.value) for part in ("teapot/03.jpg: is not an image", "can/01.jpg: is corrupt"))
    (source / "teapot" / "03.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 159 files of dreambooth are missing: teapot/03\.jpg"):
        datasets.get("dreambooth", tmp_path / "out", source)
    (tmp_path / "empty").mkdir()
    for nothing in ("nowhere", "empty"):
        with pytest.raises(DataError, match=nothing):
            datasets.get("dreambooth", tmp_path / "out", tmp_path / nothing)
    assert not (tmp_path / "out").exists()


def zipped(source, archive, prefix):
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(source.rglob("*.*")):
            packed.write(path, f"{prefix}{path.relative_to(source)}")
    return archive


def test_archives_are_read_wherever_the_files_lie_in_them(tmp_path, copy):
    expected = datasets.get("dreambooth", tmp_path / "plain", copy).folder
    zipped(copy, tmp_path / "main.zip", "dreambooth-main/dataset/")
    with tarfile.open(tmp_path / "main.tar.gz", "w:gz") as packed:
        packed.add(copy, "some/where")
    for archive in ("main.zip", "main.tar.gz"):
        done = datasets.get("dreambooth", tmp_path / f"from-{archive}", tmp_path / archive)
        assert {k: v[0] for k, v in tree(done.folder).items()} == {k: v[0] for k, v in tree(expected).items()}


def test_a_folder_above_the_pictures_will_do(tmp_path, copy):
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "dataset").symlink_to(copy)
    assert datasets.get("dreambooth", tmp_path / "out", tmp_path / "clone").copied == 160


@pytest.mark.parametrize("name", ["../outside.jpg", "/tmp/outside.jpg", "a/../../outside.jpg", "..\\outside.jpg"])
def test_archives_that_reach_outside_are_refused(tmp_path, copy, name):
    archive = zipped(copy, tmp_path / "evil.zip", "")
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr(name, "boo")
    with tarfile.open(tmp_path / "evil.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo(name), io.BytesIO())
    for evil in ("evil.zip", "evil.tar"):
        with pytest.raises(DataError, match="outside of itself"):
            datasets.get("dreambooth", tmp_path / "out", tmp_path / evil)
    assert not (tmp_path / "out").exists() and not list(tmp_path.parent.glob("outside*"))


def test_links_swollen_files_and_nonsense_in_archives_are_refused(tmp_path, copy, monkeypatch):
    with tarfile.open(tmp_path / "links.tar", "w") as packed:
        link = tarfile.TarInfo("backpack/00.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    with pytest.raises(DataError, match="holds no dreambooth"):
        datasets.get("dreambooth", tmp_path / "out", tmp_path / "links.tar")
    (tmp_path / "junk.zip").write_text("not an archive")
    with pytest.raises(DataError, match="is not a sound zip or tar archive"):
        datasets.get("dreambooth", tmp_path / "out", tmp_path / "junk.zip")
    archive = zipped(copy, tmp_path / "large.zip", "")
    monkeypatch.setattr(fetching, "LARGEST", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        datasets.get("dreambooth", tmp_path / "out", archive)


def test_what_an_archive_unpacks_to_has_a_bound_in_all(tmp_path, copy, monkeypatch):
    archive = zipped(copy, tmp_path / "main.zip", "")
    size = sum((copy / file).stat().st_size for file in (*dreambooth.PICTURES, *dreambooth.TEXTS))
    monkeypatch.setattr(fetching, "SWOLLEN", 0)
    monkeypatch.setattr(fetching, "LARGEST", size)
    assert fetching.unpack(archive, tmp_path / "just", dreambooth.DATASET.wanted).is_dir()
    monkeypatch.setattr(fetching, "LARGEST", size - 1)
    with pytest.raises(DataError, match=r"main\.zip: unpacks to more than 0 times its size"):
        datasets.get("dreambooth", tmp_path / "out", archive)
    assert not (tmp_path / "out").exists()


def test_archives_that_swell_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "LARGEST", 1_000_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in dreambooth.PICTURES[:40]:
            packed.writestr(file, bytes(900_000))
    with pytest.raises(DataError, match="unpacks to more than 10 times its size"):
        fetching.unpack(tmp_path / "bomb.zip", tmp_path / "unpacked", dreambooth.DATASET.wanted)
    assert sum(path.stat().st_size for path in (tmp_path / "unpacked").rglob("*.jpg")) < 2_000_000


def test_a_full_disk_is_no_damage_of_the_archive(tmp_path, copy, monkeypatch):
    archive = zipped(copy, tmp_path / "main.zip", "")
    opened = Path.open

    def full(path, mode="r", *more, **how):
        if "perdure-" in str(path) and mode in ("wb", "ab"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, mode, *more, **how)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\).*TMPDIR") as caught:
        datasets.get("dreambooth", tmp_path / "out", archive)
    assert "sound" not in str(caught.value)
    body = io.BytesIO(archive.read_bytes())
    body.headers = {}
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: body)
    with pytest.raises(DataError, match="No space left on device") as caught:
        datasets.get("dreambooth", tmp_path / "out")
    assert "reached" not in str(caught.value)


def test_encrypted_and_broken_archives_are_one_sentence(tmp_path, copy):
    plain = zipped(copy, tmp_path / "main.zip", "").read_bytes()
    flagged = plain.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00")
    flagged = flagged.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    assert flagged != plain
    (tmp_path / "secret.zip").write_bytes(flagged)
    for ending in ("gz", "bz2", "xz"):
        with tarfile.open(tmp_path / f"a.tar.{ending}", f"w:{ending}") as packed:
            packed.add(copy, "some/where")
        whole = (tmp_path / f"a.tar.{ending}").read_bytes()
        middle = len(whole) // 2
        (tmp_path / f"a.tar.{ending}").write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
        (tmp_path / f"b.tar.{ending}").write_bytes(whole[:middle])
    for archive in sorted(tmp_path.glob("[abs]*.*")):
        with pytest.raises(DataError, match=f"{archive.name}: is not a sound|holds no|are missing"):
            datasets.get("dreambooth", tmp_path / "out", archive)
    with pytest.raises(DataError, match="encrypted"):
        datasets.get("dreambooth", tmp_path / "out", tmp_path / "secret.zip")


def test_fetching_reads_the_public_archive(tmp_path, copy, monkeypatch):
    archive = zipped(copy, tmp_path / "main.zip", "dreambooth-main/dataset/")

    class Answer(io.BytesIO):
        headers: ClassVar = {"Content-Length": str(archive.stat().st_size)}

    asked = []

    def answer(url, timeout):
        asked.append(url)
        return Answer(archive.read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert datasets.get("dreambooth", tmp_path / "out").copied == 160
    assert asked == ["https://github.com/google/dreambooth/archive/refs/heads/main.zip"]


def test_offline_is_said_in_one_sentence(tmp_path, monkeypatch):
    import huggingface_hub

    def down(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    def no_hub(*args, **kwargs):
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled")

    monkeypatch.setattr(urllib.request, "urlopen", down)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", no_hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_hub)
    for name in datasets.DATASETS.keys() - {"digits"}:  # which scikit-learn brings
        with pytest.raises(DataError) as caught:
            datasets.get(name, tmp_path / "out")
        assert "--from" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unknown_names_suggest(tmp_path):
    with pytest.raises(DataError, match="did you mean 'dreambooth'"):
        datasets.get("dreamboth", tmp_path)


def test_the_real_photos(tmp_path, photos):
    done = datasets.get("dreambooth", tmp_path, photos)
    assert done.kept == 0 and len(list(done.folder.glob("*/*.jpg"))) == 158
    assert datasets.get("dreambooth", tmp_path, photos).copied == 0


# --- CustomConcept101 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def concepts(tmp_path_factory):
    """The layout of `benchmark_dataset.zip`, with three small pictures a concept and names of several kinds."""
    folder = tmp_path_factory.mktemp("concepts") / "benchmark_dataset"
    for number, concept in enumerate(customconcept101.CONCEPTS):
        for position, file in enumerate(("10.JPG", "2.jpeg", "some-body-x1y2-unsplash.png")):
            paint(folder / concept / file, 3 * number + position)
    return folder


def test_custom_concepts_are_numbered_in_natural_order(tmp_path, concepts):
    done = datasets.get("customconcept101", tmp_path / "one", concepts)
    own = sorted(path.name for path in (done.folder / "pet_cat5").iterdir())
    assert len(customconcept101.CONCEPTS) == 101 and done.copied == 101 * 4 + 1
    assert own == ["00.jpeg", "01.jpg", "02.png", "concept.yaml"]
    assert sha256_of(done.folder / "pet_cat5/00.jpeg") == sha256_of(concepts / "pet_cat5/2.jpeg")
    assert (done.folder / "actionfigure_1/concept.yaml").read_text() == "class: action figure\n"
    assert datasets.get("customconcept101", tmp_path / "one", concepts.parent).copied == 0


def test_custom_concepts_come_from_the_hub_as_an_archive(tmp_path, concepts, monkeypatch):
    import huggingface_hub

    archive = zipped(concepts.parent, tmp_path / "benchmark_dataset.zip", "")
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("__MACOSX/benchmark_dataset/pet_cat5/._2.jpeg", "left by a Mac")
        packed.writestr("benchmark_dataset/somebody_else/0.jpg", "not one of them")
    asked = []

    def download(*words, **how):
        asked.append((words, how))
        return str(archive)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fetched = datasets.get("customconcept101", tmp_path / "fetched")
    repository = {"repo_type": "dataset", "revision": "main"}
    assert asked == [(("nupurkmr9/custom-diffusion", "benchmark_dataset.zip"), repository)]
    copied = datasets.get("customconcept101", tmp_path / "copied", concepts)
    assert {k: v[0] for k, v in tree(fetched.folder).items()} == {k: v[0] for k, v in tree(copied.folder).items()}


def test_custom_concepts_that_are_not_whole_are_refused(tmp_path, concepts):
    part = tmp_path / "part"
    for concept in list(customconcept101.CONCEPTS)[1:]:
        (part / concept).parent.mkdir(exist_ok=True)
        (part / concept).symlink_to(concepts / concept)
    with pytest.raises(DataError, match="1 of 101 concepts of customconcept101 are missing: scene_barn"):
        datasets.get("customconcept101", tmp_path / "out", part)
    paint(part / "scene_barn/0.jpg", 1)
    with pytest.raises(DataError, match="fewer than 3 pictures of scene_barn"):
        datasets.get("customconcept101", tmp_path / "out", part)


# --- landmarks and faces -------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    """Google Landmarks v2 as it unpacks: landmark 7 with 3 pictures, 12 with 2 of 4, 100 with 3."""
    listed = {12: ("c0", "c1", "c2", "c3"), 100: ("b2", "b0", "b1"), 7: ("a0", "a1", "a2")}
    ids = {number: [f"{short}{number:014d}" for short in shorts] for number, shorts in listed.items()}
    rows = [f"{number},{' '.join(own)}" for number, own in ids.items()]
    (tmp_path / "gldv2").mkdir()
    (tmp_path / "gldv2/train_clean.csv").write_text("\n".join(["landmark_id,images", *rows]) + "\n")
    for number, own in ids.items():
        for position, picture in enumerate(own[: 2 if number == 12 else 3]):
            paint(tmp_path / "gldv2/train" / Path(*picture[:3]) / f"{picture}.jpg", number + position)
    return tmp_path / "gldv2"


def test_landmarks_with_pictures_enough_are_taken_by_rising_id(tmp_path, world):
    pick = datasets.Pick(concepts=2, images=3)
    done = datasets.get("landmarks", tmp_path / "out", world, pick=pick)
    rows = (done.folder / "origins.csv").read_text().splitlines()
    assert rows[1] == "landmark-01/00.jpg,7,a000000000000007.jpg"
    assert rows[4] == "landmark-02/00.jpg,100,b000000000000100.jpg" and len(rows) == 7
    assert datasets.get("landmarks", tmp_path / "out", world, pick=pick).copied == 0
    own = datasets.get("landmarks", tmp_path / "own", world, pick=datasets.Pick(images=2, only=("12", "7")))
    assert [row.split(",")[1] for row in (own.folder / "origins.csv").read_text().split()[1::2]] == ["12", "7"]
    planned = sources.from_folder(done.folder)
    assert [(c["name"], c["class"]) for c in planned] == [("landmark-01", "landmark"), ("landmark-02", "landmark")]


def test_landmarks_that_are_not_there_are_named(tmp_path, world):
    for pick, words in (
        (datasets.Pick(3, 3), "2 landmarks have 3 pictures or more here, and 3 are asked for"),
        (datasets.Pick(images=3, only=("12",)), "landmark 12 has 2 pictures here, not 3"),
        (datasets.Pick(only=("niagara",)), "no landmark 'niagara'"),
    ):
        with pytest.raises(DataError, match=words):
            datasets.get("landmarks", tmp_path / "out", world, pick=pick)
    (world / "train_clean.csv").write_text("landmark_id,images\n7,../../../etc/passwd\n")
    with pytest.raises(DataError, match="image ids of 16 hexadecimal digits"):
        datasets.get("landmarks", tmp_path / "out", world)
    archive = zipped(world, tmp_path / "world.zip", "")
    with pytest.raises(DataError, match="is a file; unpack it and name the folder"):
        datasets.get("landmarks", tmp_path / "out", archive)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def faces(tmp_path):
    """CelebAMask-HQ with five pictures: 0, 2 and 10 of person 9, 1 of person 3, 3 of nobody known."""
    folder = tmp_path / "celeba"
    for number in (0, 1, 2, 3, 10):
        paint(folder / f"CelebAMask-HQ/CelebA-HQ-img/{number}.jpg", number)
    return folder


def test_faces_are_the_same_by_either_list_of_identities(tmp_path, faces):
    with pytest.raises(DataError, match="does not say who is on the pictures: put CelebA-HQ-identity"):
        datasets.get("celeba-hq", tmp_path / "out", faces)
    mapping = "idx orig_idx orig_file\n0 118 000119.jpg\n1 99 000100.jpg\n10 5 000006.jpg\n2 17 000018.jpg\n"
    (faces / "CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt").write_text(mapping)
    (faces / "identity_CelebA.txt").write_text("000006.jpg 9\n000018.jpg 9\n000100.jpg 3\n000119.jpg 9\n")
    pick = datasets.Pick(concepts=1, images=2)
    official = datasets.get("celeba-hq", tmp_path / "official", faces, pick=pick)
    (faces / "CelebA-HQ-identity.txt").write_text("0.jpg 9\n1.jpg 3\n10.jpg 9\n2.jpg 9\n")
    own = datasets.get("celeba-hq", tmp_path / "own", faces, pick=pick)
    assert tree(official.folder).keys() == tree(own.folder).keys()
    assert (own.folder / "origins.csv").read_text().split()[1:] == ["face-01/00.jpg,9,0.jpg", "face-01/01.jpg,9,2.jpg"]
    assert datasets.get("celeba-hq", tmp_path / "three", faces, pick=datasets.Pick(2, 1)).folder.is_dir()
    (faces / "CelebA-HQ-identity.txt").write_text("0.jpg 9\nnonsense\n")
    with pytest.raises(DataError, match="line 2 is not one of this table"):
        datasets.get("celeba-hq", tmp_path / "out", faces)


def test_only_what_is_picked_from_takes_a_pick(tmp_path, copy):
    with pytest.raises(
        DataError, match="laid out whole; --concepts, --images and --only are for landmarks and celeba-hq"
    ):
        datasets.get("dreambooth", tmp_path, copy, pick=datasets.Pick())


# --- plans ---------------------------------------------------------------------------------------------------------


def found_by(name, data):
    """The concepts of a ready plan whose pictures are all in a folder of data, as `check` sees it."""
    made = plan.load(plan.ready(name), (f"data={data}",))
    assert pictures.check(made.concepts) == []
    return made.concepts


def test_the_plan_of_twenty_finds_its_concepts(tmp_path, concepts):
    done = datasets.get("customconcept101", tmp_path, concepts)
    assert len(found_by("cns-20", done.folder)) == 20


def test_the_plan_of_fifty_finds_its_concepts(tmp_path):
    ids = {number: [f"{number:02d}{picture:02d}{0:012d}" for picture in range(15)] for number in range(26)}
    rows = [f"{number},{' '.join(own)}" for number, own in ids.items()]
    world, faces = tmp_path / "world", tmp_path / "faces"
    world.mkdir()
    (world / "train_clean.csv").write_text("\n".join(["landmark_id,images", *rows]))
    for number, picture in ((number, picture) for number, own in ids.items() for picture in own):
        paint(world / Path(*picture[:3]) / f"{picture}.jpg", number)
    for number in range(26 * 15):
        paint(faces / f"CelebA-HQ-img/{number}.jpg", number)
    people = [f"{number}.jpg {number // 15}" for number in range(26 * 15)]
    (faces / "CelebA-HQ-identity.txt").write_text("\n".join(people))
    datasets.get("landmarks", tmp_path / "data", world)
    datasets.get("celeba-hq", tmp_path / "data", faces)
    concepts = found_by("stamina-50", tmp_path / "data")
    assert len({concept.images for concept in concepts}) == 50
    assert {concept.noun for concept in concepts} == {"landmark", "person"}


# --- sets of classes -------------------------------------------------------------------------------------------------


@pytest.fixture
def renditions(tmp_path):
    """A copy of a small ImageNet-R with its two lists, as a user would have it."""
    lines = {"train": [], "test": []}
    for name in ("n01443537", "n02128757"):
        conftest.paint(tmp_path / "copy/imagenet-r" / name, 5, int(name[-3:]))
        for number in range(5):
            lines["test" if number > 2 else "train"].append(f"- data/imagenet-r/{name}/{number:02d}.png")
    for side, listed in lines.items():
        text = "\n".join(["data:", *listed, "targets:", *("- 0" for _ in listed)]) + "\n"
        (tmp_path / "copy" / f"imagenet-r_{side}.yaml").write_text(text)
    return tmp_path / "copy"


def test_imagenet_r_is_split_as_its_lists_say(renditions, tmp_path):
    got = datasets.get("imagenet-r", tmp_path / "data", renditions)
    laid = {path.relative_to(got.folder).as_posix() for path in got.folder.rglob("*.png")}
    assert laid == {
        f"{'test' if number > 2 else 'train'}/{name}/{number:02d}.png"
        for name in ("n01443537", "n02128757") for number in range(5)
    }  # fmt: skip
    own = got.folder / "test/n02128757/03.png"
    assert own.read_bytes() == (renditions / "imagenet-r/n02128757/03.png").read_bytes()
    made = plan.build({
        "task": "classification", "methods": ["naive"], "base": "google/vit-base-patch16-224",
        "concepts": {"folder": str(got.folder), "tasks": 2},
    })  # fmt: skip
    assert sorted(c.classes for c in made.concepts) == [("n01443537",), ("n02128757",)]
    assert pictures.of(made.concepts[0]).labels == made.concepts[0].classes * 2


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda copy: (copy / "imagenet-r_test.yaml").unlink(), "holds no imagenet-r_test.yaml"),
    (lambda copy: (copy / "imagenet-r/n02128757/01.png").unlink(), "1 of 10 pictures .*n02128757/01.png"),
    (lambda copy: (copy / "imagenet-r_test.yaml").write_text("data: []\n"), "lists no picture"),
    (lambda copy: (copy / "imagenet-r_test.yaml").write_text("- x/n02128757/01.png\n"), "both lists name"),
    (lambda copy: (copy / "imagenet-r_test.yaml").write_text("- x/n02128757/03.png\n"), "one of the two lists only"),
])  # fmt: skip
def test_a_copy_of_imagenet_r_that_does_not_fit_is_told(renditions, tmp_path, spoil, told):
    spoil(renditions)
    with pytest.raises(DataError, match=told):
        datasets.get("imagenet-r", tmp_path / "data", renditions)
    with pytest.raises(DataError, match="--from"):
        datasets.get("imagenet-r", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_digits_are_scikit_learns(tmp_path):
    found = pytest.importorskip("sklearn.datasets").load_digits()
    got = datasets.get("digits", tmp_path / "data")
    assert len(list(got.folder.glob("*/*/*.png"))) == 1797 == got.copied - 1
    for number in (0, 1700):
        side = "train" if number < 898 else "test"
        picture = read_image(got.folder / side / str(found.target[number]) / f"{number:04d}.png")
        small = np.asarray(picture.resize((8, 8), Image.Resampling.BOX).convert("L"), float) / 255 * 16
        assert picture.size == (64, 64) and np.abs(small - found.images[number]).mean() < 1


def test_digits_need_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"perdure\[digits\]"):
        datasets.get("digits", tmp_path / "data")
