"""Print the progress of a loop: items done, speed and time left."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, TextColumn

__all__ = ["with_progress"]

T = TypeVar("T")


def with_progress(items: Iterable[T], total: int, label: str, each: int = 1) -> Iterator[T]:
    """Yield the items and show the progress: a bar on a terminal, or about ten lines in a log.

    Every item counts as `each` of the total.
    """
    console, started = Console(), time.monotonic()
    if console.is_terminal:
        columns = (*Progress.get_default_columns(), TextColumn("{task.fields[speed]}"))
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(label, total=total, speed="")
            for count, item in enumerate(items, 1):
                yield item
                speed = count * each / (time.monotonic() - started + 1e-9)
                progress.update(task, advance=each, speed=f"{speed:,.0f} per s")
        return
    step = math.ceil(total / each / 10)
    for count, item in enumerate(items, 1):
        yield item
        done = min(count * each, total)
        if count % step == 0 or done == total:
            speed = done / (time.monotonic() - started + 1e-9)
            left = f", {(total - done) / speed:.0f} s left" if done < total else ""
            print(f"{label}: {done} of {total}, {speed:.0f} per s{left}", flush=True)
