"""Public data sets from a local copy: complete, verified, never overwritten, and safe to unpack."""

import io
import json
import os
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from perdure import datasets
from perdure.errors import DataError
from perdure.images import sha256_of

CLASSES = "Classes\n\nsubject_name,class\nbackpack,backpack\nbear_plushie,stuffed animal\n\nPrompts\n\n'a {0}, x'\n"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def fill(folder, name):
    """A fake copy of data set `name` in `folder`: every picture there, each with bytes of its own."""
    dataset = datasets.DATASETS[name]
    for number, file in enumerate(dataset.pictures):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(path)
    if dataset.texts:
        (folder / "prompts_and_classes.txt").write_text(CLASSES)
    return folder


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
    monkeypatch.setattr(datasets, "LARGEST", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        datasets.get("dreambooth", tmp_path / "out", archive)


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
    for name in datasets.DATASETS:
        with pytest.raises(DataError) as caught:
            datasets.get(name, tmp_path / "out")
        assert "--from" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unknown_names_suggest(tmp_path):
    with pytest.raises(DataError, match="did you mean 'dreambooth'"):
        datasets.get("dreamboth", tmp_path)


def test_classes(tmp_path, copy):
    assert datasets.dreambooth_classes(copy) == {"backpack": "backpack", "bear_plushie": "stuffed animal"}
    with pytest.raises(DataError, match="prompts_and_classes"):
        datasets.dreambooth_classes(tmp_path)


def test_the_real_photos(tmp_path, photos):
    done = datasets.get("dreambooth", tmp_path, photos)
    assert done.kept == 0 and len(list(done.folder.glob("*/*.jpg"))) == 158
    assert datasets.get("dreambooth", tmp_path, photos).copied == 0
    classes = datasets.dreambooth_classes(done.folder)
    assert set(classes) == set(datasets.SUBJECTS) and len(set(classes.values())) == 15
    assert classes["grey_sloth_plushie"] == "stuffed animal"
