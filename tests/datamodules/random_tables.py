"""Write random tables as people have them, read them, and count those read as meant, refused, and silently wrong.

`make tables` runs 10,000 cases; a few hundred are part of the suite. A refused table is read again with the options
that its owner would then set, and has to be read as meant.
"""

import csv
import io
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from datamodules.caption_files import read_captions
from datamodules.label_kinds import infer_labels
from datamodules.tables import join_tables, label_table_of
from datamodules.texts import one_text_per_row, read_texts, text_column
from datamodules.vector_files import VectorFile
from datamodules.vector_labels import label_columns
from models import UserError

WORDS = ("red", "Blue", "dark green", "café", "眼镜", "a, b", "x;y", 'say "hi"', "tab\there", "None", "NA", "null",
         "it's", "1|2", "two\nlines", "#5", "O'Neil, Ann", "=1+1", "yes", "true", "12 cm", "v1.0", "-")  # fmt: skip
PLAIN = ("red", "blue", "green", "black", "white", "gold", "None", "NA", "null", "v1.0")
SENTENCES = ("a dog runs on grass", "Hello, world!", "two cats; one mouse", 'he said "no" and left', "café 眼镜", "yes",
             "It is 5 o'clock.", "red, green, and blue", "100", "no", "name", "line one\nline two", "a|b", "[MASK] is",
             "text", "a\tb", "What is this?", "'quoted'", '"both ends"', "NA", "None")  # fmt: skip
NAMES = ("hat", "Hair colour", "age", "text", "id", "split2", "x", "embedding_0", "name", "größe", "size (cm)", "kind",
         "Wearing_Hat", "is round", "label", "note")  # fmt: skip


NO_COLUMNS = VectorFile(Path("none"), np.zeros((1, 1)), {})


class File(NamedTuple):
    """A file and what its owner meant by it."""

    name: str
    content: bytes
    options: dict[str, Any]  # the options that the owner sets if asked


def numbers(pick: random.Random, n: int) -> list[str]:
    kind = pick.randrange(5)
    if kind == 0:
        return [str(pick.choice([0, 1])) for _ in range(n)]
    if kind == 1:
        return [str(pick.choice([-1, 1])) for _ in range(n)]
    if kind == 2:
        return [str(pick.randrange(6)) for _ in range(n)]
    if kind == 3:
        return [f"{pick.uniform(-5, 90):.2f}" for _ in range(n)]
    return [str(pick.randrange(20_000_000, 20_000_100)) for _ in range(n)]


def cells(pick: random.Random, n: int, words: tuple[str, ...]) -> list[str]:
    """A column: numbers, codes with leading zeros, or words, some of them missing."""
    kind = pick.randrange(4)
    if kind == 0:
        column = numbers(pick, n)
    elif kind == 1:
        column = [pick.choice(["01", "1", "001", "10"]) for _ in range(n)]
    else:
        some = pick.sample(words, min(len(words), pick.randrange(2, 6)))
        column = [pick.choice(some) for _ in range(n)]
    if pick.random() < 0.2:
        column = ["" if pick.random() < 0.15 else cell for cell in column]
    return column


