"""Find CelebA's files, in the layouts of torchvision, Kaggle and the Hugging Face hub, or in a single folder."""

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.file_tree import files_below
from datamodules.images import EncodedImages, from_files, from_parquet, from_zip, image_field
from datamodules.pictures import is_image
from datamodules.splits import SPLITS
from datamodules.table_files import Table
from datamodules.tables import ID_COLUMNS, from_frame, join_tables, label_table_of
from models import UserError
from models.archives import check_archive

__all__ = ["IDENTITY", "PARTITION", "Layout", "advice", "locate"]

IMAGES, LABELS, PARTITION = "img_align_celeba", "list_attr_celeba", "list_eval_partition"
IDENTITY = "identity_CelebA"
# CelebA-HQ, 30,000 of the photographs at 1024 pixels, as CelebAMask-HQ publishes it: images 0.jpg, 1.jpg, ..., its own
# table of the same 40 attributes, and the number of each photograph in CelebA, which tells its split and its person.
# Lee, Liu, Wu, Luo (2020), https://github.com/switchablenorms/CelebAMask-HQ.
HQ_IMAGES, HQ_LABELS = "CelebA-HQ-img", "CelebAMask-HQ-attribute-anno"
HQ_MAPPING, HQ_FILE, HQ_NUMBER = "CelebA-HQ-to-CelebA-mapping", "orig_file", "orig_idx"
LAST_TRAIN, LAST_VALIDATION = 162_770, 182_637  # photographs of CelebA's official split, which is by their numbers
PERSON = "celeb_id"  # column of the Hugging Face hub's parquet files
FILES = "the parquet files"
PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class Layout(NamedTuple):
    """CelebA's images, and its tables of labels, splits and people by file name (none or one of each)."""

    images: EncodedImages
    labels: dict[str, Table]
    partition: dict[str, Table]
    people: dict[str, Table] = {}


def tables_named(stem: str, files: Iterable[Path]) -> dict[str, Table]:
    """Read the first table with that name, as {path: table}."""
    paths = [path for path in files if path.stem == stem and path.suffix in (".txt", ".csv")]
    return {str(path): label_table_of(str(path), path.read_bytes()) for path in paths[:1]}


def folder_layout(files: Iterable[Path]) -> Layout | None:
    """Return the images of the folder with the most images, or None if there are none."""
    folders: dict[Path, list[Path]] = {}
    for path in files:
        if is_image(path.name):
            folders.setdefault(path.parent, []).append(path)
    paths = max(folders.values(), key=len, default=[])
    return Layout(from_files(paths, [path.name for path in paths]), {}, {}) if paths else None


def archive_members(path: Path) -> list[zipfile.ZipInfo]:
    """List the files in an archive, sorted.

    Raises:
        UserError: it is not a zip archive, or one that is far larger than its file, see `check_archive`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_archive(path, archive)
    except zipfile.BadZipFile as error:
        raise UserError(
            f"Expected a zip archive in {path}, got {path.stat().st_size} bytes of something else (Google Drive's page "
            f"about its quota, or half a download): get the archive from {PAGE} and put it there."
        ) from error
    names = [(member, PurePosixPath(member.filename)) for member in members if not member.is_dir()]
    kept = [member for member, name in names if not name.name.startswith(".") and "__MACOSX" not in name.parts]
    return sorted(kept, key=lambda member: member.filename)


def archive_tables(path: Path, members: Sequence[zipfile.ZipInfo], stem: str) -> dict[str, Table]:
    """Read the first table with that name in an archive, as {path: table}."""
    names = [m.filename for m in members if re.search(rf"(^|/){stem}\.(txt|csv)$", m.filename)][:1]
    with zipfile.ZipFile(path) as archive:
        return {f"{path}/{name}": label_table_of(name, archive.read(name)) for name in names}


def archive_layout(files: Sequence[Path]) -> Layout | None:
    """Return the images of the first archive that holds CelebA's, with the tables in it, or None."""
    for path in (path for path in files if path.suffix.lower() == ".zip"):
        if IMAGES not in path.name and not zipfile.is_zipfile(path):
            continue  # another file with this suffix
        members = archive_members(path)
        images = [m for m in members if is_image(m.filename) and IMAGES in f"{path.name}/{m.filename}"]
        if images:
            encoded = from_zip(path, images, [PurePosixPath(member.filename).name for member in images])
            tables = [archive_tables(path, members, stem) for stem in (LABELS, PARTITION, IDENTITY)]
            return Layout(encoded, *tables)
    return None


