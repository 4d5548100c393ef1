"""Compose the sections of the report on edits: a card per factor, the comparison with baselines, the invariances."""

from collections.abc import Mapping, Sequence
from html import escape

from evaluation.report.html import Files, card, number, picture
from evaluation.report.tables import (
    FINAL,
    HEADINGS,
    HIGHER,
    METRICS,
    PREFIXES,
    Comparison,
    best,
    by_member,
    disagreement,
    drawn,
    edit_rows,
    editor_title,
    final_metrics,
    unjudged,
)
from training.files import file_name

__all__ = ["comparison", "factor_card", "final_comparison", "headline_metrics", "invariance", "shared_means"]

STRIP = "held-out images, both directions: the edited picture first, the original beside it"


def shared_means(rows: Comparison, metric: str) -> tuple[dict[str, float], int]:
    """Average a metric of each editor over the factors for which all editors with that metric have it.

    Return the means and the number of these factors. Means over different factors cannot be compared, so where no
    factor is shared only the mean of the flow is returned.
    """
    having = {
        editor: {factor: row[editor][metric] for factor, row in rows.items() if metric in row.get(editor, {})}
        for editor in map(editor_title, PREFIXES)
    }
    having = {editor: values for editor, values in having.items() if values}
    shared = set.intersection(*map(set, having.values())) if having else set()
    if not shared:
        having = {editor: values for editor, values in having.items() if editor == "flow"}
        shared = set(having.get("flow", {}))
    return {editor: sum(values[f] for f in shared) / len(shared) for editor, values in having.items()}, len(shared)


def headline_metrics(rows: Comparison) -> tuple[str, ...]:
    """Choose the metrics of the headline: for photographs those of final pictures, where they were measured."""
    if drawn(rows) or not final_metrics(rows):
        return ("success", "leakage_at_90", "counterfactual", "counterfactual_image")
    return ("effectiveness", "leakage_at_equal", "identity_distance", "minimality")


def factor_card(files: Files, factor: str) -> str:
    """Build the card of a factor: its metrics above its strip of edits."""
    rows = edit_rows(files.metrics)
    values = rows.get(factor, {}).get("flow", {})
    metrics = [metric for metric in METRICS if metric != "cycle_error"] if drawn(rows) else final_metrics(rows)
    numbers = [f"{HEADINGS[m]} {number(values[m], m)}" for m in metrics or METRICS if m in values]
    count = files.metrics.get(f"edit/{factor}/{'images' if drawn(rows) else 'photographs'}")
    if numbers and count is not None:
        numbers.append(f"of {count:.0f} {'images' if drawn(rows) else 'photographs'}")
    sources = {known["name"]: known.get("source", "") for known in files.data.get("factors", [])}
    if sources.get(factor) and sources[factor] != factor:
        numbers.append(f"labels from {sources[factor]}")
    flag = "<span class='badge warn'>cannot be judged</span> " if unjudged(files.metrics, factor) else ""
    image = picture(files, f"edit_{file_name(factor)}", STRIP)
    head = f"<h3>{escape(factor)}</h3>{flag}<span class='muted'>{escape(' · '.join(numbers))}</span>"
    return card(head + image) if image else ""


def members(metrics: Mapping[str, float], editor: str, factor: str) -> str:
    """Write the effectiveness of an editor by each member of a committee, flagged where the members disagree."""
    prefix = next(prefix for prefix in PREFIXES if editor_title(prefix) == editor)
    seen = by_member(metrics, prefix, factor)
    if not seen:
        return ""
    text = ", ".join(f"{escape(name)} {share:.2f}" for name, share in seen.items())
    flag = " <span class='badge warn'>members disagree</span>" if disagreement(seen) else ""
    return f"<br><span class=muted>{text}</span>{flag}"


