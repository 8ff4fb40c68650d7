"""What lessons that begin alike take over from one another: its file, its log, and what decides it."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import planned

from perdure.lesson import trained
from perdure.lesson.examples import Bucketed, Examples
from perdure.lesson.trained import Trained
from perdure.lineage import locks
from perdure.lineage.commons import Commons
from perdure.memory import tensors
from perdure.method import Adapter, Protection
from perdure.parts.adapter import LowRank
from perdure.plan import Performance, Training
from perdure.plan.plan import FamilyChoice

LOG = [{"step": 1, "loss": 0.5, "seconds": 2.0}, {"step": 2, "loss": 0.25, "seconds": 1.0}]


def shared(folder, owner="naive/001-dog", identity="base", told=None):
    """What lineages of a folder have trained, for the lesson of one of them."""
    log = folder / owner / "losses.jsonl"
    tell = {} if told is None else {"tell": told.append}
    return Trained(Commons(folder), identity, owner, log, **tell)


def learning(there, parameters, ran):
    """A lesson: its numbers are 1, 2, ... and so is its log."""

    def train():
        ran.append(there.owner)
        with torch.no_grad():
            for number, parameter in enumerate(parameters, start=1):
                parameter.fill_(number)
        there.log.parent.mkdir(parents=True, exist_ok=True)
        there.log.write_text("".join(f"{json.dumps(row)}\n" for row in LOG))

    return train


def begun():
    return [torch.zeros(2, 3, requires_grad=True), torch.zeros(4, requires_grad=True)]


def teach(there, content="c", parameters=None):
    """What a lesson's numbers come to, and who was trained for it."""
    own, ran = parameters or begun(), []
    there.once(content, own, learning(there, own, ran))
    return [parameter.flatten()[0].item() for parameter in own], ran


def logged(there):
    return [json.loads(line) for line in there.log.read_text().splitlines()]


def kept(folder):
    return sorted(folder.glob(".shared/adapters/*.safetensors"))


def test_what_begins_alike_is_trained_once_and_says_by_whom(tmp_path):
    """Numbers, log and teller of the second are the first's; who takes up its own is not called shared."""
    told = []
    assert teach(shared(tmp_path, told=told)) == ([1, 2], ["naive/001-dog"]) and told == []
    (file,) = kept(tmp_path)
    of_another = [{**row, "shared": "naive/001-dog"} for row in LOG]
    for owner, rows in (("ewc/001-dog", of_another), ("naive/001-dog", LOG)):
        there = shared(tmp_path, owner, told=told)
        assert teach(there) == ([1, 2], []) and logged(there) == rows and told.pop() == rows
    assert kept(tmp_path) == [file]


def test_without_one_to_tell_it_is_taken_over_in_silence(tmp_path):
    teach(shared(tmp_path))
    assert teach(shared(tmp_path, "ewc/001-dog")) == ([1, 2], [])


def test_another_content_or_base_is_trained_for_itself(tmp_path):
    for number, (content, identity) in enumerate((("c", "base"), ("d", "base"), ("c", "other")), start=1):
        assert teach(shared(tmp_path, identity=identity), content) == ([1, 2], ["naive/001-dog"])
        assert len(kept(tmp_path)) == number


def test_what_has_no_content_is_trained_and_not_kept(tmp_path):
    for _ in range(2):
        assert teach(shared(tmp_path), "") == ([1, 2], ["naive/001-dog"])
    assert not (tmp_path / ".shared").exists()


def spoilt(file, **changes):
    """The kept file with other tensors, or without some."""
    held = {name: tensor for name, tensor in {**tensors.read(file), **changes}.items() if tensor is not None}
    tensors.write(file, held)


def of_text(text):
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize("damage", [
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(file.read_bytes()[:-1]),
    lambda file: spoilt(file, log=None),
    lambda file: spoilt(file, owner=None),
    lambda file: spoilt(file, log=of_text("[{")),
    lambda file: spoilt(file, owner=torch.tensor([255], dtype=torch.uint8)),
    lambda file: spoilt(file, **{"1": None}),
    lambda file: spoilt(file, **{"1": torch.zeros(5)}),
], ids="empty,cut,no log,no owner,no JSON,no text,too few,of another shape".split(","))  # fmt: skip
def test_what_cannot_be_taken_over_is_trained_and_kept_again(tmp_path, damage):
    """And nothing of it is taken over, not even the first tensor."""
    teach(shared(tmp_path))
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    damage(file)
    there, own = shared(tmp_path), begun()
    ran = []
    there.once("c", own, lambda: (ran.extend(p.sum().item() for p in own), learning(there, own, [])()))
    assert ran == [0, 0] and own[1][0] == 2 and file.read_bytes() == whole


def test_who_comes_while_another_trains_waits_for_it(tmp_path, monkeypatch):
    """The lock lies beside the file; each look is a pause apart."""
    first, second = shared(tmp_path), shared(tmp_path, "ewc/001-dog")
    teach(first)
    (file,) = kept(tmp_path)
    data, naps, other = file.read_bytes(), [], ExitStack()
    file.unlink()
    assert other.enter_context(locks.holding(file.with_suffix(".lock")))

    def sleep(seconds):
        naps.append(seconds)
        assert not second.log.exists() and len(naps) <= 3
        if len(naps) == 3:
            file.write_bytes(data)
            other.close()

    monkeypatch.setattr(trained, "time", SimpleNamespace(sleep=sleep))
    assert teach(second) == ([1, 2], []) and naps == [trained.PAUSE] * 3


# --- what decides it --------------------------------------------------------------------------------------------------


def part(spread=False):
    told = {"text": torch.full((2, 3), 3.0), "pooled": torch.full((2, 1), 4.0)}
    return Examples(torch.full((2, 1, 1, 1), 2.0), told, ("a", "b"), torch.ones(2, 1, 1, 1) if spread else None)


