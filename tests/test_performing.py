"""Settings that make drawing faster: what they leave as it is, and what they change, beside plain diffusers."""

import copy
import sys

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from perdure import plan, run
from perdure.bases import engines, loading, performing
from perdure.bases.backbone import Backbone
from perdure.drawing import sample
from perdure.errors import ModelError, PlanError
from perdure.files import read_json
from perdure.memory.delta import Change, Delta
from perdure.plan import Performance, Prompts, Sampling, Training

SAMPLING = Sampling(
    prompts=Prompts(subject=("{concept}",), style=("{concept}",)), images_per_prompt=2, steps=5, guidance=3.0
)
PROMPTS = ["a photo of zwz dog", "the cat in snow"]


def sampling(**changes):
    return SAMPLING.model_copy(update=changes)


@pytest.fixture(scope="module")
def sd(pico):
    return loading.load(str(pico), device="cpu")


def delta(backbone, size=0.05):
    torch.manual_seed(0)
    shapes = backbone.projections("attention")
    return Delta({n: Change.low_rank(size * torch.randn(2, i), torch.randn(o, 2)) for n, (o, i) in shapes.items()})


def drawn(backbone, **changes):
    return sample.draw_latents(backbone, PROMPTS, sampling(**changes), 32)


def gap(some, others):
    """Mean and largest difference of pixels, 0 to 255."""
    apart = np.abs(np.stack([np.int16(np.asarray(a)) - np.asarray(b) for a, b in zip(some, others, strict=True)]))
    return apart.mean(), apart.max()


# --- guidance in part of the steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("until", "guided"), [(1.0, 5), (0.79, 3), (0.6, 3), (0.1, 0)])
def test_steps_that_are_not_guided_are_those_of_a_loop_by_hand(sd, pico, until, guided):
    """DDIM, one call for each prediction; the unguided ones ask for the prompt alone."""
    pipe = StableDiffusionPipeline.from_pretrained(pico)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(5)
    text, empty = pipe.encode_prompt(PROMPTS[0], "cpu", 1, True, "")
    x = sample.latents(sd, 1, 32, SAMPLING.seed)
    with torch.no_grad():
        for number, t in enumerate(scheduler.timesteps):
            said = pipe.unet(x, t, text).sample
            if number < guided:
                away = pipe.unet(x, t, empty).sample
                said = away + 3.0 * (said - away)
            x = scheduler.step(said, t, x).prev_sample
    own = sampling(images_per_prompt=1, guidance_until=until, scheduler="ddim")
    torch.testing.assert_close(sample.draw_latents(sd, PROMPTS[:1], own, 32), x, atol=1e-4, rtol=1e-4)
    assert not sd.network._forward_hooks and not sd.network._forward_pre_hooks


@pytest.mark.parametrize("name", ["sd3", "flux2_klein", "z_image", "pixart_sigma", "sdxl"])
def test_every_family_draws_later_steps_without_guidance(name, pico_xl, tmp_path, monkeypatch):
    """Beside the same steps drawn with all rows, guided away from the prompt itself: that is no guidance."""
    folder = pico_xl if name == "sdxl" else tiny.saved(getattr(tiny, name), tmp_path / "base")
    backbone = loading.load(str(folder), device="cpu")
    prompts, negative = backbone.encode_prompts(PROMPTS), backbone.encode_negative(None)
    negative = {n: t.expand(2, *t.shape[1:]) for n, t in negative.items()}
    noise = sample.latents(backbone, 2, 32, 0)
    rows, real = [], backbone.network.forward

    def counting(first, *args, **kwargs):
        rows.append(len(first if first is not None else kwargs["hidden_states"]))
        return real(first, *args, **kwargs)

    def forward(*args, **kwargs):
        return counting(*args, **kwargs) if args else counting(kwargs.pop("hidden_states"), **kwargs)

    monkeypatch.setattr(backbone.network, "forward", forward)
    whole, part, none = (
        backbone.draw(prompts, negative, noise, 4, g, "default", until=u)
        for g, u in ((3.0, 1.0), (3.0, 0.5), (1.0, 1.0))
    )
    each = [4 * 2 * 2, 2 * 2 * 2 + 2 * 2, 4 * 2]
    assert sum(rows) == sum(each)
    assert not torch.allclose(whole, part) and not torch.allclose(none, part)
    again = backbone.draw(prompts, negative, noise, 4, 3.0, "default")
    assert torch.equal(again, whole)  # nothing of it stays


