"""Train and evaluate the runs of model=vae and model=iin: their stages, metrics and figures."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from datamodules.features import Latents
from datamodules.people import training_halves
from datamodules.splits import TEST, TRAIN
from evaluation.editing.baselines import AtStrength, LinearSVM, MeanDifference
from evaluation.editing.counterfactual_metrics import mean_known
from evaluation.editing.final_pictures import EXTRAS
from evaluation.editing.held_out import decode_all
from evaluation.editing.invariance import measure_null_edits, measure_reversibility
from evaluation.editing.measure import edit_targets, measure
from evaluation.editing.measurement import Measurement, count_keys, keys, matrix_keys, measurements
from evaluation.editing.metrics import cycle_error
from evaluation.editing.photographs import stored_landmarks
from evaluation.editing.pictures import draw_edits, draw_flow, draw_reconstructions
from evaluation.editing.realism import inception_features
from evaluation.report.charts import draw_charts
from models import UserError, dlib_faces
from models.composition import default_composition
from models.diffusion_flow import DiffusionFlow
from models.face_identity import Network, load_identity
from models.gaussian import kl_divergence
from models.iin import IIN
from models.iin_losses import bits_per_dim
from models.interfaces import Editor, FaceEmbedder, ImageEncoder, ImageJudge
from models.labels import factor_statistics
from models.outside_judge import load_outside, outside_judge
from training.build import device_of
from training.committee import Committee, train_committee
from training.data import load_data
from training.factor_classifier import judge_quality, unfit
from training.features import frozen_encoder, latents_of
from training.iin import CHANGEABLE as IIN_STAGES
from training.iin import train_interpretation
from training.oracle import train_oracle
from training.run_folder import Run
from training.settings import Settings
from training.vae import CHANGEABLE as VAE_STAGES

__all__ = [
    "identity_model",
    "judge_networks",
    "measure_autoencoder",
    "measure_iin",
    "run_autoencoder",
    "run_editing",
]

# See training.settings.of_pipeline.
CHANGEABLE = VAE_STAGES | IIN_STAGES
MINIMUM = {"spatial_guide_edits": 1, "vae.final_width": 0}
DRAWINGS, PHOTOGRAPHS = 500, 300  # test images edited per factor; decoding photographs takes most of an evaluation
STRENGTHS = (2, 3)  # at which the mean difference is measured beside 1
DRAWN = ("edit", "baseline/mean_difference", "baseline/mean_difference_2", "baseline/linear_svm")
DENSITY_ROWS = 64  # test latents whose density under a diffusion flow is estimated, which takes many passes
ACTIVE = 0.01  # a latent is active when its posterior mean varies more over the data (Burda et al. 2016)


def identity_model(config: Settings, device: torch.device) -> FaceEmbedder | None:
    """Load the face-embedding model of the configuration, and check that it works before hours of training.

    Raises:
        UserError: it cannot be loaded, takes no RGB images, or does not return an embedding for each image.
    """
    if config.model.name != "iin" or config.identity_model is None:
        return None
    embed, setting = load_identity(config.identity_model, device=device), f"identity_model={config.identity_model}"
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    try:
        one, three = embed(images[:1]), embed(images)
    except Exception as error:  # a model from a file can raise any exception
        reason = str(error).strip().split("\n")[-1]
        raise UserError(f"Expected {setting} to embed RGB images, got {reason}: give another one.") from error
    if one.ndim != 2 or len(one) != 1 or three.shape != (3, one.shape[1]):
        raise UserError(
            f"Expected {setting} to return an embedding for each image, got shape {tuple(one.shape)} for one image and "
            f"{tuple(three.shape)} for three: give another one."
        )
    if not bool(three.isfinite().all()) or bool((three == three[:1]).all()):
        got = "the same one for all" if bool(three.isfinite().all()) else "numbers that are not finite"
        raise UserError(f"Expected {setting} to tell three images apart, got {got}: give another one.")
    return embed


def judge_networks(config: Settings, device: torch.device) -> dict[str, Network]:
    """Load the networks of judge_model=, none by default; they are matched with the factors once the data is loaded.

    Raises:
        UserError: they cannot be loaded.
    """
    networks = config.get("judge_model")  # runs of earlier versions do not have the setting
    if config.model.name != "iin" or networks is None:
        return {}
    return load_outside(networks, device)


@torch.inference_mode()
def measure_autoencoder(data: ImageData, encoder: ImageEncoder, latents: Latents, run: Run) -> None:
    """Measure `reconstruction/{mse,psnr}` of test images in [0, 1], `kl` in nats per image, and `active_units`."""
    rows = data.rows(TEST)
    if not len(rows):
        print("No test images: no reconstruction is measured.")
        return
    device = latents.mean.device
    with run.stage("autoencoder", len(rows)):
        errors = []
        for part in rows.split(256):
            images = data.images[part].to(device).float() / 255
            errors.append((encoder.decode(latents.mean[part.to(device)]) - images).square().flatten(1).mean(1))
        mse = torch.cat(errors).mean().item()
        held = latents.rows(rows.to(device))
        run.update({
            "reconstruction/mse": mse,
            "reconstruction/psnr": -10 * torch.log10(torch.tensor(mse)).item(),
            "kl": kl_divergence(held.mean, held.logvar).mean().item(),
            "active_units": float((held.mean.var(0) > ACTIVE).sum()),
        })  # fmt: skip
        draw_reconstructions(run.path / "figures", data, encoder, device)


def judged_rows(config: Settings, data: ImageData, iin: IIN) -> Tensor:
    """Select the training rows of the judges: where a reader was trained, the half of the people it did not see."""
    reader = iin.objective == "faithful" and not iin.spatial and config.guide.reading_weight
    if not reader and not isinstance(iin.flow, DiffusionFlow):
        return data.rows(TRAIN)
    return training_halves(data)[1]


def member_keys(qualities: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """Flatten the quality of each member of the committee into `judge/<factor>/<member>/…`."""
    return {
        f"judge/{name}/{member}/{key}": value
        for member, table in qualities.items()
        for name, row in table.items()
        for key, value in row.items()
    }


def judge_keys(judge: Committee, images: Float[Tensor, "n 3 size size"], labels: FactorTable) -> dict[str, float]:
    """Measure the judge and its members on reconstructions, and print the factors on which it is too weak."""
    quality = judge_quality(judge, images, labels)
    for name in unfit(quality):
        print(
            f"The judge cannot tell {name} on reconstructions (balanced accuracy "
            f"{quality[name]['balanced_accuracy']:.2f} < .75): do not trust the edit metrics of this factor."
        )
    numbers = {f"judge/{name}/{key}": value for name, row in quality.items() for key, value in row.items()}
    return numbers | (member_keys(judge.qualities(images, labels)) if len(judge.names) > 1 else {})


def baselines(latents: Float[Tensor, "n features"], labels: FactorTable, seed: int) -> dict[str, Editor]:
    """Fit the linear editors, the mean difference also at strengths 2 and 3."""
    mean_difference = MeanDifference(latents, labels)
    stronger = {f"baseline/mean_difference_{s}": AtStrength(mean_difference, float(s)) for s in STRENGTHS}
    return {
        "baseline/mean_difference": mean_difference, **stronger, "baseline/linear_svm": LinearSVM(latents, labels, seed)
    }  # fmt: skip


def measure_invariance(
    iin: Editor, data: ImageData, rows: Int64[Tensor, " n"], encoder: ImageEncoder, how: str, seed: int,
    device: torch.device,
) -> dict[str, float]:  # fmt: skip
    """Measure `composition/…` and `reversibility/<factor>` of the run's own editor on photographs."""
    labels, train = data.factors[rows], data.factors[data.rows(TRAIN)]
    generator = torch.Generator().manual_seed(seed)
    targets = edit_targets(labels, train, factor_statistics(train.values), generator)
    names, images = [factor.name for factor in labels.factors], data.images[rows]
    return {
        **measure_null_edits(iin, images, labels.values, encoder, how, device),
        **measure_reversibility(iin, images, labels.values, targets, names, encoder, how, device),
    }


