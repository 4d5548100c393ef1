"""The benchmark's loops run, and its ratios are what its times say."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch import Tensor

from evaluation import benchmark
from models import UserError
from models.vae import VAE

TINY = ["size=16", "steps=2", "rounds=1", "images=64", "batch=32", "json=true"]
KEYS = [
    "device", "pairs_per_s/cached", "pairs_per_s/bare", "pairs_per_s/encoding", "speed_up_by_cache",
    "step_over_bare_flow",
]  # fmt: skip


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    benchmark.main([*TINY, *arguments])
    return json.loads(capsys.readouterr().out)


def test_every_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    result = answer(capsys)
    assert list(result) == KEYS
    assert all(math.isfinite(result[key]) and result[key] > 0 for key in KEYS[1:])
    # Of one round the ratios are those of its own times.
    cached, bare, encoding = (result[key] for key in KEYS[1:4])
    assert result["speed_up_by_cache"] == pytest.approx(cached / encoding, rel=1e-4)
    assert result["step_over_bare_flow"] == pytest.approx(bare / cached, rel=1e-4)


def test_medians_over_rounds_without_the_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # cached, bare, encoding of each round; the ratios' medians are not the ratios of the medians.
    times: Iterator[float] = iter([90.0, 1.0, 1.0, 2.0, 1.0, 6.0, 4.0, 4.0, 16.0, 8.0, 2.0, 8.0])
    monkeypatch.setattr(benchmark, "seconds", lambda work: next(times))
    result = answer(capsys, "rounds=3")
    assert next(times, None) is None
    assert result["pairs_per_s/cached"] == pytest.approx(32 * 2 / 4)
    assert result["pairs_per_s/bare"] == pytest.approx(32 * 2 / 2)
    assert result["pairs_per_s/encoding"] == pytest.approx(32 * 2 / 8)
    assert result["speed_up_by_cache"] == pytest.approx(3)
    assert result["step_over_bare_flow"] == pytest.approx(2)


def test_the_encoding_loop_encodes_both_images_of_every_pair(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = VAE.encode

    def counted(vae: VAE, images: Tensor) -> tuple[Tensor, Tensor]:
        encoded.append(len(images))
        return encode(vae, images)

    monkeypatch.setattr(VAE, "encode", counted)
    times: list[Callable[[], Any]] = []

    def seconds(work: Callable[[], Any]) -> float:
        before = len(encoded)
        work()
        times.append(work)
        batches = encoded[before:]
        # cached, bare, encoding in turn; the third alone encodes, two batches of 32 for each of two steps.
        assert batches == ([32] * 4 if len(times) % 3 == 0 else []), (len(times), batches)
        return 1.0

    monkeypatch.setattr(benchmark, "seconds", seconds)
    answer(capsys)
    assert len(times) == 6 and encoded[0] == 64


def test_extraction_is_timed_against_the_network_alone(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["task=extraction", "architecture=RN50", "images=4", "batch=2", "rounds=1", "json=true"])
    result = json.loads(capsys.readouterr().out)
    ratio = result["images_per_s/extraction"] / result["images_per_s/network"]
    assert result["extraction_over_network"] == pytest.approx(ratio, rel=1e-4) and ratio > 0


def test_search_and_splice_are_timed_against_what_they_are_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["task=search", "rows=3000", "rounds=1", "json=true"])
    result = json.loads(capsys.readouterr().out)
    ratio = result["ms_per_query/product"] / result["ms_per_query/search"]
    assert result["product_over_search"] == pytest.approx(ratio, rel=1e-4)
    assert result["mib_of_matrix"] == pytest.approx(3000 * 512 * 4 / 2**20)
    benchmark.main(["task=splice", "rows=6", "json=true"])
    result = json.loads(capsys.readouterr().out)
    for penalty in (0.1, 0.03):
        assert result[f"largest_difference_{penalty}"] < 1e-4 and result[f"texts_per_row_{penalty}"] > 1
        ratio = result[f"rows_per_s/splice_{penalty}"] / result[f"rows_per_s/lasso_{penalty}"]
        assert result[f"splice_over_lasso_{penalty}"] == pytest.approx(ratio, rel=1e-4)


def test_unknown_options_are_one_line() -> None:
    with pytest.raises(UserError, match=r"Expected one value for an option among task, .*, got 'step=3'"):
        benchmark.main(["step=3"])


@pytest.mark.parametrize("what", ["search", "splice"])
def test_no_row_is_no_default(what: str) -> None:
    with pytest.raises(UserError, match="Expected rows= to be at least 1, got 0: leave it out"):
        benchmark.main([f"what={what}", "rows=0"])