def test_what_is_told_its_guidance_refuses_part_of_it(tmp_path):
    backbone = loading.load(str(tiny.saved(tiny.flux, tmp_path / "base")), device="cpu")
    with pytest.raises(PlanError, match=r"sampling\.guidance_until does nothing here"):
        backbone.check(Training(resolution=32), sampling(guidance_until=0.5))


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_drawing_in_another_precision_is_plain_diffusers_with_such_a_network(sd, pico, precision):
    """Nothing laid: the network of the file, cast; and what is taught keeps its own network and its bits."""
    dtype = performing.DTYPES[precision]
    before = drawn(sd)
    other = sd.drawn_in(precision)
    assert other.network.dtype == dtype and sd.network.dtype == torch.float32 and sd.drawn_in(precision) is other
    assert other.pipe.text_encoder is sd.pipe.text_encoder and other.pipe.vae is sd.pipe.vae
    pipe = StableDiffusionPipeline.from_pretrained(pico)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.to(dtype)
    text, empty = pipe.encode_prompt(PROMPTS[0], "cpu", 1, True, "")
    noise = sample.latents(sd, 1, 32, SAMPLING.seed)
    with torch.autocast("cpu", dtype), torch.no_grad():
        expected = pipe(
            prompt_embeds=text.to(dtype), negative_prompt_embeds=empty.to(dtype), latents=noise.to(dtype), height=32,
            width=32, num_inference_steps=5, guidance_scale=3.0, output_type="latent",
        ).images.float()  # fmt: skip
    found = sample.draw_latents(other, PROMPTS[:1], sampling(images_per_prompt=1), 32)
    assert torch.equal(found, expected) and not torch.equal(found, before[:1])
    assert torch.equal(drawn(sd), before)


def test_a_small_memory_is_seen_in_another_precision(sd):
    """The change lies beside the half-precision weights: it moves pictures as it does in float32."""
    small = delta(sd, 0.01)
    moved = []
    for backbone in (sd, sd.drawn_in("bf16")):
        base = drawn(backbone)
        with backbone.laid(small):
            moved.append(drawn(backbone) - base)
    assert not sd.moved() and torch.cosine_similarity(*(m.flatten() for m in moved), dim=0) > 0.7


def test_a_plan_draws_in_its_precision(sd, monkeypatch):
    asked, real = [], Backbone.drawn_in
    monkeypatch.setattr(Backbone, "drawn_in", lambda self, p: asked.append(p) or real(self, p))
    from perdure import method
    from perdure.memory import Memory

    chosen = method.get("naive", {"rank": 2})
    whole = sample.images(sd, chosen, Memory(), "dog", PROMPTS, sampling(), 32)
    half = sample.images(sd, chosen, Memory(), "dog", PROMPTS, sampling(precision="bf16"), 32)
    assert asked == ["training", "bf16"] and 0 < gap(whole, half)[0] < 8


def test_decoding_in_half_precision(sd):
    latents = drawn(sd)
    whole, half = sd.decode(latents), sd.decode(latents, "bf16")
    plain = copy.deepcopy(sd.pipe.vae).to(torch.bfloat16)
    with torch.no_grad():
        by_hand = plain.decode(latents.bfloat16() / sd.pipe.vae.config.scaling_factor).sample
    assert gap(half, sd.pipe.image_processor.postprocess(by_hand))[1] <= 2
    assert 0 < gap(whole, half)[0] < 3 and sd.pipe.vae.dtype == torch.float32
    assert gap(whole, sd.decode(latents))[1] == 0


