"""Each kind of figure as a drawing for the page: an SVG (or a grid of PNGs), with the keys of its legend."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from heredity.core.errors import DataError
from heredity.report.ink import ACCENT, INK, MUTED, PAPER, SERIES, WARM, drawing_style, to_svg
from heredity.report.numbers import is_number, number
from heredity.report.pictures import picture_grid
from heredity.report.plain import printable, shorten

_WIDTH = 800
_LABEL = 34
_MANY_SERIES = 3
_MAX_MARKS = 600
_MAX_POINTS = 3000
_MAX_SIZE = 1e15
_DASHES = ("solid", "dashed", "dotted")
_PATTERNS: tuple[Any, ...] = ("solid", (0, (5, 2.5)), (0, (1.2, 2)))
_MARKERS, _GLYPHS = "os^Dv*XP", "●■▲◆▼★✖✚"


@dataclass(frozen=True)
class Key:
    """One entry of a legend: `shape` is "bar", "point" or a line's "solid", "dashed", "dotted"; `colour` a CSS class."""

    name: str
    colour: str
    shape: str
    glyph: str = ""


@dataclass(frozen=True)
class Drawing:
    """What the page shows of a figure. `html` is finished markup, everything untrusted in it escaped."""

    html: Markup
    keys: tuple[Key, ...] = ()
    note: str = ""


def draw(kind: str, data: Any, *, prefix: str, alt: str) -> Drawing:
    """Draw the data of a figure file; ids begin with `prefix`, `alt` says to screen readers what is to be seen.

    The data may be hostile: sizes, types and pictures are checked. Raises DataError saying what does not fit.
    """
    if kind not in _KINDS or not isinstance(data, dict):
        known = ", ".join(sorted(_KINDS))
        raise DataError(f"no drawing for a figure of kind {shorten(str(kind), 40)!r}", remedy=f"known kinds: {known}")
    try:
        with drawing_style():
            return _KINDS[kind](data, prefix, printable(alt))
    except KeyError as error:
        raise DataError(f"the {kind} lack {error}", remedy="repeat the run with --resume") from error


def draw_bars(data: Mapping[str, Any], prefix: str, alt: str) -> Drawing:
    """Horizontal bars: up to three series side by side in colours, more as one panel a label with named bars."""
    labels = _texts(data["labels"], "labels")
    series = {name: _numbers(values, name, len(labels)) for name, values in _mapping(data["series"], "series").items()}
    reference = _reference(data)
    if len(labels) * len(series) > _MAX_MARKS:
        raise _too_many("bars", len(labels) * len(series), _MAX_MARKS)
    unit = _text(data.get("unit", ""), "unit")
    if len(series) > _MANY_SERIES:
        figure, keys = _bar_panels(labels, series, unit, reference)
    else:
        warned = set(_texts(data.get("warned", []), "warned"))
        figure, keys = _bar_groups(labels, series, unit, reference, _intervals(data, labels), warned)
        if warned and len(series) == 1:
            keys = (Key(_text(data.get("warning", ""), "warning"), "warm", "bar"), *keys)
    return Drawing(Markup(to_svg(figure, prefix=prefix, label=alt)), keys)


def _intervals(data: Mapping[str, Any], labels: list[str]) -> dict[str, np.ndarray]:
    """Ends of every bar's interval, series by series: an array of two rows."""
    found = _mapping(data.get("intervals", {}), "intervals")
    ends = {name: [_numbers(pair, name, 2) for pair in pairs] for name, pairs in found.items()}
    if any(len(pairs) != len(labels) for pairs in ends.values()):
        raise DataError(f"intervals must have {len(labels)} entries", remedy="repeat the run with --resume")
    return {name: np.array(pairs).reshape(-1, 2).T for name, pairs in ends.items()}


def draw_curves(data: Mapping[str, Any], prefix: str, alt: str) -> Drawing:
    """Lines that differ in colour and dash, with dots where there are few points; a missing value is a gap."""
    lines = {name: _pair(pair, name) for name, pair in _mapping(data["lines"], "lines").items()}
    _limit("lines", len(lines), 48)
    figure, axes = _axes(_WIDTH, 380)
    keys = []
    for index, (name, (xs, ys)) in enumerate(lines.items()):
        dash, marker = index % 3, "o" if len(xs) <= 16 else ""
        axes.plot(xs, ys, color=SERIES[index % 8], linestyle=_PATTERNS[dash], linewidth=2, marker=marker, markersize=5)
        keys.append(Key(name, f"series-{index % 8 + 1}", _DASHES[dash]))
    reference = _reference(data)
    if reference is not None:
        axes.axhline(reference, color=MUTED, linewidth=1.25, linestyle=_PATTERNS[1])
        keys.append(Key(f"reference: {number(reference)}", "muted", "dashed"))
    _name_axes(axes, data)
    return Drawing(Markup(to_svg(figure, prefix=prefix, label=alt)), tuple(keys))


