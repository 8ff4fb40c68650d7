"""Families of bases, one file each; found by its name, by its path, or by the class of a base's pipeline."""

import ast

from perdure import plugins
from perdure.bases.family import Family
from perdure.errors import ModelError, PlanError
from perdure.plan import FamilyChoice
from perdure.plugins import Source


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
