"""Compose `report.html` from the files of a run folder, one section per task."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from evaluation.report.charts import draw_charts
from evaluation.report.edits import (
    comparison,
    factor_card,
    final_comparison,
    headline_metrics,
    invariance,
    shared_means,
)
from evaluation.report.html import STYLE, Files, card, duration, picture, section, warned
from evaluation.report.reduction_table import CAPTION, reduction_tables
from evaluation.report.tables import (
    HEADINGS,
    LABEL_FREE,
    SCORES,
    best_methods,
    cluster_rows,
    edit_rows,
    method_title,
    score_text,
    unjudged,
)
from training.files import file_name, read_json, write_file
from training.metrics import read_not_finite
from training.run_files import damaged, read_manifest, read_metrics
from training.run_folder import find_run
from training.stored_settings import read_settings

__all__ = ["write_report"]

FIGURES = {
    "factor_grid": "Each factor edited on the same images; below each edit the ground truth, where it is known",
    "leakage_matrix": "Leakage: share of images in which editing a factor (row) flipped another (column)",
    "strength_curves": "Success and leakage against edit strength, at the strengths that the search for 90 % success "
    "(dashed) evaluated; 1 is the full edit",
    "samples": "Samples from the prior; each row from the same noise, with one factor at one value",
    "reconstructions": "Test images above their reconstructions",
    "retrieval": "Recall@1 and 1-NN accuracy against the number of dimensions, with 95 % confidence bands; "
    "dashed: closed forms",
    "concepts": "Most frequent concepts, the share of rows that have them, and the rows with the largest activation",
    "concept_images": "Most frequent concepts and the images with the largest activation",
    "training_curves": "Training curves, as logged and smoothed",
}
CONTACT = "Images of each cluster, the most certain and the least certain ones; beside them its size and majority class"
MAP = "Columns: the input features and the embedding of each model; rows: coloured by label, coloured by cluster"
CONTINGENCY = "Contingency table: share of each class (row) in each cluster (column)"
AT_EDITS = ("factor_grid", "leakage_matrix", "strength_curves")


def name_of(setting: Any) -> str:
    """Return the name of a group of the configuration: itself, its `name`, or that of its target."""
    if isinstance(setting, Mapping):
        setting = setting.get("name") or str(setting.get("_target_", "")).rpartition(".")[2]
    return str(setting or "")


def shape_words(data: Mapping[str, Any]) -> str:
    """Describe the size of images or the number of features of the data."""
    parts = [f"images of {data['size']}×{data['size']}"] if "size" in data else []
    return ", ".join(parts + ([f"{data['features']} features each"] if "features" in data else []))


def tiles(files: Files) -> str:
    """Build the headline: means over the factors that can be judged, those of the baselines on the same factors."""
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


def heading(files: Files) -> str:
    """Build the header: names of data and model, facts of the run, and the headline numbers."""
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


def clusterings(metrics: Mapping[str, float]) -> str:
    """Build the table of clustering methods, with the best of each score marked."""
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
        bodies += f"<tr>{names}<td class=name>{part}</td><td class=name>{escape(method_title(method))}</td>{cells}</tr>"
    heads = "".join(f"<th>{title}</th>" for title in shown.values())
    head = f"<thead><tr>{'<th>factor</th>' if factors else ''}<th class=name>rows</th><th class=name>method</th>{heads}"
    caption = (
        "Agreement with the labels, which no method has seen: 1 is the same partition; AMI and ARI are 0 for a random "
        "one. Accuracy is that of the best matching of clusters and classes. ± is the standard deviation over seeds."
    )
    return card(f"<div class=scroll><table>{head}</tr></thead><tbody>{bodies}</tbody></table></div>"
                f"<p class=muted>{caption}</p>")  # fmt: skip


def timings(metrics: Mapping[str, float]) -> str:
    """Build a bar per stage; for several seeds the sum of their times and the throughput of the first."""
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
    """Build the table of metrics that no other section shows: those of auto-encoder, flow and judge."""
    elsewhere = ("edit/", "baseline/", "oracle/", "composition/", "reversibility/", "time/", "throughput/")
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
    """List the notes on the data and the unreadable images."""
    items = [escape(note) for note in data.get("notes", [])]
    skipped = data.get("skipped", [])
    if skipped:
        items.append(f"{len(skipped)} unreadable images were left out: {escape(', '.join(skipped[:20]))}")
    return card(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>") if items else ""


def configuration(files: Files) -> str:
    """Build the foldable configuration, and the versions that the manifest records."""
    recorded = {key: files.manifest[key] for key in ("command", "git", "versions", "encoder") if key in files.manifest}
    texts = {
        "Configuration": OmegaConf.to_yaml(files.config),
        "Versions": OmegaConf.to_yaml(recorded) if recorded else "",
    }
    return "".join(
        card(f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>")
        for title, text in texts.items()
        if text
    )


def page(files: Files) -> str:
    """Compose the page from its sections."""
    factors = list(edit_rows(files.metrics)) or [known["name"] for known in files.data.get("factors", [])]
    strips = {f"edit_{file_name(factor)}" for factor in factors}
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
    # The page is text and pictures: even if a name slipped through as markup, no script of it would run.
    allowed = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    meta = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{allowed}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    head = f"<head>{meta}<title>{title}</title><style>{STYLE.read_text()}</style></head>"
    return f'<!DOCTYPE html>\n<html lang="en">{head}<body>{"".join(parts)}</body></html>\n'


def read_files(path: Path) -> Files:
    """Read the files of a run folder that the report needs."""
    found = [file for file in sorted((path / "figures").glob("*.png")) if file.resolve().is_relative_to(path.resolve())]
    figures = {file.stem: file for file in found}  # a page that is passed on shows nothing from elsewhere
    config = read_settings(path / "config.yaml")
    return Files(path, config, read_manifest(path), read_metrics(path), figures, read_not_finite(path))


def write_report(run: str | Path) -> Path:
    """Draw the charts of a run and write its `report.html`; parts that the run does not have are left out.

    Raises:
        UserError: no such run; a damaged file; a folder that cannot be written.
    """
    path = find_run(run)
    measurements = read_json(path / "measurements.json")
    try:
        draw_charts(path, measurements)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # other content than a run writes
        raise damaged(path / "measurements.json", "the matrices and curves of a run", error) from error
    write_file(path / "report.html", page(read_files(path)))
    return path / "report.html"
