"""Edits a finished run's images: python -m evaluation.edit run=RUN ...

what:
  factor=glasses value=1       a factor set to a value, a number or its word (value=with); values=[0,1]: to several;
                               neither: to each value it has
  factor=sex donor=ID_OR_PATH  a factor's block taken from another image
  component=2 values=[-3,2]    one component set, in standard deviations; without values: -3 to +3
  'edits={glasses:1,hat:0}'    several factors, one after the other
of which images:
  images=[a.png,b.png]         these photographs; else n=8 images of split=test, drawn with seed=0, of which with
                               value= only those labelled otherwise
  align=auto                   the face of a photograph is put where those of the run's images are (extra faces); none:
                               the middle of the picture is edited
  face=1                       the largest face of a photograph; 2: the second largest
how:
  strength=1.0                 0 leaves the image as it is
  compose=add                  how the change is put into the image: blend, replace, threshold, add; none: the
                               decoded edit; else the best of the run's encoder, replace or blend
  out=PATH                     the PNG to write, or a folder for it; else RUN/figures; no file is overwritten
  json=true                    print one JSON object: the paths, the codes before and after

Drawn is a strip; the photographs of images= are also written whole, at their own resolution, with the change in them.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from evaluation.command import command, options
from evaluation.editing.edit_options import Options
from evaluation.editing.strips import edit_run
from evaluation.run import load
from training.files import jsonable

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    # Loading may print (a cache being built, say), and JSON on the standard output has to stay alone.
    with redirect_stdout(sys.stderr) if asked.json else nullcontext():
        answer = edit_run(load(asked.run), asked)
    opened = "\n".join(f"Open: {path}" for path in [answer["figure"], *answer["pictures"]])
    print(json.dumps(jsonable(answer)) if asked.json else opened)


if __name__ == "__main__":
    command(main)
