"""What pictures are worth: measures (images -> numbers, direction and range stated) and the matrix of their scores.

Nothing heavy is imported until a measure is loaded.
"""

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from perdure import plugins
from perdure.errors import ModelError, PlanError
from perdure.plugins import Source

if TYPE_CHECKING:
    from perdure.score.measure import Measure


@dataclass(frozen=True)
class MeasureCard:
    """What a measure's file says of itself, before it is run.

    fewest: pictures that it needs on each side (`FEWEST = 2` in the file). embedded: which of the embedded scorers
    plays its role on the embedded base (`EMBEDDED = "clip"`); empty where it needs no model or brings its own.
    """

    fewest: int
    embedded: str


def names() -> list[str]:
    """Names of all measures that need no path: the files in `measures/`, and those of installed packages."""
    return list(plugins.names(plugins.MEASURE))


def card(measure: Source) -> MeasureCard:
    """Read a measure's file. Raises PlanError naming the line of what is wrong in it."""
    if not any(isinstance(node, ast.FunctionDef) and node.name == "load" for node in measure.tree.body):
        raise measure.wrong(1, "it defines no function load(source, device) -> Measure")
    return MeasureCard(int(measure.constant("FEWEST", 1)), str(measure.constant("EMBEDDED", "")))


def load(
    name: str, source: str | Path | None = None, device: str = "cpu", file: Path | None = None, digest: str = ""
) -> "Measure":
    """A measure by its name or its file's path, its model loaded (once a process): the default hub model, another hub
    id, or a local folder.

    `file`: where its file lies, if it has no name to be found by; `digest`: what its content must be. Raises ModelError
    for an unknown name, and for a model that is missing, unreachable or of the wrong kind; PlanError for a faulty file.
    """
    try:
        found = plugins.find(plugins.MEASURE, name, file)
    except PlanError as error:
        raise ModelError(str(error)) from None
    if found.own:
        own: Measure = plugins.load(found).load(source, device)
        return own
    card(found)
    module = plugins.load(found, digest)
    with plugins.Running(found.path):
        made: Measure = module.load(source, device)
    if made.name != found.name:
        raise found.wrong(1, f"it makes a measure {made.name!r}; its name is the file's, {found.name!r}")
    return replace(made, spec={**made.spec, "file": f"{found.path.name}, digest {digest or found.digest}"})


def release() -> None:
    """Let go of the loaded models (features already computed stay valid)."""
    from perdure.score import encoders

    encoders.release()
