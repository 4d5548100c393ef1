"""Making what a configuration names: every value that cannot work is one line."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from evaluation.record import made
from models import UserError

IIN = {"_target_": "models.iin.IIN", "_convert_": "all", "blocks": 2, "width": 8}


def test_what_is_named_is_made() -> None:
    iin = made(OmegaConf.create({"iin": IIN}).iin, features=4, factors=[])
    assert iin.flow.features == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coupling": "glwo"}, "Expected iin.coupling to be rnvp or glow, got 'glwo'"),
        ({"objective": "faithfull"}, "Expected iin.objective to be faithful or likelihood, got 'faithfull'"),
        ({"optimizer": "mun"}, "Expected iin.optimizer to be muon or adam or null, got 'mun'"),
        ({"blocks": "two"}, "Expected iin.blocks to be a whole number, got 'two'"),
        ({"width": 1.5}, "Expected iin.width to be a whole number, got 1.5"),
        ({"label_deviation": "wide"}, "Expected iin.label_deviation to be a number, got 'wide'"),
        ({"linear_start": "perhaps"}, "Expected iin.linear_start to be true or false or null, got 'perhaps'"),
        ({"block_sizes": "atuo"}, "Expected iin.block_sizes to be a list or null, got 'atuo'"),
        ({"block_sizes": ["a"]}, "Expected settings that models.iin.IIN can be made with, got TypeError"),
        ({"correlation": 2.0}, r"Expected iin.correlation in \[0, 1\)"),
    ],
)
def test_what_cannot_work_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(OmegaConf.create({"iin": IIN | settings}).iin, features=4, factors=[])
