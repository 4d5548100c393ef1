"""Arrange the metrics of a run in rows and tables: edits and baselines, clusterings, and all others."""

import math
from collections.abc import Mapping

from rich.markup import escape as markup
from rich.table import Table

from training.factor_classifier import UNFIT_BELOW

__all__ = [
    "FINAL",
    "HEADINGS",
    "HIGHER",
    "LABEL_FREE",
    "METRICS",
    "PREFIXES",
    "SCORES",
    "SHOWN",
    "Comparison",
    "best",
    "best_methods",
    "by_member",
    "cluster_rows",
    "cluster_table",
    "disagreement",
    "drawn",
    "edit_rows",
    "edit_table",
    "editor_title",
    "final_metrics",
    "invariance_line",
    "method_title",
    "metric_table",
    "score_text",
    "unjudged",
]

Comparison = dict[str, dict[str, dict[str, float]]]  # factor -> editor -> metric -> number
PREFIXES = (
    "edit", "baseline/mean_difference", "baseline/mean_difference_2", "baseline/mean_difference_3",
    "baseline/linear_svm", "oracle",
)  # fmt: skip
METRICS = {  # heading, and whether higher is better
    "success": ("success", True),
    "leakage": ("leakage", False),
    "leakage_at_90": ("leakage at 90 %", False),
    "counterfactual": ("counterfactual", True),
    "identity": ("identity", True),
    "cycle_error": ("cycle error", False),
}
FINAL: dict[str, tuple[str, bool, str]] = {  # of final pictures: heading, whether higher is better, definition
    "effectiveness": ("effectiveness", True, "share of final pictures on which the judge sees the target value, of the "
                      "photographs on which it sees the label; of a committee the members' mean"),
    "final_leakage": ("leakage", False, "share of (final picture, other factor) pairs that the judge reads otherwise "
                      "than on the photograph"),
    "leakage_at_equal": ("leakage at equal effectiveness", False, "leakage at the strength at which an editor is as "
                         "effective as the flow; empty where it never is up to three times its strength, and for the "
                         "linear SVM"),
    "counterfactual_image": ("counterfactual image", True, "1 is the true picture of that scene, 0 the picture as it "
                             "was, negative worse than that"),
    "identity": ("identity", True, "cosine of the identity model's embeddings, final picture against photograph"),
    "identity_distance": ("identity distance", False, "Euclidean distance of the same embeddings"),
    "minimality": ("minimality", False, "counterfactual latent divergence: .295 where nothing changed, .865 where the "
                   "picture moved farther than to any person with that value"),
    "frechet_identity": ("Fréchet, identity", False, "realism: Fréchet distance in the identity model's embedding to "
                         "real photographs that have the target value"),
    "fid": ("FID", False, "realism: the same in Inception's features"),
}  # fmt: skip
HEADINGS = {metric: entry[0] for metric, entry in METRICS.items()} | {m: entry[0] for m, entry in FINAL.items()}
HIGHER = {metric: entry[1] for metric, entry in METRICS.items()} | {m: entry[1] for m, entry in FINAL.items()}
TITLES = {"edit": "flow", "linear_svm": "linear SVM"}
SHOWN = ("success", "leakage", "leakage_at_90", "counterfactual")
SHOWN_FINAL = ("effectiveness", "final_leakage", "leakage_at_equal", "identity", "identity_distance", "minimality")
SHORT = {"leakage_at_equal": "at equal", "identity_distance": "distance"}  # in the terminal, of 120 columns
# Between members of a committee, from where on it is flagged. A share of a hundred images has a standard error of about
# .04, a difference of two .06: three of those.
DISAGREE = 0.2
OTHER = ("time/", "throughput/", "memory/", "waiting/")
CLUSTER_METHODS = {  # a clustering's key in metrics.json, and its name where that is written otherwise
    "kmeans": "k-means", "autoencoder": "auto-encoder", "dec": "DEC", "idec": "IDEC", "turtle": "TURTLE",
    "temi": "TEMI",
}  # fmt: skip
SCORES = {"ami": "AMI", "ari": "ARI", "fmi": "FMI", "nmi": "NMI", "accuracy": "accuracy"}
LABEL_FREE = {"silhouette": "silhouette", "stability": "stability", "used_clusters": "used clusters"}


def method_title(method: str) -> str:
    """Return a clustering method's name as people write it, from its key in metrics.json."""
    return CLUSTER_METHODS.get(method, method)