def has_images(path: Path) -> bool:
    """Return whether a parquet file has a column of images.

    Raises:
        UserError: it is damaged.
    """
    try:
        return image_field(pq.read_schema(path)) is not None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"Expected a parquet file in {path}, got a damaged one: download it again.") from error


def part_of(path: Path) -> int | None:
    """Return the split in a file's or folder's name, as train-00000-of-00019.parquet or train/0000.parquet, or None."""
    words = [word for part in reversed(path.parts) for word in re.split(r"[^a-z]+", part.lower())]
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def parquet_labels(path: Path, root: Path) -> pd.DataFrame:
    """Read the columns besides the image's bytes, and add three.

    They are `.id`, the image's file name, `.row`, its position in the file, and `.split`.
    """
    schema = pq.read_schema(path)
    field = image_field(schema) or "image"
    image = schema.field(field).type
    named = pa.types.is_struct(image) and image.get_field_index("path") >= 0
    columns = [name for name in schema.names if name != field]
    with pq.ParquetFile(path) as file:
        table = file.read(columns=columns + [f"{field}.path"] * named)
    labels = table.select(columns).to_pandas()
    own = [column for column in columns if column in ID_COLUMNS]
    names = pc.struct_field(table[field], "path").to_pylist() if named else [None] * len(table)
    stem = path.relative_to(root).with_suffix("").as_posix()
    labels[".id"] = labels[own[0]].astype(str) if own else [name and PurePosixPath(name).name for name in names]
    labels[".row"] = [f"{stem}/{row:06d}" for row in range(len(table))]
    labels[".split"] = part_of(path.relative_to(root))
    return labels


def parquet_layout(files: Sequence[Path], root: Path) -> Layout | None:
    """Return the images and tables of the Hugging Face hub's parquet files, whose names tell the split, or None."""
    paths = [path for path in files if path.suffix == ".parquet" and has_images(path)]
    if not paths:
        return None
    table = pd.concat([parquet_labels(path, root) for path in paths], ignore_index=True)
    unique = bool(table[".id"].notna().all()) and table[".id"].is_unique
    table = table.set_index(".id" if unique else ".row")
    labels = table[[column for column in table if not str(column).startswith(".")]]
    partition = table[[".split"]].rename(columns={".split": "split"})
    images = from_parquet(paths, [str(name) for name in table.index])
    return Layout(
        images, {FILES: from_frame(FILES, labels)} if labels.size else {},
        {FILES: from_frame(FILES, partition)} if bool(partition["split"].notna().all()) else {},
        {FILES: from_frame(FILES, table[[PERSON]])} if PERSON in table else {},
    )  # fmt: skip


def hq_mapping(path: Path) -> pd.DataFrame:
    """Read the number and the file name in CelebA of each image of CelebA-HQ.

    Raises:
        UserError: the file has another content.
    """
    try:
        table = pd.read_csv(path, sep=r"\s+", dtype=str).dropna()
        names = [f"{int(number)}.jpg" for number in table["idx"]]
        return table.set_axis(names, axis=0).astype({HQ_NUMBER: int})[[HQ_NUMBER, HQ_FILE]]
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"Expected the columns idx, {HQ_NUMBER} and {HQ_FILE} with a line for each image in {path}, got another "
            f"file ({str(error).strip()}): get it from the archive of CelebAMask-HQ."
        ) from error


