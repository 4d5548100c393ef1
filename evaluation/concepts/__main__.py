"""Decompose embeddings into a few concepts each: python -m evaluation.concepts run=RUN or data=... vocabulary=FILE.

Of a run of model=sae the concepts are its units, named by the nearest texts of vocabulary= (a file of texts, or vectors
with vocabulary_names=; by default the rows themselves where these are texts). Of anything else they are the texts of
the vocabulary (SpLiCE): about active=8 of a row, or as many as penalty= leaves. query=NAME prints what one row, new
text or image file is made of. Options: method=sae or splice; active=, of an SAE how many units; k=5 rows of a concept;
out=FOLDER; json=true. Files: concepts.csv, a line per concept; concepts.parquet, a row's concepts;
figures/concepts.png, and of images a contact sheet.
"""

import json
from collections.abc import Sequence

from evaluation.command import aside, command
from evaluation.concepts.pipeline import Options, answer
from evaluation.embeddings.source import asked_source
from training.files import jsonable

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    asked, found = asked_source(Options, arguments)
    with aside(asked.json):
        result, table = answer(found, asked)
    if asked.json:
        print(json.dumps(jsonable(result)))
        return
    print(table.to_string(index=False, float_format="{:.3f}".format, max_colwidth=60))
    if "files" in result:
        numbers = {key: value for key, value in result.items() if isinstance(value, float)}
        print("\n", *(f"{key}: {value:.4g}\n" for key, value in numbers.items()), sep="")
        print(f"Open: {result['files']}/figures/concepts.png\n      {result['files']}/concepts.csv")


if __name__ == "__main__":
    command(main)