def editor_title(key: str) -> str:
    """Name an editor in text, from its key in code or in metrics.json.

    >>> editor_title("baseline/mean_difference_2")
    'mean difference × 2'
    """
    key = key.rpartition("/")[2]
    name, _, strength = key.rpartition("_")
    if name and strength.isdigit():
        return f"{editor_title(name)} × {strength}"
    return TITLES.get(key, key.replace("_", " "))


def edit_rows(metrics: Mapping[str, float]) -> Comparison:
    """Arrange the metrics of edits by factor, editor and metric, factors in the order of the metrics."""
    rows: Comparison = {}
    for key, value in metrics.items():
        for prefix in PREFIXES:
            name, _, metric = key.removeprefix(prefix + "/").rpartition("/")
            if key.startswith(prefix + "/") and name and metric in HEADINGS:
                rows.setdefault(name, {}).setdefault(editor_title(prefix), {})[metric] = value
    order = [editor_title(prefix) for prefix in PREFIXES]
    return {name: {editor: of[editor] for editor in order if editor in of} for name, of in rows.items()}


def best(editors: Mapping[str, Mapping[str, float]], metric: str) -> list[str]:
    """List the editors with the best value, several if they are equal as printed; none for a single editor.

    The oracle, which was trained on ground-truth counterfactuals, does not compete.
    """
    numbers = {
        editor: round(values[metric], 3)
        for editor, values in editors.items()
        if editor != "oracle" and math.isfinite(values.get(metric, math.nan))
    }
    if len(numbers) < 2:
        return []
    top = max(numbers.values()) if HIGHER[metric] else min(numbers.values())
    return [editor for editor, number in numbers.items() if number == top]


def unjudged(metrics: Mapping[str, float], factor: str) -> bool:
    """Tell whether the judge is too weak on this factor to measure its edits."""
    return metrics.get(f"judge/{factor}/balanced_accuracy", 1.0) < UNFIT_BELOW


def drawn(rows: Comparison) -> bool:
    """Tell whether the metrics are of drawn data, with ground-truth counterfactuals."""
    return any("counterfactual" in values for editors in rows.values() for values in editors.values())


def final_metrics(rows: Comparison) -> list[str]:
    """List the metrics of final pictures that a run has.

    The identity of drawn data is that of decoded edits, so it is left out.
    """
    present = {metric for editors in rows.values() for values in editors.values() for metric in values}
    if not present & {"effectiveness", "counterfactual_image"}:
        return []
    return [metric for metric in FINAL if metric in present and not (metric == "identity" and drawn(rows))]


def by_member(metrics: Mapping[str, float], prefix: str, factor: str) -> dict[str, float]:
    """Return the effectiveness by each member of a committee."""
    start = f"{prefix}/{factor}/effectiveness_"
    return {key.removeprefix(start): value for key, value in metrics.items() if key.startswith(start)}


def disagreement(shares: Mapping[str, float]) -> bool:
    """Tell whether the members of a committee disagree too much for their mean to be trusted."""
    return bool(shares) and max(shares.values()) - min(shares.values()) > DISAGREE


def edit_table(metrics: Mapping[str, float]) -> Table:
    """Build the table of edits for the terminal, baselines dimmed; for photographs with metrics of final pictures."""
    rows = edit_rows(metrics)
    shown = list(SHOWN)
    if not drawn(rows) and final_metrics(rows):
        shown = [metric for metric in SHOWN_FINAL if metric in final_metrics(rows)]
    elif "counterfactual_image" in final_metrics(rows):
        shown.append("counterfactual_image")
    table = Table("factor", box=None, pad_edge=False, header_style="bold")
    table.add_column("editor", no_wrap=True)
    for metric in shown:
        table.add_column(SHORT.get(metric, HEADINGS[metric]), justify="right")
    for name, editors in rows.items():
        title = f"{name} (cannot be judged)" if unjudged(metrics, name) else name
        for editor, values in editors.items():
            numbers = [values.get(metric) for metric in shown]
            cells = ["" if number is None else f"{number:.3f}" for number in numbers]
            table.add_row(markup(title), editor, *cells, style=None if editor == "flow" else "dim")
            title = ""
    return table


