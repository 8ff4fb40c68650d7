"""Where a scorer's files are found: here, in the hub's cache, or fetched, beside what the hub's client was asked."""

import logging
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HTTPError, RepositoryNotFoundError

from perdure.errors import ModelError
from perdure.score import sources
from perdure.score.sources import Located

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
REMEDY = "name a local folder that holds it, point HF_HOME to a cache that does, or go online once"


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """An environment that says nothing of the network."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_network_is_forbidden_by_the_words_that_the_hubs_client_takes(monkeypatch, name):
    assert sources.offline() is False
    for said in sorted(constants.ENV_VARS_TRUE_VALUES):
        for written in (said, said.lower(), said.capitalize(), f" {said}\n"):
            monkeypatch.setenv(name, written)
            assert sources.offline() is True, written
    for written in ("", "0", "no", "OFF", "false", "2", "XXYESXX"):
        monkeypatch.setenv(name, written)
        assert sources.offline() is False, written


def test_what_lies_here_is_taken_as_it_is(monkeypatch, tmp_path):
    """A folder or a file, `~` for the home; even one whose name could be an id of the hub."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "file").touch()
    for source, path in {
        "~/owner": tmp_path / "owner",
        "owner/file": Path("owner/file"),
        tmp_path / "owner": tmp_path / "owner",
    }.items():
        assert sources.locate(source, WEIGHTS) == Located(path, str(source), None, None)


@pytest.mark.parametrize("source", [Path("owner/name"), "/owner/name", "name", "a/b/c", "-x/y", "x/-y", "own er/name"])
def test_what_is_neither_here_nor_an_id_is_told(monkeypatch, source):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *asked: pytest.fail("asked the hub's cache"))
    with pytest.raises(ModelError) as told:
        sources.locate(source, WEIGHTS)
    wanted = "there is no such folder or file, and it is no hub id (owner/name) either."
    assert str(told.value) == f"{source}: {wanted}"


class Hub:
    """The hub's client, as far as it is asked here: what is cached, what a repository holds, and what was asked."""

    def __init__(self, monkeypatch, files=(), cached=(), wrong=None):
        self.asked, self.files, self.cached, self.wrong = [], dict(files), cached, wrong
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", self.in_cache)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def in_cache(self, repo, name):
        return f"/cache/{repo}/snapshots/abc/{name}" if name in self.cached else None

    def model_info(self, repo, files_metadata=False):
        self.asked.append(("info", repo, files_metadata))
        if self.wrong:
            raise self.wrong
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in self.files.items()]
        return SimpleNamespace(sha="f00d", siblings=siblings or None)

    def download(self, repo, **given):
        self.asked.append(("download", repo, given))
        return "/cache/f00d"


def test_a_cached_model_is_taken_with_its_revision_and_nothing_is_asked(monkeypatch):
    """The first of the weights that is there says in which snapshot."""
    hub = Hub(monkeypatch, cached=WEIGHTS[1:])
    found = sources.locate("owner/my.model-1", WEIGHTS)
    assert found == Located(Path("/cache/owner/my.model-1/snapshots/abc"), "owner/my.model-1", "abc")
    assert not hub.asked


@pytest.mark.parametrize(
    ("files", "taken", "size"),
    [
        ({"model.safetensors": 5_400_000, "pytorch_model.bin": 9_000_000, "x.msgpack": 1}, "model.safetensors", "5 MB"),
        ({"x.msgpack": 1, "pytorch_model.bin": 9_400_000}, "pytorch_model.bin", "9 MB"),
        ({"model.safetensors": None}, "model.safetensors", "0 MB"),
    ],
)
def test_a_model_is_fetched_once_by_its_revision_with_what_is_needed_alone(monkeypatch, caplog, files, taken, size):
    hub = Hub(monkeypatch, files)
    with caplog.at_level(logging.INFO, logger="perdure"):
        found = sources.locate("owner/name", WEIGHTS, ("config.json", "tokenizer*"))
    assert found == Located(Path("/cache/f00d"), "owner/name", "f00d")
    wanted = {"revision": "f00d", "allow_patterns": [taken, "config.json", "tokenizer*"]}
    assert hub.asked == [("info", "owner/name", True), ("download", "owner/name", wanted)]
    assert caplog.messages == [f"downloading owner/name ({taken}, {size}) into the Hugging Face cache"]


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_asked(monkeypatch, name):
    hub = Hub(monkeypatch, {"model.safetensors": 1})
    monkeypatch.setenv(name, "yes")
    with pytest.raises(ModelError) as told:
        sources.locate("owner/name", WEIGHTS)
    assert str(told.value) == f"owner/name is not in the local cache and HF_HUB_OFFLINE is set: {REMEDY}."
    assert not hub.asked


