"""docs/api.md, made from docstrings: `python -m tests.api` writes it."""

import inspect
import sys
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
PUBLIC = {
    "perdure.plan": ("load", "build", "concept", "ready", "plan_text", "Plan", "Concept", "Training"),
    "perdure.run": ("run", "teach", "retry", "remove", "score"),
    "perdure.lineage": ("Lineage",),
    "perdure.drawing.draw": ("draw",),
    "perdure.report": ("build",),
    "perdure.memory": ("Memory", "load", "save"),
    "perdure.memory.delta": ("Change", "Delta"),
    "perdure.method": (
        "get", "Method", "Spec", "WordSpec", "Weights", "Adapter", "Context", "Model", "Protection", "Step", "Portion",
        "Consolidate", "Wanted",
    ),
    "perdure.parts": (
        "adapter", "start", "guard", "consolidate", "rehearsal", "neurons", "classifier", "head",
    ),
    "perdure.score": ("names", "load"),
    "perdure.score.measure": ("Measure",),
    "perdure.score.matrix": ("summary",),
    "perdure.bases.loading": ("load", "of"),
    "perdure.bases.family": ("Family",),
    "perdure.export.bringing": ("read",),
    "perdure.errors": ("PerdureError", "PlanError", "ModelError", "TrainingError", "LineageError", "GateRefused"),
}  # fmt: skip
"""What a script may import; the rest may change without a word."""
HEAD = """# What a script may import

Made by `python -m tests.api` from docstrings. What is not named here may change without a word in the changelog.

```python
from pathlib import Path

from perdure import plan, run
from perdure.score import matrix

plain = {
    "method": "merge_init",
    "concepts": {"toybox": {"subjects": 1}},
    "training": {"steps": 2},
    "sampling": {"images_per_prompt": 1, "steps": 2},
    "scoring": {"subject": ["dino"], "drift": 0},
}
made = plan.build(plain)
(lineage,) = run.run(made, Path("runs/api"), device="cpu")
print(matrix.summary(lineage.matrix("dino"))["average"])
```
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for module, names in PUBLIC.items():
        parts.append(f"## {module}\n\n{_summary(import_module(module))}\n")
        parts += [_entry(import_module(module), module, name) for name in names]
    return "\n".join(parts)


def _entry(module: object, where: str, name: str) -> str:
    if where == "perdure.parts":
        return f"- `{where}.{name}`: {_summary(import_module(f'{where}.{name}'))}\n"
    thing = getattr(module, name)
    shown = f"{name}{_signature(thing)}" if inspect.isfunction(thing) else name
    text = [f"### `{shown}`", "", inspect.getdoc(thing) or "", ""]
    if inspect.isclass(thing):
        own = [(key, value) for key, value in vars(thing).items() if not key.startswith(("_", "model_"))]
        functions = [(key, value) for key, value in own if inspect.isfunction(value) and value.__doc__]
        text += [f"- `{key}{_signature(value)}`: {_summary(value)}" for key, value in functions]
        text += [f"- `{key}`: {_summary(value)}" for key, value in own if isinstance(value, property) and value.__doc__]
        text += [""] if text[-1] else []
    return "\n".join(text)


def _signature(function: object) -> str:
    given = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    shown = (p.name if p.default is p.empty else f"{p.name}=..." for p in given if p.name != "self")
    return f"({', '.join(shown)})"


def _summary(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE}\n")
    PAGE.write_text(page(), encoding="utf-8")