def usual():
    """All that `content` is asked about."""
    factors = {"one": (torch.zeros(1, 2), torch.ones(2, 1)), "two": (torch.zeros(1, 3), torch.ones(3, 1))}
    backbone = SimpleNamespace(
        device="cpu", performance=Performance(), processes=SimpleNamespace(joined=False),
    )  # fmt: skip
    adapter = Adapter(LowRank(factors), [torch.full((2,), 5.0)])
    return {
        "backbone": backbone, "adapter": adapter, "protection": Protection(), "told": ["zwz", "dog"],
        "examples": (part(), None), "plan": planned(Training(steps=2)),
    }  # fmt: skip


def weights(changes=None, **how):
    factors = {**usual()["adapter"].weights.factors, **(changes or {})}
    return Adapter(LowRank(factors, **how), usual()["adapter"].word_parameters)


def backbone(**changes):
    return SimpleNamespace(**{**vars(usual()["backbone"]), **changes})


def examples(**changes):
    return (replace(part(), **changes), None)


def moved(name):
    return {**part().condition, name: part().condition[name] + 1}


DECIDING = {
    "nothing": lambda: {},
    "A": lambda: {"adapter": weights({"one": (torch.ones(1, 2), torch.ones(2, 1))})},
    "B": lambda: {"adapter": weights({"two": (torch.zeros(1, 3), torch.zeros(3, 1))})},
    "names": lambda: {"adapter": weights({"three": (torch.zeros(1, 3), torch.ones(3, 1))})},
    "A fixed": lambda: {"adapter": weights(train_a=False)},
    "words": lambda: {"adapter": Adapter(usual()["adapter"].weights, [torch.zeros(2)])},
    "told": lambda: {"told": ["zwz", "cat"]},
    "latents": lambda: {"examples": examples(latents=torch.zeros(2, 1, 1, 1))},
    "captions": lambda: {"examples": examples(captions=("a", "c"))},
    "text": lambda: {"examples": examples(condition=moved("text"))},
    "pooled": lambda: {"examples": examples(condition=moved("pooled"))},
    "spread": lambda: {"examples": (part(spread=True), None)},
    "another spread": lambda: {"examples": examples(deviation=torch.zeros(2, 1, 1, 1))},
    "buckets": lambda: {"examples": (Bucketed((part(),)), None)},
    "more buckets": lambda: {"examples": (Bucketed((part(), replace(part(), captions=("c", "d")))), None)},
    "prior": lambda: {"examples": (part(), part())},
    "seed": lambda: {"plan": planned(Training(steps=2), seed=1)},
    "training": lambda: {"plan": planned(Training(steps=3))},
    "family": lambda: {"plan": usual()["plan"].model_copy(update={"family": FamilyChoice(name="sdxl")})},
    "another family": lambda: {"plan": usual()["plan"].model_copy(update={"family": FamilyChoice(name="flux")})},
    "device": lambda: {"backbone": backbone(device="cuda:0")},
    "performance": lambda: {"backbone": backbone(performance=Performance(tf32=True))},
}


def test_all_that_decides_an_adapter_decides_its_content(monkeypatch):
    """Each of these is another content, and so are another number of threads and other libraries."""
    found = {why: trained.content(**{**usual(), **changed()}) for why, changed in DECIDING.items()}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    found["threads"] = trained.content(**usual())
    monkeypatch.setattr(trained.loading, "versions", lambda: {"torch": "0"})
    found["versions"] = trained.content(**usual())
    assert len(set(found.values())) == len(found)
    assert all(len(content) == 16 and int(content, 16) >= 0 for content in found.values())
    assert trained.content(**usual()) == found["versions"], "the same again"


class Other(LowRank):
    """What is no plain pair may draw numbers of its own."""


@pytest.mark.parametrize("changed", [
    {"protection": Protection(begin=lambda step: None)},
    {"protection": Protection(penalties={"price": lambda step: torch.zeros(())})},
    {"protection": Protection(project=lambda: None)},
    {"adapter": Adapter(Other(usual()["adapter"].weights.factors))},
    {"backbone": backbone(processes=SimpleNamespace(joined=True))},
], ids="begin,penalties,project,weights,processes".split(","))  # fmt: skip
def test_what_a_method_or_other_processes_have_a_part_in_has_no_content(changed):
    assert trained.content(**{**usual(), **changed}) == ""


def test_a_lesson_is_called_by_its_lineage_its_number_and_its_name(tmp_path):
    """And there is nothing to take over where no lineage lies beside it."""
    lineage = SimpleNamespace(folder=Path("/models/naive"), facts={"base_identity": "sha"})
    staged, told = SimpleNamespace(number=7, name="dog", log=tmp_path / "losses.jsonl"), []
    found = trained.beside(Commons(tmp_path), lineage, staged, told.append)
    assert found == Trained(Commons(tmp_path), "sha", "naive/007-dog", staged.log, told.append)
    for commons, line in ((None, lineage), (Commons(tmp_path), None), (Commons(tmp_path, adapters=False), lineage)):
        assert trained.beside(commons, line, staged, told.append) is None


def test_texts_are_kept_as_their_bytes(tmp_path):
    """Of any language, in a file of tensors alone."""
    there = shared(tmp_path, "méthode/001-chien")
    teach(there)
    held = tensors.read(kept(tmp_path)[0])
    assert np.array(held["owner"]).tobytes().decode() == "méthode/001-chien"
    assert json.loads(np.array(held["log"]).tobytes()) == LOG
    assert held.keys() == {"0", "1", "owner", "log"} and held["owner"].dtype == torch.uint8
    assert (held["0"] == 1).all() and held["1"].tolist() == [2] * 4
