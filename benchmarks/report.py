"""Results as JSON, as a Markdown page and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from scenarios import SCENARIOS
from servers import TITLES
from targets import Results, figures, ratios, targets

COLOURS = {
    "ours": "#1f77b4",
    "torchserve": "#d62728",
    "torchserve-omp1": "#ff9896",
    "echo": "#7f7f7f",
    "ceiling": "#2ca02c",
}


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text("\n".join(page(results)) + "\n")
    draw(results, folder / "results.png")


def page(results: Results) -> Iterator[str]:
    told = results["machine"]
    yield f"{told['cores']} cores of {told['cpu']}, Python {told['python']}, torch {told['torch']}, {told['java']}."
    for section in SCENARIOS:
        if section in results:
            yield from load_table(results, section)
    for scenario in results.get("startup", {}).values():
        yield from start_table(scenario)
    yield from target_table(results)


def load_table(results: Results, section: str) -> Iterator[str]:
    scenario = results[section]
    yield f"\n### {scenario['title']}\n"
    yield f"Median (lowest to highest) of the rounds; maxBatchDelay {scenario['batch_delay_ms']} ms.\n"
    yield "| server | requests/s | p50 ms | p99 ms | CPU us/request | throughput to TorchServe's |"
    yield "|---|---|---|---|---|---|"
    for contender, rounds in scenario["rounds"].items():
        cells = [
            spread(rounds, "rate", 1, "{:,.0f}"),
            spread(rounds, "p50", 1e3, "{:.2f}"),
            spread(rounds, "p99", 1e3, "{:.2f}"),
            spread(rounds, "cpu_seconds", 1e6, "{:.0f}"),
            factor(ratios(results, section, "rate", contender, "torchserve")),
        ]
        yield f"| {TITLES[contender]} | {' | '.join(cells)} |"


def spread(rounds: list[dict[str, Any]], figure: str, scale: float, form: str) -> str:
    values = sorted(one[figure] * scale for one in rounds if figure in one)
    if not values:
        return "-"
    return f"{form} ({form} to {form})".format(median(values), values[0], values[-1])


def factor(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-"


def start_table(scenario: dict[str, Any]) -> Iterator[str]:
    load_ms = scenario["model_load_seconds"] * 1000
    yield f"\n### Start-up, memory and scale-up, model {scenario['model']}\n"
    yield f"Each server by itself. Loading the model alone, torch already imported: {load_ms:.0f} ms.\n"
    yield "| server | first answer s | memory of all processes MiB (PSS) | one more worker ms |"
    yield "|---|---|---|---|"
    for contender, starts in scenario["starts"].items():
        cells = [
            spread(starts, "seconds", 1, "{:.2f}"),
            spread(starts, "memory", 1 / 2**20, "{:.0f}"),
            spread(starts, "scale_up_seconds", 1e3, "{:.0f}"),
        ]
        yield f"| {TITLES.get(contender, contender)} | {' | '.join(cells)} |"


def target_table(results: Results) -> Iterator[str]:
    yield "\n### What is promised\n"
    yield "| promise | measured | goal | met |"
    yield "|---|---|---|---|"
    for target in targets(results):
        verdict = "yes" if target.met else "**no**"
        yield f"| {target.text} | {target.value:.3g}{target.unit} | {target.goal} | {verdict} |"


def draw(results: Results, file: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("No picture: pip install 'torchserve-lite[bench]' brings matplotlib.")
        return
    matplotlib.use("Agg")
    panels = list(all_panels(results))
    if panels:
        draw_panels(panels, file)


Panel = tuple[str, str, dict[str, list[float]]]


def all_panels(results: Results) -> Iterator[Panel]:
    """Title, unit and each contender's values."""
    for section, scenario in SCENARIOS.items():
        if section in results:
            yield scenario.title, "requests/s", of_rounds(results, section, "rate", 1)
            yield scenario.title, "CPU us/request", of_rounds(results, section, "cpu_seconds", 1e6)
    for started in results.get("startup", {}).values():
        yield f"start-up, {started['model']}", "first answer, s", of_starts(started["starts"], "seconds", 1)
        yield f"memory, {started['model']}", "PSS, MiB", of_starts(started["starts"], "memory", 1 / 2**20)


def of_rounds(results: Results, section: str, figure: str, scale: float) -> dict[str, list[float]]:
    rounds = results[section]["rounds"]
    measured = [name for name in rounds if rounds[name] and figure in rounds[name][0]]
    return {name: [value * scale for value in figures(results, section, name, figure)] for name in measured}


def of_starts(starts: dict[str, list[dict[str, float]]], figure: str, scale: float) -> dict[str, list[float]]:
    return {name: [start[figure] * scale for start in all_] for name, all_ in starts.items() if figure in all_[0]}


def draw_panels(panels: list[Panel], file: Path) -> None:
    from matplotlib import pyplot

    rows = (len(panels) + 1) // 2
    figure, axes = pyplot.subplots(rows, 2, figsize=(13, 2.3 * rows), squeeze=False, layout="constrained")
    for place, panel in zip(axes.flat, panels, strict=False):
        draw_bars(place, *panel)
    for place in list(axes.flat)[len(panels) :]:
        place.set_axis_off()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def draw_bars(place: Any, title: str, unit: str, values: dict[str, list[float]]) -> None:
    """The median as a bar, every single round as a dot on it."""
    names = list(values)[::-1]
    heights = [median(values[name]) for name in names]
    bars = place.barh([TITLES.get(n, n) for n in names], heights, color=[COLOURS.get(n, "#c7c7c7") for n in names])
    place.bar_label(bars, fmt=label_for(heights), padding=4, fontsize=8)
    for row, name in enumerate(names):
        place.plot(values[name], [row] * len(values[name]), "k.", markersize=3, alpha=0.6)
    place.set_title(title, fontsize=9)
    place.set_xlabel(unit, fontsize=8)
    place.tick_params(labelsize=8)
    place.margins(x=0.15)


def label_for(heights: list[float]) -> Callable[[float], str]:
    digits = 0 if max(heights) >= 20 else 2
    return lambda value: f"{value:,.{digits}f}"