def invariance_line(metrics: Mapping[str, float]) -> str:
    """Describe composition and reversibility in a line for the terminal; empty if they were not measured."""
    named = {"null edit": "composition/null_edit", "ten": "composition/ten_null_edits"}
    parts = [f"{name} {metrics[key]:.4f}" for name, key in named.items() if key in metrics]
    back = {key.removeprefix("reversibility/"): v for key, v in metrics.items() if key.startswith("reversibility/")}
    parts += [f"edited and reversed {', '.join(f'{name} {value:.4f}' for name, value in back.items())}"] if back else []
    return f"Mean absolute difference to the photograph: {'; '.join(parts)}" if parts else ""


def metric_table(metrics: Mapping[str, float]) -> Table:
    """Build the table for the terminal of a run without edits: every metric but times, waiting and memory."""
    table = Table("metric", box=None, pad_edge=False, header_style="bold")
    table.add_column("value", justify="right")
    for key, value in metrics.items():
        if not key.startswith(OTHER) and math.isfinite(value):
            table.add_row(markup(key), f"{value:.4g}")
    return table


def cluster_rows(metrics: Mapping[str, float]) -> dict[tuple[str, str, str], dict[str, tuple[float, float | None]]]:
    """Arrange clustering scores as (factor, rows, method) -> score -> (value, sd over seeds or None).

    The factor is the key's part between method and score, which may have a /, and empty where there is one factor only;
    rows are "fitted" or "held-out". Label-free scores of a method are under an empty factor and "fitted".
    """
    found: dict[tuple[str, str, str], dict[str, tuple[float, float | None]]] = {}
    for key, value in metrics.items():
        path = key.removeprefix("heldout/").split("/")
        score = path[-1].removesuffix("_mean")
        counts = (f"{path[0]}/used_clusters{end}" for end in ("", "_mean"))  # which every clustering has
        method = path[0] in CLUSTER_METHODS or any(count in metrics for count in counts)
        if not method or score not in {**SCORES, **LABEL_FREE}:
            continue
        sd = metrics.get(f"{key.removesuffix('_mean')}_sd") if path[-1] != score else None
        place = ("/".join(path[1:-1]), "held-out" if key.startswith("heldout/") else "fitted", path[0])
        row = found.setdefault(place, {})
        if score not in row or sd is not None:  # of several seeds, if there are
            row[score] = (value, sd)
    return found


def best_methods(rows: Mapping[tuple[str, str, str], Mapping[str, tuple[float, float | None]]], factor: str, part: str,
                 score: str) -> set[str]:  # fmt: skip
    """Return the methods with the best score as printed; none for a single method."""
    numbers = {
        method: round(row[score][0], 3)
        for (f, p, method), row in rows.items()
        if (f, p) == (factor, part) and score in row
    }
    return {m for m, number in numbers.items() if number == max(numbers.values())} if len(numbers) > 1 else set()


def score_text(number: tuple[float, float | None] | None) -> str:
    """Format a score: 0.500, or 0.500 ± 0.020 over seeds; empty where it is missing.

    >>> score_text((0.5, 0.02))
    '0.500 ± 0.020'
    """
    if number is None:
        return ""
    return f"{number[0]:.3f}" if number[1] is None else f"{number[0]:.3f} ± {number[1]:.3f}"


def terminal_text(score: str, number: tuple[float, float | None] | None) -> str:
    """Format a score for the terminal, short enough for all scores in a line."""
    if number is not None and score == "used_clusters":
        return f"{number[0]:g}"
    return score_text(number).replace(" ± ", "±")


def cluster_table(metrics: Mapping[str, float]) -> Table:
    """Build the table of clusterings for the terminal: fitted and held-out rows of every method, the best in bold."""
    rows = cluster_rows(metrics)
    shown = {s: t for s, t in {**SCORES, **LABEL_FREE}.items() if any(s in row for row in rows.values())}
    table = Table("factor", "rows", box=None, padding=(0, 1, 0, 0), header_style="bold")  # 120 characters hold it all
    table.add_column("method", no_wrap=True)
    for title in shown.values():
        table.add_column(title, justify="right", overflow="fold")
    if not any(factor for factor, _, _ in rows):
        table.columns.pop(0)
    for (factor, part, method), row in rows.items():
        cells = [
            f"[bold]{text}[/]" if method in best_methods(rows, factor, part, score) and score in SCORES else text
            for score in shown
            for text in [terminal_text(score, row.get(score))]
        ]
        first = [factor] if len(table.columns) == len(shown) + 3 else []
        table.add_row(*map(markup, (*first, part, method_title(method))), *cells)
    return table
