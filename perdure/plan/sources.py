"""Where concepts come from: a list in the plan, a folder with one sub-folder per concept, or the toybox world.

Everything here returns plain mappings in the plan's own keys; `plan.Concept` checks them.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perdure.errors import PlanError
from perdure.plan import folders, tasks, yaml_file
from perdure.plan.fields import EMBEDDED, MODELS
from perdure.plugins import SUFFIX, is_path
from perdure.toybox import world
from perdure.wording import mentions, name_from, some

KOHYA = re.compile(r"^\d{1,3}_(?P<token>\S+)(?: (?P<noun>.+))?$")
"""Folder names of kohya's trainers: repeats, underscore, token and class (`10_zwz backpack`); `2023_trip` is a year."""
CODE = ("method", "methods", "scoring", "family")
"""Keys of a plan under which a Python file may be named."""
FILES = ("images", "references")
"""Keys of a concept that hold paths."""


def expand(concepts: Any, folder: Path, prompts: Mapping[str, Any] | None = None, seed: Any = 0) -> Any:
    """The plan's `concepts` as a list of mappings, relative paths resolved against `folder`.

    Accepts a list of concepts, `{folder: PATH}`, or `{toybox: {subjects: N}}` / `{toybox: {styles: N}}` with an
    optional `split` and `tokens`. What is none of these is handed back as it is, for the plan to refuse.
    `prompts`: kind -> training prompt of the concepts that have none of their own. Classes are cut into tasks with
    `{toybox: {classes: N, tasks: T}}` or `{folder: PATH, tasks: T}`, shuffled by their `seed`, or the plan's `seed`.
    """
    if tasks.asked(concepts):
        return tasks.expand(concepts, lambda path: resolve(folder, path), seed)
    if of_concepts := _folder_of(concepts, folder):
        concepts = from_folder(of_concepts)
    elif isinstance(concepts, dict) and set(concepts) == {"toybox"}:
        concepts = _from_toybox(concepts["toybox"])
    if not isinstance(concepts, list):
        return concepts
    return [_resolved(concept, folder, prompts) if isinstance(concept, dict) else concept for concept in concepts]


def notes(concepts: Any, folder: Path) -> list[str]:
    """What a plan's `concepts` left out or guessed, for all that `expand` accepts; a sentence each."""
    of_concepts = _folder_of(concepts, folder)
    return notes_on(of_concepts) if of_concepts else []


def _folder_of(concepts: Any, folder: Path) -> Path | None:
    given = isinstance(concepts, dict) and set(concepts) == {"folder"}
    return Path(resolve(folder, str(concepts["folder"]))) if given else None


def from_folder(folder: Path) -> list[dict[str, Any]]:
    """One concept for each sub-folder that holds images. Raises PlanError where there is none.

    A `concept.yaml` inside a sub-folder overrides what is guessed from names (token, class, prompt, kind, ...).
    """
    found = [path for path in _below(folder) if folders.pictures_in(path)]
    if not found:
        told = "".join(f"; {note}" for note in notes_on(folder))
        raise PlanError(
            f"{folder} has no sub-folder with images; put each concept's images into a folder of its own{told}"
        )
    nouns, names = _dreambooth_nouns(folder), _names(found)
    concepts = [_guessed(path, name, nouns) for path, name in zip(found, names, strict=True)]
    rare = _rare_tokens([str(concept["token"]) for concept in concepts if concept["token"]])
    return [concept if concept["token"] is not None else {**concept, "token": next(rare)} for concept in concepts]


def notes_on(folder: Path) -> list[str]:
    """What a folder of concepts holds that is none, and what was guessed that should be looked at; a sentence each."""
    told, nouns = [], _dreambooth_nouns(folder)
    loose = folders.listing(folder).pictures
    if loose:
        names = some(path.name for path in loose)
        told.append(f"{folder}: not read, for a concept is a folder: {names}; put them into one")
    for path in _below(folder):
        if not folders.pictures_in(path):
            told += [f"{path.name} is no concept: {note}" for note in folders.listing(path).left_out]
            continue
        guess = _guessed(path, path.name, nouns)
        if KOHYA.match(path.name):
            called = ", ".join(f"{key} {guess[key]!r}" for key in ("token", "class") if guess[key])
            told.append(f"{path.name!r} is read as the trainers' REPEATS_TOKEN CLASS: {called}; repeats do not count")
        if not (guess["class"] or guess.get("prompt") or guess["token"]):
            told.append(f"{path.name!r} tells no class noun; write its `class` in English, which most bases read")
    return told


