"""Families of bases, one file each; found by its name, by its path, or by the class of a base's pipeline."""

import ast
import json
import os
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from perdure import plugins
from perdure.bases import outline, unets
from perdure.bases.family import Family
from perdure.errors import ModelError, PlanError
from perdure.plan import FamilyChoice
from perdure.plugins import Source

INDEX = "model_index.json"


def get(choice: FamilyChoice) -> Family:
    """A family by its name or its file. Raises PlanError where the file is not there, faulty or another one."""
    source = plugins.find(plugins.FAMILY, choice.name, choice.code.file)
    pipeline_of(source)
    return _made(source, choice.code.digest)


def of_pipeline(name: str, base: str) -> Family:
    """The family of a pipeline's class, perdure's own before those of installed packages. Raises ModelError."""
    known: dict[str, Source] = {}
    faulty = ""
    for called in plugins.names(plugins.FAMILY):
        try:
            source = plugins.find(plugins.FAMILY, called)
            known.setdefault(pipeline_of(source), source)
        except PlanError as error:  # of a package that may have nothing to do with this base
            faulty = f" ({error})"
    if name not in known:
        raise ModelError(f"base {base} is a {name}; perdure teaches {' and '.join(known)}{faulty}")
    return _made(known[name], "")


def reads_text(base: str, chosen: FamilyChoice | None = None) -> str:
    """Regular expression of the whole names of a base's layers that read text, nothing of it loaded; that of UNets
    where its index is not on this machine.
    """
    try:
        found = outline.source(base)
        index = Path(found) / INDEX if os.path.isdir(found) else try_to_load_from_cache(found, INDEX)
        name = str(json.loads(Path(str(index)).read_text(encoding="utf-8"))["_class_name"])
        return (get(chosen) if chosen else of_pipeline(name, base)).targets["cross"]
    except (ModelError, PlanError, OSError, ValueError, LookupError, TypeError):
        return unets.TARGETS["cross"]


def pipeline_of(source: Source) -> str:
    """The class of pipeline that a family's file is for, read from the file. Raises PlanError."""
    for node in source.tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["FAMILY"]:
            call = node.value
            if isinstance(call, ast.Call):
                given = {k.arg: k.value for k in call.keywords} | dict(
                    zip(("name", "pipeline"), call.args, strict=False)
                )
                name = given.get("pipeline")
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    return name.value
            raise source.wrong(node.lineno, 'write FAMILY = Family(name=..., pipeline="...Pipeline", ...) out')
    raise source.wrong(1, "it makes no FAMILY = Family(...)")


def _made(source: Source, digest: str) -> Family:
    family: Family = plugins.load(source, digest).FAMILY
    return family
