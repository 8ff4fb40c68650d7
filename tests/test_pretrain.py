"""The recipe at pico size: pure data, whole words, resumption to the bit, exports that standard classes load."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from perdure.toybox.pretrain import stages
from perdure.toybox.pretrain.base import train_base
from perdure.toybox.pretrain.contrast import auc
from perdure.toybox.pretrain.data import HELD_OUT, TRAIN, Pictures, picture_at
from perdure.toybox.pretrain.draws import Shuffle
from perdure.toybox.pretrain.export import SCORERS, damaged, export, export_flow, size_in_bytes
from perdure.toybox.pretrain.files import replace_folder
from perdure.toybox.pretrain.flow import (
    FlowLoss,
    PlainJointAttention,
    build_transformer,
    load_flow_pipeline,
    load_tower,
    sigmoid_normal_times,
    train_flow,
)
from perdure.toybox.pretrain.muon import Muon, orthogonalised
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
def parts(trained, tmp_path_factory) -> Path:
    """The exported base of `trained`."""
    folder = tmp_path_factory.mktemp("parts") / "weights"
    export(PICO, trained, folder)
    return folder


@pytest.fixture(scope="module")
def flowed(parts, tmp_path_factory, tokenizer) -> Path:
    """A work folder in which the transformer has been trained on `parts`."""
    work = tmp_path_factory.mktemp("flow")
    for name in stages.FLOW_STAGES[:-1]:
        stages.run_stage(name, PICO, work, parts=parts)
    train_flow(PICO, work, tokenizer, parts)
    return work


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
    order = Shuffle(0, "test", 7)
    assert sorted(item for item, _ in order.take(7, 7)) == list(range(7))
    assert order.take(5, 4) == Shuffle(0, "test", 7).take(5, 4)


def test_interrupted_training_resumes_to_the_bit(trained, tmp_path, tokenizer):
    replace_folder(tmp_path / "work", lambda folder: _copy_data(trained, folder))
    train_base(PICO, tmp_path / "work", tokenizer, until=2)
    train_base(PICO, tmp_path / "work", tokenizer)
    assert _digests(tmp_path / "work") == _digests(trained)


@pytest.mark.slow
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


def test_an_interrupted_flow_resumes_to_the_bit(flowed, parts, tmp_path, tokenizer):
    replace_folder(tmp_path / "work", lambda folder: _copy_data(flowed, folder))
    train_flow(PICO, tmp_path / "work", tokenizer, parts, until=2)
    train_flow(PICO, tmp_path / "work", tokenizer, parts)
    assert _digests(tmp_path / "work", "flow") == _digests(flowed, "flow")


@pytest.mark.slow
def test_flow_trains_in_two_processes(flowed, parts, tmp_path):
    replace_folder(tmp_path / "work", lambda folder: _copy_data(flowed, folder))
    stages.run_stage("flow", replace(PICO, processes=2), tmp_path / "work", parts=parts)
    assert len(list((tmp_path / "work/flow/state").glob("0000004/optimiser-*.safetensors"))) == 2


def test_flow_learns_from_the_first_shards_while_later_ones_are_drawn(flowed, parts, tmp_path, tokenizer):
    replace_folder(tmp_path / "work", lambda folder: _copy_data(flowed, folder))
    (tmp_path / "work" / "latents-train-0").unlink()
    (tmp_path / "work" / "latents-train-0").mkdir()
    first = "latents-train-0/0000.npy"
    (tmp_path / "work" / first).write_bytes((flowed / first).read_bytes())
    train_flow(PICO, tmp_path / "work", tokenizer, parts)
    assert _digests(tmp_path / "work", "flow") == _digests(flowed, "flow")
    assert sorted(item for item, _ in Shuffle(0, "test", 7, in_order=True).take(7, 7)) == list(range(7))


def test_flow_loss_is_that_of_the_plain_pipeline_and_transformer(parts, tokenizer, monkeypatch):
    """One picture with the pipeline's 256 rows of zeros, one without any, by diffusers' own attention; in float32."""
    from diffusers import StableDiffusion3Pipeline

    monkeypatch.setattr("perdure.toybox.pretrain.precision.has_bfloat16", lambda: False)
    torch.manual_seed(0)
    model = build_transformer(PICO.flow, 4, (tower := load_tower(parts)).config.hidden_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    prompts = ["a photo of a red teapot on the beach", "a sketch of a sks dog"]
    latents, noise, times = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.tensor([0.3, 0.8])
    pipeline = StableDiffusion3Pipeline(model, None, None, tower, tokenizer, tower, tokenizer, None, None)
    wanted = []
    for i, more in enumerate(({}, {"max_sequence_length": 0})):
        words, _, pooled, _ = pipeline.encode_prompt(
            prompts[i], None, None, device="cpu", do_classifier_free_guidance=False, **more
        )
        noisy = (1 - times[i]) * latents[i : i + 1] + times[i] * noise[i : i + 1]
        found = model(noisy, words, pooled, 1000 * times[i : i + 1]).sample
        wanted.append((found - (noise[i] - latents[i])).square().mean())
    gradients = torch.autograd.grad(sum(wanted) / 2, list(model.parameters()))
    model.set_attn_processor(PlainJointAttention())
    loss, plain = FlowLoss(tower)(model, latents, encode(tokenizer, prompts), times, noise)
    torch.testing.assert_close(loss, sum(wanted) / 2, rtol=1e-5, atol=1e-5)
    assert torch.equal(plain, loss.detach())
    for found, right in zip(torch.autograd.grad(loss, list(model.parameters())), gradients, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4)


def test_flow_times_are_spread_as_the_sigmoid_of_a_normal():
    times = sigmoid_normal_times(1000, torch.Generator().manual_seed(0)).sort().values
    normal = torch.distributions.Normal(0.0, 1.0)
    edges = torch.arange(1001) / 1000
    ranks = normal.cdf(torch.logit(times))
    assert bool((ranks >= edges[:-1] - 1e-4).all()) and bool((ranks <= edges[1:] + 1e-4).all())


def test_exported_flow_draws_as_a_loop_by_hand(flowed, parts, tmp_path, tokenizer):
    export_flow(PICO, flowed, parts, tmp_path / "toyflow")
    assert damaged(tmp_path / "toyflow") == []
    pipeline = load_flow_pipeline(tmp_path / "toyflow")
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    made = pipeline("a red boot", latents=noise, num_inference_steps=3, guidance_scale=2.0, output_type="np").images
    tower = load_tower(parts)
    found = tower(encode(tokenizer, ["", "a red boot"]), output_hidden_states=True)
    words = torch.nn.functional.pad(found.hidden_states[-2].repeat(1, 1, 2), (0, 0, 0, 256))
    pooled = found.text_embeds.repeat(1, 2)
    times = torch.tensor([1.0, 0.5005, 0.001, 0.0])  # the scheduler's: three from 1 to 1/1000, then 0
    latents = noise
    with torch.no_grad():
        for now, then in zip(times[:-1], times[1:], strict=True):
            silent, told = pipeline.transformer(latents.repeat(2, 1, 1, 1), words, pooled, 1000 * now.expand(2)).sample
            latents = latents + (then - now) * (silent + 2.0 * (told - silent))
        wanted = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    wanted = (wanted / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(made - wanted).max() < 1e-4


def test_no_photo_is_both_trained_on_and_held_out():
    assert not set(TRAINING_PHOTOS) & set(HELD_OUT_PHOTOS)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_muon_moves_as_that_of_torch_and_orthogonally_in_float32(shape):
    draws = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    mine = Muon([{"params": [ours]}], lr=0.1)
    mine._dtype = torch.bfloat16
    torchs = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=draws)
        theirs.grad = ours.grad.clone()
        mine.step()
        torchs.step()
    assert torch.equal(ours, theirs)
    values = torch.linalg.svdvals(orthogonalised(ours.grad, torch.float32))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


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


def _digests(work: Path, stage: str = "base") -> dict[str, str]:
    state = work / stage / "state" / "0000004"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in state.glob("*.safetensors")}


def test_workers_end_with_the_process_that_started_them():
    child = (
        "import time; from perdure.toybox.pretrain import processes; processes.end_with_the_parent(); time.sleep(999)"
    )
    parent = (
        f"import subprocess as s, sys, time; p = s.Popen([sys.executable, '-c', {child!r}], stdin=s.PIPE); "
        "print(p.pid, flush=True); time.sleep(999)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as running:
        worker = psutil.Process(int(running.stdout.readline()))
        running.kill()
        worker.wait()
