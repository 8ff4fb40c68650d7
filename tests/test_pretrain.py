"""The recipe at pico size: pure data, whole words, resumption to the bit, exports that standard classes load."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perdure.toybox.pretrain import stages
from perdure.toybox.pretrain.base import train_base
from perdure.toybox.pretrain.contrast import auc
from perdure.toybox.pretrain.data import HELD_OUT, TRAIN, Pictures, picture_at
from perdure.toybox.pretrain.draws import Order
from perdure.toybox.pretrain.export import SCORERS, damaged, export, size_in_bytes
from perdure.toybox.pretrain.files import replace_folder
from perdure.toybox.pretrain.photos import HELD_OUT_PHOTOS, TRAINING_PHOTOS
from perdure.toybox.pretrain.recipe import PICO, PROMPT_LENGTH, Recipe
from perdure.toybox.pretrain.tokenizer import encode
from perdure.toybox.pretrain.trainer import latest_weights
from perdure.toybox.world import RARE_TOKENS, VOCABULARY

WEIGHTS = Path(stages.__file__).resolve().parents[1] / "weights"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return stages.tokenizer_of()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer) -> Path:
    """A work folder in which the whole recipe has run at pico size."""
    work = tmp_path_factory.mktemp("pico")
    for name in stages.STAGES[:-1]:
        stages.run_stage(name, PICO, work, None, None, None)
    train_base(PICO, work, tokenizer)
    return work


def test_every_known_word_is_one_token(tokenizer):
    letters = [word for word in VOCABULARY if word.isalpha()]
    assert set(RARE_TOKENS) <= set(letters)
    assert [word for word in letters if len(tokenizer(word).input_ids) != 3] == []


def test_tokenizer_pads_cuts_and_spells_out_unknown_words(tokenizer, tmp_path):
    ids = encode(tokenizer, ["a photo of a sks dog", "qwertyuiopasdfghjklzxcvbnmqwerty"])
    assert ids.shape == (2, PROMPT_LENGTH)
    assert ids[0, 7:].eq(tokenizer.eos_token_id).all()
    assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == "a photo of a sks dog"
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert torch.equal(
        encode(again, ["a neon picture of a red boot"]), encode(tokenizer, ["a neon picture of a red boot"])
    )


def test_pictures_are_pure_functions_of_seed_and_index(trained, tmp_path):
    one = Pictures(trained, 0, TRAIN, PICO.data)
    other = Pictures(tmp_path, 0, TRAIN, PICO.data)
    other.draw_shard(1)  # alone, in another folder
    assert one.shard_path(1).read_bytes() == other.shard_path(1).read_bytes()
    share = PICO.data.photo_share
    assert np.array_equal(one.pixels([40])[0], picture_at(0, TRAIN, 40, share))
    assert not np.array_equal(picture_at(0, TRAIN, 40, share), picture_at(0, HELD_OUT, 40, share))
    assert one.caption(3, 0) == one.caption(3, 0)


def test_order_visits_every_item_once_an_epoch():
    order = Order(0, "test", 7)
    assert sorted(item for item, _ in order.take(7, 7)) == list(range(7))
    assert order.take(5, 4) == Order(0, "test", 7).take(5, 4)


def test_interrupted_training_resumes_to_the_bit(trained, tmp_path, tokenizer):
    replace_folder(tmp_path / "work", lambda folder: _copy_data(trained, folder))
    train_base(PICO, tmp_path / "work", tokenizer, until=2)
    train_base(PICO, tmp_path / "work", tokenizer)
    assert _digests(tmp_path / "work") == _digests(trained)


def test_base_trains_in_two_processes(trained, tmp_path):
    """The processes share the work and end with one set of weights."""
    replace_folder(tmp_path / "work", lambda folder: _copy_data(trained, folder))
    stages.train_generator(replace(PICO, processes=2), tmp_path / "work")
    assert len(list((tmp_path / "work/base/state").glob("0000004/optimiser-*.safetensors"))) == 2


def test_rewinding_goes_back_before_the_decay(trained, tmp_path, tokenizer):
    replace_folder(tmp_path / "work", lambda folder: _copy_data(trained, folder))
    train_base(PICO, tmp_path / "work", tokenizer)
    assert stages.rewind(tmp_path / "work" / "base", "before-decay") == 2
    train_base(PICO, tmp_path / "work", tokenizer, decay=(3, 3))
    assert latest_weights(tmp_path / "work" / "base")
    assert (tmp_path / "work/base/state/0000006/state.json").exists()


def test_export_loads_with_standard_classes(trained, tmp_path):
    from diffusers import StableDiffusionPipeline
    from transformers import AutoImageProcessor, CLIPModel, CLIPVisionModelWithProjection, ViTModel

    export(PICO, trained, tmp_path / "weights", "card", {"figure": 1})
    assert damaged(tmp_path / "weights") == []
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "weights")
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline("a photo of a sks dog", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert made.images[0].size == (64, 64)
    for name, kind in zip(SCORERS, (CLIPModel, ViTModel, CLIPVisionModelWithProjection), strict=True):
        folder = tmp_path / "weights" / "scorers" / name
        kind.from_pretrained(folder)
        pixels = AutoImageProcessor.from_pretrained(folder)(made.images[0].resize((90, 90)), return_tensors="pt")
        assert pixels["pixel_values"].shape == (1, 3, 64, 64)
    (tmp_path / "weights" / "MODEL_CARD.md").write_text("changed")
    assert damaged(tmp_path / "weights") == ["MODEL_CARD.md"]


def test_no_photo_is_both_trained_on_and_held_out():
    assert not set(TRAINING_PHOTOS) & set(HELD_OUT_PHOTOS)


def test_auc_counts_ties_half():
    assert auc(torch.tensor([1.0, 0.0]), torch.tensor([0.0, -1.0])) == pytest.approx(0.875)


@pytest.mark.skipif(not (WEIGHTS / "SHA256SUMS").exists(), reason="no shipped weights in this checkout")
def test_shipped_weights_are_whole_and_small():
    assert damaged(WEIGHTS) == []
    assert size_in_bytes(WEIGHTS) <= 24_000_000
    assert Recipe().autoencoder.latent_channels > 0


def _copy_data(source: Path, folder: Path) -> None:
    """Pictures, latents and the start of the text encoder of a work folder, by links."""
    for kind in ("pictures-*", "latents-*", "words"):
        for path in source.glob(kind):
            (folder / path.name).symlink_to(path)


def _digests(work: Path) -> dict[str, str]:
    state = work / "base" / "state" / "0000004"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in state.glob("*.safetensors")}
