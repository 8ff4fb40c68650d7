"""Wall time of the same sweep by one worker and by two, turn by turn; see README.md."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TURNS = 3
GRID = """
plan:
  base: toybox
  method: naive
  concepts: {toybox: {subjects: 2}}
  training: {steps: 100}
  sampling: {images_per_prompt: 1}
axes:
  seeds: [0, 1, 2, 3]
"""


def seconds(workers: int) -> float:
    """Wall time of the whole command, start of Python and loading of the base included."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.yaml"
        grid.write_text(GRID)
        command = [sys.executable, "-m", "perdure", "sweep", str(grid), "--workers", str(workers)]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--out", str(Path(folder) / "out"), "--device", "cpu"], check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    ratios = [seconds(1) / seconds(2) for _ in range(TURNS)]
    print(f"4 runs on one worker / on two         {median(ratios):.2f}  ({', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
