"""Medians, ratios, the table in markdown, and the plots, from `results.json`.

python -m benchmarks results

Writes RESULTS.md and the plots again from the results that are there.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).parent.parent
FILE = ROOT / "benchmarks" / "results.json"
TABLE = ROOT / "benchmarks" / "RESULTS.md"
IMAGES = ROOT / "docs" / "images"
OURS = "chapterflow"

Document = dict[str, Any]


def read() -> Document:
    """Return the results so far: `peers`, `flow`, `workers`, `growth` and `gpu`, or none."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def write(part: str, measured: Document) -> None:
    """Replace a part of the results, and write the table and the plots."""
    document = {**read(), part: measured}
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(markdown(document), encoding="utf-8")
    draw(document)


def ratio(fits: Mapping[str, Sequence[Mapping[str, float]]]) -> float:
    """Return our median time, divided by the median time of the fastest peer."""
    medians = {name: median(fit["seconds"] for fit in runs) for name, runs in fits.items()}
    ours = medians.pop(OURS)
    return ours / min(medians.values())


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of log(value) over log(size): 1 is linear growth, 0 is none."""
    x = [math.log(size) for size in sizes]
    y = [math.log(value) for value in values]
    center, level = mean(x), mean(y)
    covariance = sum((a - center) * (b - level) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - center) ** 2 for a in x)


def markdown(document: Document) -> str:
    """Return the text of RESULTS.md."""
    lines = ["# Results of the benchmarks", ""]
    lines += [
        "`make bench`, `python -m benchmarks growth` and `python -m benchmarks gpu` write this "
        "page; do not edit it.",
        "",
    ]
    if peers := document.get("peers"):
        lines += _peers(peers)
    if flow := document.get("flow"):
        lines += _flow(flow)
    if workers := document.get("workers"):
        lines += _workers(workers)
    if growth := document.get("growth"):
        lines += _growth(growth)
    if gpu := document.get("gpu"):
        lines += [line for measured in gpu["devices"] for line in _gpu(measured)]
    return "\n".join(lines).rstrip() + "\n"


def _peers(measured: Document) -> list[str]:
    speeds = measured["speeds"]
    lines = ["## Side by side with peers", "", *_machine(measured), ""]
    lines += [
        f"Products of matrices: {speeds['float32'] / 1e9:.0f} GFLOP/s in float32, "
        f"{speeds['bfloat16'] / 1e9:.0f} in bfloat16. Memory: {speeds['memory'] / 1e9:.1f} GB/s "
        "read and written. The limit of a fit is its floating-point operations at the first, or "
        "its bytes at the second, whichever takes longer.",
        "",
        "Seconds are wall times of fitting, without imports, reading and scoring: median (range). "
        "Ratios are ours to the fastest peer. Every fit is a fresh process with a seed of its own; "
        "contestants alternate. Accuracies are means on the same test set.",
        "",
        "| work | contestant | epochs | seconds | accuracy | limit | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for subject in measured["subjects"]:
        title, fits = subject["title"], subject["fits"]
        for name, runs in fits.items():
            cells = [
                title if name == OURS else "",
                name,
                f"{runs[0]['epochs']:.0f}",
                span([run["seconds"] for run in runs]),
                f"{mean(run['accuracy'] for run in runs):.4f}",
                number(subject["limits"][name]),
                f"**{ratio(fits):.2f}**" if name == OURS and len(fits) > 1 else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    notes = [
        f"- {subject['title']}: {subject['note']}{_when(subject.get('measured'))}"
        for subject in measured["subjects"]
    ]
    missing = [f"- Not measured: {line}" for line in measured["missing"]]
    return [*lines, "", "![Seconds of fitting](../docs/images/peers.svg)", "", *notes, *missing, ""]


def _when(measured: Document | None) -> str:
    """Return a sentence on a subject that was not measured with the others."""
    if not measured:
        return ""
    return f" Measured earlier, on {measured['date']}; repetitions: {measured['repetitions']}."


def _flow(measured: Document) -> list[str]:
    lines = ["## Whole flows", "", *_machine(measured), ""]
    lines += [
        f"`chapterflow run {' '.join(measured['models'])}".rstrip() + "` in a new project, and "
        "again: median (range). Goals are wall seconds on two quiet cores.",
        "",
        "| work | wall | CPU, all processes | cores busy | goal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for work, row in measured["work"].items():
        wall = [point["wall"] for point in row["points"]]
        cpu = [point["seconds"] for point in row["points"]]
        busy = median(cpu) / median(wall)
        verdict = "met" if median(wall) <= row["goal"] else "**missed**"
        lines.append(
            f"| {work} | {span(wall)} | {span(cpu)} | {busy:.1f} | {row['goal']:g} s: {verdict} |"
        )
    return [*lines, ""]


def _workers(measured: Document) -> list[str]:
    rows = measured["workers"]
    lines = ["## Two Dask workers", "", *_machine(measured), ""]
    lines += [
        f"`{measured['command']} --engine dask` on one and on two workers with a core each, which "
        "have imported TensorFlow: median (range). Models: from the start of the first to the end "
        "of the last. Flow: with validation before, and comparison and report after them. The "
        f"scores of all flows are {'equal' if measured['equal'] else '**not equal**'}.",
        "",
        "| workers | models, wall | flow, wall | whole command, wall | workers, CPU |",
        "| --- | --- | --- | --- | --- |",
    ]
    parts = ("models", "flow", "command", "cpu")
    columns = {
        count: {part: [point[part] for point in points] for part in parts}
        for count, points in rows.items()
    }
    for count, column in columns.items():
        lines.append(f"| {count} | {' | '.join(span(column[part]) for part in parts)} |")
    ratios = (median(columns["2"][part]) / median(columns["1"][part]) for part in parts)
    return [*lines, f"| ratio | {' | '.join(f'{value:.2f}' for value in ratios)} |", ""]


def _growth(measured: Document) -> list[str]:
    lines = ["## Growth", "", *_machine(measured), ""]
    lines += [
        "CPU seconds over all processes and threads, and peak memory of the largest process: its "
        "own, of all with the pages of mapped files, which the kernel takes back at need. Every "
        "point is a fresh process. The exponent is the slope of a line through the logarithms of "
        "sizes and of seconds, for the larger half of the sizes: 1 is linear.",
        "",
        "| what grows | measured | size: seconds (peak memory) | exponent, goal |",
        "| --- | --- | --- | --- |",
    ]
    earlier: dict[str, list[str]] = {}
    for name, curve in measured["curves"].items():
        what, _, part = name.partition(": ")
        if old := curve.get("measured"):
            when = f"{old['date']}, {old['processor']}, load {old['load']:.1f} at the start"
            earlier.setdefault(when, []).append(f"{what} ({part})")
        points = curve["points"]
        cells = ", ".join(
            f"{size:,}: {number(point['seconds'])}"
            + (f" ({memory(point)})" if "peak" in point else "")
            for size, point in points
        )
        lines.append(f"| {what} | {part} | {cells} | {judgement(curve)} |")
    notes = [
        f"- Measured earlier, on {when}: {', '.join(names)}." for when, names in earlier.items()
    ]
    notes += [f"- Not measured: {line}" for line in measured["missing"]]
    return [*lines, "", "![Growth](../docs/images/growth.svg)", "", *notes, ""]


def _gpu(measured: Document) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    speeds = {row["precision"]: row["flops"] for row in measured["products"]}
    products = " and ".join(f"{speed / 1e12:.0f} in {name}" for name, speed in speeds.items())
    ways = list(dict.fromkeys((row["precision"], row["xla"]) for row in measured["features"]))
    heads = [f"{name}{', XLA' if xla else ''}" for name, xla in ways]
    speed = {
        (row["name"], row["precision"], row["xla"]): (
            f"{row['images']:,.0f} ({row['flops'] / 1e12:.0f})"
        )
        for row in measured["features"]
    }
    sides = {row["name"]: row["side"] for row in measured["features"]}
    lines = [
        f"## {measured['device']}, Keras on {measured['backend']}",
        "",
        f"{measured['date']}, {measured['host']}. {versions}. Products of large matrices, in "
        f"TFLOP/s: {products}.",
        "",
        "Images a second whose features (global average pooling) a backbone computes, and in "
        f"brackets TFLOP/s of its convolutions. Batches of {measured['features'][0]['batch']} in "
        "the memory of the device, random weights.",
        "",
        f"| backbone | side | {' | '.join(heads)} |",
        "| --- " * (2 + len(ways)) + "|",
        *(
            f"| {name} | {side} | {' | '.join(speed.get((name, *way), '') for way in ways)} |"
            for name, side in sides.items()
        ),
    ]
    if fits := measured.get("fits"):
        lines += [
            "",
            "Plain `Model.fit` on MNIST: seconds, with compilation, of five epochs from arrays in "
            "the host's memory, and test accuracy. The rate grows with the square root of the "
            "batch.",
            "",
            "| network | precision | batch | seconds | accuracy |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['name']} | {row['precision']} | {row['batch']} | {number(row['seconds'])} "
            f"| {row['accuracy']:.4f} |"
            for row in fits
        ]
    return [*lines, ""]


def judgement(curve: Document) -> str:
    """Return the exponent or growth of a curve, and its goal: `0.95 (at most 1.1: met)`."""
    if curve["met"] is None:
        return "one size"
    verdict = "met" if curve["met"] else "**missed**"
    if "growth" in curve:
        return f"{curve['growth']:+.1f} s (flat, at most {curve['goal']:+.1f} s: {verdict})"
    return f"{curve['exponent']:.2f} (at most {curve['goal']}: {verdict})"


def _machine(measured: Document) -> list[str]:
    machine = measured["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    short = " Quick: fewer repetitions and subjects than a full run." if measured["quick"] else ""
    threads = "".join(f" {name}={count}." for name, count in machine.get("threads", {}).items())
    return [
        f"{measured['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory'] / 2**30:.0f} GiB, load {machine['load']:.1f} at the start; "
        f"repetitions: {measured['repetitions']}.{threads}{short}",
        "",
        f"{versions}.",
    ]


def memory(point: Mapping[str, float]) -> str:
    """Return the peak memory of a point in MB: its own, and with the pages of mapped files."""
    own = f"{point['own'] / 1e6:.0f} of " if point.get("own") else ""
    return f"{own}{point['peak'] / 1e6:.0f} MB"


def span(seconds: Sequence[float]) -> str:
    """Return median and range: `4.3 s (4.1-4.9)`."""
    return f"{number(median(seconds))} s ({number(min(seconds))}-{number(max(seconds))})"


def number(seconds: float) -> str:
    """Return seconds with two significant digits, or one decimal."""
    if seconds == 0 or not math.isfinite(seconds):
        return f"{seconds:g}"
    decimals = max(1, 1 - math.floor(math.log10(abs(seconds))))
    return f"{seconds:.{decimals}f}"


def draw(document: Document) -> None:
    """Draw the plots of the parts that were measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    # Equal results give equal files.
    mpl.rcParams["svg.hashsalt"] = "chapterflow"
    IMAGES.mkdir(parents=True, exist_ok=True)
    if peers := document.get("peers"):
        _draw_peers(peers, IMAGES / "peers.svg")
    if growth := document.get("growth"):
        _draw_growth(growth, IMAGES / "growth.svg")


