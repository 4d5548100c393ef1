"""Split text into cells: the separator is the one with which all rows have as many cells.

Quotation marks follow RFC 4180. In files separated by tabs or bars they are also found as plain text: there they only
quote if they have to, around a separator or a line break, or if they are around every cell of a column.
"""

import csv
import io
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from models import UserError

__all__ = ["Grid", "SeparatorError", "SEPARATORS", "split_cells", "split_lines"]

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
OPTIONS = {",": ",", ";": ";", "tab": "\t", "\t": "\t", "|": "|", "space": " "}
UNQUOTED = "write the cells without line breaks, or as .jsonl"
ID_NAMES = ("image_id", "image", "file_name", "filename", "file", "img", "path")


class SeparatorError(ValueError):
    """A text that cannot be split into a table; the message goes on after 'got'."""


class Grid(NamedTuple):
    """Rows of as many cells, the line of each, and whether the first is known to be a header."""

    rows: list[list[str]]
    lines: list[int]
    separator: str | None = None
    header: bool | None = None

    @property
    def width(self) -> int:
        return len(self.rows[0]) if self.rows else 0


class Problem(NamedTuple):
    """Why a text is no table with a separator."""

    line: int
    got: str


def split_lines(text: str) -> Grid:
    r"""Return lines as rows of one cell; only line feeds end a line, because texts may have other separators of lines.

    >>> split_lines("one\ntwo\n").rows
    [['one'], ['two']]
    """
    lines = text.removesuffix("\n").split("\n") if text else []
    return Grid([[line.removesuffix("\r")] for line in lines], list(range(1, len(lines) + 1)))


def split_spaces(text: str) -> Grid | Problem:
    """Split at white space; a first line with a number alone, the count of rows as in CelebA's tables, is omitted."""
    lines = [line.split() for line in text.split("\n")]
    filled = [(row, number) for number, row in enumerate(lines, 1) if row]
    if len(filled) > 1 and len(filled[0][0]) == 1 and filled[0][0][0].isdigit() and len(filled[-1][0]) > 1:
        filled = filled[1:]
    return shaped([row for row, _ in filled], [number for _, number in filled], "white space", row_names=True)


def cells_of(text: str, separator: str, quoted: bool, after_space: bool = False) -> tuple[list[list[str]], list[int]]:
    """Parse all rows, and the line that each starts in.

    Raises:
        csv.Error: a quotation mark is not closed, or text follows one; its first argument is the line.
    """
    csv.field_size_limit(sys.maxsize)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True,
                        skipinitialspace=after_space)  # fmt: skip
    rows, lines, start = [], [], 1
    try:
        for row in reader:
            rows.append(row)
            lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(start, str(error)) from error
    return rows, lines


