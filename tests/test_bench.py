"""Benchmarks are no tests; that their commands work at tiny size is."""

import importlib
import json
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
    """Four lessons: what is stored grows, the numbers are printed, a picture is left; a slope is that of a line."""
    growth = bench("growth")
    found = growth.main(["--lessons", "4", "--steps", "1", "--out", str(tmp_path / "growth.png")])
    assert (tmp_path / "growth.png").stat().st_size > 1000 and "every concept" in capsys.readouterr().out
    for grown in found.values():
        assert len(grown.seconds) == 4 and grown.stored == sorted(grown.stored) and grown.stored[0] < grown.stored[-1]
    line = growth.Growth(seconds=[9.0, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0])
    assert line.slope == pytest.approx(0.5 / 2.0)
