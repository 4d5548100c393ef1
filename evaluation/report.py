"""Writes a run's report.html again from the files in its folder: python -m evaluation.report run=RUN
[json=true].

One self-contained page: no network, no scripts, images inside. No model and no data are needed.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from evaluation.charts import draw_charts
from evaluation.command import command, options
from evaluation.comparison import (
    CLUSTER_METHODS,
    FINAL,
    HEADINGS,
    HIGHER,
    LABEL_FREE,
    METRICS,
    PREFIXES,
    SCORES,
    Comparison,
    best,
    best_methods,
    by_member,
    cluster_rows,
    disagreement,
    drawn,
    edit_rows,
    editor_title,
    final_metrics,
    score_text,
    unjudged,
)
from evaluation.files import read_json, write_file
from evaluation.reduction_tables import CAPTION, reduction_tables
from evaluation.run import find_run
from evaluation.settings import shortened

__all__ = ["Options", "main", "write_report"]

STYLE = Path(__file__).with_name("report.css")
FIGURES = {
    "factor_grid": "All factors, one at a time, on the same images",
    "leakage_matrix": "Leakage: share of images in which editing a factor (row) flipped another (column)",
    "strength_curves": "Success and leakage as the edit grows stronger, at the strengths that the search for 90 % (the "
    "dashes) visited; 1 is the full edit",
    "samples": "Samples from the prior; each row from the same noise, with one factor at one value",
    "reconstructions": "What the encoder keeps of an image",
    "retrieval": "Right at 1 against the number of dimensions, in bands of 95 %; dashed are closed forms",
    "concepts": "The commonest concepts, the share of the rows that have them, and the rows with most of each",
    "concept_images": "The commonest concepts and the images with most of each",
    "training_curves": "Training: as logged, and smoothed",
}
STRIP = "held-out images, both directions: the edited picture first, the original beside it"
CONTACT = "Each cluster's images: the most certain ones and the least certain ones; its size, and its commonest class"
MAP = "Left to right: the features, and what the models made of them; from above: by label, by cluster"
CONTINGENCY = "Share of each class (row) in each cluster (column) of the run's own method"
AT_EDITS = ("factor_grid", "leakage_matrix", "strength_curves")


@dataclass(frozen=True)
class Files:
    """What is read of a run folder; missing files are empty."""

    path: Path
    config: Any  # OmegaConf's DictConfig, a class that the shape checks warn of
    manifest: dict[str, Any]
    metrics: dict[str, float]
    figures: dict[str, Path]  # name without suffix -> file

    @property
    def data(self) -> dict[str, Any]:
        return self.manifest.get("data") or {}


def number(value: float | None, metric: str = "") -> str:
    if value is None:
        return ""
    return f"{value:.1e}" if metric == "cycle_error" else f"{value:.3f}"


def duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def section(title: str, *parts: str) -> str:
    """A headed part of the page; nothing where all parts are empty."""
    body = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def picture(files: Files, name: str, caption: str) -> str:
    """A figure of the run inside the page; nothing where there is none."""
    if name not in files.figures:
        return ""
    source = base64.b64encode(files.figures[name].read_bytes()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def card(content: str) -> str:
    return f'<div class="card">{content}</div>' if content else ""


def name_of(setting: Any) -> str:
    """What a group of the configuration is called, whether it is a name, has one, or only has a target."""
    if isinstance(setting, Mapping):
        setting = setting.get("name") or str(setting.get("_target_", "")).rpartition(".")[2]
    return str(setting or "")


def heading(files: Files) -> str:
    data, encoder = files.data, files.manifest.get("encoder") or {}
    names = [data.get("name") or name_of(files.config.get("data")), name_of(files.config.get("model"))]
    title = " · ".join(escape(name) for name in names if name) or escape(files.path.name)
    counts = ", ".join(f"{count:,} {part}" for part, count in data.get("splits", {}).items())
    facts = [
        str(files.manifest.get("created", "")),
        f"{counts} {shape_words(data)}" if counts else "",
        f"encoder {encoder['name']} {str(encoder.get('sha256', ''))[:12]}".strip() if "name" in encoder else "",
        f"seed {files.manifest['seed']}" if "seed" in files.manifest else "",
        str(files.manifest.get("device", "")),
    ]
    return (
        f"<header><h1>{title}</h1><p class='muted'>{escape(' · '.join(fact for fact in facts if fact))}</p>"
        f"{warned(files)}{tiles(files)}</header>"
    )


def warned(files: Files) -> str:
    words = shortened(files.config)
    return f"<p><strong>{escape(words)}</strong></p>" if words else ""


def shape_words(data: Mapping[str, Any]) -> str:
    parts = [f"images of {data['size']}×{data['size']}"] if "size" in data else []
    return ", ".join(parts + ([f"{data['features']} features each"] if "features" in data else []))


def tiles(files: Files) -> str:
    """The headline numbers: means over the factors that can be judged, the baselines' on the same factors below."""
    rows = {name: row for name, row in edit_rows(files.metrics).items() if not unjudged(files.metrics, name)}
    shown = []
    for metric in headline_metrics(rows):
        means, count = shared_means(rows, metric)
        if "flow" in means:
            others = "".join(f"<i>{e}<u>{value:.3f}</u></i>" for e, value in means.items() if e != "flow")
            part = "" if count == len(rows) else f", {count} of {len(rows)} factors"
            shown.append((f"{HEADINGS[metric]}{part}", f"{means['flow']:.3f}", others))
    for key, title, text in (
        ("reconstruction/psnr", "reconstruction, dB", "{:.1f}"),
        ("memory/peak_mib", "memory, MiB", "{:,.0f}"),
    ):
        if key in files.metrics:
            shown.append((title, text.format(files.metrics[key]), ""))
    if "time/total_s" in files.metrics:
        shown.append(("the whole run", duration(files.metrics["time/total_s"]), ""))
    tile = '<div class="tile">{}<b>{}</b><small>{}</small></div>'
    return (
        f'<div class="tiles">{"".join(tile.format(escape(a), escape(b), c) for a, b, c in shown)}</div>'
        if shown
        else ""
    )