COLOURS = {
    OURS: "#0072b2",
    "PyTorch": "#e69f00",
    "Keras": "#cc79a7",
    "PyTorch Geometric": "#e69f00",
    "PyTorch Geometric, sparse features": "#009e73",
}


def _draw_peers(measured: Document, path: Path) -> None:
    import matplotlib.pyplot as plt

    bars = [
        (subject, name, [run["seconds"] for run in runs])
        for subject in measured["subjects"]
        for name, runs in subject["fits"].items()
    ]
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(bars) + 1.4), layout="constrained")
    place, ticks, marked = 0.0, [], False
    before = None
    for subject, name, seconds in bars:
        place += 1.0 if subject is before else 1.7
        before = subject
        middle = median(seconds)
        errors = [[middle - min(seconds)], [max(seconds) - middle]]
        axes.barh(place, middle, 0.85, xerr=errors, color=COLOURS.get(name, "grey"), capsize=2)
        axes.text(max(seconds) * 1.08, place, f"{number(middle)} s", va="center", fontsize=8)
        label = None if marked else "physical limit"
        axes.plot([subject["limits"][name]] * 2, [place - 0.42, place + 0.42], "k", label=label)
        marked = True
        title = f"{subject['title']}\n" if name == OURS else ""
        ticks.append((place, f"{title}{name}"))
    axes.set_yticks([tick for tick, _ in ticks], [text for _, text in ticks], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("seconds of fitting (median and range; logarithmic)")
    figure.legend(loc="outside upper right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_growth(measured: Document, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for name, curve in measured["curves"].items():
        sizes = [size for size, _ in curve["points"]]
        slope = "" if curve["exponent"] is None else f" ({curve['exponent']:.2f})"
        line = left.plot(
            sizes, [point["seconds"] for _, point in curve["points"]], "o-", label=f"{name}{slope}"
        )
        peaks = [
            (size, (point.get("own") or point["peak"]) / 1e6)
            for size, point in curve["points"]
            if "peak" in point
        ]
        if peaks:
            right.plot(*zip(*peaks, strict=True), "o-", color=line[0].get_color())
    for axes, text in ((left, "CPU seconds"), (right, "peak memory without mapped files, MB")):
        axes.set(xscale="log", yscale="log", xlabel="size", title=text)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, title="curve (exponent)")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(_words: list[str] | None = None) -> None:
    """Write table and plots from `results.json`."""
    document = read()
    TABLE.write_text(markdown(document), encoding="utf-8")
    draw(document)


if __name__ == "__main__":
    main()
