"""Teach, continue, take back and examine a model where Windows' rules hold: a script of its own, for it changes what
every module finds.

    python windows.py PLAN.json FOLDER      prints one JSON object

What is emulated, below FOLDER: no `fcntl` and no `resource`; no `O_NOFOLLOW`, no `O_NONBLOCK`; folders that cannot be
opened; names that Windows refuses, or that differ in case only from one that is there; no rename onto what is there;
no rename or removal of what is open. Locks are `flock`, kept aside for the place of `LockFileEx`.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import sys
from pathlib import Path

import psutil

KEPT = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB
REFUSED = re.compile(r'(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[<>:"|?*\\\x00-\x1f].*|.*[. ]')


def lock(handle: int, *, blocking: bool) -> bool:
    """In the place of `filelock.lock_descriptor`."""
    assert not blocking
    try:
        KEPT[0](handle, KEPT[1])
    except BlockingIOError:
        return False
    return True


class Rules:
    """What Windows refuses below a folder, as an audit hook."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen, self.asking = str(folder) + os.sep, 0, False

    def __call__(self, event: str, args: tuple) -> None:
        name = args[0] if args else None
        if self.asking or not isinstance(name, str | Path) or not str(name).startswith(self.folder):
            return
        self.asking = True
        try:
            if event == "open" and os.path.isdir(name):
                raise PermissionError(errno.EACCES, "Windows opens no folder", str(name))
            if event in ("open", "os.mkdir"):
                self.named(str(name))
            if event == "os.rename":
                self.named(str(args[1]))
            if event in ("os.rename", "os.remove", "os.rmdir"):
                self.closed(str(name))
        finally:
            self.asking = False

    def named(self, path: str) -> None:
        self.seen += 1
        for part in path.removeprefix(self.folder).split(os.sep):
            assert not REFUSED.fullmatch(part), f"no name on Windows: {path}"
        above, own = os.path.split(path)
        if os.path.isdir(above):
            alike = {other for other in os.listdir(above) if other.lower() == own.lower()} - {own}
            assert not alike, f"one on Windows: {path} and {alike}"

    def closed(self, path: str) -> None:
        self.seen += 1
        process = psutil.Process()
        used = {f.path for f in process.open_files()} | {m.path for m in process.memory_maps()}
        assert not [one for one in used if f"{one}{os.sep}".startswith(f"{path}{os.sep}")], f"in use: {path}"


def hide() -> None:
    """Take away what Windows has not."""
    import filelock

    sys.modules["fcntl"] = sys.modules["resource"] = None
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        delattr(os, name)
    shutil._use_fd_functions = False  # trees are deleted by paths there
    filelock.lock_descriptor = lock
    rename = os.rename

    def refusing(source, target, **options):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "Windows renames onto nothing", str(target))
        rename(source, target, **options)

    os.rename = refusing


def main(data: dict, folder: Path) -> None:
    hide()
    from perdure import plan, report, run
    from perdure.errors import LineageError
    from perdure.lineage import fsck, history, locks

    rules = Rules(folder)
    sys.addaudithook(rules)
    made = plan.build(data)
    short = made.model_copy(update={"concepts": made.concepts[:1]})
    run.run(short, folder / "runs", device="cpu")
    (line,) = run.run(made, folder / "runs", device="cpu")
    told = {"lessons": line.concepts, "again": [], "peak": line.lessons[0].record["peak_memory"]}
    with line.locked():
        told["held"] = locks.held(line.folder / locks.LOCK)
        try:
            fsck.examine(line.folder)
        except LineageError as error:
            told["refused"] = str(error)
        history.undo(line)
        history.redo(line)
        history.undo(line)
    told["undone"] = line.concepts
    run.run(made, folder / "runs", device="cpu")
    told["again"] = line.concepts
    told["findings"] = [finding.what for finding in fsck.examine(line.folder, mend=True)]
    report.build([line], folder / "report", "x")
    assert rules.seen > 100, rules.seen
    print(json.dumps(told | {"memories": [row.record["memory"] for row in line.lessons]}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
