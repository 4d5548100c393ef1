"""retrieval.csv as tables of a report: r1 by method and number of dimensions, a table for each question."""

from html import escape
from pathlib import Path

__all__ = ["CAPTION", "reduction_tables"]

CHANCE = 0.05
CAPTION = (
    "Right at 1, by the number of dimensions. Marked: above the method that the others are tested against, p < .05 by "
    "McNemar's test; grey: not told apart from it, or below. Bands, r5, r10 and p are in retrieval.csv."
)
QUESTIONS = {
    "text_to_image": "Which image a text belongs to", "image_to_text": "Which text belongs to an image",
    "neighbours": "The nearest row, still the same",
}  # fmt: skip


def reduction_tables(file: Path) -> list[str]:
    """HTML of each question; none where there is no such file."""
    import pandas as pd

    if not file.is_file():
        return []
    tables, found = [], pd.read_csv(file)
    for question, rows in found.groupby("direction", sort=False):
        dims = sorted(rows["dim"].unique())
        full = rows[rows["method"] == "full"]["r1"].iloc[0]
        against = rows["against"].dropna().unique().tolist()
        body = ""
        for method, own in rows[rows["method"] != "full"].groupby("method", sort=False):
            cells = ""
            for dim in dims:
                cell = own[own["dim"] == dim].to_dict("records")
                better = bool(cell) and cell[0]["p"] < CHANCE and cell[0]["difference_low"] > 0
                cells += f"<td{' class=best' if better else ''}>{cell[0]['r1']:.3f}</td>" if cell else "<td></td>"
            name = escape(str(method).replace("_", " ")) + (" (tested against)" if method in against else "")
            body += f"<tr{'' if method in against else ' class=other'}><td class=name>{name}</td>{cells}</tr>"
        title = QUESTIONS.get(str(question), f"Vote of the nearest row on {str(question).removeprefix('label/')}")
        heads = "".join(f"<th>{dim}</th>" for dim in dims)
        head = f"<thead><tr><th class=name>method</th>{heads}</tr></thead>"
        tables.append(
            f"<h3>{escape(title)}</h3> <span class=muted>full embeddings {full:.3f}</span>"
            f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>"
        )
    return tables
