"""Benchmarks are no tests; that their commands work at tiny size is."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch):
    """(name) -> a benchmark's module."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.mark.slow
def test_the_gpu_benchmark_measures_goes_on_and_tells(bench, tmp_path, capsys, monkeypatch):
    """Every setting once, on networks of a few thousand weights; a second call takes only what is missing."""
    gpu, out = bench("gpu"), tmp_path / "gpu.json"
    monkeypatch.setitem(gpu.STEPS, "draw", 2)
    words = ["--device", "cpu", "--tiny", "--out", str(out), "--bases", "sdxl"]
    found = gpu.main(words)
    assert json.loads(out.read_text()) == found
    told = {name.removeprefix("sdxl: "): value for name, value in found.items()}
    assert {f"train, {name}" for name in gpu.TRAINING} | {f"draw, {name}" for name in gpu.DRAWING} < set(told)
    assert told["a lesson stopped and gone on with"]["bit-equal"] and told["one forward"]["flop"] > 1e6
    assert told["draw, plain"]["bit-equal"] and told["draw, decoding bf16"]["bit-equal"]
    assert "cudnn cannot serve" in told["draw, attention cudnn"]["failed"]
    assert told["draw, guidance_until 0.5"]["pictures/s"] > 0 and told["train, plain"]["steps/s"] > 0
    assert told["train, plain"]["estimated GB"] > told["train, checkpointing"]["estimated GB"] > 0
    assert told["draw, plain"]["estimated GB"] > 0
    assert told["draw, attention math"]["moved (of a deviation)"] < 0.05
    cut = {name: value for name, value in found.items() if name != "sdxl: train, plain"}
    out.write_text(json.dumps(cut))
    capsys.readouterr()
    again = gpu.main(words)
    assert set(again) == set(found) and capsys.readouterr().out.count("|\n") == 1
    out.unlink()
    assert gpu.main([*words, "--minutes", "0"]) == {}
    with pytest.raises(SystemExit, match="no CUDA device here"):
        gpu.main(["--out", str(out)])
    with pytest.raises(SystemExit, match="'flux' is none of sdxl"):
        gpu.main([*words[:-1], "flux"])


def test_the_real_shapes_are_the_published_sizes(bench):
    """Weights of both networks, counted without making them."""
    import torch

    shapes = bench("shapes")
    with torch.device("meta"):
        unet, transformer = (
            sum(p.numel() for p in make(False).parameters()) for make in (shapes.unet, shapes.transformer)
        )
    assert unet == 2_567_463_684 and 3.7e9 < transformer < 4.1e9


@pytest.mark.slow
def test_the_growth_benchmark_follows_lessons(bench, tmp_path, capsys):
    """Four lessons, and four runs: what is stored grows, numbers are printed, a picture is left and what it shows."""
    growth = bench("growth")
    words = ["--lessons", "4", "--runs", "4", "--steps", "1", "--out", str(tmp_path / "growth.png")]
    found, swept = growth.main(words)
    assert (tmp_path / "growth.png").stat().st_size > 1000 and "every concept" in capsys.readouterr().out
    for grown in found.values():
        assert len(grown.seconds) == 4 and grown.stored == sorted(grown.stored) and grown.stored[0] < grown.stored[-1]
    for grown in swept.values():
        assert len(grown.seconds) == len(grown.resident) == 4 and min(grown.seconds) > 0
    kept = json.loads((tmp_path / "growth.json").read_text())
    assert kept["the worker"]["seconds"] == swept["the worker"].seconds and len(kept) == 5


def test_growth_is_the_leading_coefficient_and_its_error(bench):
    """Of a line and of a parabola; and beside the closed form of a line's standard error."""
    growth = bench("growth")
    line = growth.Growth(seconds=[9.0, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0])
    assert line.share() == pytest.approx((0.5 / 2.0, 0.0), abs=1e-9)
    assert growth.coefficient([3 + 2 * k + 0.5 * k * k for k in range(6)], 2) == pytest.approx((0.5, 0.0), abs=1e-9)
    values, numbers = [1.0, 3.0, 2.0, 5.0], [-1.5, -0.5, 0.5, 1.5]
    slope = sum(n * v for n, v in zip(numbers, values, strict=True)) / 5
    left = sum((v - 2.75 - slope * n) ** 2 for n, v in zip(numbers, values, strict=True))
    assert growth.coefficient(values, 1) == pytest.approx((slope, (left / 2 / 5) ** 0.5))