def written(pick: random.Random, rows: list[list[str]], header: list[str] | None, formats: tuple[str, ...]) -> File:
    """Write rows in one of the formats, by one of the writers that people use."""
    kind = pick.choice(formats)
    if header is None and kind in ("jsonl", "parquet"):
        kind = "csv"
    if kind == "jsonl":
        records = [dict(zip(header or [], row, strict=True)) for row in rows]
        ascii_only = pick.random() < 0.5
        return File("t.jsonl", "\n".join(json.dumps(each, ensure_ascii=ascii_only) for each in records).encode(), {})
    if kind == "parquet":
        buffer = io.BytesIO()
        pd.DataFrame(rows, columns=header).to_parquet(buffer)
        return File("t.parquet", buffer.getvalue(), {})
    some = {"tsv": "\t", "csv": ",,;\t|", "txt": ",;\t"}[kind]
    separator = pick.choice(some) if len(rows[0]) > 1 else some[0]
    lines = ([header] if header is not None else []) + rows
    trailing = pick.random() < 0.1 and len(lines[0]) > 1
    lines = [[*row, ""] for row in lines] if trailing else lines
    quoting: Any = pick.choice([csv.QUOTE_MINIMAL] * 3 + [csv.QUOTE_ALL])
    end = pick.choice(["\n", "\n", "\r\n"])
    buffer_text = io.StringIO(newline="")
    special = any(any(mark in cell for mark in (separator, '"', "\n")) for row in lines for cell in row)
    if not special and pick.random() < 0.3:
        buffer_text.write(end.join(separator.join(row) for row in lines) + (end if pick.random() < 0.8 else ""))
    else:
        csv.writer(buffer_text, delimiter=separator, quoting=quoting, lineterminator=end).writerows(lines)
    text = buffer_text.getvalue() + (end if pick.random() < 0.1 and len(lines[0]) > 1 else "")
    encoding = pick.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16"])
    return File(
        f"t.{kind}",
        text.encode(encoding),
        {"header": header is not None, "separator": separator},
    )


def names_of_columns(pick: random.Random, count: int, first: str | None = None) -> list[str]:
    return ([first] if first else []) + pick.sample(NAMES, count)


def attribute_case(pick: random.Random) -> tuple[bool, Callable[..., bool]]:
    """Labels of images, joined by their ids, in any order, with a counter, with rows too few or too many."""
    n = pick.randrange(6, 30)
    folders = pick.choice([[""], [""], ["a/", "b/"], ["train/", "val/"]])
    stems = pick.sample([f"{i}" for i in range(100)], n) if pick.random() < 0.4 else [f"img_{i:03d}" for i in range(n)]
    ids = [f"{pick.choice(folders)}{stem}.{pick.choice(['jpg', 'jpg', 'png'])}" for stem in stems]
    form = pick.randrange(4)
    shown = {
        0: lambda name: name, 1: lambda name: name.rsplit("/", 1)[-1],
        2: lambda name: name.rsplit("/", 1)[-1].rsplit(".", 1)[0], 3: lambda name: f"/data/set/{name}",
    }[form]  # fmt: skip
    count = pick.randrange(1, 4)
    columns = {name: cells(pick, n, WORDS) for name in names_of_columns(pick, count)}
    order = pick.sample(range(n), n - (pick.randrange(1, 3) if pick.random() < 0.3 else 0))
    expected = {name: {ids[row]: column[row] for row in order} for name, column in columns.items()}
    rows = [[shown(ids[row]), *(column[row] for column in columns.values())] for row in order]
    if pick.random() < 0.2:
        rows += [[shown(f"other/none{i}.jpg"), *pick.choice(rows)[1:]] for i in range(pick.randrange(1, 4))]
    has_header = pick.random() < 0.75
    id_name = pick.choice(["image_id", "file", "photo", "img", "picture name"])
    header = [id_name, *columns]
    position = pick.randrange(count + 1) if pick.random() < 0.3 else 0
    for row in [header, *rows]:
        row.insert(position, row.pop(0))
    counter = pick.random() < 0.25
    if counter:
        header = [pick.choice(["", "number", "nr"]), *header]
        rows = [[str(i), *row] for i, row in enumerate(rows)]
    key = position + int(counter)
    file = written(pick, rows, header if has_header else None, ("csv", "csv", "tsv", "txt", "jsonl", "parquet"))
    if len({name for name in header if name}) < len([name for name in header if name]):
        return attribute_case(pick)
    names = [name for i, name in enumerate(header) if i != key and name in columns]

    def read(header: bool | None = None, separator: str | None = None, asked: bool = False) -> bool:
        table = label_table_of(file.name, file.content, separator)
        found = join_tables(ids, {}, {file.name: table}, key + 1 if asked and not has_header else
                            id_name if asked else None, header).table  # fmt: skip
        kept = list(found)[int(counter) * int(not has_header) :] if not has_header else names
        if len(kept) != len(names) or not set(kept) <= set(found):
            return False
        pairs = [(found[column], expected[name]) for column, name in zip(kept, names, strict=True)]
        return all(same(column[image], wanted.get(image, "")) for column, wanted in pairs for image in ids)

    return True, lambda asked: read(**file.options, asked=True) if asked else read()