def test_an_autoencoder_that_overflows_is_not_asked_to(sd, monkeypatch):
    config = {**sd.pipe.vae.config, "force_upcast": True}
    monkeypatch.setattr(
        type(sd.pipe.vae), "config", property(lambda self: type("C", (dict,), {"__getattr__": dict.get})(config))
    )
    sd.check(Training(resolution=32), sampling(decoding="bf16"))
    with pytest.raises(PlanError, match=r"sampling\.decoding: this base's autoencoder overflows in fp16"):
        sd.check(Training(resolution=32), sampling(decoding="fp16"))


# --- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "performance", [Performance(attention="math"), Performance(channels_last=True), Performance(tf32=True)], ids=str
)
def test_how_the_machine_is_used_changes_only_rounding(pico, sd, performance):
    backbone = loading.load(str(pico), device="cpu", performance=performance)
    own, usual = delta(backbone), delta(sd)
    with backbone.laid(own), sd.laid(usual):
        torch.testing.assert_close(drawn(backbone), drawn(sd), atol=1e-4, rtol=1e-4)
    assert torch.backends.cuda.matmul.allow_tf32 == performance.tf32
    strided = backbone.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert strided == performance.channels_last
    loading.load(str(pico), device="cpu")
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_kernel_that_is_not_there_is_told_in_a_sentence(pico):
    backbone = loading.load(str(pico), device="cpu", performance=Performance(attention="cudnn"))
    with pytest.raises(ModelError, match=r"performance\.attention: cudnn cannot serve this base on this device"):
        drawn(backbone)
    with pytest.raises(RuntimeError, match="another"), performing.attending("math"):
        raise RuntimeError("another error")


def test_how_many_fit_is_what_further_ones_take():
    """One picture takes the fixed part and its own, each further one its own; powers of two, at most 64."""
    fixed, each = 3_000, 100
    for count in (1, 2, 3, 7, 8, 40, 500):
        free = (fixed + each * count) / performing.SPARE
        found = performing.most(round(free) + 2, fixed + each, fixed + 2 * each)
        assert found <= min(count, 64) < 2 * found or found == 64
    assert performing.most(0, 10, 20) == 1 and performing.most(1 << 40, 10, 10) == 64


def test_what_fits_is_tried_once_and_used(pico, monkeypatch):
    backbone = loading.load(str(pico), device="cpu", performance=Performance(batch="auto"))
    tried, sizes = [], []

    def fitting(draw, device, wanted):
        draw(2)
        tried.append(wanted)
        return 3

    real = backbone.draw
    monkeypatch.setattr(performing, "fitting", fitting)
    monkeypatch.setattr(backbone, "draw", lambda *a, **k: sizes.append(len(a[2])) or real(*a, **k))
    first = drawn(backbone)
    assert torch.allclose(first, drawn(backbone)) and tried == [8] and sizes == [2, 3, 1, 3, 1]
    assert performing.fitting is fitting and sample.in_force(backbone, SAMPLING, 32)["batch"] == 3
    monkeypatch.undo()
    assert performing.fitting(lambda n: None, torch.device("cpu"), 5) == 5


def test_what_counts_for_a_result_and_what_does_not(plan_data):
    made = plan.build(plan_data)
    for key, value in (
        ("attention", "math"),
        ("engine", "onnx"),
        ("compile", True),
        ("channels_last", True),
        ("tf32", True),
        ("batch", "auto"),
    ):
        assert plan.build({**plan_data, "performance": {key: value}}).fingerprint() == made.fingerprint()
    for key, value in (("guidance_until", 0.5), ("precision", "bf16"), ("decoding", "bf16"), ("scheduler", "unipc")):
        other = {**plan_data, "sampling": {**plan_data["sampling"], key: value}}
        assert plan.build(other).fingerprint() != made.fingerprint()


