"""bfloat16 where the hardware is faster with it, and never for what is cached on a CPU."""

import pytest
import torch

from models.precision import fast_precision, half_precision

CPU = torch.device("cpu")


def has(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)


@pytest.mark.parametrize(("amx", "avx"), [(False, False), (True, False), (False, True)])
def test_the_instructions_of_a_cpu_decide(monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool) -> None:
    has(monkeypatch, amx, avx)
    expected = torch.bfloat16 if amx or avx else torch.float32
    assert fast_precision(CPU) == expected
    with half_precision(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_what_is_cached_is_computed_in_full_on_every_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, True, True)
    with half_precision(CPU, on_cpu=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
