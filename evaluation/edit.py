"""Edit images with a finished run: python -m evaluation.edit run=RUN factor=NAME value=1 ...

Choose one kind of edit:

    factor=glasses value=1         set a factor to a value; values=[0,1] to several, neither to each value that it has
    factor=sex donor=ID_OR_PATH    swap the block of a factor with that of another image
    component=2 values=[-3,2]      set one component, in standard deviations
    'edits={glasses:1,hat:0}'      set several factors, one after the other

The command draws a strip of the originals and the edits. Photographs of images= are also written whole, at their own
resolution, with the change composed into them. No file is overwritten.
"""

import json
from collections.abc import Sequence
from unicodedata import normalize

from evaluation.command import command, data_places, json_only, parse_options
from evaluation.editing.edit_options import Options
from evaluation.editing.strips import edit_run
from evaluation.run import LoadedRun, load
from models import UserError, near_names
from training.files import jsonable

__all__ = ["main"]


def check_factors(run: LoadedRun, names: Sequence[str]) -> None:
    """Check that a run has the named factors by its manifest, before its networks are loaded.

    Raises:
        UserError: it has other ones.
    """
    known = [str(factor["name"]) for factor in run.manifest.get("data", {}).get("factors", [])]
    for name in names:
        if known and normalize("NFC", name) not in [normalize("NFC", each) for each in known]:
            raise UserError(f"Expected a factor among {', '.join(known)}, got {name!r}.{near_names(name, known)}")


def main(arguments: Sequence[str]) -> None:
    """Edit the images, and print the files that were written."""
    arguments, places = data_places(arguments)
    options = parse_options(Options, arguments)
    with json_only(options.json):
        run = load(options.run, places=places)
        check_factors(run, [*([] if options.factor is None else [options.factor]), *(options.edits or {})])
        answer = edit_run(run, options)
    opened = "\n".join(f"Open: {path}" for path in [answer["figure"], *answer["pictures"]])
    print(json.dumps(jsonable(answer)) if options.json else opened)


if __name__ == "__main__":
    command(main, Options)