SCRIPT = """
import argparse, sys
from pathlib import Path
import torch

parser = argparse.ArgumentParser()
for name in ("output_dir", "pretrained_model_name_or_path", "instance_data_dir", "max_train_steps", "experiment_name"):
    parser.add_argument(f"--{name}")
given = parser.parse_known_args()[0]
assert Path(given.pretrained_model_name_or_path).is_dir()
assert len(list(Path(given.instance_data_dir).glob("*.jpg"))) == 4
weight = torch.nn.Parameter(torch.ones(3))
descent = torch.optim.AdamW([weight])
for step in range(int(given.max_train_steps)):
    weight.square().sum().backward()
    descent.step()
Path(given.output_dir).mkdir(parents=True)
Path(given.output_dir, "weights").write_bytes(bytes(1000))
"""
DRAWING = """
import pickle
from pathlib import Path

N_SAMPLES_PER_PROMPT = 99

def prepare_noise(device, n_prompts): raise AssertionError

def sample_ranked_batched(pipeline, prompts, noises, num_inference_steps): return [str(len(noises))] * len(prompts)

def sample_cl_models(models_path, tasks_configs, method_name, out_path, prompt_templates, task_type):
    last = max(tasks_configs)
    for after in [last] if method_name == "base" else tasks_configs:
        assert method_name == "base" or Path(models_path, str(after), "weights").is_file()
        for task in range(1, after + 1):
            noises = prepare_noise("cpu", len(prompt_templates))
            prompts = [t.format(tasks_configs[task]["prompt"]) for t in prompt_templates] * N_SAMPLES_PER_PROMPT
            samples = sample_ranked_batched(pipeline=None, prompts=prompts, noises=noises)
            path = Path(out_path, f"after_task_{after}")
            path.mkdir(parents=True, exist_ok=True)
            with open(path / f"on_task_{task}.pkl", "wb") as file:
                pickle.dump({"samples": samples}, file)
"""
SCORING = """
from pathlib import Path

def calculate_metrics(samples, path, kind):
    assert kind == "object" and len(list(Path(path).glob("*.jpg"))) == 4 and set(samples) == {"4"}
"""


@pytest.mark.slow
def test_peers_are_run_in_turn_and_told_by_phase(bench, tmp_path, capsys):
    """Folders of the same names with next to nothing in them: every part is called, and what it did is counted."""
    files = {
        "reference/lora/train_dreambooth_lora_sdxl.py": SCRIPT, "reference/eval/sample_images.py": DRAWING,
        "reference/eval/eval_method.py": SCORING, "diffusers/examples/dreambooth/train_dreambooth_lora_sdxl.py": SCRIPT,
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    peers = bench("peers")
    sizes = "--tiny --lessons 2 --steps 3 --each 2 --draw 1 --side 32 --rank 2".split()
    found = peers.main(["--reference", str(tmp_path / "reference"), "--set", "sampling.images_per_prompt=1", *sizes])
    counts = {name: {p: took.phases[p][2] for p in peers.WORTH if p in took.phases} for name, took in found.items()}
    drawn = 2 * 2 * (2 + 3)  # prompts x noises x (the base's two cells, and three of the lessons)
    whole = {"training": 6, "sampling": drawn, "scoring": drawn}
    half = whole | {"sampling": drawn / 2, "scoring": drawn / 2}
    assert counts == {"perdure": whole, "perdure as set": half, "reference": whole}
    for took in found.values():
        assert took.whole[0] > 0 and took.peak > 1e7 and took.written > 1000 and took.kept > 1000
        assert all(spent[0] >= 0 and spent[1] >= 0 for spent in took.phases.values())
    told = capsys.readouterr().out
    assert "training, a step" in told and "end to end" in told and told.count(" x)") >= 6
    times = found["reference"].whole[0] / found["perdure as set"].whole[0]
    assert f"\nreference: {times:.2g} x the CPU seconds of perdure as set" in told
    with pytest.raises(SystemExit, match="'cns' is none of naive"):
        peers.main(["--methods", "cns"])
    (tmp_path / "reference/eval/eval_method.py").unlink()
    with pytest.raises(SystemExit, match=r"script failed, called as\n.*eval_method\.py"):
        peers.Bench(None, tmp_path).run(
            peers.Took(), sys.executable, "script", str(tmp_path / "reference/eval/eval_method.py")
        )


def test_ratios_of_peers_are_for_as_much_work(bench):
    """Twice the time for half as many pictures: four times."""
    peers = bench("peers")
    cells = peers._seconds({"perdure": [1.0, 2.0, 10], "other": [2.0, 2.0, 5], "none": [0.0, 0.0, 0]})
    assert cells == ["1.0", "2.0", "2.0 (4 x)", "2.0 (2 x)", "-", "-"]
