"""Results as JSON, as tables and as plots. ``python -m benchmarks.report`` puts them into docs/performance.md.

Every measured scenario is a section of ``results.json``; measuring it again replaces the series that were measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.promises import MOST_MEMORY_OF_FOUR_WORKERS, checked, memory_of_four_workers
from benchmarks.rounds import Round, median_ratio, values
from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import TITLES

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: written by benchmarks/report.py -->", "<!-- end of figures -->"
COLOURS = {
    "ours": "#1f77b4",
    "ours-affinity": "#aec7e8",
    "ours-500-models": "#17becf",
    "torchserve": "#d62728",
    "torchserve-omp1": "#ff9896",
    "mosec": "#ff7f0e",
    "litserve": "#9467bd",
    "loop": "#2ca02c",
}
Results = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """``ratio`` is what a further column calls ours to this target's; empty: there is none."""

    figure: str
    title: str
    scale: float
    form: str
    ratio: str = ""

    def told(self, value: float) -> str:
        return self.form.format(value * self.scale)


COLUMNS = (
    Column("rate", "requests/s", 1, "{:,.0f}", "throughput"),
    Column("cpu_seconds", "CPU us/request", 1e6, "{:,.0f}", "CPU"),
    Column("p50", "p50 ms", 1e3, "{:,.2f}", "p50"),
    Column("p99", "p99 ms", 1e3, "{:,.2f}", "p99"),
    Column("peak_memory", "peak MiB", 2**-20, "{:,.0f}"),
    Column("peak_payloads", "peak above idle, payloads a request in flight", 1, "{:.1f}"),
    Column("start_seconds", "first answer s", 1, "{:.2f}", "first answer"),
    Column("memory", "memory MiB (PSS)", 2**-20, "{:,.0f}", "memory"),
    Column("scale_up_seconds", "one more worker ms", 1e3, "{:,.0f}"),
    Column("connection_memory", "KiB an idle connection (PSS)", 2**-10, "{:,.1f}"),
)


def read(folder: Path) -> Results:
    file = folder / "results.json"
    return json.loads(file.read_text()) if file.exists() else {}