def shared_means(rows: Comparison, metric: str) -> tuple[dict[str, float], int]:
    """Each editor's mean over the factors where all that have the metric have it, and how many factors these are.

    Means over different factors cannot be compared; where no factor is shared, the flow stands alone.
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
    """Of photographs what a user gets is measured, where it was."""
    if drawn(rows) or not final_metrics(rows):
        return ("success", "leakage_at_90", "counterfactual", "counterfactual_image")
    return ("effectiveness", "leakage_at_equal", "identity_distance", "minimality")


def factor_card(files: Files, factor: str) -> str:
    """One factor's strip under its numbers."""
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
    image = picture(files, f"edit_{factor.replace('/', '_')}", STRIP)
    head = f"<h3>{escape(factor)}</h3>{flag}<span class='muted'>{escape(' · '.join(numbers))}</span>"
    return card(head + image) if image else ""


def comparison_rows(metrics: Mapping[str, float], factor: str, editors: Mapping[str, Mapping[str, float]],
                    shown: Sequence[str]) -> str:  # fmt: skip
    """One factor's part of the comparison table, the judge's accuracy under its name."""
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


def comparison(metrics: Mapping[str, float]) -> str:
    """The flow against the baselines, factor by factor, the best number of each marked."""
    rows = edit_rows(metrics)
    present = {metric for row in rows.values() for values in row.values() for metric in values}
    final = final_metrics(rows)
    shown = [metric for metric in METRICS if metric in present and (metric != "identity" or "identity" not in final)]
    caption = (
        "Marked: the best of flow, mean difference and linear SVM, on factors that can be judged. ↑ higher is better, "
        "↓ lower. The judge's number is its balanced accuracy on test reconstructions; below .75 it cannot tell. The "
        "oracle was trained on true pairs."
    )
    return compared(metrics, rows, shown, caption)


def compared(metrics: Mapping[str, float], rows: Comparison, shown: Sequence[str], caption: str) -> str:
    """A table of these metrics, factor by factor and editor by editor, above its caption; nothing of no metric."""
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


def members(metrics: Mapping[str, float], editor: str, factor: str) -> str:
    """Under an editor's name: its effectiveness as each member of a committee sees it, flagged where they disagree."""
    prefix = next(prefix for prefix in PREFIXES if editor_title(prefix) == editor)
    seen = by_member(metrics, prefix, factor)
    if not seen:
        return ""
    text = ", ".join(f"{escape(name)} {share:.2f}" for name, share in seen.items())
    flag = " <span class='badge warn'>members disagree</span>" if disagreement(seen) else ""
    return f"<br><span class=muted>{text}</span>{flag}"


