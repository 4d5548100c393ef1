"""Tables of a report from retrieval.csv: recall@1 or 1-NN accuracy by method and number of dimensions."""

from html import escape
from pathlib import Path

import pandas as pd

from training.run_files import damaged, read_run_table

__all__ = ["CAPTION", "reduction_tables"]

CHANCE = 0.05
NUMBERS = ("dim", "r1", "p", "difference_low")
COLUMNS = ("method", "dim", "direction", "r1", "against", "p", "difference_low")
CAPTION = (
    "Recall@1, of labels 1-NN accuracy, by the number of dimensions. Marked: significantly above the reference method, "
    "p < .05 by McNemar's test. Confidence intervals, recall@5, recall@10 and p are in retrieval.csv."
)
TITLES = {
    "text_to_image": "Text-to-image retrieval, recall@1", "image_to_text": "Image-to-text retrieval, recall@1",
    "neighbours": "Nearest-neighbour preservation, recall@1",
}  # fmt: skip


def reduction_tables(file: Path) -> list[str]:
    """Return the HTML of a table per direction; none where there is no such file."""
    if not file.is_file():
        return []
    tables, found = [], read_run_table(file, COLUMNS)
    for direction, rows in found.groupby("direction", sort=False):
        dims = sorted(rows["dim"].unique())
        reference = rows[rows["method"] == "full"]["r1"]
        if not len(reference) or not all(pd.api.types.is_numeric_dtype(found[name]) for name in NUMBERS):
            raise damaged(file, "numbers of all methods and of the full embedding", "others")
        full = reference.iloc[0]
        against = rows["against"].dropna().unique().tolist()
        body = ""
        for method, own in rows[rows["method"] != "full"].groupby("method", sort=False):
            cells = ""
            for dim in dims:
                cell = own[own["dim"] == dim].to_dict("records")
                better = bool(cell) and cell[0]["p"] < CHANCE and cell[0]["difference_low"] > 0
                cells += f"<td{' class=best' if better else ''}>{cell[0]['r1']:.3f}</td>" if cell else "<td></td>"
            name = escape(str(method).replace("_", " ")) + (" (reference)" if method in against else "")
            body += f"<tr{'' if method in against else ' class=other'}><td class=name>{name}</td>{cells}</tr>"
        title = TITLES.get(str(direction), f"Classification by {str(direction).removeprefix('label/')}, 1-NN accuracy")
        heads = "".join(f"<th>{escape(str(dim))}</th>" for dim in dims)
        head = f"<thead><tr><th class=name>method</th>{heads}</tr></thead>"
        tables.append(
            f"<h3>{escape(title)}</h3> <span class=muted>full embedding {full:.3f}</span>"
            f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>"
        )
    return tables
