"""What pictures are worth: measures (images -> numbers, direction and range stated) and the matrix of their scores.

Nothing heavy is imported until a measure is loaded.
"""

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.errors import ModelError

if TYPE_CHECKING:
    from perdure.score.measure import Measure

FEWEST = {"mmd": 2}
"""Pictures that a measure needs on each side; one, where it compares single pictures."""


def names() -> list[str]:
    """Names of all measures, sorted: the files in `measures/`."""
    files = (Path(__file__).parent / "measures").glob("*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def load(name: str, source: str | Path | None = None, device: str = "cpu") -> "Measure":
    """Measure `name` with its model loaded (once a process): the default hub model, another hub id, or a
    local folder.

    Raises ModelError for an unknown name, and for a model that is missing, unreachable or of the wrong kind.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(f"there is no measure {name!r}; {hint}There are: {', '.join(names())}.")
    measure: Measure = importlib.import_module(f"{__name__}.measures.{name}").load(source, device)
    return measure


def release() -> None:
    """Let go of the loaded models (features already computed stay valid)."""
    from perdure.score import encoders

    encoders.release()
