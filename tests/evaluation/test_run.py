"""The run folder, written and read back."""

import json
import math
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from datamodules.splits import TEST
from evaluation import edit
from evaluation.editing.photographs import PLACE, centre_of
from evaluation.report.page import write_report
from evaluation.report.summary import print_summary
from evaluation.run import LoadedRun, load
from models import UserError, dlib_faces
from models.iin import IIN
from models.vae import VAE
from training.files import to_pillow
from training.run_folder import Run, find_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", OmegaConf.create({"size": 16, "data": {"size": "${size}"}}))


@pytest.fixture(scope="module")
def loaded(finished_run: Path) -> LoadedRun:
    return load(finished_run)


@pytest.fixture
def face(tmp_path: Path) -> Path:
    """A photograph of another size than the run's."""
    pixels = torch.randint(0, 255, (40, 30, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "face.png")
    return tmp_path / "face.png"


def test_config_is_written_resolved_and_at_once(run: Run) -> None:
    assert OmegaConf.load(run.path / "config.yaml") == {"size": 16, "data": {"size": 16}}
    assert "${" not in (run.path / "config.yaml").read_text()


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Expected to write .*config\.yaml, got .*: free space"):
        Run(tmp_path / "file" / "run", OmegaConf.create({}))


def test_stage_is_timed_and_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with run.stage("latents", 10):
        pass
    with run.stage("vae") as stage:
        stage.items = 1000
    with run.stage("evaluation"):
        pass
    seconds = run.metrics["time/latents_s"]
    assert 0 <= seconds < 5
    assert run.metrics["throughput/latents_per_s"] == pytest.approx(10 / max(seconds, 1e-9))
    assert run.metrics["throughput/vae_per_s"] > 0
    assert "throughput/evaluation_per_s" not in run.metrics
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "latents started"
    assert re.fullmatch(r"latents took \d\.\d s, [\d,]+ per s", lines[1])
    assert re.fullmatch(r"evaluation took \d\.\d s", lines[-1])


def test_a_resumed_run_keeps_what_its_first_part_measured(run: Run) -> None:
    with run.stage("vae", 10):
        pass
    with run.stage("guide"):
        pass
    run.metrics |= {"time/vae_s": 100.0, "time/guide_s": 7.0}
    run.save()
    first = run.metrics["time/total_s"]
    resumed = Run(run.path, OmegaConf.create({}))
    with resumed.stage("guide"):
        pass
    stored = json.loads((run.path / "metrics.json").read_text())
    assert stored["time/vae_s"] == 100.0 and stored["throughput/vae_per_s"] > 0
    assert stored["time/guide_s"] < 5, "done anew, so timed anew"
    assert stored["time/total_s"] >= first


def test_failed_stage_has_no_time(run: Run) -> None:
    with pytest.raises(UserError), run.stage("iin"):
        raise UserError("NaN")
    assert "time/iin_s" not in run.metrics


def test_metrics_are_flat_finite_numbers(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.update({"edit/glasses/success": torch.tensor(0.5), "a": None, "b": math.nan, "c": math.inf, "d": 3})
    run.save()
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics.pop("time/total_s") > 0
    assert metrics.pop("memory/peak_mib") > 50
    metrics.pop("memory/gpu_peak_mib", None)
    assert metrics == {"edit/glasses/success": 0.5, "d": 3.0}
    wrong = {"b": "nan", "c": "inf"}
    assert json.loads((run.path / "measurements.json").read_text()) == {"not_finite": wrong}
    assert "NOT FINITE, so not in metrics.json: b (nan), c (inf)." in write_report(run.path).read_text()
    print_summary(run)
    assert "NOT FINITE, so not in metrics.json: b (nan), c (inf)." in capsys.readouterr().out


def test_measurements_become_json(run: Run) -> None:
    run.measurements["leakage"] = {"flow": torch.tensor([[math.nan, 0.5], [0.25, math.nan]])}
    run.save()
    assert json.loads((run.path / "measurements.json").read_text()) == {
        "leakage": {"flow": [[None, 0.5], [0.25, None]]}
    }


def test_nothing_half_written_is_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save()
    before = (run.path / "metrics.json").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="No space left on device"):
            run.save()
    assert (run.path / "metrics.json").read_text() == before
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "metrics.json"]


