"""A fuzzer of everything that is read: `python -m tests.fuzz --cases 10000 --seed 0`.

Each case is a sound input with a few things spoilt, given to the commands that read it, in this process. A finding is
what comes to no end within five seconds, or ends in anything but a PerdureError. Case k of a seed is the same wherever
and after whatever it runs: `--first k --cases 1` shows it again, with its traceback.

`--records` draws nothing: it takes each key of a model's records away in turn, and puts values of other kinds in its
place; that takes most of an hour.
"""

import argparse
import copy
import faulthandler
import functools
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import click
import numpy as np
import typer
import yaml
from PIL import Image

from perdure.errors import PerdureError

SECONDS = 5
"""Of this process's own time, so that a busy machine makes no finding."""
ASLEEP = 60
"""Seconds by the clock after which a case is taken to wait for ever."""
Spoil = Callable[[random.Random, bytes], bytes]
ODD = [
    None, True, False, 0, -1, 1, 2, 10**9, 10**40, -0.5, 0.3, 1e308, 1e-320, float("nan"), float("inf"), "", " ", "a",
    ".", "..", "../..", "/", "~", "~nobody", "~root/x", "/dev/null", "\0", "\n", "\ud800", "é" * 3000, "{concept}",
    "{token} {class}", "{0}", "{", "[trigger]", "%s", "1e400", "1:30", "2026-01-01", "null", [], [[]], [None], [1, 2],
    ["a", "a"], {}, {"": 1}, {"a": None}, {"name": "x"}, {1: 2}, "report.html", "naive", "joint", "random", "listed",
    "000-base", "x" * 300, "-", "--", "CON", "a/b", "toybox", "cpu", "fp16", 3.0, "3", [1.5, 0.9], [0.9, 0.999], [0, 1],
]  # fmt: skip
BYTES = [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"{", b"[", b"]]", b"&a [*a,*a]", b"!!python/object:os.system x", b"\x85",
         b"9" * 400, b"\xe2\x80\xa8", b"<script>", b"- " * 40, b"\r", b"NaN", b"\xf0\x9f\x92\xa9", b": :"]  # fmt: skip


class TooLong(BaseException):
    """Five seconds are over. No command catches it."""


# --- spoiling ------------------------------------------------------------------------------------------------------


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes cut, doubled, changed, or put in between."""
    at = rng.randrange(len(data) + 1)
    how = rng.randrange(6)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + rng.choice(BYTES) + data[at:]
    if how == 2:
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))) + data[at + 4 :]
    if how == 3:
        return data[:at] + data[at : at + 200] * rng.randrange(2, 4) + data[at + 200 :]
    if how == 4 and data:
        flipped = bytearray(data)
        flipped[at % len(data)] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    return b"" if rng.random() < 0.3 else data[at:]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands inside nested values."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, own in inside:
        yield from places(own, (*at, key))


def spoil_value(rng: random.Random, value: Any) -> Any:
    """Nested values in which one is another, or gone, or is called otherwise, or stands twice."""
    at = rng.choice(list(places(value)))
    if not at:
        return rng.choice(ODD) if rng.random() < 0.2 else value
    parent = value
    for key in at[:-1]:
        parent = parent[key]
    how = rng.randrange(6)
    if how == 0:
        del parent[at[-1]]
    elif how == 1 and isinstance(parent, dict):
        parent[rng.choice([str(at[-1]) + "s", "", "name", *parent])] = parent.pop(at[-1])
    elif how == 2 and isinstance(parent, list):
        parent.append(parent[at[-1]])
    else:
        parent[at[-1]] = rng.choice(ODD)
    return value


def spoil_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON file, spoilt inside or out."""
    try:
        value = json.loads(data)
    except ValueError:
        return spoil_bytes(rng, data)
    return json.dumps(spoil_value(rng, value)).encode() if rng.random() < 0.8 else spoil_bytes(rng, data)


def spoil_file(rng: random.Random, path: Path) -> None:
    """A file spoilt, gone, or another kind of thing in its place."""
    how = rng.randrange(12)
    if how < 8:
        data = path.read_bytes()
        path.write_bytes((spoil_json if path.suffix == ".json" else spoil_bytes)(rng, data))
        return
    path.unlink()
    if how == 9:
        path.mkdir()
    elif how == 10:
        os.mkfifo(path)
    elif how == 11:
        path.symlink_to(rng.choice([path.name, "/dev/zero", "/etc/hostname", "nowhere", "."]))