def final_comparison(metrics: Mapping[str, float]) -> str:
    """The final pictures against the photographs, by the field's own measures, each with a sentence."""
    rows = edit_rows(metrics)
    shown = final_metrics(rows)
    sentences = "".join(f"<li><b>{FINAL[metric][0]}</b>: {FINAL[metric][2]}.</li>" for metric in shown)
    return compared(metrics, rows, shown, f"Arrows and marks as below.</p><ul class=muted>{sentences}</ul><p>")


def invariance(metrics: Mapping[str, float]) -> str:
    """Null edits, and edits there and back: what should be left as it was."""
    told = {
        "composition/null_edit": "composition: a null edit, which sets every factor to what it is",
        "composition/ten_null_edits": "composition: ten null edits, each of the picture before",
    } | {key: f"reversibility: {key.removeprefix('reversibility/')} there and back" for key in metrics
         if key.startswith("reversibility/")}  # fmt: skip
    rows = [f"<tr><td class=name>{escape(text)}</td><td>{metrics[key]:.4f}</td></tr>" for key, text in told.items()
            if key in metrics]  # fmt: skip
    caption = "Mean absolute difference to the original photograph, black to white being 1; 0 is a perfect answer."
    return card(f"<table><tbody>{''.join(rows)}</tbody></table><p class=muted>{caption}</p>") if rows else ""


def clusterings(metrics: Mapping[str, float]) -> str:
    """Every clustering method side by side, the best of each score marked."""
    rows = cluster_rows(metrics)
    if not rows:
        return ""
    shown = {s: t for s, t in {**SCORES, **LABEL_FREE}.items() if any(s in row for row in rows.values())}
    bodies, factors = "", any(factor for factor, _, _ in rows)
    for (factor, part, method), row in rows.items():
        cells = "".join(
            f"<td{' class=best' if s in SCORES and method in best_methods(rows, factor, part, s) else ''}>"
            f"{score_text(row.get(s))}</td>"
            for s in shown
        )
        names = f"<th>{escape(factor)}</th>" if factors else ""
        bodies += f"<tr>{names}<td class=name>{part}</td><td class=name>{CLUSTER_METHODS[method]}</td>{cells}</tr>"
    heads = "".join(f"<th>{title}</th>" for title in shown.values())
    head = f"<thead><tr>{'<th>factor</th>' if factors else ''}<th class=name>rows</th><th class=name>method</th>{heads}"
    caption = (
        "Agreement with the labels, which no method has seen: 1 is the same partition; AMI and ARI are 0 for a random "
        "one. Accuracy is that of the best matching of clusters and classes. ± is the standard deviation over seeds."
    )
    return card(f"<div class=scroll><table>{head}</tr></thead><tbody>{bodies}</tbody></table></div>"
                f"<p class=muted>{caption}</p>")  # fmt: skip


def timings(metrics: Mapping[str, float]) -> str:
    """A bar per stage; of several seeds the sum of their times and the first one's speed."""
    stages: dict[str, float] = {}
    for key, value in metrics.items():
        if key.startswith("time/"):
            stage = re.sub(r"(?<!layer)_\d+$", "", key.removeprefix("time/").removesuffix("_s"))
            stages[stage] = stages.get(stage, 0.0) + value
    total = max(stages.pop("total", 0.0), sum(stages.values()))
    rows = []
    for stage, seconds in stages.items():
        speed = metrics.get(f"throughput/{stage}_per_s")
        rows.append(
            f"<tr><td class=name>{escape(stage.replace('_', ' '))}</td><td>{duration(seconds)}</td>"
            f"<td>{'' if speed is None else f'{speed:,.0f} per s'}</td>"
            f"<td class=wide><span class=bar style='width:{100 * seconds / max(total, 1e-9):.1f}%'></span></td></tr>"
        )
    return card(f"<table><tbody>{''.join(rows)}</tbody></table>") if rows else ""


def other_numbers(metrics: Mapping[str, float]) -> str:
    """What is shown nowhere else: the autoencoder's, the flow's and the judge's numbers."""
    elsewhere = (
        "edit/",
        "baseline/",
        "oracle/",
        "composition/",
        "reversibility/",
        "time/",
        "throughput/",
    )  # tables have these
    rows = [
        f"<tr><td class=name>{escape(key)}</td><td>{value:.4g}</td></tr>"
        for key, value in metrics.items()
        if not key.startswith(elsewhere)
    ]
    return (
        card(f"<details><summary>All other numbers</summary><table><tbody>{''.join(rows)}</tbody></table></details>")
        if rows
        else ""
    )


