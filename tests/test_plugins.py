"""Methods, measures and families in files of one's own: `examples/`, by path and from an installed package."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perdure import method, plan, plugins, report, run, score
from perdure.bases import families, loading
from perdure.cli import looking
from perdure.errors import LineageError, ModelError, PlanError
from perdure.lineage import Lineage, fsck, history
from perdure.memory import Memory
from perdure.method import Adapter, Context, Step
from perdure.parts.adapter import LowRank
from perdure.plan import catalogue, yaml_file
from perdure.sweep import grid, tree, worker

EXAMPLES = Path(__file__).parent.parent / "examples"
CALLED = {"method": "./mine/o_lora.py", "measure": "./mine/colour.py", "family": "./mine/plain_sd.py"}


def written(folder, plan_data, called, **changes):
    """A plan file in a folder that calls all three, the first two concepts only."""
    data = {
        **plan_data,
        "methods": [{"name": called["method"], "rank": 2}],
        "concepts": plan_data["concepts"][:2],
        "training": {**plan_data["training"], "steps": 2},
        "scoring": {"subject": [called["measure"]], "drift": 0},
        "family": called["family"],
        **changes,
    }
    folder.mkdir(exist_ok=True)
    (folder / "plan.yaml").write_text(yaml_file.dump(json.loads(json.dumps(data, default=str))))
    return folder / "plan.yaml"


@pytest.fixture
def mine(tmp_path):
    """A folder of somebody's own files, beside their plan."""
    shutil.copytree(EXAMPLES, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "mine"


def code(name, folder=EXAMPLES):
    return plugins.find(plugins.METHOD, "x", folder / f"{name}.py").digest


# --- files, by their paths -------------------------------------------------------------------------------------------


@pytest.fixture
def taught(mine, plan_data, tmp_path):
    """A model that was taught two lessons with all three files."""
    path = written(tmp_path, plan_data, CALLED)
    (lineage,) = run.run(plan.load(path), tmp_path / "out", device="cpu")
    return lineage


def test_three_files_from_the_first_picture_to_the_report(taught, mine, plan_data, tmp_path):
    """One story, for it is taught once: recorded, scored, shown, continued, taught on, and refused when changed."""
    settings = taught.settings
    assert settings["methods"][0]["name"] == "o_lora" and settings["methods"][0]["label"] == "o_lora_rank-2"
    assert settings["methods"][0]["code"] == {"file": str(mine / "o_lora.py"), "digest": code("o_lora")}
    assert settings["scoring"]["subject"] == ["colour"]
    assert settings["scoring"]["code"] == {"colour": {"file": str(mine / "colour.py"), "digest": code("colour")}}
    assert settings["family"]["name"] == "plain_sd" and settings["family"]["code"]["digest"] == code("plain_sd")
    assert not list(mine.rglob("*.pyc"))  # nothing is written beside them

    cell = taught.lessons[1].cell("dog")
    assert cell.scores["colour"] == pytest.approx(
        by_hand(cell.images, Path(plan_data["concepts"][0]["images"]) / "refs")
    )

    for log in taught.lessons[1].losses():
        assert list(log["parts"]) == ["denoising", "orthogonal"] and log["parts"]["orthogonal"] > 0
        assert log["loss"] == pytest.approx(sum(log["parts"].values()), rel=1e-5)

    page = report.build([taught], tmp_path / "page", title="mine").read_text()
    assert code("o_lora") in page and code("colour") in page

    # the same files elsewhere are the same plan; another content is another one
    shutil.copytree(mine, tmp_path / "moved" / "mine")
    moved = written(tmp_path / "moved", plan_data, CALLED)
    (again,) = run.run(plan.load(moved), tmp_path / "out", device="cpu")
    assert [row.record["memory"] for row in again.lessons] == [row.record["memory"] for row in taught.lessons]
    for name, kind in (("o_lora", "method"), ("colour", "measure"), ("plain_sd", "family")):
        with (tmp_path / "moved" / "mine" / f"{name}.py").open("a") as file:
            file.write("# another word\n")
        with pytest.raises(LineageError, match=f"another file of {kind} '{name}', which has changed since"):
            run.run(plan.load(moved), tmp_path / "out", device="cpu")
        shutil.copy(mine / f"{name}.py", tmp_path / "moved" / "mine")

    # one more lesson, taken back again
    clock = plan.concept(plan_data["concepts"][2])
    assert run.teach(taught, clock, device="cpu").number == 3
    with taught.locked():
        history.undo(taught)
        history.drop(taught)

    # without the files: looked at, not taught
    shutil.rmtree(mine)
    left = Lineage(taught.folder)
    assert report.build([left], tmp_path / "page", title="mine").is_file() and fsck.examine(taught.folder) == []
    assert left.plan().methods[0].name == "o_lora" and left.measures == ["colour"]
    with pytest.raises(PlanError, match=r"'.*' is the file .*mine.*, which is not there"):
        run.teach(left, clock, device="cpu")
    with left.locked():
        assert history.undo(left).number == 2

    # changed: nothing of it is run
    mine.mkdir()
    for name in ("o_lora", "colour", "plain_sd"):
        (mine / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text() + "raise SystemExit('run!')\n")
    with pytest.raises(PlanError, match="has changed since it was used here"):
        run.teach(left, clock, device="cpu")


def test_a_models_word_alone_runs_no_file(taught, tmp_path, perdure, monkeypatch):
    """Somebody else's model names files, perhaps in its own folder; they are looked at, not run."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody-else"))
    for name in ("o_lora", "colour", "plain_sd"):
        (module,) = [key for key in sys.modules if key.startswith(f"perdure_outside.{name}_{code(name)}")]
        monkeypatch.delitem(sys.modules, module)
    drawn = ("draw", str(taught.folder), "a photo of the dog", "--out", str(tmp_path / "drawn.png"), "--count", "1")
    status, _, told = perdure(*drawn)
    assert status == 2 and "o_lora.py, which is not run because only the model names it" in told
    files = [str(tmp_path / "mine" / f"{name}.py") for name in ("o_lora", "plain_sd")]
    assert perdure("trust", files[0])[0] == 0
    status, _, told = perdure(*drawn)
    assert status == 2 and f"perdure trust {files[1]}" in told
    assert perdure("trust", files[1])[0] == 0 and perdure(*drawn)[0] == 0
    assert perdure("trust", tmp_path / "nowhere.py")[0] == 2


def by_hand(drawn, references):
    """Mean intersection of colour histograms, by numpy's own histogram."""

    def shares(path):
        pixels = np.asarray(Image.open(path).convert("RGB"), float).reshape(-1, 3)
        return np.histogramdd(pixels, bins=4, range=[(0, 256)] * 3)[0].ravel() / len(pixels)

    pairs = [(shares(a), shares(b)) for a in drawn for b in sorted(references.glob("*.png"))]
    return np.mean([np.minimum(a, b).sum() for a, b in pairs])


def test_o_lora_is_the_papers_price():
    """weight * sum over lessons and entries of |A_past A_new^T|, in the second and the third lesson, by plain loops."""
    chosen, memory = method.get(str(EXAMPLES / "o_lora.py"), {"rank": 2, "weight": 0.25}), Memory()
    drawn, past = torch.Generator().manual_seed(0), []
    for lesson in (1, 2, 3):
        a, b = torch.randn(2, 5, generator=drawn), torch.randn(3, 2, generator=drawn)
        adapter = Adapter(LowRank({"p": (a, b)}))
        context = Context("x", lesson, 1, "", "", None, torch.Generator, torch.Generator)
        penalties = chosen.guard(adapter, memory, context).penalties
        wanted = 0.25 * sum(abs(float(old[i] @ a[j])) for old in past for i in range(2) for j in range(2))
        assert list(penalties) == ([] if lesson == 1 else ["orthogonal"])
        assert lesson == 1 or float(penalties["orthogonal"](Step(0, None, a))) == pytest.approx(wanted)
        memory = chosen.consolidate.remember(adapter, memory, context)
        past.append(a)
    assert torch.equal(memory.under("rows")["p"], torch.cat(past))
    torch.testing.assert_close(memory.delta()["p"].matrix().shape, torch.Size([3, 5]))


def test_the_resolved_plan_is_the_same_plan(mine, plan_data, tmp_path):
    made = plan.load(written(tmp_path, plan_data, CALLED))
    (tmp_path / "resolved.yaml").write_text(plan.plan_text(made))
    assert plan.load(tmp_path / "resolved.yaml").fingerprint() == made.fingerprint()
    (mine / "o_lora.py").write_text((mine / "o_lora.py").read_text().replace("0.5", "0.6"))
    assert plan.load(tmp_path / "plan.yaml").fingerprint() != made.fingerprint()
    with pytest.raises(PlanError, match="is another file than that of this plan"):
        plan.load(tmp_path / "resolved.yaml")


def test_without_files_of_ones_own_nothing_is_written_otherwise():
    """What a plan records, and so its fingerprint, is what it was before there were such files."""
    made = plan.build({"method": "naive"})
    text = json.dumps(made.settings()) + plan.plan_text(made)
    assert not re.search(r"\b(code|family)\b", text)


def test_files_on_the_command_line_start_from_the_current_folder(mine, perdure, tmp_path):
    wanted = ("demo", "--set", "methods=[naive, {name: ./mine/o_lora.py, rank: 4}]", "--json")
    status, told, _ = perdure("check", *wanted)
    assert status == 0 and json.loads(told)["runs"] == ["naive", "o_lora_rank-4"]
    status, told, _ = perdure("methods", "mine/o_lora.py", "--json")
    assert status == 0 and json.loads(told)[0]["name"] == "o_lora"
    status, _, told = perdure("init", "model", "--method", "./mine/o_lora.py")
    assert status == 0, told
    assert Lineage(Path("model")).settings["methods"][0]["code"]["digest"] == code("o_lora")


def test_orders_of_a_sweep_travel_to_other_processes(mine, plan_data, tmp_path):
    """Paths of a grid start from the grid's folder; an order is sent as plain values, and done by who gets it."""
    (tmp_path / "elsewhere").mkdir()
    inner = written(tmp_path / "elsewhere", plan_data, {**CALLED, "method": "naive", "family": None}, methods=["naive"])
    inner.write_text(inner.read_text().replace("./mine", str(mine)))
    path = tmp_path / "grid.yaml"
    path.write_text(yaml_file.dump({"plan": str(inner), "axes": {"methods": ["merge_init", CALLED["method"]]}}))
    made = grid.load(path)
    (tmp_path / "again.yaml").write_text(yaml_file.dump(dict(made.resolved)))
    assert [r.fingerprint for r in grid.load(tmp_path / "again.yaml").runs] == [r.fingerprint for r in made.runs]
    (_, theirs) = made.runs
    folder = tmp_path / "sweep" / theirs.name
    orders = tree.stretches(tmp_path / "sweep", {folder: theirs}, {folder: 0})
    for order in pickle.loads(pickle.dumps(orders)):
        assert worker.carry_out(order, "cpu") is None
    assert Lineage(folder).concepts == ["dog", "cat"]


# --- an installed package --------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the three files and a faulty one, as an installer leaves it; importing it leaves a mark."""
    site = tmp_path / "site"
    shutil.copytree(EXAMPLES, site / "theirs", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "theirs/__init__.py").write_text("import pathlib\npathlib.Path(__file__).with_name('run').touch()\n")
    (site / "theirs/faulty.py").write_text("def METHOD(:\n")
    other = (EXAMPLES / "plain_sd.py").read_text().replace('"StableDiffusionPipeline"', '"OtherPipeline"')
    (site / "theirs/other.py").write_text(other)
    (site / "theirs-1.0.dist-info").mkdir()
    (site / "theirs-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info/entry_points.txt").write_text(
        "[perdure.methods]\no_lora = theirs.o_lora\nfaulty = theirs.faulty\nlost = theirs.lost\nnaive = theirs.o_lora\n"
        "[perdure.measures]\ncolour = theirs.colour\n"
        "[perdure.bases]\nplain_sd = theirs.plain_sd\nother = theirs.other\nfaulty = theirs.faulty\n"
    )
    monkeypatch.syspath_prepend(site)
    return site


def test_an_installed_package_adds_all_three(package, plan_data, tmp_path, monkeypatch):
    called = {"method": "o_lora", "measure": "colour", "family": "plain_sd"}
    made = plan.load(written(tmp_path, plan_data, called))
    choice = made.methods[0]
    assert choice.code.file is None and choice.code.digest == code("o_lora")
    assert made.scoring.code["colour"].digest == code("colour")
    assert "colour" in score.names() and "o_lora" in catalogue.methods()
    assert catalogue.card("naive").summary.startswith("Naive")  # perdure's own names are its own
    assert not (package / "theirs/run").exists()  # all this was read, not run
    (lineage,) = run.run(made, tmp_path / "out", device="cpu")
    assert (package / "theirs/run").exists() and lineage.measures == ["colour"]
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry != str(package)])
    assert Lineage(lineage.folder).plan().methods[0].name == "o_lora"
    with pytest.raises(PlanError, match="no method 'o_lora'"):
        method.of(lineage.plan().methods[0])