def some_file(rng: random.Random, folder: Path) -> Path:
    """Any file below a folder."""
    return rng.choice(sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()))


# --- sound inputs --------------------------------------------------------------------------------------------------


class Stock:
    """Sound inputs, made once; cases work on copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number, name in enumerate(("dog", "cat")):
            self._pictures(folder / "photos" / name, number)
        self.archive = folder / "sound.zip"
        with zipfile.ZipFile(self.archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted((folder / "photos").rglob("*.*")):
                packed.write(path, f"set/{path.relative_to(folder / 'photos')}")
        self.model = folder / "model"
        if not self.model.exists():
            self._model()
        self._warm()

    def _warm(self) -> None:
        """Sound inputs are read without an error, and everything is imported before the clock runs."""
        from perdure.bases import loading
        from perdure.sweep import grid

        with tempfile.TemporaryDirectory() as temporary, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            folder = Path(temporary)
            (folder / "photos").symlink_to(self.folder / "photos")
            (folder / "plan.yaml").write_text(yaml.safe_dump(self.plan()))
            command("check", folder / "plan.yaml")
            command("plan", "new", self.folder / "photos", "--out", folder / "new.yaml")
            for words in READERS:
                shutil.copytree(self.model, folder / words[0], dirs_exist_ok=True)
                command(words[0], folder / words[0], *words[1:])
            grid.build(self.grid())
            loading.load("toybox", device="cpu")

    def _pictures(self, folder: Path, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        for number, end in enumerate(("png", "jpg", "webp")):
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{number}.{end}")
        (folder / "0.txt").write_text("a photo of {token} {class}")
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1.jpg", "text": "[trigger] in snow"}) + "\n")

    def plan(self) -> dict[str, Any]:
        """A plan of every kind of key."""
        return {
            "name": "x", "base": "toybox", "methods": ["naive", {"name": "magmax", "options": {"operand": "delta"}}],
            "concepts": [
                {"name": "dog", "images": "photos/dog", "token": "zwz", "class": "dog", "prompt": "a {token} {class}"},
                {"name": "cat", "images": ["photos/cat/0.png", "photos/cat/1.jpg"], "token": "sbu", "class": "cat"},
                {"name": "thing", "drawn": {"what": "style", "index": 1, "images": 2}, "token": "q", "class": "dog"},
            ],
            "order": [2, 1, 3], "seed": 3,
            "training": {
                "steps": 2, "learning_rate": 1e-3, "batch_size": 1, "betas": [0.9, 0.99], "warmup": 1,
                "views": 2, "prior": {"images": 2, "weight": 1.0}, "preserve": {"weight": 1.0},
                "min_snr": 5,
            },
            "sampling": {"steps": 2, "images_per_prompt": 1, "guidance": 3, "negative_prompt": "x"},
            "scoring": {"subject": ["clip_i", "dino"], "style": ["csd"]},
        }  # fmt: skip

    def grid(self) -> dict[str, Any]:
        """A grid of every kind of axis."""
        return {
            "name": "g", "plan": "toybox-subjects", "set": {"training.steps": 1},
            "axes": {
                "methods": ["naive", "merge_init"], "orders": {"random": [0, 5]}, "seeds": [0, 1],
                "training.learning_rate": [1e-3, 2e-3], "prompts": {"short": {"sampling.steps": 2}},
            },
        }  # fmt: skip

    def _model(self) -> None:
        """Two lessons of one step on the embedded base."""
        from perdure import plan, run

        made = plan.build(
            {
                **self.plan(),
                "methods": ["cidm"],
                "order": [2, 1, 3],
                "training": {"steps": 1, "resolution": 32},
                "sampling": {
                    "steps": 1,
                    "images_per_prompt": 1,
                    "prompts": {"subject": ["a {concept}"], "style": ["{concept}"]},
                },
                "scoring": {"subject": ["clip_i"], "style": ["csd"]},
            },
            folder=self.folder,
        )
        data = made.model_copy(update={"concepts": made.concepts[:2], "order": None})
        run.run(data, self.folder / "run", device="cpu")
        shutil.move(next(p.parent for p in (self.folder / "run").rglob("lineage.json")), self.model)


# --- what is read --------------------------------------------------------------------------------------------------


def command(*words: object) -> None:
    """A command line, in this process; what it says about how it is used is no finding."""
    from perdure import cli

    try:
        cli.app([str(word) for word in words], standalone_mode=False)
    except click.ClickException:
        pass


def plans(rng: random.Random, stock: Stock, folder: Path) -> None:
    """A plan file."""
    value = stock.plan()
    for _ in range(rng.randrange(1, 4)):
        value = spoil_value(rng, value)
    text = yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    (folder / "plan.yaml").write_bytes(text if rng.random() < 0.8 else spoil_bytes(rng, text))
    (folder / "photos").symlink_to(stock.folder / "photos")
    command("check", folder / "plan.yaml")


def overrides(rng: random.Random, stock: Stock, folder: Path) -> None:
    """`--set`."""
    (folder / "plan.yaml").write_text(yaml.safe_dump(stock.plan()))
    (folder / "photos").symlink_to(stock.folder / "photos")
    keys = [".".join(map(str, at)) for at in places(stock.plan()) if at] + ["", ".", "a..b", "concepts.toybox", "order"]
    words = []
    for _ in range(rng.randrange(1, 4)):
        value = rng.choice(ODD)
        told = value if isinstance(value, str) else json.dumps(value)
        words += ["--set", f"{rng.choice(keys)}{rng.choice(['=', '=', '=', ''])}{told}"]
    command("check", folder / "plan.yaml", *words)


def grids(rng: random.Random, stock: Stock, folder: Path) -> None:
    """A grid file."""
    from perdure.sweep import grid

    value = stock.grid()
    for _ in range(rng.randrange(1, 3)):
        value = spoil_value(rng, value)
    text = yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    (folder / "grid.yaml").write_bytes(text if rng.random() < 0.8 else spoil_bytes(rng, text))
    grid.load(folder / "grid.yaml")


def folders(rng: random.Random, stock: Stock, folder: Path) -> None:
    """A folder of concepts: pictures and captions, as plan, check and a lesson read them."""
    from perdure import plan
    from perdure.photos import pictures

    shutil.copytree(stock.folder / "photos", folder / "photos")
    for _ in range(rng.randrange(1, 4)):
        spoil_file(rng, some_file(rng, folder / "photos"))
        if rng.random() < 0.3:
            odd = rng.choice([name for name in ODD if isinstance(name, str) and name.isprintable() and "/" not in name])
            (folder / "photos" / "dog" / f"{odd[:60]}.txt").write_bytes(rng.choice(BYTES))
    command("plan", "new", folder / "photos", "--out", folder / "plan.yaml")
    command("check", folder / "plan.yaml")
    for concept in plan.load(folder / "plan.yaml").concepts:
        pictures.of(concept)


READERS = (["log"], ["log", "--json"], ["report"], ["analyse", "--json"], ["undo"], ["compare"])
"""Commands that read a model."""


def lineages(rng: random.Random, stock: Stock, folder: Path) -> None:
    """A model's folder."""
    model = folder / "model"
    shutil.copytree(stock.model, model)
    for _ in range(rng.randrange(1, 3)):
        told = [p for p in model.rglob("*") if p.is_file() and p.suffix in (".json", ".jsonl", ".yaml")]
        spoil_file(rng, rng.choice(sorted(told)) if rng.random() < 0.7 else some_file(rng, model))
    words = rng.choice(READERS)
    command(words[0], model, *words[1:])