def notes(data: Mapping[str, Any]) -> str:
    items = [escape(note) for note in data.get("notes", [])]
    skipped = data.get("skipped", [])
    if skipped:
        items.append(f"{len(skipped)} unreadable images were left out: {escape(', '.join(skipped[:20]))}")
    return card(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>") if items else ""


def configuration(files: Files) -> str:
    made_of = {key: files.manifest[key] for key in ("command", "git", "versions", "encoder") if key in files.manifest}
    texts = {
        "Configuration": OmegaConf.to_yaml(files.config),
        "Versions": OmegaConf.to_yaml(made_of) if made_of else "",
    }
    return "".join(
        card(f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>")
        for title, text in texts.items()
        if text
    )


def page(files: Files) -> str:
    factors = list(edit_rows(files.metrics)) or [known["name"] for known in files.data.get("factors", [])]
    strips = {f"edit_{factor.replace('/', '_')}" for factor in factors}
    components = sorted((name for name in files.figures if name.startswith("component_")), key=lambda n: (len(n), n))
    maps, sheets, tables = (
        [name for name in files.figures if name.startswith(kind)] for kind in ("map_", "clusters", "contingency_")
    )
    shown = {*FIGURES, *strips, *components, *maps, *sheets, *tables}
    more = [name for name in files.figures if name not in shown]
    at_edits = [card(picture(files, name, FIGURES[name])) for name in AT_EDITS]
    parts = [
        heading(files),
        section("Edits", *(factor_card(files, factor) for factor in factors)),
        section("Final pictures against the originals", final_comparison(files.metrics), invariance(files.metrics)),
        section("The flow against the baselines", comparison(files.metrics)),
        section("Clusterings", clusterings(files.metrics)),
        section(
            "Reductions",
            card(picture(files, "retrieval", FIGURES["retrieval"])),
            *(card(f"{table}<p class=muted>{CAPTION}</p>") for table in reduction_tables(files.path / "retrieval.csv")),
        ),
        section("Concepts", *(card(picture(files, name, FIGURES[name])) for name in ("concepts", "concept_images"))),
        section("Maps", *(card(picture(files, name, MAP)) for name in maps)),
        section("Clusters", *(card(picture(files, name, CONTACT)) for name in sheets)),
        section("Classes and clusters", *(card(picture(files, name, CONTINGENCY)) for name in tables)),
        section("About the data", notes(files.data)),
        section("Leakage and strength", *at_edits[1:]),
        section("Every factor on the same images", at_edits[0]),
        section(
            "Single components", card("".join(picture(files, name, "in standard deviations") for name in components))
        ),
        section("Samples", card(picture(files, "samples", FIGURES["samples"]))),
        section("Reconstructions", card(picture(files, "reconstructions", FIGURES["reconstructions"]))),
        section("More pictures", *(card(picture(files, name, name.replace("_", " "))) for name in more)),
        section(
            "Training", card(picture(files, "training_curves", FIGURES["training_curves"])), timings(files.metrics)
        ),
        section("The run", other_numbers(files.metrics), configuration(files)),
    ]
    title = escape(" ".join(filter(None, ["Facet:", str(files.data.get("name", "")), files.path.name])))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"<head>{meta}<title>{title}</title><style>{STYLE.read_text()}</style></head>"
    return f'<!DOCTYPE html>\n<html lang="en">{head}<body>{"".join(parts)}</body></html>\n'


def read_files(path: Path) -> Files:
    figures = {file.stem: file for file in sorted((path / "figures").glob("*.png"))}
    config = OmegaConf.load(path / "config.yaml")
    return Files(path, config, read_json(path / "manifest.json"), read_json(path / "metrics.json"), figures)


def write_report(run: str | Path) -> Path:
    """Draw the charts of a run's numbers and write its `report.html`; what the run does not have is left out.

    Raises:
        UserError: no such run; a damaged file; a folder that cannot be written.
    """
    path = find_run(run)
    draw_charts(path, read_json(path / "measurements.json"))
    write_file(path / "report.html", page(read_files(path)))
    return path / "report.html"


@dataclass
class Options:
    run: str = MISSING
    json: bool = False


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    file = write_report(asked.run)
    print(json.dumps({"files": [str(file)]}) if asked.json else f"Open: {file}")


if __name__ == "__main__":
    command(main)
