"""Compare the numbers of this checkout with those of a commit: make same BASE=COMMIT.

Moving code must not move numbers. Four small runs on the CPU, with fixed seeds, are made by the commit, in a worktree,
and by this checkout; their metrics.json have to be equal but for times and memory. Both are made on this machine and by
these packages, as other ones round differently.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
FACES = [
    "data=faces", "data.n=400", "data.size=16", "vae.latent=12", "vae.width=4", "vae.final_width=0", "iin.blocks=2",
    "iin.width=16", "guide.nuisance=4", "guide.width=16", "guide.fit_steps=60", "guide.align_steps=20",
    "guide.align_batch=8", "trainer.vae.steps=220", "trainer.iin.steps=120", "measured_images=20",
]  # fmt: skip
SMALL = ["trainer.scale=0.05", "seed=1", "trainer.accelerator=cpu"]
RUNS = {
    "iin": ["model=iin", *FACES, "seed=1", "trainer.accelerator=cpu"],
    "dec": ["model=dec", "data=digits", "autoencoder.hidden=[32]", "trainer.autoencoder.epochs=2", *SMALL],
    "mds": ["model=mds", "data=digits", "dims=[2,8]", "methods=[pca,isometric,matryoshka]", *SMALL],
    "sae": ["model=sae", "data=digits", "encoder=pixels", *SMALL],
}
CHANGING = ("time/", "throughput/", "memory/", "waiting/")


def changed(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, tuple[float | None, float | None]]:
    """The metrics that differ, by their keys, but for those of time and memory."""
    keys = [key for key in {**before, **after} if not key.startswith(CHANGING)]
    pairs = {key: (before.get(key), after.get(key)) for key in keys}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b and not (a != a and b != b)}


def metrics(checkout: Path, name: str, folder: Path) -> dict[str, float]:
    """The numbers of one small run of a checkout."""
    run = folder / name
    places = [f"run_dir={run}", f"cache_dir={folder / 'cache'}", f"runs_dir={folder / 'runs'}"]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *RUNS[name], *places]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} of {checkout} ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads((run / "metrics.json").read_text())
    return found


def main(base: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subprocess.run(["git", "worktree", "add", "--detach", str(folder / "base"), base], cwd=ROOT, check=True)
        try:
            different = False
            for name in RUNS:
                before, after = (metrics(checkout, name, folder / side)
                                 for checkout, side in ((folder / "base", "before"), (ROOT, "after")))  # fmt: skip
                found = changed(before, after)
                compared = sum(not key.startswith(CHANGING) for key in before)
                print(f"{name}: {compared} numbers compared, {len(found)} differ")
                for key, (a, b) in sorted(found.items()):
                    gap = abs(a - b) if a is not None and b is not None else math.inf
                    print(f"  {key}: {a} before, {b} now ({gap:.1e} apart)")
                different |= bool(found)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(folder / "base")], cwd=ROOT, check=True)
    sys.exit(different)


if __name__ == "__main__":
    main(sys.argv[1])