def archives(rng: random.Random, stock: Stock, folder: Path) -> None:
    """A zip or tar archive."""
    from perdure.datasets import fetching

    path = folder / "set.zip"
    path.write_bytes(stock.archive.read_bytes())
    if rng.random() < 0.3:
        path = Path(
            shutil.make_archive(str(folder / "set"), rng.choice(["tar", "gztar", "xztar"]), stock.folder, "photos")
        )
    for _ in range(rng.randrange(1, 3)):
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    fetching.unpack(path, folder / "out", lambda name: name.endswith((".png", ".jpg", ".txt")))


def models(rng: random.Random, stock: Stock, folder: Path) -> None:
    """A pipeline's folder."""
    from perdure.bases import loading, outline

    shutil.copytree(outline.EMBEDDED, folder / "base", ignore=shutil.ignore_patterns("scorers"))
    told = sorted(p for p in (folder / "base").rglob("*") if p.is_file() and "figures" not in p.name)
    spoil_file(rng, rng.choice(told))
    loading.identity(str(folder / "base"))
    loading.load(str(folder / "base"), device="cpu")


READ = [plans] * 8 + [overrides] * 6 + [grids] * 5 + [folders] * 5 + [lineages] * 7 + [archives] * 3 + [models]
"""Of 35 cases, how many are of each kind."""