def test_a_pipeline_finds_its_family_in_a_package(package):
    assert families.of_pipeline("OtherPipeline", "base").name == "plain Stable Diffusion"
    assert families.of_pipeline("StableDiffusionPipeline", "base").name == "stable-diffusion"
    with pytest.raises(ModelError, match=r"is a Third; perdure teaches .* and OtherPipeline \(.*faulty.py:1: "):
        families.of_pipeline("Third", "base")


def test_what_is_faulty_in_a_package_is_left_out(package, perdure):
    status, told, errors = perdure("methods", "--json")
    assert status == 0 and {"naive", "o_lora"} <= {card["name"] for card in json.loads(told)}
    assert "left out: " in errors and "faulty.py:1: " in errors
    assert "method 'lost' of package theirs is module theirs.lost, which is not there" in errors
    assert perdure("methods", "faulty")[0] != 0
    assert plan.build({"methods": ["naive", "o_lora"]}).methods[1].name == "o_lora"


# --- what is wrong in a file -----------------------------------------------------------------------------------------

HEAD = '"""A method."""\nfrom perdure.method import Method\n\n'
CHOICES = "Method(adapter=1, start=2, guard=3, consolidate=4)"
WRONG = {
    "def METHOD(:": "4: invalid syntax",
    "x = 1": "1: it defines no function METHOD",
    f"METHOD = lambda: {CHOICES}": "1: it defines no function METHOD",
    f"def METHOD(rank):\n    return {CHOICES}": "4: option 'rank' has no default",
    f"def METHOD(*, rank: int = 4):\n    return {CHOICES}": "4: METHOD takes plain options only",
    f"def METHOD(**options):\n    return {CHOICES}": "4: METHOD takes plain options only",
    f"R = 4\ndef METHOD(rank: int = R):\n    return {CHOICES}": "5: the default of option 'rank' is 'R'; write",
    f"def METHOD(a: int = 1,\n  b: list[int] = [1]):\n    return {CHOICES}": "5: the type of option 'b' is list[int]",
    f"def METHOD(b: float = (1, 2)):\n    return {CHOICES}": "4: the type of option 'b' is float; it may be",
    f"def METHOD(b=1):\n    return {CHOICES}": "4: the type of option 'b' is not told (default 1)",
    f"def METHOD(b: Count = 0):\n    return {CHOICES}": "4: the default of option 'b' is 0; it must be at least 1",
    f"def METHOD(b: int = 'x'):\n    return {CHOICES}": "4: the default of option 'b' is 'x'; it must be of type int",
    "def METHOD():\n    return replace(naive.METHOD(), guard=3)": "4: METHOD says no adapter, start, guard",
    "def METHOD():\n    return Method(1, 2, 3, 4)": "5: METHOD says no adapter, start, guard, consolidate",
}


