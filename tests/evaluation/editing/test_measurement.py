"""The keys that a measurement has in metrics.json."""

from typing import Any

import torch

from evaluation.editing.measurement import FactorMeasurement, Measurement, count_keys, keys, matrix_keys
from models.labels import Factor

FACTORS = (Factor("glasses", "binary", ("no", "yes")), Factor("hat", "binary", ("no", "yes")))


def test_keys_leave_out_what_is_not_known() -> None:
    row = torch.tensor([torch.nan, 0.25])
    first = FactorMeasurement(10, 0.9, 0.25, row, None, 1e-5, 0.5, None, ((0.0, 0.0, 0.0),))
    second = FactorMeasurement(0)
    measurement = Measurement(FACTORS, (first, second))
    assert keys(measurement, "baseline/linear_svm") == {
        "baseline/linear_svm/glasses/success": 0.9,
        "baseline/linear_svm/glasses/leakage": 0.25,
        "baseline/linear_svm/glasses/cycle_error": 1e-5,
        "baseline/linear_svm/glasses/counterfactual": 0.5,
    }
    assert matrix_keys(measurement, "edit") == {"edit/glasses/leakage_on/hat": 0.25}
    counts = {"glasses/images": 10, "glasses/photographs": 0, "hat/images": 0, "hat/photographs": 0}
    assert count_keys(measurement, "edit") == {f"edit/{name}": count for name, count in counts.items()}


def test_every_key_of_the_contract() -> None:
    result = FactorMeasurement(10, 0.9, 0.25, torch.tensor([torch.nan, 0.25]), 0.1, 1e-5, 0.5, 0.75)
    names = {"success", "leakage", "leakage_at_90", "cycle_error", "counterfactual", "identity"}
    assert set(keys(Measurement(FACTORS[:1], (result,)), "edit")) == {f"edit/glasses/{name}" for name in names}
    final = {"effectiveness", "final_leakage", "leakage_at_equal", "identity_distance", "minimality",
             "counterfactual_image", "frechet_identity", "fid"}  # fmt: skip
    numbers: dict[str, Any] = dict.fromkeys(final, 0.5)
    full = FactorMeasurement(10, by_member={"net": 0.9}, **numbers)
    found = keys(Measurement(FACTORS[:1], (full,)), "baseline/mean_difference_2")
    expected = {f"baseline/mean_difference_2/glasses/{name}" for name in {*final, "effectiveness_net"}}
    assert set(found) == expected
