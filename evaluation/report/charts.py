"""Draw the charts of a run from the numbers in its folder: leakage matrices, strength curves, training curves."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evaluation.drawing.figures import COLOURS, INK, MUTED, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_charts", "leakage_matrix", "strength_curves", "training_curves"]

Matrix: TypeAlias = Sequence[Sequence[float | None]]  # edited factor x judged factor
Curve: TypeAlias = Mapping[str, Sequence[float]]  # strength, success, leakage
Points: TypeAlias = tuple[list[float], list[float]]  # steps, values
ACROSS = 3
MOST_PANELS = 12


def known(value: float | None) -> bool:
    """Tell whether there is a finite value."""
    return value is not None and math.isfinite(value)


def draw_matrix(axes: "Axes", names: Sequence[str], matrix: Matrix, highest: float) -> None:
    """Draw one leakage matrix; `highest` is the value of the darkest colour."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("leakage", ["#ffffff", "#fde68a", "#f97316", "#b91c1c"])
    numbers = [[value if value is not None else math.nan for value in row] for row in matrix]
    axes.imshow(numbers, cmap=shades, vmin=0, vmax=highest)
    for i, row in enumerate(numbers):
        for j, value in enumerate(row):
            text = f"{value:.2f}".removeprefix("0") if known(value) else "·"
            dark = known(value) and value > 0.6 * highest
            axes.text(j, i, text, ha="center", va="center", color="white" if dark else INK if known(value) else MUTED)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def leakage_matrix(path: Path, names: Sequence[str], matrices: Mapping[str, Matrix]) -> None:
    """Draw one heatmap per editor: the share of images in which editing a factor (row) flips another factor (column).

    All heatmaps share one colour scale.
    """
    shown = {editor: matrix for editor, matrix in matrices.items() if any(known(v) for row in matrix for v in row)}
    if not shown:
        return
    highest = max(0.1, *(v for matrix in shown.values() for row in matrix for v in row if v is not None and known(v)))
    side = max(2.2, 0.52 * len(names))
    margin, foot = 0.1 * max(len(name) for name in names) + 0.35, 0.9
    width, height = len(shown) * (side + 0.3) + margin + 0.1, side + foot + 0.4
    with figure(path, width, height) as drawing:
        for i, (editor, matrix) in enumerate(shown.items()):
            left = margin + i * (side + 0.3)
            axes = drawing.add_axes((left / width, foot / height, side / width, side / height))
            draw_matrix(axes, names, matrix, highest)
            axes.set_title(editor)
            if i:
                axes.set_yticklabels([])
            else:
                axes.set_ylabel("edited factor")
            axes.set_xlabel("flipped factor")


def add_legend(drawing: "Figure", lines: Mapping[str, Any]) -> None:
    drawing.legend(lines.values(), lines.keys(), loc="upper right", ncols=len(lines))


def curve_panel(axes: "Axes", curves: Mapping[str, Curve], number: str) -> dict[str, Any]:
    """Draw the curves of one factor, the flow on top, and return the line of each editor."""
    lines = {}
    for editor, curve in curves.items():
        own = editor == "flow"
        (lines[editor],) = axes.plot(
            curve["strength"], curve[number], color=COLOURS.get(editor, MUTED), linewidth=2.2 if own else 1.4,
            marker="o", markersize=3.5 if own else 2.5, zorder=3 if own else 2, clip_on=False,
        )  # fmt: skip
    return lines


