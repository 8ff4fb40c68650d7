"""The log of a stage: one JSON object a line in `<work>/<stage>.jsonl`, and the same on the terminal."""

import json
import time
from pathlib import Path


def log_line(work: Path, stage: str, **values: float | int | str) -> None:
    """Append one measurement; numbers are rounded to five digits."""
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()}
    line = json.dumps({"time": time.strftime("%H:%M:%S"), **rounded})
    with open(work / f"{stage}.jsonl", "a", encoding="utf-8") as handle:
        handle.write(line + "\n")
    print(stage, line, flush=True)