def is_blank(row: Sequence[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def shaped(rows: list[list[str]], lines: list[int], separator: str | None, short: bool = False,
           row_names: bool = False) -> Grid | Problem:  # fmt: skip
    """Check that all rows have as many cells; separators at the end of rows are omitted.

    `row_names` allows a header without a cell for the first column, as R writes it, `short` rows with fewer cells.
    """
    kept = [(row, line) for row, line in zip(rows, lines, strict=True) if not is_blank(row)]
    if max((len(row) for row, _ in kept), default=0) < 2:  # an empty line may be an unknown value
        return Grid([row or [""] for row in rows], lines)
    first, header = kept[0][0], None
    body = [row for row, _ in kept[1:]]
    if len(first) > 1 and not first[-1].strip() and body and all(len(row) == len(first) - 1 for row in body):
        first = kept[0][0][:-1]
    width = len(first)
    longer = [row for row in body if len(row) == width + 1]
    if longer and all(not row[-1].strip() for row in longer):
        body = [row[:width] if len(row) == width + 1 else row for row in body]
    elif row_names and body and len(longer) == len(body) and first[0].strip().lower() not in ID_NAMES:
        first, width, header = ["", *first], width + 1, True
    for row, (_, line) in zip(body, kept[1:], strict=True):
        if len(row) > width or (len(row) < width and not short):
            return Problem(line, f"{len(row)} {'cell' if len(row) == 1 else 'cells'} in line {line} after {width} in "
                                 f"line {kept[0][1]}")  # fmt: skip
    grid = [first, *(row + [""] * (width - len(row)) for row in body)]
    while width > 1 and not any(row[width - 1].strip() for row in grid):
        width -= 1
    return Grid([row[:width] for row in grid], [line for _, line in kept], separator, header)


def attempt(text: str, separator: str, short: bool, row_names: bool, quoted: bool = True,
            after_space: bool = False) -> Grid | Problem:  # fmt: skip
    try:
        rows, lines = cells_of(text, separator, quoted, after_space)
    except csv.Error as error:
        return Problem(error.args[0], f"quotation marks that do not fit, from line {error.args[0]}")
    return shaped(rows, lines, SEPARATORS[separator], short, row_names)


def quotes(quoted: Grid, plain: Grid, separator: str) -> bool:
    """Tell whether quotation marks quote, given both readings of as many cells.

    They do around an empty cell, a doubled mark or a separator, or around all cells of a column.
    """
    for cells, texts in zip(zip(*quoted.rows, strict=True), zip(*plain.rows, strict=True), strict=True):
        changed = [(cell, text) for cell, text in zip(cells, texts, strict=True) if cell != text]
        if any(not cell or '"' in cell or separator in cell for cell, _ in changed):
            return True
        filled = [text for text in texts[1:] if text.strip()]
        if changed and len(filled) == len(changed) - int(cells[0] != texts[0]):
            return True
    return False


def reading(text: str, separator: str, short: bool, row_names: bool) -> Grid | Problem:
    """Read a text with a separator, with or without quotation; only rows separated by bars may be short."""
    found = strict_reading(text, separator, False, row_names)
    if isinstance(found, Problem) and short and separator == "|":
        return strict_reading(text, separator, True, row_names)
    return found


def strict_reading(text: str, separator: str, short: bool, row_names: bool) -> Grid | Problem:
    quoted = attempt(text, separator, short, row_names)
    if '"' not in text:
        return quoted
    plain = attempt(text, separator, short, row_names, quoted=False)
    if separator in ",;":
        if isinstance(quoted, Problem):
            spaced = attempt(text, separator, short, row_names, after_space=True)
            return quoted if isinstance(spaced, Problem) else spaced
        if isinstance(plain, Grid) and plain.width > 1 and len(plain.rows) != len(quoted.rows):
            line = next(a for a, b in zip(plain.lines, [*quoted.lines, 0], strict=False) if a != b) - 1
            return Problem(line, f"quotation marks from line {line} that may quote or not ({UNQUOTED})")
        return quoted
    if isinstance(quoted, Problem) or isinstance(plain, Problem):
        return plain if isinstance(quoted, Problem) else quoted
    if len(quoted.rows) != len(plain.rows):
        line = next((a for a, b in zip(plain.lines, quoted.lines, strict=False) if a != b), 2) - 1
        return Problem(line, f"quotation marks from line {line} that may quote or not ({UNQUOTED})")
    if quoted.width != plain.width:
        return quoted if not stray(quoted) else plain
    return quoted if quotes(quoted, plain, separator) else plain


def stray(grid: Grid) -> bool:
    """Tell whether a cell has a quotation mark that is not closed."""
    return any('"' in cell and cell.count('"') % 2 for row in grid.rows for cell in row)


def split_cells(text: str, suffix: str, given: str | None = None, spaces: bool = False, short: bool = False,
                row_names: bool = False) -> Grid:  # fmt: skip
    r"""Split text into rows of as many cells.

    `given` is the separator, one of `OPTIONS` or `none`; by default it is searched for. A .txt that no separator splits
    is one column, or if `spaces` is set, a table separated by white space.

    Raises:
        SeparatorError: no separator fits, or several do.

    >>> split_cells("text;label\na, b;1\n", ".csv").rows
    [['text', 'label'], ['a, b', '1']]
    """
    if given is not None:
        return with_separator(text, given, short, row_names)
    found = {one: reading(text, one, short, row_names) for one in SEPARATORS if one in text}
    fitting = {one: grid for one, grid in found.items() if isinstance(grid, Grid) and grid.width > 1}
    clean = {one: grid for one, grid in fitting.items() if not stray(grid)} or fitting
    if len(clean) > 1:
        words = " and ".join(f"{grid.width} cells a line separated by {SEPARATORS[one]}" for one, grid in clean.items())
        raise SeparatorError(f"{words}: choose by data.separator= one of {', '.join(map(repr, OPTIONS))} or none.")
    if clean:
        (one, grid), = clean.items()  # fmt: skip
        if suffix == ".txt" and one == "," and all(cell.startswith(" ") for row in grid.rows for cell in row[1:]):
            raise SeparatorError("a comma and a space in every line, which separate cells or words: set "
                                 "data.separator=none for one text per line, or ',' for a table.")  # fmt: skip
        return grid
    return one_column(text, suffix, found, spaces)


def with_separator(text: str, given: str, short: bool, row_names: bool) -> Grid:
    """Split text with the separator that the user has set.

    Raises:
        UserError: there is no such option.
        SeparatorError: rows have different numbers of cells.
    """
    if given == "none":
        return split_lines(text)
    if given not in OPTIONS:
        known = ", ".join(repr(option) for option in OPTIONS if option != "\t")
        raise UserError(f"Expected data.separator among {known} or none, got {given!r}.")
    grid = split_spaces(text) if OPTIONS[given] == " " else reading(text, OPTIONS[given], short, row_names)
    if isinstance(grid, Problem):
        raise SeparatorError(f"{grid.got}: correct the line, or choose another data.separator=.")
    return grid


def one_column(text: str, suffix: str, found: dict[str, Grid | Problem], spaces: bool) -> Grid:
    """Read a text that no separator splits: by white space, or as one column.

    Raises:
        SeparatorError: the first line has a separator, so that the other lines are damaged.
    """
    if spaces and suffix == ".txt" and isinstance(grid := split_spaces(text), Grid) and grid.width > 1:
        return grid
    if suffix == ".txt":
        plain, quoted = split_lines(text), attempt(text, ",", False, False)
        alike = isinstance(quoted, Grid) and (quoted.width, len(quoted.rows)) == (1, len(plain.rows))
        return quoted if isinstance(quoted, Grid) and alike and quotes(quoted, plain, ",") else plain
    first = next((line for line in text.split("\n") if line.strip()), "")
    natural = "\t" if suffix in (".tsv", ".tab") else ","
    order = sorted(found, key=lambda one: (-first.count(one), one != natural))
    for one in order:
        problem = found[one]
        if isinstance(problem, Problem) and (one in first or one == natural):
            raise SeparatorError(
                f"{problem.got}, separated by {SEPARATORS[one]}: correct the line, quote cells that have the separator "
                "in them, or set data.separator=none for one text per line."
            )
    grid = attempt(text, natural, False, False)
    if isinstance(grid, Problem):
        raise SeparatorError(f"{grid.got}: correct the line, or set data.separator=none for one text per line.")
    return grid