def test_summary_compares_and_says_what_to_open(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.update({"edit/glasses/success": 0.98, "edit/glasses/leakage": 0.01, "edit/glasses/counterfactual": 0.6,
                "baseline/linear_svm/glasses/success": 0.75, "oracle/glasses/counterfactual": 0.8})  # fmt: skip
    print_summary(run)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[1] == ["glasses", "flow", "0.980", "0.010", "0.600"]
    assert rows[2] == ["linear", "SVM", "0.750"]
    assert rows[3] == ["oracle", "0.800"]
    assert rows[-2] == ["Open:", str(run.path / "report.html")]
    assert rows[-1] == ["tensorboard", "--logdir", str(run.path / "tensorboard")]


def test_summary_without_edits(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.update({"reconstruction/psnr": 27.25, "time/vae_s": 3.0})
    print_summary(run)
    out = capsys.readouterr().out
    assert "reconstruction/psnr  27.25" in out
    assert "time/vae_s" not in out


def test_no_such_run_folder(finished_run: Path) -> None:
    with pytest.raises(UserError, match=r"Expected a run folder at .*firts, got no such folder.* Did you mean first\?"):
        load(finished_run.parent / "firts")


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got one without config\.yaml"):
        load(tmp_path)


def test_run_without_checkpoint(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    with pytest.raises(UserError, match=r"Expected the checkpoint .*checkpoints/last\.ckpt, got none"):
        load(run_copy)


def test_newest_run_below(finished_run: Path, tmp_path: Path) -> None:
    for name in ("old", "new", "unfinished"):
        shutil.copytree(finished_run, tmp_path / "faces" / name)
    (tmp_path / "faces" / ".hydra").mkdir()
    (tmp_path / "faces" / ".hydra" / "config.yaml").touch()
    shutil.rmtree(tmp_path / "faces" / "unfinished" / "checkpoints")
    for age, name in enumerate(("unfinished", "new", "old")):
        file = tmp_path / "faces" / name / "config.yaml"
        status = file.stat()
        os.utime(file, (status.st_atime, status.st_mtime - 100 * age))
    assert find_run(tmp_path) == tmp_path / "faces" / "new"
    assert load(tmp_path).path == tmp_path / "faces" / "new"


def test_clusters_without_a_checkpoint_are_a_finished_run_and_a_model_is_asked_for_where_it_is_needed(
    run_copy: Path,
) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    (run_copy / "assignments.parquet").touch()
    several, unfinished = run_copy.parent / "several", shutil.ignore_patterns("assignments.parquet")
    shutil.copytree(run_copy, several / "clusters")
    shutil.copytree(run_copy, several / "unfinished", ignore=unfinished)
    os.utime(several / "clusters" / "config.yaml", (0, 0))
    run = load(several)
    assert run.path.name == "clusters" and len(run.data.ids) == 200
    with pytest.raises(UserError, match=r"Expected the checkpoint .*vae\.ckpt, got no such file: this run has no VAE"):
        _ = run.encoder


@pytest.mark.parametrize(
    ("recorded", "gpu", "opened"),
    [("cpu", True, "cpu"), ("cpu", False, "cpu"), ("NVIDIA X1", True, "cuda"), ("NVIDIA X1", False, "cpu")],
)
def test_a_run_is_opened_where_it_was_computed(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch, recorded: str, gpu: bool, opened: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    file = run_copy / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"device": recorded}))
    assert load(run_copy).device.type == opened
    assert load(run_copy, device="cpu").device.type == "cpu"


def test_checkpoint_of_other_latents_than_recorded(run_copy: Path) -> None:
    torch.manual_seed(1)  # the run's own was made with 0
    other = VAE(size=16, latent=10, width=4)
    content = {"state_dict": other.state_dict(), "hyper_parameters": dict(other.hparams)}
    torch.save(content | {"pytorch-lightning_version": pl.__version__}, run_copy / "checkpoints" / "vae.ckpt")
    with pytest.raises(UserError, match=r"Expected the encoder that .* was trained on \(weights \w{12}\), got another"):
        load(run_copy).encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_checkpoint_for_another_number_of_latents(run_copy: Path) -> None:
    other = IIN(6, [("glasses", "binary", ["without", "with"])], blocks=1, width=8)
    content = {"state_dict": other.state_dict(), "hyper_parameters": dict(other.hparams)}
    torch.save(content | {"pytorch-lightning_version": pl.__version__}, run_copy / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"Expected a checkpoint for 10 latents, the encoder's, got one for 6 at"):
        _ = load(run_copy).iin


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_checkpoint(run_copy: Path, content: bytes) -> None:
    (run_copy / "checkpoints" / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"Expected a checkpoint of IIN, got .*last\.ckpt"):
        _ = load(run_copy).iin


def test_run_of_an_autoencoder_alone(run_copy: Path) -> None:
    (run_copy / "checkpoints" / "last.ckpt").unlink()
    run = load(run_copy)
    assert run.encode(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 10)
    with pytest.raises(UserError, match=r"last\.ckpt, got no such file: this run has no IIN"):
        run.edit(torch.zeros(3, 16, 16, dtype=torch.uint8), glasses=1)


def test_loaded_data_is_the_runs(loaded: LoadedRun) -> None:
    assert loaded.data.fingerprint == loaded.manifest["data"]["fingerprint"]


def test_other_data_in_its_place_is_one_line(run_copy: Path) -> None:
    run = load(run_copy)
    run.config.data.seed = 1
    with pytest.raises(
        UserError, match=r"Expected the data that .*run was trained on, got other rows \(fingerprint \w{12}, there"
    ):
        _ = run.data


def test_data_that_is_gone_is_one_line(run_copy: Path, tmp_path: Path) -> None:
    run = load(run_copy)
    run.config.data = {"_target_": "datamodules.folder.folder", "root": str(tmp_path / "gone")}
    with pytest.raises(UserError, match=r"Expected a folder of images at .*gone"):
        _ = run.data


def test_edit_sets_the_code_and_nothing_else(loaded: LoadedRun) -> None:
    latents = loaded.encode(loaded.data.images[loaded.data.rows(TEST)])
    edited = loaded.iin.encode(loaded.editor.edit_latents(latents, {"hat": 1, "glasses": "without"}))
    wanted = loaded.iin.encode(latents)
    for factor, value in ((3, 1.0), (0, 0.0)):
        to, other = (loaded.iin.destination(factor, torch.tensor([v]))[0, 0] for v in (value, 1 - value))
        code = wanted[:, factor]  # which stays where it clearly shows the value
        wanted[:, factor] = torch.where((code - to).abs() < (code - other).abs() / 2, code, to)
    torch.testing.assert_close(edited, wanted, atol=1e-4, rtol=0)


def test_edit_takes_a_file_a_list_and_tensors(loaded: LoadedRun, face: Path) -> None:
    """Photographs come back whole, at their own size; tensors, and decoded edits, at the run's."""
    one = loaded.edit(str(face), glasses=1)
    assert isinstance(one, Image.Image) and one.size == (30, 40) and one.mode == "RGB"
    with Image.open(face) as picture:
        two = loaded.edit([face, picture], glasses="with")
    assert isinstance(two, list) and [image.tobytes() for image in two] == [one.tobytes()] * 2
    pixels = loaded.preprocessing.read([face])
    decoded = loaded.edit(face, glasses=1, compose="none")
    assert isinstance(decoded, Image.Image) and decoded.size == (16, 16)
    assert loaded.edit(pixels, glasses=True, compose="none")[0].tobytes() == decoded.tobytes()  # type: ignore[index]
    assert loaded.edit(pixels[0], glasses=1).size == (16, 16)  # type: ignore[union-attr]
    assert loaded.edit(face, glasses=0, compose="none").tobytes() != decoded.tobytes()  # type: ignore[union-attr]


def coloured(latents: Tensor) -> Tensor:
    """In the place of the untrained decoder, whose edits are fainter than a pixel value: images of one colour."""
    return (0.5 + 0.4 * (1000 * latents[:, :3]).sin())[:, :, None, None].expand(-1, -1, 16, 16)


def test_of_strength_0_photographs_and_tensors_come_back_bit_for_bit(loaded: LoadedRun, face: Path) -> None:
    pixels = loaded.preprocessing.read([face])
    with Image.open(face) as picture:
        for how in ("threshold", "add"):
            for same in (
                loaded.edit(face, {"glasses": 1}, strength=0.0, compose=how),
                loaded.edit(face, compose=how),
                loaded.set_component(face, 8, 3.0, strength=0.0, compose=how),
                loaded.swap(face, loaded.data.ids[3], "sex", strength=0.0, compose=how),
            ):
                assert isinstance(same, Image.Image) and same.tobytes() == picture.tobytes()
            (small,) = loaded.edit(pixels, {"glasses": 1}, strength=0.0, compose=how)  # type: ignore[misc]
            assert small.tobytes() == pixels[0].permute(1, 2, 0).numpy().tobytes()


def test_a_change_is_composed_into_the_middle_of_a_photograph(
    loaded: LoadedRun, face: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.editor, "decode", coloured)
    latents = loaded.encode(loaded.preprocessing.read([face]))
    decoded = loaded.editor.decode(latents), loaded.editor.decode(loaded.editor.component_latents(latents, 8, 3.0))
    with Image.open(face) as picture:
        wanted = centre_of(picture.copy(), 1.0).composed(decoded[0][0], decoded[1][0], "add").picture
        edited = loaded.set_component(face, 8, 3.0, compose="add")
        assert isinstance(edited, Image.Image)
        assert edited.tobytes() == wanted.tobytes() != picture.tobytes()
        assert edited.crop((0, 0, 30, 5)).tobytes() == picture.crop((0, 0, 30, 5)).tobytes()


@pytest.fixture
def aligned(run_copy: Path) -> tuple[LoadedRun, Image.Image]:
    """A run whose images have faces at a known place, and two photographs of one face in one picture."""
    pytest.importorskip("dlib")
    astronaut = Image.fromarray(pytest.importorskip("skimage.data").astronaut()).crop((60, 0, 360, 300))
    both = Image.new("RGB", (500, 300))
    both.paste(astronaut.resize((200, 200)))
    both.paste(astronaut, (200, 0))
    eyes = [[0.73, 0.44], [0.6, 0.44], [0.27, 0.44], [0.4, 0.44], [0.5, 0.68]]
    (run_copy / PLACE).write_text(json.dumps({"landmarks": eyes, "found": 64, "images": 64}))
    return load(run_copy), both


def test_which_face_of_a_photograph_is_edited(
    aligned: tuple[LoadedRun, Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, both = aligned
    monkeypatch.setattr(run.editor, "decode", coloured)
    halves = (0, 0, 200, 300), (200, 0, 500, 300)
    for face, (changed, kept) in ((1, halves[::-1]), (2, halves)):
        edited = run.set_component(both, 8, 3.0, compose="add", face=face)
        assert isinstance(edited, Image.Image) and edited.size == both.size
        assert edited.crop(changed).tobytes() != both.crop(changed).tobytes()
        assert edited.crop(kept).tobytes() == both.crop(kept).tobytes()
    same = run.edit(both, {"glasses": 1}, strength=0.0, face=2)
    assert isinstance(same, Image.Image) and same.tobytes() == both.tobytes()
    with pytest.raises(
        UserError, match=r"^Expected face= of at most 2, the faces in the picture .*, got 7: choose one"
    ):
        run.edit(both, glasses=1, face=7)
    with pytest.raises(UserError, match=r"^Expected a face in the picture, got none"):
        run.edit(Image.new("RGB", (90, 80)), glasses=1)
    with pytest.raises(UserError, match=r"^Expected a face in the picture, got none"):
        run.swap(both, Image.new("RGB", (90, 80)), "sex")


def test_faces_are_not_looked_for(
    aligned: tuple[LoadedRun, Image.Image], face: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With align=none, in images of the run's own, and without the extra, which is said."""
    run, _ = aligned
    in_the_middle = run.edit(face, glasses=1, align="none")
    run.edit(run.data.images[:2], glasses=1)
    run.swap(run.data.images[0], run.data.ids[1], "sex")
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match=r"^Expected face=1, as no faces are detected: align=none, got 2\.$"):
        run.edit(face, glasses=1, align="none", face=2)
    monkeypatch.setattr(dlib_faces, "are_installed", lambda: False)
    without = load(run.path)
    assert without.edit(face, glasses=1).tobytes() == in_the_middle.tobytes()  # type: ignore[union-attr]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("The middle of each photograph is edited, wherever its face is: the extra that finds faces")
    with pytest.raises(UserError, match=r"^Expected face=1, as no faces are detected: the extra .*\[faces\]'\), got 2"):
        without.edit(face, glasses=1, face=2)


def test_a_run_whose_images_show_no_faces_or_whose_data_is_gone(
    run_copy: Path, face: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dlib")
    (run_copy / PLACE).unlink(missing_ok=True)
    run = load(run_copy)
    run.config.data = {"_target_": "datamodules.folder.folder", "root": str(run_copy / "gone")}
    run.edit(face, glasses=1)
    assert "cannot be found (Expected a folder of images at" in capsys.readouterr().out
    (run_copy / PLACE).write_text(json.dumps({"landmarks": None, "found": 1, "images": 64}))
    load(run_copy).edit(face, glasses=1)
    assert "most of this run's images show no face to align it to" in capsys.readouterr().out


def test_no_strength_is_no_edit(loaded: LoadedRun, face: Path) -> None:
    latents = loaded.encode(loaded.preprocessing.read([face]))
    edited = loaded.editor.edit_latents(latents, {"sex": 1}, strength=0.0)
    torch.testing.assert_close(edited, latents, atol=1e-4, rtol=0)


def test_a_component_from_python_as_by_the_command(loaded: LoadedRun, face: Path) -> None:
    latents = loaded.encode(loaded.preprocessing.read([face]))
    wanted = loaded.iin.set_component(latents, 8, -2.0)
    torch.testing.assert_close(loaded.editor.component_latents(latents, 8, "-2"), wanted)
    half = loaded.iin.encode(loaded.editor.component_latents(latents, 8, -2, strength=0.5))
    mean = (loaded.iin.encode(latents) + loaded.iin.encode(wanted)) / 2
    torch.testing.assert_close(half, mean, atol=1e-4, rtol=0)
    one = loaded.set_component(face, 8, -2, compose="none")
    several = loaded.set_component([face, face], component=8, value=-2, compose="none")
    assert isinstance(one, Image.Image) and isinstance(several, list)
    assert [image.tobytes() for image in several] == [one.tobytes()] * 2
    assert one.tobytes() == to_pillow(loaded.decode(wanted))[0].tobytes()


def test_a_block_from_a_donor(loaded: LoadedRun, face: Path) -> None:
    latents, donor = loaded.encode(loaded.preprocessing.read([face])), loaded.encode(loaded.data.images[3:4])
    codes = loaded.iin.encode(latents)
    codes[:, 5] = loaded.iin.encode(donor)[:, 5]
    wanted = to_pillow(loaded.decode(loaded.iin.inverse(codes)))[0].tobytes()
    by_id = loaded.swap(face, donor=loaded.data.ids[3], factor="skin", compose="none")
    by_picture = loaded.swap(face, to_pillow(loaded.data.images[3:4] / 255)[0], "skin", compose="none")
    assert isinstance(by_id, Image.Image) and isinstance(by_picture, Image.Image)
    assert by_id.tobytes() == by_picture.tobytes() == wanted
    none = loaded.swap(face, loaded.data.ids[3], "skin", strength=0.0)
    assert isinstance(none, Image.Image)
    assert none.tobytes() == loaded.edit(face).tobytes()  # type: ignore[union-attr]


def test_strips_as_by_the_command(loaded: LoadedRun, face: Path, tmp_path: Path) -> None:
    path = loaded.draw_strip(face, component=8, values=[-3, 2], out=str(tmp_path / "a.png"))
    edit.main([f"run={loaded.path}", f"images=[{face}]", "component=8", "values=[-3,2]", f"out={tmp_path / 'b.png'}"])
    assert path == tmp_path / "a.png" and path.read_bytes() == (tmp_path / "b.png").read_bytes()
    drawn = loaded.draw_strip(factor="hat", n=2, out=str(tmp_path))
    assert drawn == tmp_path / "set_hat_test_seed_0_n_2.png" and drawn.is_file()
    with pytest.raises(UserError, match=r"Expected an image at none\.png, got no such file"):
        loaded.draw_strip("none.png", component=1)


@pytest.fixture
def awkward(run_copy: Path) -> LoadedRun:
    """A run whose factors have the names of parameters."""
    names = ("strength", "images", "values", "self", "face")
    iin = IIN(10, [(name, "binary", ["without", "with"]) for name in names], blocks=1, width=8)
    content = {"state_dict": iin.state_dict(), "hyper_parameters": dict(iin.hparams)}
    torch.save(content | {"pytorch-lightning_version": pl.__version__}, run_copy / "checkpoints" / "last.ckpt")
    return load(run_copy)


def test_factors_may_have_the_names_of_parameters(awkward: LoadedRun, face: Path) -> None:
    latents = awkward.encode(awkward.preprocessing.read([face]))
    edit = partial(awkward.edit, face, compose="none")

    def expected(values: dict[str, int], strength: float = 1.0) -> bytes:
        return to_pillow(awkward.decode(awkward.editor.edit_latents(latents, values, strength)))[0].tobytes()

    for edited, wanted in (
        (edit(images=1, values=0, self=1), expected({"images": 1, "values": 0, "self": 1})),
        (edit({"strength": 1}), expected({"strength": 1})),
        (edit({"strength": 1}, strength=0.5, images=0), expected({"strength": 1, "images": 0}, 0.5)),
        (edit({"face": 1}), expected({"face": 1})),
    ):
        assert isinstance(edited, Image.Image) and edited.tobytes() == wanted
    with pytest.raises(
        UserError, match=r"Expected the factors as a dictionary, .*, got strength=1.0: write edit\(images,"
    ):
        awkward.edit(face, strength=1.0)
    with pytest.raises(UserError, match=r"^Expected the factors as a dictionary, .* called face, got face=1: write"):
        awkward.edit(face, face=1)


def test_images_are_cropped_as_the_data_was(run_copy: Path, tmp_path: Path) -> None:
    """CelebA's crop is in pixels of 178: the frame of 9 around this picture is cut away, without a crop it stays."""
    picture = Image.new("RGB", (178, 178), "red")
    picture.paste("blue", (9, 9, 169, 169))
    loaded = load(run_copy)
    assert loaded.preprocessing.read([picture])[0, 0].max() > 0
    loaded.config.data.crop = 160
    assert loaded.preprocessing.read([picture])[0, 0].max() == 0
    loaded.config.data.crop = 160 / 178
    assert loaded.preprocessing.read([picture])[0, 0].max() == 0


def test_bad_edits(loaded: LoadedRun, tmp_path: Path) -> None:
    pixels = torch.zeros(3, 16, 16, dtype=torch.uint8)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"Expected a factor among glasses, .*, got 'glases'\. Did you mean glasses\?"):
        loaded.edit(pixels, glases=1)
    with pytest.raises(UserError, match=r"Expected a value of glasses, 0 \(without\) or 1 \(with\), got 2"):
        loaded.edit(pixels, glasses=2)
    with pytest.raises(UserError, match=r"Expected a value of skin, a number between 0\.\d+ \(light\) and .*, got 7"):
        loaded.edit(pixels, skin=7)
    with pytest.raises(UserError, match=r"Expected an image at .*text\.png, got a file that cannot be read as one"):
        loaded.edit(tmp_path / "text.png", glasses=1)
    with pytest.raises(UserError, match=r"Expected an image at .*none\.png, got no such file"):
        loaded.edit([tmp_path / "none.png"], glasses=1)
    with pytest.raises(UserError, match=r"Expected at least one image, got none"):
        loaded.edit([], glasses=1)
    for wrong in (torch.zeros(3, 20, 20, dtype=torch.uint8), torch.zeros(2, 1, 16, 16, dtype=torch.uint8),
                  torch.zeros(4, 16, 16, dtype=torch.uint8), torch.rand(3, 16, 16)):  # fmt: skip
        with pytest.raises(UserError, match=r"^Expected uint8 tensors of shape \(3, 16, 16\), the run's, got torch\."):
            loaded.edit(wrong, glasses=1)
    for strength in (math.nan, math.inf):
        with pytest.raises(UserError, match=r"^Expected strength= as a finite number, got (nan|inf)"):
            loaded.edit(pixels, glasses=1, strength=strength)
    with pytest.raises(UserError, match=r"^Expected compose to be one of blend, .*, got paste\.$"):
        loaded.edit(pixels, glasses=1, compose="paste")
    with pytest.raises(UserError, match=r"^Expected align to be one of auto, none, got eyes\.$"):
        loaded.set_component(Image.new("RGB", (20, 20)), 1, 1.0, align="eyes")
    with pytest.raises(UserError, match=r"^Expected face=1 \(the largest\) or above, got 0\.$"):
        loaded.edit(Image.new("RGB", (20, 20)), {"glasses": 1}, face=0)
    with pytest.raises(UserError, match=r"Expected component= between 0 and 9, the run's components, got 10"):
        loaded.set_component(pixels, 10, 1.0)
    with pytest.raises(UserError, match=r"Expected donor= to be an image file or an id .*, got 'nobody'"):
        loaded.swap(pixels, "nobody", "sex")
    with pytest.raises(UserError, match=r"Expected a factor among glasses, .*, got 'sez'\. Did you mean sex"):
        loaded.swap(pixels, loaded.data.ids[0], "sez")