def _below(folder: Path) -> list[Path]:
    """The sub-folders of a folder of concepts, sorted; hidden ones and those of the system are left out."""
    if not os.path.isdir(folder):
        raise PlanError(f"no folder {folder}; give a folder that has one sub-folder of images per concept")
    return sorted(path for path in folders.visible(folder) if path.is_dir())


def _names(found: Sequence[Path]) -> list[str]:
    """A name for each folder, whatever its script and length: no two alike, in whatever case."""
    names: list[str] = []
    for number, path in enumerate(found, start=1):
        name = name_from(path.name, otherwise=f"concept-{number}")
        taken = {other.lower() for other in names}
        again = next(k for k in itertools.count(1) if (f"{name[:60]}-{k}" if k > 1 else name).lower() not in taken)
        names.append(f"{name[:60]}-{again}" if again > 1 else name)
    return names


def _guessed(path: Path, name: str, nouns: dict[str, str]) -> dict[str, Any]:
    """A concept as its folder's name and its `concept.yaml` tell it; token None where a rare one is to be chosen."""
    token, noun = _called(path.name)
    guess: dict[str, Any] = {"name": name, "images": path, "token": token, "class": nouns.get(path.name) or noun}
    own = yaml_file.read(path / "concept.yaml")[0] if (path / "concept.yaml").is_file() else {}
    if "prompt" in own and "{token}" not in str(own["prompt"]):
        own = {"token": "", **own}  # the prompt has its own words for it
    return _resolved({**guess, **own}, path)


def _called(name: str) -> tuple[str | None, str]:
    """Token, if the name of a folder tells one, and class noun; empty where the name has no word in Latin letters."""
    kohya = KOHYA.match(name)
    if kohya and kohya["noun"]:
        return kohya["token"], kohya["noun"]
    if kohya and kohya["token"].lower() not in world.VOCABULARY:
        return kohya["token"], ""
    noun = (kohya["token"] if kohya else name).replace("_", " ").strip("0123456789 ")
    return None, noun if re.search("[A-Za-z]{2}", noun) else ""


def folder_plan(folder: Path, beside: Path, base: str) -> str:
    """A commented plan for a folder of concepts, with image paths relative to where the plan will lie."""
    concepts = [_relative(concept, beside) for concept in from_folder(folder)]
    head = (
        f"# Plan of {len(concepts)} concepts. Check it with `perdure check`, run it with `perdure run`.\n"
        "# A token should be rare and mean nothing to the base; the class is the noun for what the concept is.\n"
    )
    plan = {"base": base, "methods": ["naive", "merge_init"], "concepts": concepts}
    return head + yaml_file.dump(plan)


def _relative(concept: dict[str, Any], beside: Path) -> dict[str, Any]:
    def path(value: Any) -> Any:
        if not isinstance(value, Path):
            return value
        return Path(os.path.relpath(value, beside)).as_posix() if value.drive == beside.drive else str(value)

    lists = {key: [path(one) for one in concept[key]] for key in FILES if isinstance(concept.get(key), list)}
    return {key: path(value) for key, value in (concept | lists).items()}


def _dreambooth_nouns(folder: Path) -> dict[str, str]:
    """Class nouns from the `prompts_and_classes.txt` of the DreamBooth data set, where it lies in the folder."""
    listing = folder / "prompts_and_classes.txt"
    if not listing.is_file():
        return {}
    try:
        text = listing.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{listing}: cannot be read ({error}); mend it or move it away") from None
    rows = re.findall(r"^([a-z0-9_]+),([a-z ]+)$", text, flags=re.MULTILINE)
    return {name: noun for name, noun in rows if name != "subject_name"}


def _rare_tokens(taken: list[str]) -> Iterator[str]:
    """Rare tokens that neither contain nor are contained in those that are taken."""
    for token in world.RARE_TOKENS:
        if not any(mentions(other, token) or mentions(token, other) for other in taken):
            yield token
    raise PlanError(f"too many concepts in one folder; there are {len(world.RARE_TOKENS)} rare tokens")


def resolve(folder: Path, path: Any) -> Any:
    """An absolute path, relative ones starting from `folder`; what is no path is handed back as it is."""
    return Path(os.path.abspath(folder / os.path.expanduser(path))) if isinstance(path, str | Path) else path