def add(folder: Path, scenario: str, section: dict[str, Any]) -> dict[str, Any]:
    """Puts a section among the results in the folder, beside series of it that were measured before."""
    results = read(folder)
    for told in section["series"].values():
        told["measured"] = section["measured"]
    before = results.get(scenario, {}).get("series", {})
    series = {**before, **section["series"]}
    results[scenario] = {**section, "series": dict(sorted(series.items(), key=lambda item: int(item[0])))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return section


# --- tables ----------------------------------------------------------------------------------------------------------


def page(results: Results) -> Iterator[str]:
    for scenario in SCENARIOS:
        if scenario in results:
            yield from section_page(results[scenario])
    yield from promise_table(results)


def section_page(section: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {section['title']}"
    for number, series in section["series"].items():
        yield f"\n{number} {section['series_name']}. {series['measured']}\n"
        yield from table(series["rounds"])
        for target, reason in series["void"].items():
            yield f"\n**{TITLES[target]} has no figures.** {' '.join(reason.split())[:500]}"


def table(rounds: Sequence[Round]) -> Iterator[str]:
    """Medians of the rounds, lowest to highest in brackets; ratios are ours to each target's, within a round."""
    targets = list(dict.fromkeys(target for one in rounds for target in one))
    columns = [column for column in COLUMNS if any(values(rounds, target, column.figure) for target in targets)]
    compared = [column for column in columns if column.ratio and "ours" in targets]
    heads = [column.title for column in columns] + [f"ours to it: {column.ratio}" for column in compared]
    yield f"| | {' | '.join(heads)} |"
    yield "|---|" + "--:|" * len(heads)
    for target in sorted(targets, key=list(TITLES).index):
        cells = [spread(values(rounds, target, column.figure), column) for column in columns]
        cells += [ratio(rounds, column.figure, target) for column in compared]
        yield f"| {TITLES[target]} | {' | '.join(cells)} |"


def spread(found: list[float], column: Column) -> str:
    if not found:
        return ""
    low, middle, high = map(column.told, (min(found), median(found), max(found)))
    return middle if low == high else f"{middle} ({low} to {high})"


def ratio(rounds: Sequence[Round], figure: str, other: str) -> str:
    found = None if other == "ours" else median_ratio(rounds, figure, "ours", other)
    return "" if found is None else f"{found:.2f}x"


def promise_table(results: Results) -> Iterator[str]:
    yield "\n### What is promised\n"
    yield "Ours to the other's, or ours itself; for requests a second more is better, for all else less.\n"
    yield "| | | against | measured | goal | met |"
    yield "|---|---|---|--:|---|---|"
    columns = {column.figure: column for column in COLUMNS}
    for promise, measured in checked(results):
        section = results[promise.scenario]
        load = f"{section['title']}, {promise.series} {section['series_name']}"
        column = columns[promise.figure]
        if promise.target != "ours":
            load += f", {TITLES[promise.target]}"
        told, goal, against = f"{measured:.2f}x", promise.goal, TITLES.get(promise.other, "")
        if not promise.other and promise.most is not None:
            told, goal = column.told(measured), f"<= {column.told(promise.most)}"
        met = "told" if not goal else "yes" if promise.holds(measured) else "**no**"
        yield f"| {load} | {column.title} | {against} | {told} | {goal} | {met} |"
    if (grown := memory_of_four_workers(results)) is not None:
        met = "yes" if grown <= MOST_MEMORY_OF_FOUR_WORKERS else "**no**"
        title, goal = results["memory"]["title"], f"<= {MOST_MEMORY_OF_FOUR_WORKERS:g}x"
        yield f"| {title}, 4 workers | memory MiB (PSS) | our own 1 worker | {grown:.2f}x | {goal} | {met} |"


# --- plots -----------------------------------------------------------------------------------------------------------

Panel = tuple[str, str, dict[str, list[float]]]  # title, unit, and each target's values


def draw(results: Results, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(all_panels(results))
    rows = (len(panels) + 1) // 2
    figure, axes = pyplot.subplots(rows, 2, figsize=(13, 2.6 * rows), squeeze=False, layout="constrained")
    for place, panel in zip(axes.flat, panels, strict=False):
        draw_bars(place, *panel)
    for place in list(axes.flat)[len(panels) :]:
        place.set_axis_off()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def all_panels(results: Results) -> Iterator[Panel]:
    for scenario in SCENARIOS:
        for number, series in results.get(scenario, {}).get("series", {}).items():
            for column in COLUMNS:
                if column.figure in ("rate", "cpu_seconds", "start_seconds", "memory"):
                    found = {name: values(series["rounds"], name, column.figure) for name in TITLES}
                    scaled = {name: [one * column.scale for one in all_] for name, all_ in found.items() if all_}
                    if scaled:
                        section = results[scenario]
                        yield f"{section['title']}, {number} {section['series_name']}", column.title, scaled


def draw_bars(place: Any, title: str, unit: str, found: dict[str, list[float]]) -> None:
    """The median as a bar, every single round as a dot on it."""
    names = list(found)[::-1]
    heights = [median(found[name]) for name in names]
    titles = [TITLES[name].replace("`", "") for name in names]
    bars = place.barh(titles, heights, color=[COLOURS.get(name, "#7f7f7f") for name in names])
    digits = 0 if max(heights) >= 20 else 2
    place.bar_label(bars, fmt=lambda value: f"{value:,.{digits}f}", padding=4, fontsize=8)
    for row, name in enumerate(names):
        place.plot(found[name], [row] * len(found[name]), "k.", markersize=3, alpha=0.6)
    place.set_title(title, fontsize=9)
    place.set_xlabel(unit, fontsize=8)
    place.tick_params(labelsize=8)
    place.margins(x=0.15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of results.json")
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose figures are replaced; plots go beside it")
    chosen = parser.parse_args()
    results = read(chosen.results)
    if not results:
        raise SystemExit(f"{chosen.results / 'results.json'} has no results: measure with benchmarks.compare first.")
    before, begin, rest = chosen.page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{chosen.page} has no lines {BEGIN} and {END}, between which figures are written.")
    plot = chosen.page.with_suffix(".png")
    draw(results, plot)
    picture = f"![medians as bars, rounds as dots]({plot.name})"
    figures = "\n".join(page(results))
    chosen.page.write_text(f"{before}{begin}\n\n{picture}\n{figures}\n\n{end}{after}")


if __name__ == "__main__":
    main()