def same(cell: Any, wanted: str) -> bool:
    return ("" if cell is None or cell != cell else str(cell).strip()) == wanted.strip()


def label_case(pick: random.Random) -> tuple[bool, Callable[..., bool]]:
    """Labels by row, with and without a header, and with a line too few or too many, which has to be refused."""
    n = pick.randrange(6, 30)
    columns = {name: cells(pick, n, PLAIN if pick.random() < 0.5 else WORDS)
               for name in names_of_columns(pick, pick.randrange(1, 4))}  # fmt: skip
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    fault = pick.choice([0, 0, 0, 0, -1, 1])
    rows = rows[:-1] if fault < 0 else [*rows, ["more" for _ in rows[0]]] if fault > 0 else rows
    has_header = pick.random() < 0.6
    header = list(columns)
    if len(header) == 1:
        header = [pick.choice(["label", "class", "y", "name", "category"])]
    file = written(pick, rows, header if has_header else None, ("csv", "csv", "tsv", "txt", "jsonl", "parquet"))

    def read(options: dict[str, Any]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, file.name)
            path.write_bytes(file.content)
            found, _ = label_columns(str(path), [NO_COLUMNS], [f"{i:06d}" for i in range(n)], False, **options)
        if fault or len(found) != len(columns) or (has_header and list(found) != header):
            return False
        pairs = zip(found.values(), columns.values(), strict=True)
        return all(same(cell, wanted) for (column, _), words in pairs
                   for cell, wanted in zip(column, words, strict=True))  # fmt: skip

    return not fault, lambda asked: read(file.options if asked else {})


def text_case(pick: random.Random) -> tuple[bool, Callable[..., bool]]:
    """Texts, with a label or alone, with and without a header."""
    n = pick.randrange(4, 25)
    texts = [f"{pick.choice(SENTENCES)}{pick.choice(['', f' {i}'])}" for i in range(n)]
    has_header, alone = pick.random() < 0.75, pick.random() < 0.5
    if not has_header:  # a first line `text` is a header, see docs/reliability.md
        texts[0] = f"{texts[0]} first"
    name = pick.choice(["text", "caption", "sentence", "Text", "review", "query"])
    header, rows = ([name], [[text] for text in texts]) if alone else (
        [name, "label"], [[text, pick.choice(["0", "1"])] for text in texts])  # fmt: skip
    place = 0
    if not alone and pick.random() < 0.3:
        header, rows, place = header[::-1], [row[::-1] for row in rows], 1
    file = written(pick, rows, header if has_header else None, ("csv", "csv", "tsv", "jsonl", "parquet"))
    if alone and not has_header and pick.random() < 0.5 and not any("\n" in text for text in texts):
        file = File("t.txt", "\n".join(texts).encode(), {})

    def read(options: dict[str, Any], asked: bool) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, file.name)
            path.write_bytes(file.content)
            column = (name if has_header else str(place + 1)) if asked and file.name != "t.txt" else None
            table = read_texts(path, [column] if column else [], **options)
            key = text_column(path, table, column)
            found = one_text_per_row(table, key).cells[key]
        return len(found) == n and all(same(cell, text) for cell, text in zip(found, texts, strict=True))

    return True, lambda asked: read(file.options if asked else {}, asked)