def draw_points(data: Mapping[str, Any], prefix: str, alt: str) -> Drawing:
    """Scattered points that differ in colour and shape; of very large groups every k-th point."""
    groups = {name: _pair(pair, name) for name, pair in _mapping(data["groups"], "groups").items()}
    _limit("groups", len(groups), 48)
    most = max((len(xs) for xs, _ in groups.values()), default=0)
    step = -(-most // _MAX_POINTS) or 1
    figure, axes = _axes(_WIDTH, 460)
    keys = []
    for index, (name, (xs, ys)) in enumerate(groups.items()):
        axes.scatter(
            xs[::step],
            ys[::step],
            s=26,
            color=SERIES[index % 8],
            marker=_MARKERS[index % 8],
            alpha=0.7,
            linewidths=0,
        )
        keys.append(Key(name, f"series-{index % 8 + 1}", "point", _GLYPHS[index % 8]))
    axes.margins(0.06)
    _name_axes(axes, data)
    note = f"Every {step}th point is drawn." if step > 1 else ""
    return Drawing(Markup(to_svg(figure, prefix=prefix, label=alt)), tuple(keys), note)


def draw_heatmap(data: Mapping[str, Any], prefix: str, alt: str) -> Drawing:
    """Tinted cells with their numbers. Tints stay pale enough for the page's text colour, in light and in dark."""
    rows, columns = _texts(data["rows"], "rows"), _texts(data["columns"], "columns")
    if not isinstance(data["values"], list) or len(data["values"]) != len(rows):
        raise DataError(f"values must be a list of {len(rows)} rows", remedy="repeat the run with --resume")
    values = np.array(
        [_numbers(row, name, len(columns)) for row, name in zip(data["values"], rows, strict=True)]
    ).reshape(len(rows), len(columns))
    if values.size > _MAX_MARKS:
        raise _too_many("cells", values.size, _MAX_MARKS)
    unit = _text(data.get("unit", ""), "unit")
    figure = Figure(figsize=(_WIDTH / 72, (72 + 38 * max(len(rows), 1)) / 72), layout="constrained")
    axes = figure.add_subplot()
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    signed = low < 0 < high
    base, span = (0.0, max(-low, high)) if signed else (low, high - low)
    for (row, column), value in np.ndenumerate(values):
        share = abs(value - base) / span if span and np.isfinite(value) else 0.0
        colour = WARM if signed and value < 0 else ACCENT
        tint = 0.05 + 0.43 * share if np.isfinite(value) else 0.0
        axes.add_patch(Rectangle((column + 0.03, row + 0.04), 0.94, 0.92, facecolor=colour, alpha=tint, linewidth=0))
        text = number(float(value)) if np.isfinite(value) else "–"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=12 if len(columns) < 12 else 9)
    axes.set_xlim(0, max(len(columns), 1))
    axes.set_ylim(max(len(rows), 1), 0)
    tilted = len(columns) > 1 and max(map(len, columns)) > 88 // len(columns)
    axes.set_xticks(np.arange(len(columns)) + 0.5, [shorten(name, 22) for name in columns])
    axes.tick_params(axis="x", top=True, bottom=False, labeltop=True, labelbottom=False)
    if tilted:
        for label in axes.get_xticklabels():
            label.set(rotation=35, horizontalalignment="left", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, [shorten(name, _LABEL) for name in rows])
    axes.spines[:].set_visible(False)
    note = f"Numbers in {unit}." if unit else ""
    return Drawing(Markup(to_svg(figure, prefix=prefix, label=alt)), (), note)


def draw_pictures(data: Mapping[str, Any], prefix: str, alt: str) -> Drawing:
    """Rows of small PNGs, each row with its caption."""
    return Drawing(picture_grid(data["grid"], _texts(data["captions"], "captions"), alt))


def draw_slopes(data: Mapping[str, Any], prefix: str, alt: str) -> Drawing:
    """Lines from stage to stage, stages side by side; the first and last value stand beside each line's ends."""
    stages = _texts(data["stages"], "stages")
    lines = {name: _numbers(values, name, len(stages)) for name, values in _mapping(data["lines"], "lines").items()}
    _limit("lines", len(lines), 48)
    figure, axes = _axes(_WIDTH, 420, grid="y")
    keys = []
    for index, (name, values) in enumerate(lines.items()):
        dash = index // 8 % 3
        axes.plot(
            range(len(stages)), values, color=SERIES[index % 8], linestyle=_PATTERNS[dash], linewidth=2, marker="o"
        )
        keys.append(Key(name, f"series-{index % 8 + 1}", _DASHES[dash]))
    reference = _reference(data)
    if reference is not None:
        axes.axhline(reference, color=MUTED, linewidth=1.25, linestyle=_PATTERNS[1])
        keys.append(Key(f"reference: {number(reference)}", "muted", "dashed"))
    axes.set_xticks(range(len(stages)), [shorten(stage, _LABEL) for stage in stages])
    axes.set_xlim(-0.3, max(len(stages), 1) - 0.7)
    axes.set_ylabel(shorten(_text(data.get("unit", ""), "unit"), 40))
    return Drawing(Markup(to_svg(figure, prefix=prefix, label=alt)), tuple(keys))