def hq_split(mapping: pd.DataFrame) -> pd.DataFrame:
    """Return the official split of CelebA-HQ's images by their numbers in CelebA, which count from 0."""
    numbers = mapping[HQ_NUMBER]
    parts = (numbers >= LAST_TRAIN).astype(int) + (numbers >= LAST_VALIDATION).astype(int)
    return pd.DataFrame({"split": parts.to_numpy()}, index=mapping.index)


def by_original(mapping: pd.DataFrame, tables: dict[str, Table]) -> dict[str, Table]:
    """Return CelebA's tables for the images of CelebA-HQ."""
    original = mapping[HQ_FILE].tolist()
    found = {name: join_tables(original, {name: table}).table for name, table in tables.items()}
    return {name: from_frame(name, table.set_axis(mapping.index, axis=0)) for name, table in found.items()}


def hq_layout(files: Sequence[Path]) -> Layout | None:
    """Return CelebA-HQ's images and tables, or None if its folder of images is not there.

    Without its own labels or people, those of CelebA are taken, by the mapping.
    """
    layout = folder_layout(path for path in files if path.parent.name == HQ_IMAGES)
    if layout is None:
        return None
    own, celeba, people = (tables_named(stem, files) for stem in (HQ_LABELS, LABELS, IDENTITY))
    mapping = [path for path in files if path.stem == HQ_MAPPING and path.suffix == ".txt"][:1]
    if not mapping:
        return Layout(layout.images, own, {}, {})
    table = hq_mapping(mapping[0])
    split = {str(mapping[0]): from_frame(str(mapping[0]), hq_split(table))}
    return Layout(layout.images, own or by_original(table, celeba), split, by_original(table, people))


def find_layout(root: Path) -> Layout:
    """Find CelebA below a folder, in any layout: unpacked images, else an archive, else parquet files.

    Raises:
        UserError: there is no such folder, or no images in it. Missing labels may still come from an extra table.
    """
    if not root.is_dir():
        raise UserError(f"Expected CelebA in {root}, got no such folder: {advice(root)}")
    files = files_below(root, depth=4)
    labels, partition, people = (tables_named(stem, files) for stem in (LABELS, PARTITION, IDENTITY))
    layout = folder_layout(path for path in files if path.parent.name.startswith(IMAGES))
    if layout is None and (hq := hq_layout(files)) is not None:
        return hq
    layout = layout or archive_layout(files) or parquet_layout(files, root) or folder_layout(files)
    if layout is None:
        got = f"{Path(next(iter(labels))).name} but no images" if labels else "neither images nor labels"
        raise UserError(f"Expected CelebA in {root}, got {got}: {advice(root)}")
    return Layout(layout.images, layout.labels | labels, partition or layout.partition, people or layout.people)


def advice(root: Path) -> str:
    """Return the part of an error message that tells where to put CelebA's files."""
    return (
        f"put {IMAGES}.zip (or the unpacked folder), {LABELS}.txt and {PARTITION}.txt from {PAGE} "
        f"into {root / 'celeba'}, point data.root at the folder that has them, or download it by data.download=true "
        "(1.4 GB)."
    )


def download_to(root: Path) -> None:
    """Print that CelebA is downloaded, and download it through torchvision.

    Raises:
        UserError: the download failed, often because of Google Drive's quota.
    """
    from torchvision.datasets import CelebA  # slow to import, and only needed here

    print(f"Downloading CelebA (about 1.4 GB, by torchvision from Google Drive) into {root / 'celeba'}.", flush=True)
    try:
        CelebA(str(root), split="all", download=True)
    except Exception as error:  # the network, a quota page or a checksum may raise anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"Expected to download CelebA, got {type(error).__name__} ({reason}): get {IMAGES}.zip, {LABELS}.txt and "
            f"{PARTITION}.txt from {PAGE} by hand and put them into {root / 'celeba'}."
        ) from error


def locate(root: Path, download: bool) -> Layout:
    """Find CelebA below `root`, and download it there if it is missing and `download` is set.

    Raises:
        UserError: see `find_layout` and `download_to`.
    """
    try:
        return find_layout(root)
    except UserError:
        if not download:
            raise
    download_to(root)
    return find_layout(root)
