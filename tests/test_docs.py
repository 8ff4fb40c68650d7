"""Documentation that cannot lie: code blocks run, commands exist, the method example keeps the contract."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_brought import kohya
from test_score import models  # noqa: F401
from typer.main import get_command

from perdure import plugins
from perdure.cli import app
from perdure.lineage import Lineage
from perdure.plan import catalogue
from tests import api

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EMBEDDED = ROOT / "perdure" / "toybox" / "weights" / "model_index.json"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(not EMBEDDED.is_file(), reason="the embedded base's weights are not in this checkout")
def test_readme_python_runs(tmp_path):
    (code,) = blocks(ROOT / "README.md", "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "merge_init" in done.stdout and (tmp_path / "runs/library/report.html").is_file()


def test_the_readmes_story_on_sdxl(perdure, pico_xl, pico_clip, models, photos, tmp_path):  # noqa: F811
    """Its commands as they stand there, where the hub's names are folders of small models of the same layout."""
    (block,) = (text for text in blocks(ROOT / "README.md", "") if text.startswith("perdure init mymodel"))
    calls = [call for line in block.splitlines() for call in line.split("  #")[0].split(";")]
    known = {"stabilityai/stable-diffusion-xl-base-1.0": pico_xl, "openai/clip-vit-base-patch32": pico_clip}
    known |= {"facebook/dino-vits16": models / "dino", "photos/teapot": photos / "cat", "photos/dog": photos / "dog"}
    for name, folder in known.items():
        shutil.copytree(folder, tmp_path / name)
    kohya(pico_xl, tmp_path / "dog.safetensors")
    small = ("training.resolution=32", "training.steps=2", "sampling.steps=1", "scoring.drift=0")
    told = []
    for call in calls:
        _, command, *words = shlex.split(call)
        more = [word for one in small for word in ("--set", one)] if command == "init" else []
        code, out, err = perdure(command, *words, *more)
        assert code == 0, out + err
        told.append(out)
    assert [shlex.split(call)[1] for call in calls] == ["init", "teach", "teach", "log", "undo"]
    assert "dog" in told[3] and "lesson 2 (dog) is undone" in told[4]
    lineage = Lineage(tmp_path / "mymodel")
    assert lineage.concepts == ["teapot"] and set(lineage.lessons[0].cell("teapot").scores) >= {"clip_i", "dino"}


def test_commands_in_the_docs_exist():
    commands = get_command(app).commands
    for page in PAGES:
        for line in re.findall(r"perdure ((?:[a-z]+)(?: [a-z]+)?)", " ".join(blocks(page, ""))):
            first, _, second = line.partition(" ")
            assert first in commands, f"{page.name}: perdure {first}"
            if first in ("plan", "data", "toybox"):
                assert second in commands[first].commands, f"{page.name}: perdure {line}"


def test_every_command_has_help():
    def walk(command, name):
        assert command.help, f"{name} has no help"
        for child, sub in getattr(command, "commands", {}).items():
            walk(sub, f"{name} {child}")

    walk(get_command(app), "perdure")


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", ["adding_a_method", "adding_a_measure", "adding_a_base"])
def test_the_guides_show_the_examples(page):
    (shown,) = blocks(ROOT / "docs" / f"{page}.md", "python")
    assert shown.rstrip() in {path.read_text().rstrip() for path in (ROOT / "examples").glob("*.py")}


def test_the_api_page_is_made_from_docstrings():
    """docs/api.md: `python -m tests.api` writes it."""
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == api.page()


@pytest.mark.skipif(not EMBEDDED.is_file(), reason="the embedded base's weights are not in this checkout")
def test_the_api_pages_example_runs(tmp_path):
    (code,) = blocks(ROOT / "docs" / "api.md", "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert -1 <= float(done.stdout) <= 1


def test_methods_page_holds_the_current_table():
    """docs/methods.md: paste the output of `perdure methods --markdown` between its markers."""
    from perdure.cli import looking

    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    shown = text.split("<!-- methods -->")[1].split("<!-- /methods -->")[0].strip()
    assert shown == looking.methods_markdown([catalogue.card(name) for name in plugins.own(plugins.METHOD)])