def realism_keys(measurement: Measurement) -> dict[str, float]:
    """Average `realism/{fid,frechet_identity}` over the factors of the run's own edits."""
    means = {
        f"realism/{name}": mean_known([getattr(result, name) for result in measurement.results])
        for name in ("fid", "frechet_identity")
    }
    return {key: mean for key, mean in means.items() if mean is not None}


@torch.inference_mode()
def flow_quality(iin: IIN, held: Latents) -> dict[str, float]:
    """Measure `flow/nll_bits_per_dim` and `flow/inverse_error` = max |T⁻¹(T(z)) − z| of held-out posterior means z.

    The density is -log₂ p(z) / d with N(0, I) codes, whatever the labels; for a diffusion flow it is conditioned on the
    components that the flow reads, see `DiffusionFlow.bits`.
    """
    if isinstance(iin.flow, DiffusionFlow):
        some, generator = held.mean[:DENSITY_ROWS], torch.Generator().manual_seed(0)
        errors = [cycle_error(part, iin.inverse(iin.encode(part))) for part in held.mean.split(256)]
        return {
            "flow/nll_bits_per_dim": float(iin.flow.bits(some, generator=generator).mean()),
            "flow/inverse_error": max(errors),
        }
    codes, log_det = iin.flow(held.mean)
    bits = bits_per_dim(codes, log_det).mean()
    return {"flow/nll_bits_per_dim": float(bits), "flow/inverse_error": cycle_error(held.mean, iin.inverse(codes))}