@pytest.mark.parametrize("body", WRONG)
def test_what_is_wrong_in_a_method_is_told_by_file_and_line(body, tmp_path, plan_data):
    path = tmp_path / "bad.py"
    path.write_text(HEAD + body + "\n")
    with pytest.raises(PlanError) as caught:
        catalogue.card(str(path))
    assert str(caught.value).startswith(f"{path}:{WRONG[body]}") and "\n" not in str(caught.value)
    with pytest.raises(PlanError) as caught:  # every mistake of the plan, each at its place
        plan.build({**plan_data, "methods": ["naive", str(path), "naiv"]})
    assert [problem.split(": ")[1] for problem in caught.value.problems] == ["methods.1", "methods.2"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("bad", None, "which is not there"),
        ("naive", "", "is the name of a method of perdure's own; rename the file"),
        ("o-lora", "", "a file's name is the method's name: letters, digits and underscores"),
        ("bad", HEAD + "import nothing_of_this_name\n", ""),
        ("bad", HEAD + f"def METHOD(rank: int = 4):\n    x = 1 / 0\n    return {CHOICES}\n", "5: ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(name, text, told, tmp_path):
    path = tmp_path / f"{name}.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PlanError) as caught:
        method.get(str(path))
    assert told in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_wrong_in_a_measure_or_a_family_is_told(tmp_path, plan_data):
    path = tmp_path / "bad.py"
    for text, told in {
        "x = 1\n": ":1: it defines no function load(",
        "FEWEST = 'two'\ndef load(): ...\n": ":1: write FEWEST out as a number",
        "def load(:\n": ":1: ",
    }.items():
        path.write_text(text)
        with pytest.raises(PlanError, match=r"scoring\.subject: ") as caught:
            plan.build({**plan_data, "scoring": {"subject": ["clip_i", str(path)]}})
        assert f"{path}{told}" in str(caught.value)
    path.write_text((EXAMPLES / "colour.py").read_text())
    with pytest.raises(PlanError, match="it makes a measure 'colour'; its name is the file's, 'bad'"):
        score.load(str(path))
    for text, told in {
        "x = 1\n": ":1: it makes no FAMILY",
        "x = 1\nFAMILY = x\n": ":2: write FAMILY = Family(",
    }.items():
        path.write_text(text)
        made = plan.build({**plan_data, "family": str(path)})
        with pytest.raises(PlanError, match=r"bad\.py") as caught:
            loading.of(made, "cpu")
        assert f"{path}{told}" in str(caught.value)


def test_a_family_of_another_pipeline_is_refused(mine, plan_data):
    path = mine / "plain_sd.py"
    path.write_text(path.read_text().replace('"StableDiffusionPipeline"', '"OtherPipeline"'))
    with pytest.raises(ModelError, match="is a StableDiffusionPipeline; family 'plain_sd' is for a OtherPipeline"):
        loading.of(plan.build({**plan_data, "family": str(path)}), "cpu")


def test_a_measure_says_itself_how_many_pictures_it_needs(mine, plan_data):
    from perdure.photos import pictures

    path = mine / "colour.py"
    path.write_text(f"{path.read_text()}\nFEWEST = 50\n")
    made = plan.build({**plan_data, "scoring": {"subject": [str(path)]}})
    assert "colour needs 50 pictures or more on each side" in pictures.check(made.concepts, [made])[0]


def test_the_table_of_the_docs_holds_perdures_own_methods_only(package):
    cards = [catalogue.card(name) for name in plugins.own(plugins.METHOD)]
    assert "o_lora" not in looking.methods_markdown(cards)