def refused(kind):
    return kind.__new__(kind)  # made of an answer of the hub otherwise


@pytest.mark.parametrize("files", [{}, {"x.msgpack": 1}])
def test_a_repository_without_weights_is_told(monkeypatch, files):
    hub = Hub(monkeypatch, files)
    with pytest.raises(ModelError) as told:
        sources.locate("owner/name", WEIGHTS)
    assert str(told.value) == "owner/name: none of model.safetensors, pytorch_model.bin in this hub repository."
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            refused(RepositoryNotFoundError),
            "owner/name: there is no such model on the hub, or access to it is restricted.",
        ),
        (refused(GatedRepoError), "owner/name: there is no such model on the hub, or access to it is restricted."),
        *(
            (wrong, f"owner/name is not in the local cache and the hub did not answer (no answer\u2026 now): {REMEDY}.")
            for wrong in (
                HTTPError("no answer\u2026\n now."), OSError("no  answer\u2026 now"),
                EntryNotFoundError("no answer\u2026 now"),
            )
        ),
    ],
)  # fmt: skip
def test_a_hub_that_has_nothing_is_told_and_why(monkeypatch, wrong, sentence):
    Hub(monkeypatch, wrong=wrong)
    with pytest.raises(ModelError) as told:
        sources.locate("owner/name", WEIGHTS)
    assert str(told.value) == sentence and told.value.__cause__ is wrong


def test_what_an_error_says_is_one_short_line():
    assert sources.short(ValueError(" a\n\tb . c. ")) == "a b . c"
    assert sources.short(ValueError("XX.X.")) == "XX.X"
    assert sources.short(ValueError("x" * 161)) == "x" * 160 and sources.short(KeyError()) == "KeyError"
    gated = "its owner gives it to those who ask: accept the terms on its page on the hub, then `hf auth login`"
    assert sources.short(refused(GatedRepoError)) == gated
    for way in ("__cause__", "__context__"):
        outer, middle = ValueError("outer"), ValueError("middle")
        setattr(outer, way, middle)
        setattr(middle, way, refused(GatedRepoError))
        assert sources.short(outer) == gated
    outer.__context__ = ValueError("middle")
    assert sources.short(outer) == "outer"


USUAL = (ValueError, RuntimeError, TypeError, KeyError, AttributeError, ZeroDivisionError, AssertionError, ImportError,
         EOFError, OSError, HTTPError, Exception)  # fmt: skip


@pytest.mark.parametrize("kind", USUAL)
def test_what_libraries_raise_on_damaged_files_is_one_sentence(kind):
    wrong = kind("torn\n apart")
    with pytest.raises(ModelError) as told, sources.Reading(lambda reason: f"file: is damaged ({reason})."):
        raise wrong
    assert str(told.value).startswith("file: is damaged (") and told.value.__cause__ is wrong
    assert "\n" not in str(told.value) and "torn" in str(told.value)


def test_what_is_no_damage_goes_through():
    for kind in (KeyboardInterrupt, StopIteration, ModelError, type("Ours", (Exception,), {})):
        with pytest.raises(kind, match="stop"), sources.Reading(lambda reason: pytest.fail(reason)):
            raise kind("stop")
    with sources.Reading(lambda reason: pytest.fail(reason)):
        pass
