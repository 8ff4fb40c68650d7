"""Where concepts come from: a list in the plan, a folder with one sub-folder per concept, or the toybox world.

Everything here returns plain mappings in the plan's own keys; `plan.Concept` checks them.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perdure import yaml_file
from perdure.errors import PlanError
from perdure.images import EXTENSIONS
from perdure.toybox import world

KOHYA = re.compile(r"^\d+_(?P<token>\S+)(?: (?P<noun>.+))?$")
"""Folder names of kohya's trainers: repeats, underscore, token and class (`10_zwz backpack`)."""


def expand(concepts: Any, folder: Path, prompts: Mapping[str, Any] | None = None) -> Any:
    """The plan's `concepts` as a list of mappings, relative paths resolved against `folder`.

    Accepts a list of concepts, `{folder: PATH}`, or `{toybox: {subjects: N}}` / `{toybox: {styles: N}}` with an
    optional `split` and `tokens`. What is none of these is handed back as it is, for the plan to refuse.
    `prompts`: kind -> training prompt of the concepts that have none of their own.
    """
    if isinstance(concepts, dict) and set(concepts) == {"folder"}:
        concepts = from_folder(resolve(folder, str(concepts["folder"])))
    elif isinstance(concepts, dict) and set(concepts) == {"toybox"}:
        concepts = _from_toybox(concepts["toybox"])
    if not isinstance(concepts, list):
        return concepts
    return [_resolved(concept, folder, prompts) if isinstance(concept, dict) else concept for concept in concepts]


def from_folder(folder: Path) -> list[dict[str, Any]]:
    """One concept for each sub-folder that holds images. Raises PlanError where there is none.

    A `concept.yaml` inside a sub-folder overrides what is guessed from names (token, class, prompt, kind, ...).
    """
    if not folder.is_dir():
        raise PlanError(f"no folder {folder}; give a folder that has one sub-folder of images per concept")
    nouns = _dreambooth_nouns(folder)
    found = [path for path in sorted(folder.iterdir()) if path.is_dir() and _has_images(path)]
    if not found:
        raise PlanError(f"{folder} has no sub-folder with images; put each concept's images into a folder of its own")
    concepts = [_guessed(path, nouns) for path in found]
    rare = _rare_tokens([str(concept["token"]) for concept in concepts if concept["token"]])
    return [concept if concept["token"] is not None else {**concept, "token": next(rare)} for concept in concepts]


def _guessed(path: Path, nouns: dict[str, str]) -> dict[str, Any]:
    """A concept as its folder's name and its `concept.yaml` tell it; token None where a rare one is to be chosen."""
    kohya = KOHYA.match(path.name)
    noun = (kohya and kohya["noun"]) or nouns.get(path.name) or path.name.replace("_", " ").rstrip("0123456789 ")
    guess: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9_-]+", "-", path.name).strip("-_"),
        "images": path,
        "token": kohya["token"] if kohya else None,
        "class": noun,
    }
    own = yaml_file.read(path / "concept.yaml")[0] if (path / "concept.yaml").is_file() else {}
    if "prompt" in own and "{token}" not in str(own["prompt"]):
        own = {"token": "", **own}  # the prompt has its own words for it
    return _resolved({**guess, **own}, path)


def plan_text(folder: Path, beside: Path, base: str) -> str:
    """A commented plan for a folder of concepts, with image paths relative to where the plan will lie."""
    concepts = [{**concept, "images": os.path.relpath(concept["images"], beside)} for concept in from_folder(folder)]
    head = (
        f"# Plan of {len(concepts)} concepts. Check it with `perdure check`, run it with `perdure run`.\n"
        "# A token should be rare and mean nothing to the base; the class is the noun for what the concept is.\n"
    )
    plan = {"base": base, "methods": ["naive", "merge_init"], "concepts": concepts}
    return head + yaml_file.dump(plan)


def _has_images(folder: Path) -> bool:
    return any(p.suffix[1:].lower() in EXTENSIONS and not p.name.startswith(".") for p in folder.iterdir())


def _dreambooth_nouns(folder: Path) -> dict[str, str]:
    """Class nouns from the `prompts_and_classes.txt` of the DreamBooth data set, where it lies in the folder."""
    listing = folder / "prompts_and_classes.txt"
    if not listing.is_file():
        return {}
    rows = re.findall(r"^([a-z0-9_]+),([a-z ]+)$", listing.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: noun for name, noun in rows if name != "subject_name"}


def _rare_tokens(taken: list[str]) -> Iterator[str]:
    """Rare tokens that neither contain nor are contained in those that are taken."""
    for token in world.RARE_TOKENS:
        if not any(token in other.lower() or other.lower() in token for other in taken):
            yield token
    raise PlanError(f"too many concepts in one folder; there are {len(world.RARE_TOKENS)} rare tokens")


def resolve(folder: Path, path: Any) -> Any:
    """An absolute path, relative ones starting from `folder`; what is no path is handed back as it is."""
    return Path(os.path.abspath(folder / Path(path).expanduser())) if isinstance(path, str | Path) else path


def _resolved(concept: dict[str, Any], folder: Path, prompts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    facts = _drawn_facts(concept["drawn"]) if isinstance(concept.get("drawn"), dict) else {}
    shared = (prompts or {}).get(str(concept.get("kind", facts.get("kind", "subject"))))
    concept = {**facts, **({"prompt": shared} if shared is not None else {}), **concept}
    for key in ("images", "references"):
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
