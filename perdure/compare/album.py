"""The charts of a study as SVG files of their own, for papers, slides and readmes."""

from pathlib import Path

from markupsafe import Markup

from perdure import files
from perdure.compare import drawings, page
from perdure.compare.study import Study

STYLE = '{% include "charts.css.j2" %}{% include "compare.css.j2" %}svg { background: var(--paper); }'


def write(study: Study, folder: Path) -> list[Path]:
    """Trade-off, curves and fronts of each measure as `KEY-MEASURE.svg`; returns their paths."""
    style = page.environment().from_string(STYLE).render()
    written = []
    for measure in study.measures:
        found = [drawings.trade_off(study, measure), *drawings.curves(study, measure), *drawings.fronts(study, measure)]
        for chart in filter(None, found):
            path = folder / f"{chart.key}-{measure}.svg"
            files.write_text(path, standing_alone(chart.svg, style))
            written.append(path)
    return written


def standing_alone(svg: Markup, style: str) -> str:
    """An inline `svg` element as a file: with its namespace, and the page's style inside."""
    head, body = str(svg).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{body}'