def strength_curves(path: Path, curves: Mapping[str, Mapping[str, Curve]]) -> None:
    """Draw success (above) and leakage (below) against edit strength, two panels per factor, a line per editor."""
    names = list(dict.fromkeys(name for of_editor in curves.values() for name in of_editor))
    if not names:
        return
    across = min(ACROSS, len(names))
    bands = math.ceil(len(names) / across)
    leaks = [v for of_editor in curves.values() for curve in of_editor.values() for v in curve["leakage"] if known(v)]
    most = max(leaks, default=0.0)  # a single factor leaks into no other
    with figure(path, 3.1 * across + 0.4, 3.2 * bands + 0.4) as drawing:
        drawing.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.35 / (3.2 * bands + 0.4)))
        panels = drawing.subplots(2 * bands, across, squeeze=False, height_ratios=[3, 2] * bands)
        lines: dict[str, Any] = {}
        for i in range(bands * across):
            upper, lower = panels[2 * (i // across)][i % across], panels[2 * (i // across) + 1][i % across]
            if i >= len(names):
                upper.set_visible(False)
                lower.set_visible(False)
                continue
            of_factor = {editor: of_editor[names[i]] for editor, of_editor in curves.items() if names[i] in of_editor}
            lines |= curve_panel(upper, of_factor, "success")
            curve_panel(lower, of_factor, "leakage")
            upper.axhline(0.9, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            upper.set(title=names[i], ylim=(0, 1), ylabel="success" if i % across == 0 else "")
            lower.set(
                ylim=(0, max(0.05, 1.05 * most)), ylabel="leakage" if i % across == 0 else "", xlabel="edit strength"
            )
            upper.tick_params(labelbottom=False, length=0)
            lower.tick_params(length=0)
            lower.sharex(upper)
        add_legend(drawing, lines)


def event_curves(folder: Path) -> dict[str, list[Points]]:
    """Read the scalars of all TensorBoard event files below a folder: of each tag one curve per folder that has it.

    The dimensions of a reduction, isotonic/8 and isotonic/16, are curves of one tag.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    curves: dict[str, list[Points]] = {}
    for place in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):  # a stage, of one seed
        events = EventAccumulator(str(place), size_guidance={SCALARS: 2000}).Reload()
        for tag in events.Tags()["scalars"]:
            scalars = events.Scalars(tag)
            known_ones = [(float(scalar.step), scalar.value) for scalar in scalars if known(scalar.value)]
            curves.setdefault(re.sub(r"/\d+$", "", tag), []).append(
                ([s for s, _ in known_ones], [value for _, value in known_ones])
            )
    return curves


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """Smooth a curve by the mean of each value and its neighbours up to `reach` away.

    Examples:
        >>> smoothed([0.0, 3.0, 6.0, 9.0], 1)
        [1.5, 3.0, 6.0, 7.5]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - reach, 0)
    after = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    return ((sums[after] - sums[first]) / (after - first)).tolist()


def training_curves(path: Path, run: Path) -> None:
    """Draw a panel per logged scalar of the run, at most twelve: smoothed, and of a single seed also as logged."""
    found = {
        name: [points for points in each if len(points[0]) > 1]
        for name, each in sorted(event_curves(run / "tensorboard").items())
        if name not in ("epoch", "hp_metric") and not name.startswith("lr-")
    }
    curves = dict(list({name: each for name, each in found.items() if each}.items())[:MOST_PANELS])
    if not curves:
        return
    across = min(ACROSS, len(curves))
    bands = math.ceil(len(curves) / across)
    with figure(path, 3.1 * across + 0.4, 2.1 * bands + 0.2) as drawing:
        drawing.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1)
        panels = drawing.subplots(bands, across, squeeze=False).flatten()
        for axes, (name, each) in zip(panels, curves.items(), strict=False):
            thin = {"linewidth": 0.8, "alpha": 0.3} if len(each) == 1 else {"linewidth": 0.0}
            for steps, values in each:
                line = {"linewidth": 1.6, "alpha": 1.0 if len(each) == 1 else 0.5}
                axes.plot(steps, values, color=COLOURS["flow"], **thin)
                axes.plot(steps, smoothed(values, len(values) // 40), color=COLOURS["flow"], **line)
            axes.set(title=name, xlabel="step")
            axes.tick_params(length=0)
        for axes in panels[len(curves) :]:
            axes.set_visible(False)


def draw_charts(run: Path, content: Mapping[str, Any]) -> None:
    """Draw all charts of a run into its `figures/`, as far as it has the numbers for them."""
    leakage_matrix(run / "figures" / "leakage_matrix.png", content.get("factors", []), content.get("leakage", {}))
    strength_curves(run / "figures" / "strength_curves.png", content.get("curves", {}))
    training_curves(run / "figures" / "training_curves.png", run)