def comparison_rows(metrics: Mapping[str, float], factor: str, editors: Mapping[str, Mapping[str, float]],
                    shown: Sequence[str]) -> str:  # fmt: skip
    """Build the rows of one factor in the comparison table, with the accuracy of the judge under its name."""
    accuracy, judged = metrics.get(f"judge/{factor}/balanced_accuracy"), not unjudged(metrics, factor)
    note = "" if accuracy is None else f"<br><span class='muted'>judge {accuracy:.3f}</span>"
    if not judged:
        note += "<br><span class='badge warn'>cannot be judged</span>"
    rows = []
    for i, (editor, values) in enumerate(editors.items()):
        cells = "".join(
            f"<td{' class=best' if judged and editor in best(editors, metric) else ''}>"
            f"{number(values.get(metric), metric)}</td>"
            for metric in shown
        )
        first = f"<th rowspan={len(editors)}>{escape(factor)}{note}</th>" if i == 0 else ""
        name = f"{editor}{members(metrics, editor, factor) if 'effectiveness' in shown else ''}"
        rows.append(f"<tr{'' if editor == 'flow' else ' class=other'}>{first}<td class=name>{name}</td>{cells}</tr>")
    return f"<tbody>{''.join(rows)}</tbody>"


def compared(metrics: Mapping[str, float], rows: Comparison, shown: Sequence[str], caption: str) -> str:
    """Build a table of metrics by factor and editor, above its caption; empty without metrics."""
    of_shown = {
        factor: {editor: values for editor, values in editors.items() if set(shown) & set(values)}
        for factor, editors in rows.items()
    }
    bodies = "".join(comparison_rows(metrics, factor, row, shown) for factor, row in of_shown.items() if row)
    if not bodies:
        return ""
    heads = "".join(f"<th>{HEADINGS[m]} {'↑' if HIGHER[m] else '↓'}</th>" for m in shown)
    head = f"<thead><tr><th>factor</th><th class=name>editor</th>{heads}</tr></thead>"
    return card(f"<div class=scroll><table>{head}{bodies}</table></div><p class=muted>{caption}</p>")


def comparison(metrics: Mapping[str, float]) -> str:
    """Build the comparison of the flow with the baselines by factor, with the best values marked."""
    rows = edit_rows(metrics)
    present = {metric for row in rows.values() for values in row.values() for metric in values}
    final = final_metrics(rows)
    shown = [metric for metric in METRICS if metric in present and (metric != "identity" or "identity" not in final)]
    caption = (
        "Marked: the best of flow, mean difference and linear SVM, on factors that the judge can read. ↑ higher is "
        "better, ↓ lower. The judge's number is its balanced accuracy on test reconstructions; below .75 its "
        "readings are not reliable. The oracle was trained on ground-truth counterfactuals."
    )
    return compared(metrics, rows, shown, caption)


def final_comparison(metrics: Mapping[str, float]) -> str:
    """Build the comparison of final pictures with photographs, by metrics of the literature with their definitions."""
    rows = edit_rows(metrics)
    shown = final_metrics(rows)
    sentences = "".join(f"<li><b>{FINAL[metric][0]}</b>: {FINAL[metric][2]}.</li>" for metric in shown)
    return compared(metrics, rows, shown, f"Arrows and marks as below.</p><ul class=muted>{sentences}</ul><p>")


def invariance(metrics: Mapping[str, float]) -> str:
    """Build the table of composition and reversibility, edits that should leave photographs unchanged."""
    titles = {
        "composition/null_edit": "composition: a null edit, which sets every factor to its own value",
        "composition/ten_null_edits": "composition: ten null edits, one after the other",
    } | {key: f"reversibility: {key.removeprefix('reversibility/')} edited and reversed" for key in metrics
         if key.startswith("reversibility/")}  # fmt: skip
    rows = [f"<tr><td class=name>{escape(text)}</td><td>{metrics[key]:.4f}</td></tr>" for key, text in titles.items()
            if key in metrics]  # fmt: skip
    caption = "Mean absolute difference from the original photograph, in [0, 1]; 0 is perfect."
    return card(f"<table><tbody>{''.join(rows)}</tbody></table><p class=muted>{caption}</p>") if rows else ""
