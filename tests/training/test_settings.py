"""A run folder is of one set of settings; ckpt= lets those change that nothing finished depends on."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from models import UserError
from training.build import build
from training.run_folder import Run
from training.settings import resolve_settings
from training.stored_settings import stored

ROOT = Path(__file__).parents[2]
GROUPS = {
    "data": "faces",
    "encoder": "vae",
    "model": "iin",
    "trainer": "default",
    "experiment": None,
    "hydra/help": "x",
}


def composed(folder: Path, *overrides: str) -> DictConfig:
    import train  # registers the resolver  # noqa: F401

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", [f"run_dir={folder / 'run'}", *overrides])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run of seed 0 whose VAE is finished."""
    settings = resolve_settings(composed(tmp_path), (), GROUPS)
    Run(settings.run_dir, settings)
    (tmp_path / "run/checkpoints").mkdir()
    for name in ("vae.ckpt", "guide.partial.ckpt"):
        (tmp_path / "run/checkpoints" / name).touch()
    return tmp_path


def resumed(folder: Path, *overrides: str) -> DictConfig:
    ckpt = f"ckpt={folder / 'run/checkpoints/vae.ckpt'}"
    return resolve_settings(composed(folder, ckpt), [ckpt, *overrides], GROUPS)


def test_the_same_settings_go_on_wherever_the_caches_lie(folder: Path) -> None:
    settings = resolve_settings(composed(folder, "cache_dir=elsewhere", "runs_dir=x"), (), GROUPS)
    assert settings.cache_dir == settings.data.cache_dir == str(Path("elsewhere").absolute())


def test_other_settings_are_another_run(folder: Path) -> None:
    with pytest.raises(UserError, match=r"iin.learning_rate=0.1 \(there null\), seed=1 \(there 0\): choose another"):
        resolve_settings(composed(folder, "seed=1", "iin.learning_rate=0.1"), (), GROUPS)


def test_a_damaged_file_of_settings(folder: Path) -> None:
    (folder / "run/config.yaml").write_text("seed: [")
    with pytest.raises(UserError, match=r"settings in .*config.yaml, got a damaged file"):
        resolve_settings(composed(folder), (), GROUPS)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("iin.learning_rate=1e-3", "iin.learning_rate", 1e-3),
        ("guide.learning_rate=1e-3", "guide.learning_rate", 1e-3),
        ("trainer.iin.steps=7", "trainer.iin.steps", 7),
        ("trainer.accelerator=cpu", "trainer.accelerator", "cpu"),
        ("measured_images=7", "measured_images", 7),
        ("compose=none", "compose", "none"),
        ("cache_dir=elsewhere", "data.cache_dir", str(Path("elsewhere").absolute())),
        ("iin={learning_rate:0.5}", "iin.learning_rate", 0.5),
        ("model=iin", "model.name", "iin"),
        ("experiment=null", "seed", 0),
    ],
)
def test_what_may_change(folder: Path, override: str, key: str, value: object) -> None:
    settings = resumed(folder, override)
    found: object = settings
    for name in key.split("."):
        found = found[name]  # type: ignore[index]
    assert found == value and settings.run_dir == str(folder / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("iin.blocks=12", r"got iin.blocks=12 \(there null\), on which what is trained there depends"),
        ("data.correlate={glasses:{hat:0.9}}", r"got data.correlate.glasses.hat=0.9"),
        ("vae.learning_rate=1e-4", r"got vae.learning_rate=0.0001 \(there 0.01\)"),  # the VAE is finished
        ("trainer.scale=2", "got trainer.scale=2"),
        ("seed=1", "got seed=1"),
        ("model=vae", "Expected model=iin, .* got model=vae"),
        ("experiment=published", "Expected experiment=null, .* got experiment=published"),
        ("iin.blokcs=3", r"got 'iin.blokcs=3': check its name. Did you mean iin.blocks"),
        ("+iin.blokcs=3", r"Expected key=value beside ckpt=, got '\+iin.blokcs=3'"),
        ("~iin.blocks", "Expected key=value beside ckpt="),
        ("run_dir=another", "the run that ckpt= goes on with, got another"),
    ],
)
def test_what_may_not_change(folder: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resumed(folder, override)


def test_ckpt_outside_a_run(tmp_path: Path) -> None:
    (tmp_path / "vae.ckpt").touch()
    with pytest.raises(UserError, match="Expected ckpt= to be a file in the checkpoints folder of a run"):
        resolve_settings(composed(tmp_path, f"ckpt={tmp_path / 'vae.ckpt'}"), (), GROUPS)


@pytest.mark.parametrize(
    "override",
    [
        "seed=abc",
        "seed=-1",
        "measured_images=0",
        "trainer.vae.steps=1.5",
        "trainer.scale=0",
        "trainer.bf16=no_",
        "compose=soft",
    ],
)
def test_numbers_out_of_range(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match=f"Expected {override.split('=')[0]} to be .*, got "):
        resolve_settings(composed(tmp_path, override), (), GROUPS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=0", "seeds to be a whole number of at least 1, got 0"),
        ("seeds=two", "seeds to be a whole number of at least 1, got 'two'"),
        ("seeds=null", "seeds to be a whole number of at least 1, got None"),
        ("temi.heads=0", "temi.heads to be a whole number of at least 1, got 0"),
        (
            "trainer.autoencoder.batch_size=0",
            "trainer.autoencoder.batch_size to be a whole number of at least 1, got 0",
        ),
        ("trainer.dec.interval=0", "trainer.dec.interval to be a whole number of at least 1"),
        ("trainer.dec.steps=-5", "trainer.dec.steps to be a whole number of at least 1, got -5"),
        ("trainer.turtle.batch_size=0.5", "trainer.turtle.batch_size to be a whole number of at least 1, got 0.5"),
    ],
)
def test_numbers_of_clusterings_are_refused_at_once(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=f"Expected {message}"):
        resolve_settings(composed(tmp_path, "model=dec", override))