def draw_fronts(data: Mapping[str, Any], prefix: str, alt: str) -> Drawing:
    """Joined points that differ in colour and shape, each with thin bars for its intervals."""
    lines = {name: _pair(pair, name) for name, pair in _mapping(data["lines"], "lines").items()}
    _limit("lines", len(lines), 24)
    spread = _mapping(data["spread"], "spread")
    figure, axes = _axes(_WIDTH, 460)
    keys = []
    for index, (name, (xs, ys)) in enumerate(lines.items()):
        ends = spread.get(name)
        if not isinstance(ends, list) or len(ends) != 4:
            raise DataError(f"the spread of {shorten(name, 40)!r} must be four lists", remedy="repeat the run")
        x_low, x_high, y_low, y_high = (_numbers(values, name, len(xs)) for values in ends)
        colour, dash = SERIES[index % 8], index // 8 % 3
        axes.hlines(ys, x_low, x_high, color=colour, linewidth=1, alpha=0.45)
        axes.vlines(xs, y_low, y_high, color=colour, linewidth=1, alpha=0.45)
        axes.plot(
            xs, ys, color=colour, linestyle=_PATTERNS[dash], linewidth=2, marker=_MARKERS[index % 8], markersize=7
        )
        keys.append(Key(name, f"series-{index % 8 + 1}", "point", _GLYPHS[index % 8]))
    axes.margins(0.06)
    _name_axes(axes, data)
    return Drawing(Markup(to_svg(figure, prefix=prefix, label=alt)), tuple(keys))


_KINDS: dict[str, Callable[[Mapping[str, Any], str, str], Drawing]] = {
    "bars": draw_bars,
    "curves": draw_curves,
    "heatmap": draw_heatmap,
    "pictures": draw_pictures,
    "points": draw_points,
    "slopes": draw_slopes,
    "fronts": draw_fronts,
}


def _bar_groups(
    labels: list[str],
    series: Mapping[str, np.ndarray],
    unit: str,
    reference: float | None,
    intervals: Mapping[str, np.ndarray],
    warned: Collection[str],
) -> tuple[Figure, tuple[Key, ...]]:
    count = max(len(series), 1)
    figure, axes = _axes(_WIDTH, 60 + len(labels) * (20 * count + 18), grid="x")
    thickness = 0.8 / count
    for index, (name, values) in enumerate(series.items()):
        places = np.arange(len(labels)) - 0.4 + thickness * (index + 0.5)
        single = [WARM if label in warned else ACCENT for label in labels]
        colours = single if count == 1 else [SERIES[index]] * len(labels)
        _bars(axes, places, values, 0.88 * thickness, colours, intervals.get(name))
        if name in intervals:
            axes.hlines(places, *intervals[name], color=INK, linewidth=1.25)
    axes.set_yticks(np.arange(len(labels)), [shorten(name, _LABEL) for name in labels])
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    keys = [Key(name, f"series-{index + 1}", "bar") for index, name in enumerate(series)] if count > 1 else []
    keys += _finish_bars(
        [axes], {**series, **{f"{name} ends": ends.ravel() for name, ends in intervals.items()}}, reference
    )
    axes.set_xlabel(shorten(unit, _LABEL))
    return figure, tuple(keys)


