"""Files of weights are data: pickled code is refused, and no message advises to run it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models import UserError
from models.backbones import read_weights
from models.token_matrix import read_tensors
from models.vae import VAE
from models.weights import first_line, load_tensors
from training.checkpoints import load_module, resumable


class Attack:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("read", [read_weights, lambda file: read_tensors(file, None), resumable,
                                  lambda file: load_module(VAE, file)], ids=range(4))  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_named_and_not_run(tmp_path: Path, read: Any, zipped: bool) -> None:
    content = {"state_dict": {}, "hyper_parameters": {"size": Attack(tmp_path / "executed")}}
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="it holds pickled code, .*, which is not run") as caught:
        read(tmp_path / "x.ckpt")
    assert not (tmp_path / "executed").exists() and "weights_only" not in str(caught.value)


def test_a_checkpoint_cannot_choose_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    vae = VAE(size=16, latent=2, width=4)
    for more in ({"_instantiator": "evil.f"}, {"_instantiator": "evil.f", "_class_path": "evil.F"}):
        torch.save({"state_dict": vae.state_dict(), "hyper_parameters": {**vae.hparams, **more},
                    "pytorch-lightning_version": "2.6.6"}, tmp_path / "vae.ckpt")  # fmt: skip
        with pytest.raises(UserError, match="instantiator"):
            load_module(VAE, tmp_path / "vae.ckpt")
    assert not (tmp_path / "executed").exists()


def test_the_reason_of_a_broken_file() -> None:
    assert first_line(ValueError("")) == "ValueError"
    assert first_line(ValueError("Weights only load failed. Re-running")) == "it holds more than tensors"


def test_tensors_are_loaded(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert load_tensors(tmp_path / "a.pt")["a"].tolist() == [1, 1]