def caption_case(pick: random.Random) -> tuple[bool, Callable[..., bool]]:
    """Images and captions."""
    n = pick.randrange(4, 25)
    rows = [[f"{i // 2:03d}.jpg", f"{pick.choice(SENTENCES)} {i}"] for i in range(n)]
    has_header = pick.random() < 0.75
    header = [pick.choice(["image", "file_name", "image_name"]), pick.choice(["caption", "text", "comment"])]
    file = written(pick, rows, header if has_header else None, ("csv", "csv", "tsv", "txt", "jsonl", "parquet"))

    def read(options: dict[str, Any], asked: bool) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, file.name)
            path.write_bytes(file.content)
            columns: dict[str, Any] = {} if not asked or has_header else {"image_column": 1, "text_column": 2}
            found, _ = read_captions(path, **columns, **options)
        return found[["image", "text"]].values.tolist() == [[image, text.strip()] for image, text in rows]

    return True, lambda asked: read(file.options if asked else {}, asked)


def kind_case(pick: random.Random) -> tuple[bool, Callable[..., bool]]:
    """Labels of one kind, with missing ones, which have to become these classes or numbers."""
    n = pick.randrange(20, 80)
    kind, spellings = pick.choice([
        ("classes", list(pick.sample(PLAIN, 4))), ("classes", ["01", "1", "001"]),
        ("classes", ["0", "1", "2", "3", "4"]),
        ("classes", ["-1", "0", "1"]), ("classes", ["yes", "no"]), ("classes", ["True", "False"]),
        ("classes", [f"{20_000_000 + i}" for i in range(3)]), ("classes", ["None", "some"]), ("classes", ["-1", "1"]),
        ("numbers", [f"{pick.uniform(-9, 9):.3f}" for _ in range(40)]), ("noise", ["-1", "0", "1", "2", "3"]),
        ("numbers", [str(i) for i in pick.sample(range(10_000), 50)]),
    ])  # fmt: skip
    labels = [*spellings[:5], *(pick.choice(spellings) for _ in range(n - 5))]
    pick.shuffle(labels)
    missing = pick.choice(["", None, "nan", "NaN"] + (["NA", "None", "null"] if kind == "numbers" else []))
    rows = [missing if pick.random() < 0.1 else label for label in labels]
    if len({row for row in rows if row != missing}) < min(len(spellings), 20):
        rows = list(labels)

    def read(_: bool) -> bool:
        found = infer_labels(pd.Series(rows, dtype=object))
        for row, number in zip(rows, found.numbers.tolist(), strict=True):
            unknown = row is None or (row == missing and rows is not labels) or (kind == "noise" and row == "-1")
            unknown &= not (rows == labels and row not in (None, "-1"))
            if np.isnan(number) != unknown:
                return False
        pairs = {
            (row, number) for row, number in zip(rows, found.numbers.tolist(), strict=True) if not np.isnan(number)
        }
        if kind == "numbers":
            return all(np.float32(row) == number for row, number in pairs)
        return len(pairs) == len({row for row, _ in pairs}) == len({number for _, number in pairs})

    return True, read


CASES = (attribute_case, attribute_case, label_case, text_case, caption_case, kind_case)


def outcome(seed: int) -> str:
    """Read one random table: meant, wrong, refused (rightly), asked (and read as meant once answered), or stuck."""
    pick = random.Random(seed)
    case = CASES[seed % len(CASES)]
    readable, read = case(pick)
    try:
        return f"{case.__name__} {'meant' if read(False) else 'wrong'}"
    except UserError as error:
        if "\n" in str(error):
            return f"{case.__name__} wrong"
        if not readable:
            return f"{case.__name__} refused"
    try:
        return f"{case.__name__} {'asked' if read(True) else 'wrong'}"
    except UserError:
        return f"{case.__name__} stuck"


def main(count: int) -> None:
    """Print how many cases had each outcome, and the seeds of the wrong ones."""
    found = {seed: outcome(seed) for seed in range(count)}
    for name, number in sorted(Counter(found.values()).items()):
        print(f"{name:24}{number:7}")
    totals = Counter(name.split()[1] for name in found.values())
    print({name: f"{number / count:.2%}" for name, number in totals.items()})
    for kind in ("wrong", "stuck"):
        seeds = [seed for seed, name in found.items() if name.endswith(kind)]
        print(f"{kind}: {len(seeds)} {seeds[:20]}")
    sys.exit(bool(totals["wrong"]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