def measure_iin(
    config: Settings,
    data: ImageData,
    encoder: ImageEncoder,
    latents: Latents,
    iin: IIN,
    run: Run,
    embed: FaceEmbedder | None = None,
    outside: ImageJudge | None = None,
) -> None:
    """Measure the flow, and on data with factors the edits of the flow, the baselines and, if possible, the oracle."""
    # Runs of earlier versions do not have the setting.
    device, how = latents.mean.device, config.get("compose") or default_composition(encoder.latent_shape)
    most = config.measured_images
    if most is None:
        most = PHOTOGRAPHS if data.counterfactual is None else DRAWINGS
    test = data.rows(TEST)[:most]
    held = latents.rows(test.to(device))
    figures = run.path / "figures"
    with run.stage("flow", len(test)):
        run.update(flow_quality(iin, held))
        draw_flow(figures, data, encoder, iin, device, how=how)
    if not data.factors.factors:
        return
    train = data.rows(TRAIN)
    known, means = data.factors[train], latents.mean[train.to(device)]
    with run.stage("judge", len(train)):
        rows = judged_rows(config, data, iin)
        judge = train_committee(
            data, config.seed, rows, device=device, cache_dir=config.cache_dir, outside=outside,
            scale=config.trainer.scale,
        )  # fmt: skip
    editors: dict[str, Editor] = {"edit": iin}
    with run.stage("baselines", len(train)):
        editors |= baselines(means, known, config.seed)
    scanned = [name for name, editor in editors.items() if not isinstance(editor, AtStrength)]
    if data.counterfactual is not None:
        with run.stage("oracle", len(train)):
            editors["oracle"] = train_oracle(data, encoder, means, train, config.seed, cache_dir=config.cache_dir)
    with run.stage("evaluation", len(test)), torch.inference_mode():
        images, labels = decode_all(held.mean, encoder), data.factors[test]
        run.update(judge_keys(judge, images, labels))
        measured = measure(
            editors, held.mean, labels, encoder, judge, data, test, scanned=scanned, embed=embed, seed=config.seed,
            how=how, reconstructions=images, fid=inception_features(device),
        )  # fmt: skip
        for prefix, result in measured.items():
            run.update(keys(result, prefix))
        run.update(matrix_keys(measured["edit"], "edit") | count_keys(measured["edit"], "edit"))
        run.update(realism_keys(measured["edit"]))
        run.update(measure_invariance(iin, data, test[:EXTRAS], encoder, how, config.seed, device))
        run.measurements = measurements({name: measured[name] for name in scanned})
    with run.stage("pictures"):
        run.save()
        draw_edits(figures, data, encoder, {name: editors[name] for name in DRAWN}, device, how=how)
        draw_charts(run.path, run.measurements)


def image_data(config: Settings, run: Run) -> ImageData:
    """Load the data of a run that edits images.

    Raises:
        UserError: data that cannot be read, or that are no images.
    """
    data = load_data(config, run)
    if not isinstance(data, ImageData):
        raise UserError(f"Expected images for model={config.model.name}, got vectors: choose other data=.")
    return data


def check_test_images(data: ImageData) -> None:
    """Check that there are test images to measure edits on, and print which factors no test image has a label of.

    Raises:
        UserError: there are no test images.
    """
    held = data.factors.values[data.rows(TEST)]
    if not len(held):
        raise UserError(
            f"Expected test images, on which edits are measured, got none among {len(data.ids)} images: add images, or "
            "a column split to the table."
        )
    for factor, column in zip(data.factors.factors, held.unbind(1), strict=True):
        if column.isnan().all():
            print(f"No test image has a label of {factor.name}: its edits are not measured.")


def run_autoencoder(config: Settings, run: Run) -> None:
    """Train the image auto-encoder of a run, encode all of its images and measure their reconstructions.

    Raises:
        UserError: see `image_data`.
    """
    data = image_data(config, run)
    encoder, latents = latents_of(config, data, run)
    measure_autoencoder(data, encoder, latents, run)


def run_editing(config: Settings, run: Run) -> None:
    """Train the invertible network of a run on the latents of a frozen encoder, then measure its edits.

    Raises:
        UserError: an encoder, an identity model or a judge model that cannot be used; see `measure_iin`.
    """
    device = device_of(config)
    embed, networks, frozen = identity_model(config, device), judge_networks(config, device), frozen_encoder(config)
    data = image_data(config, run)
    check_test_images(data)
    outside = outside_judge(networks, data.factors.factors, data.size) if networks else None
    encoder, latents = latents_of(config, data, run, frozen)
    measure_autoencoder(data, encoder, latents, run)
    iin = train_interpretation(config, data, latents, encoder, run)
    measure_iin(config, data, encoder, latents, iin, run, embed, outside)
    if dlib_faces.are_installed():
        stored_landmarks(run.path, lambda: data)  # so that photographs can be aligned without the data