def located(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same values with absolute paths for models and Python files; hub ids, and what is no name, as they are."""

    def path(name: Any) -> Any:
        if not isinstance(name, str) or name in ("", *EMBEDDED):
            return name
        if name[:1] not in (".", "~") and not os.path.isabs(name) and not os.path.exists(folder / name):
            return name
        return str(resolve(folder, name))

    located = data | {key: path(data[key]) for key in MODELS if key in data}
    located |= {key: code(data[key], folder) for key in CODE if key in data}
    scoring = located.get("scoring")
    if isinstance(scoring, dict) and isinstance(scoring.get("models"), dict):
        models = {measure: path(model) for measure, model in scoring["models"].items()}
        located["scoring"] = {**scoring, "models": models}
    return located


def code(value: Any, folder: Path) -> Any:
    """Nested values with absolute paths for Python files, relative ones starting from `folder`."""
    if isinstance(value, dict):
        return {code(key, folder): code(inner, folder) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [code(inner, folder) for inner in value]
    return str(resolve(folder, value)) if isinstance(value, str) and is_path(value) else value


def from_here(override: str) -> str:
    """An `a.b=value` string in which Python files start from the current folder, as in any command."""
    key, _, value = override.partition("=")
    if key.split(".")[0] not in CODE or SUFFIX not in value:
        return override
    read = yaml_file.override({}, (f"value={value}",))["value"]
    return f"{key}={json.dumps(code(read, Path()))}"


def _resolved(concept: dict[str, Any], folder: Path, prompts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    facts = _drawn_facts(concept["drawn"]) if isinstance(concept.get("drawn"), dict) else {}
    shared = (prompts or {}).get(str(concept.get("kind", facts.get("kind", "subject"))))
    concept = {**facts, **({"prompt": shared} if shared is not None else {}), **concept}
    for key in FILES:
        if isinstance(concept.get(key), list):
            concept[key] = [resolve(folder, path) for path in concept[key]]
        elif concept.get(key) is not None:
            concept[key] = resolve(folder, concept[key])
    return concept


def _from_toybox(wanted: Any) -> list[dict[str, Any]]:
    kinds = {"subjects": "subject", "styles": "style"}
    if not isinstance(wanted, dict) or not set(wanted) <= {*kinds, "split", "tokens"} or not set(wanted) & set(kinds):
        raise PlanError(
            "concepts.toybox: write `{subjects: N}` or `{styles: N}`, with an optional `split: test|dev`, and "
            "`tokens: rare` to call styles by rare tokens instead of their own words"
        )
    counts, split = {key: wanted.get(key, 0) for key in kinds}, wanted.get("split", "test")
    if not all(isinstance(count, int) and count >= 0 for count in counts.values()) or split not in ("test", "dev"):
        raise PlanError("concepts.toybox: subjects and styles are whole numbers from 0; split is test or dev")
    there = {"subjects": len(world.RARE_TOKENS), "styles": len(world.HELD_OUT_STYLES)}
    if short := next((key for key in there if counts[key] > there[key]), None):
        raise PlanError(f"concepts.toybox: the world has {there[short]} {short} (got {counts[short]})")
    if (tokens := wanted.get("tokens", "own")) not in ("own", "rare"):
        raise PlanError(f"concepts.toybox: tokens is own (a style is called by its words) or rare (got {tokens!r})")
    rare = dict(enumerate(world.RARE_TOKENS[counts["subjects"] :])) if tokens == "rare" else {}
    return [
        {
            "drawn": {"what": kinds[key], "index": index, "split": split},
            **({"token": rare[index]} if key == "styles" and index in rare else {}),
        }
        for key, count in counts.items()
        for index in range(count)
    ]


def _drawn_facts(drawn: dict[str, Any]) -> dict[str, Any]:
    """Name, token and class of a toybox concept; nothing where the mapping is not yet a valid one."""
    index, split = drawn.get("index"), drawn.get("split", "test")
    if not isinstance(index, int) or index < 0 or split not in ("test", "dev"):
        return {}
    try:
        if drawn.get("what", "subject") == "style":
            style = world.style_concepts(index + 1)[index]
            return {"name": style.name, "kind": "style", "token": style.style}
        subject = world.subjects(index + 1, split=split)[index]
    except ValueError as error:
        raise PlanError(f"concepts: the toybox world has no number {index}: {error}") from None
    called = {"token": subject.token, "class": subject.class_name, "prompt": "a photo of a {token} {class}"}
    return {"name": subject.name, "kind": "subject", **called}