def _bar_panels(
    labels: list[str], series: Mapping[str, np.ndarray], unit: str, reference: float | None
) -> tuple[Figure, tuple[Key, ...]]:
    across = min(3 if len(labels) % 3 == 0 or len(labels) > 6 else 2, max(len(labels), 1))
    down = -(-max(len(labels), 1) // across)
    height = down * (20 * len(series) + 34) + 40
    figure = Figure(figsize=(_WIDTH / 72, height / 72), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[len(labels) :]:
        axes.set_visible(False)
    places = np.arange(len(series))
    for index, label in enumerate(labels):
        values = np.array([column[index] for column in series.values()])
        beyond = [reference is None or value >= reference for value in values]
        _bars(grid[index], places, values, 0.7, [ACCENT if far else MUTED for far in beyond])
        grid[index].set_title(shorten(label, _LABEL), pad=8)
        _quiet(grid[index], "x")
    grid[0].set_yticks(places, [shorten(name, 24) for name in series])
    grid[0].set_ylim(len(series) - 0.4, -0.6)
    keys = (
        []
        if reference is None
        else [Key("at or beyond the reference", "accent", "bar"), Key("short of it", "muted", "bar")]
    )
    keys += _finish_bars(list(grid[: len(labels)]), series, reference)
    for axes in grid[max(len(labels) - across, 0) : len(labels)]:
        # Shared axes name the last row only; a panel above an empty place is the last of its column.
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(shorten(unit, _LABEL))
    return figure, tuple(keys)


def _bars(
    axes: Axes,
    places: np.ndarray,
    values: np.ndarray,
    thickness: float,
    colours: Sequence[str],
    ends: np.ndarray | None = None,
) -> None:
    axes.barh(places, np.nan_to_num(values), height=thickness, color=colours, linewidth=0)
    for index, (place, value) in enumerate(zip(places, values, strict=True)):
        shown = float(value) if np.isfinite(value) else None
        away = -5 if shown is not None and shown < 0 else 5
        # A number stands beyond the bar's interval, so that it hides neither end.
        tip = shown or 0.0 if ends is None else float(np.nan_to_num(ends[0 if away < 0 else 1, index]))
        axes.annotate(
            number(shown),
            (tip, place),
            xytext=(away, 0),
            textcoords="offset points",
            ha="right" if away < 0 else "left",
            va="center_baseline",
            fontsize=10.5,
            color=MUTED,
            bbox={"facecolor": PAPER, "linewidth": 0, "pad": 0.5},
        )


def _finish_bars(panels: list[Axes], series: Mapping[str, np.ndarray], reference: float | None) -> list[Key]:
    values = [float(value) for column in series.values() for value in column if np.isfinite(value)]
    low, high = min([0.0, reference or 0.0, *values]), max([0.0, reference or 0.0, *values])
    span = (high - low) or 1.0
    room = 0.13 if len(panels) == 1 else 0.28
    for axes in panels:
        axes.set_xlim(low - (room * span if low < 0 else 0), high + room * span)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(8 if len(panels) == 1 else 4))
        if reference is not None:
            # A seam beneath the dashes keeps them visible where they cross a bar.
            axes.axvline(reference, color=PAPER, linewidth=4)
            axes.axvline(reference, color=INK, linewidth=1.25, linestyle=_PATTERNS[1])
    return [] if reference is None else [Key(f"reference: {number(reference)}", "ink", "dashed")]


def _axes(width: float, height: float, *, grid: str = "both") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    _quiet(axes, grid)
    return figure, axes


def _quiet(axes: Axes, grid: Any) -> None:
    axes.grid(axis=grid)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter(useOffset=False))


def _name_axes(axes: Axes, data: Mapping[str, Any]) -> None:
    axes.set_xlabel(shorten(_text(data["x"], "x"), 80))
    axes.set_ylabel(shorten(_text(data["y"], "y"), 40))


def _reference(data: Mapping[str, Any]) -> float | None:
    value = data.get("reference")
    return None if value is None else float(_numbers([value], "reference", 1)[0])


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} must be a text", remedy="repeat the run with --resume")
    return printable(value)


def _texts(values: Any, name: str) -> list[str]:
    if not isinstance(values, list):
        raise DataError(f"{name} must be a list of texts", remedy="repeat the run with --resume")
    return [_text(value, name) for value in values]


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{name} must be a mapping", remedy="repeat the run with --resume")
    return {_text(key, name): item for key, item in value.items()}


def _numbers(values: Any, name: str, length: int | None = None) -> np.ndarray:
    fits = isinstance(values, list) and all(
        value is None or (is_number(value) and abs(value) <= _MAX_SIZE) for value in values
    )
    if not fits or (length is not None and len(values) != length):
        wanted = "numbers" if length is None else f"{length} numbers"
        raise DataError(
            f"{shorten(name, 40)!r} must be a list of {wanted} below 10¹⁵ (or null)",
            remedy="repeat the run with --resume",
        )
    return np.array([np.nan if value is None else float(value) for value in values], dtype=float)


def _pair(pair: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise DataError(
            f"{shorten(name, 40)!r} must be a pair of lists, xs and ys", remedy="repeat the run with --resume"
        )
    xs = _numbers(pair[0], name)
    return xs, _numbers(pair[1], name, len(xs))


def _limit(what: str, count: int, most: int) -> None:
    if count > most:
        raise _too_many(what, count, most)


def _too_many(what: str, count: int, most: int) -> DataError:
    return DataError(f"{count} {what} are too many to draw", remedy=f"at most {most}")