@pytest.mark.parametrize(
    ("name", "given", "override"),
    [
        ("temi", {"features": 4, "clusters": 2}, "heads=0"),
        ("temi", {"features": 4, "clusters": 2}, "neighbours=0"),
        ("temi", {"features": 4, "clusters": 2}, "hidden=-1"),
        ("turtle", {"features": 4, "clusters": 2}, "heads=0"),
        ("sae", {"features": 4}, "expansion=0"),
        ("sae", {"features": 4}, "dead_after=0"),
        ("vae", {}, "final_width=-1"),
    ],
)
def test_constructors_refuse_their_own_numbers(tmp_path: Path, name: str, given: dict[str, int], override: str) -> None:
    config = composed(tmp_path, f"model={name}", f"{name}.{override}")
    key, value = override.split("=")
    with pytest.raises(UserError, match=f"Expected {name}.{key} to be a whole number of at least .*, got {value}"):
        build(config[name], **given, **({"flip": False} if name == "vae" else {}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=mds", "trainer.mds.batch_size=1"], "trainer.mds.batch_size to be a whole number of at least 2, got 1"),
        (["model=sae", "sae.expansion=0"], "sae.expansion to be a whole number of at least 1, got 0"),
        (["model=vae", "vae.final_width=-1"], "vae.final_width to be a whole number of at least 0, got -1"),
        (["model=sae", "trainer.sae.steps=0"], "trainer.sae.steps to be a whole number of at least 1, got 0"),
        (["model=embedding", "words=0"], "words to be a whole number of at least 1, got 0"),
        (["model=dec", "data=pairs"], "model=mds for data=pairs, got model=dec: give it the images or the texts alone"),
    ],
)
def test_settings_of_embeddings_are_refused_at_once(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"Expected {message}"):
        resolve_settings(composed(tmp_path, *settings))


@pytest.mark.parametrize(
    ("argument", "got"),
    [
        ("+loger=wandb", r"got \+loger=wandb: leave the \+ out and check the name\. Did you mean logger"),
        ("+trainer.scal=2", r"Expected a setting that is read in trainer, got .* Did you mean scale\?"),
        ("+data.sise=32", r"Expected a setting that is read in data, got .* Did you mean size"),
        ("+nobody.reads.this=1", "Expected a setting that is read in nobody.reads, got"),
    ],
)
def test_an_added_setting_that_nothing_reads(tmp_path: Path, argument: str, got: str) -> None:
    with pytest.raises(UserError, match=got):
        resolve_settings(composed(tmp_path, argument), [argument], GROUPS)


@pytest.mark.parametrize("argument", ["+image_size=32", "+prompts.glasses=[a,b]", "+vae.learning_rate=0.1", "seed=2"])
def test_added_settings_that_are_read(tmp_path: Path, argument: str) -> None:
    plain = argument.removeprefix("+") if "learning_rate" in argument else argument
    assert resolve_settings(composed(tmp_path, plain), [argument], GROUPS)


@pytest.mark.parametrize("argument", ["trainer.devices=2", "trainer.num_nodes=2", "trainer.devices=auto"])
def test_training_on_several_devices_is_refused(tmp_path: Path, argument: str) -> None:
    with pytest.raises(UserError, match=r"Expected trainer\.\w+=1, as a model is trained on one device, got"):
        resolve_settings(composed(tmp_path, argument), [argument], GROUPS)


def test_settings_of_an_older_run_are_followed_to_where_things_are(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: {name: idec}\nencoder: {_target_: models.encoders.TinyAutoencoder, size: 64}\n")
    settings = stored(file)
    assert settings.encoder._target_ == "models.sd_vae.TinyAutoencoder" and settings.encoder.size == 64
    assert settings.model.pipeline == "evaluation.clustering.pipeline.run_clustering"