def test_a_cell_says_how_it_was_drawn_and_a_model_keeps_it(plan_data, tmp_path):
    data = {**plan_data, "concepts": plan_data["concepts"][:1], "performance": {"attention": "math"}}
    data["sampling"] = {**data["sampling"], "precision": "bf16", "decoding": "bf16", "guidance_until": 0.5}
    data["training"] = {**data["training"], "steps": 1}
    (line,) = run.run(plan.build(data), tmp_path / "run", device="cpu")
    told = read_json(line.lessons[0].folder / "cells" / "dog" / "cell.json")["drawn"]
    assert told == {
        "engine": "torch", "compile": False, "attention": "math", "channels_last": False, "tf32": False, "batch": 4,
        "device": "cpu", "precision": "bfloat16", "decoding": "bf16",
    }  # fmt: skip
    assert line.plan().performance.attention == "math"
    other = plan.build({**data, "performance": {"channels_last": True}})
    run.run(other, tmp_path / "run", device="cpu")  # goes on otherwise


# --- engines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["pico", "pico_xl"])
def test_onnx_runtime_draws_the_same_with_whatever_is_laid(base, request):
    """Exported again where another memory lies there, and not where the same one does."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    folder = str(request.getfixturevalue(base))
    backbone, usual = (
        loading.load(folder, device="cpu", performance=p) for p in (Performance(engine="onnx"), Performance())
    )
    for size in (0.0, 0.05, 0.1):
        with backbone.laid(delta(backbone, size)), usual.laid(delta(usual, size)):
            torch.testing.assert_close(drawn(backbone), drawn(usual), atol=1e-3, rtol=1e-3)
            first = engines._exported[backbone.network]
            drawn(backbone, images_per_prompt=1)
            assert engines._exported[backbone.network] is first
    assert "forward" not in vars(backbone.network)
    torch.testing.assert_close(
        drawn(backbone, guidance_until=0.6), drawn(usual, guidance_until=0.6), atol=1e-3, rtol=1e-3
    )


def test_onnx_runtime_is_for_unets_and_must_be_there(pico, tmp_path, monkeypatch):
    flux = loading.load(
        str(tiny.saved(tiny.sd3, tmp_path / "base")), device="cpu", performance=Performance(engine="onnx")
    )
    with pytest.raises(ModelError, match=r"performance\.engine: onnx draws with UNets only"):
        drawn(flux)
    sd = loading.load(str(pico), device="cpu", performance=Performance(engine="onnx"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'perdure\[onnx\]'"):
        drawn(sd)
    with pytest.raises(PlanError, match=r"performance: compiled code and onnx draw in fp32"):
        sd.check(Training(resolution=32), sampling(precision="bf16"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "flux2_klein"])
def test_compiled_code_draws_the_same_and_is_not_made_again(name, pico, tmp_path, monkeypatch):
    """Traced in one graph; other memories of any rank and a short last batch are no reason to compile anew."""
    monkeypatch.setattr(engines, "BACKEND", "eager")
    folder = str(pico if name == "sd" else tiny.saved(tiny.flux2_klein, tmp_path / "base"))
    backbone, usual = (
        loading.load(folder, device="cpu", performance=p) for p in (Performance(compile=True), Performance())
    )
    assert len(engines.parts(backbone.network)) == (1 if name == "sd" else 4)
    frames = []
    for size in (0.05, 0.1, 0.2):
        with backbone.laid(delta(backbone, size)), usual.laid(delta(usual, size)):
            found, expected = (drawn(each, batch_size=3) for each in (backbone, usual))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        frames.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert frames[0] == frames[1] == frames[2] > 0
    assert not any("forward" in vars(module) for module in backbone.network.modules())