@contextmanager
def watched() -> Iterator[None]:
    """No more than five seconds of work, and nothing on the screen."""

    def stop(number: int, frame: Any) -> None:
        raise TooLong

    clocks = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, ASLEEP))
    for number, _, _ in clocks:
        signal.signal(number, stop)
    for _, clock, seconds in clocks:
        signal.setitimer(clock, seconds)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for number, clock, _ in clocks:
            signal.setitimer(clock, 0)
            signal.signal(number, signal.SIG_IGN)  # by default one on its way would end the process


def tried(what: str, read: Callable[[], None]) -> str:
    """A finding in words, or nothing."""
    try:
        with watched():
            read()
    except PerdureError as error:
        return "" if str(error).strip() else f"{what}: an error without words"
    except (SystemExit, typer.Exit):
        return ""
    except TooLong:
        return f"{what}: no end within {SECONDS} s\n{traceback.format_exc()}"
    except Exception as error:
        return f"{what}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
    return ""


def try_case(seed: int, number: int, stock: Stock) -> str:
    """What comes of one case."""
    rng = random.Random(f"{seed} {number}")
    read = rng.choice(READ)
    with tempfile.TemporaryDirectory() as folder:
        return tried(f"case {number} ({read.__name__})", lambda: read(rng, stock, Path(folder)))


def without(value: Any, at: tuple[Any, ...], *other: Any) -> Any:
    """Nested values without what stands at a place, or with another one there."""
    changed = copy.deepcopy(value)
    parent = functools.reduce(lambda inside, key: inside[key], at[:-1], changed)
    if other:
        (parent[at[-1]],) = other
    else:
        del parent[at[-1]]
    return changed


def try_records(stock: Stock, model: Path) -> Iterator[str]:
    """Findings where any one key of a model's records is gone, or holds a value of another kind.

    One record of each name is enough for each of its keys, and the first value of a list; tensors are all alike.
    """
    shutil.copytree(stock.model, model)
    seen = set()
    for file in sorted(model.rglob("*.json")):
        sound = file.read_bytes()
        value = json.loads(sound)
        for at in places(value):
            called = file.name, *(0 if isinstance(key, int) else key for key in at)
            if not at or called in seen or (at[0] == "tensors" and len(at) > 1):
                continue
            seen.add(called)
            for other in ((), (None,), ("odd",), ([1],), ({"a": "b"},)):
                file.write_text(json.dumps(without(value, at, *other)))
                for word in ("log", "report"):
                    what = f"{word}: {'.'.join(map(str, called))} {other[0] if other else 'gone'!r}"
                    if told := tried(what, lambda word=word: command(word, model)):
                        yield told
        file.write_bytes(sound)
        print(f"{file.relative_to(model)} is through", file=sys.stderr)


def main() -> None:
    """Any number of cases; exit code 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--stock", type=Path, help="folder where sound inputs are kept from time to time")
    parser.add_argument("--records", action="store_true", help="instead, every key of a model's records, by and by")
    given = parser.parse_args()
    findings = 0
    with tempfile.TemporaryDirectory() as temporary:
        stock = Stock(given.stock or Path(temporary))
        if given.records:
            for told in try_records(stock, Path(temporary) / "spoilt"):
                findings += 1
                print(told, flush=True)
            print(f"every key of a model's records, {findings} findings")
            sys.exit(findings > 0)
        for number in range(given.first, given.first + given.cases):
            if number % 50 == 0:
                print(f"from case {number} on", file=sys.stderr)
            faulthandler.dump_traceback_later(3 * ASLEEP, exit=True)  # native code may wait and hear no signal
            if told := try_case(given.seed, number, stock):
                findings += 1
                print(told, flush=True)
        faulthandler.cancel_dump_traceback_later()
    print(f"{given.cases} cases, {findings} findings")
    sys.exit(findings > 0)


if __name__ == "__main__":
    main()
