"""From a configuration to the nouns of a run; the only place where keys become tensors."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
import torch
from torch import Tensor

from refine.app.build_instrument import build_beam, build_detector, build_scan
from refine.app.compilation import decide_compilation
from refine.app.config import Config, Image
from refine.app.config_crystal import MOST_CELLS, fits_group, group_needs
from refine.app.config_crystal import Mosaic as MosaicConfig
from refine.app.dials import lab_a_matrix, lost_parallax, trusted_ranges, unmasked
from refine.errors import InputError
from refine.io.experiments import DialsExperiment, read_experiment
from refine.io.geometries import read_mosflm_matrix
from refine.io.images import read_image, read_mask
from refine.io.imagesets import files_of
from refine.io.reflections import read_structure_factors, to_grid
from refine.model.background import Background
from refine.model.conventions import frame_change
from refine.model.crystal import Crystal, GaussianMosaic, Mosaic
from refine.model.detector import Detector
from refine.model.experiment import Experiment
from refine.model.forward import Interference, paths_per_pixel, widest_reflection
from refine.model.observation import Observation
from refine.model.pixels import Pixels
from refine.model.structure_factors import StructureFactors
from refine.parameters.space import ParameterSpace
from refine.physics.cell import cell_of_rows, real_space_vectors, reciprocal_vectors
from refine.physics.fused import FusedSum
from refine.physics.rotation import misset_rotation
from refine.physics.scattering import rays, scattering_vectors
from refine.physics.tile_sums import Execution
from refine.problem.identifiability import require_identifiable
from refine.problem.noise import choose_noise
from refine.problem.problem import ImageProblem
from refine.problem.restraints import Restraint

MATRIX_TOLERANCE = 2e-3  # relative; a matrix of a few decimals has the group's cell only so nearly
ANGSTROM_PER_UM, UM_PER_MM = 1e4, 1e3
TILE_PIXELS = 1 << 18  # looked at at once; bounds the memory
OVERLAPPING, MERGED = 0.25, 0.5  # standard deviations in Miller indices; 1 is the next reflection
LOOKED_AT = 1000  # pixels
FAR_CELL = 0.1  # relative difference above which a cell and a matrix beside it are not of the same crystal


@dataclass(frozen=True)
class Setup:
    """A run made ready: the starting model, its misset angles (3,) as given, the way to compute it, what was noticed
    on the way, the pixels (slow, fast) or (panels, slow, fast) bool that are computed and compared, and the DIALS
    experiment whose detector it is, None where the keys alone describe it."""

    crystal: Crystal
    experiment: Experiment
    misset_deg: Tensor
    interference: Interference
    notes: tuple[str, ...]
    region: np.ndarray
    source: DialsExperiment | None


def choose_device(name: str) -> torch.device:
    """'auto' takes a GPU where there is one; 'cuda' without one is an error, never a silent fallback."""
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise InputError("device is 'cuda', but PyTorch sees no CUDA device here; accepted: auto or cpu")
    return torch.device("cuda" if present and name != "cpu" else "cpu")


def _overlap(crystal: Crystal, experiment: Experiment) -> tuple[str, ...]:
    """A note where reflections of a Gaussian mosaic begin to overlap; raises InputError where they are no spots."""
    whole = Pixels.whole(experiment.detector.shape, experiment.scale)
    widest = float(widest_reflection(crystal, experiment, whole[:: max(1, len(whole) // LOOKED_AT)]))
    if widest < OVERLAPPING:
        return ()
    said = f"reflections up to {widest:.2f} wide (standard deviation, in Miller indices) overlap at the detector's edge"
    if widest > MERGED:
        raise InputError(
            f"key 'crystal.mosaic': {said}, which a Gaussian mosaic, one reflection a pixel, cannot have; accepted:"
            f" up to {MERGED}; give a smaller spread, more cells, or model domains"
        )
    return (f"{said}: photons between them are missing",)


def choose_interference(
    config: Config, crystal: Crystal, experiment: Experiment
) -> tuple[Interference, tuple[str, ...]]:
    """The sum over the crystal's steps in the configuration's precision, compiled where that is wanted and pays, and
    what to tell the user about it."""
    pixels = math.prod(experiment.detector.shape)
    compiled, note = decide_compilation(config.compile, pixels * steps_per_pixel(crystal, experiment))
    how = Execution(getattr(torch, config.dtype), compiled)
    return FusedSum(how), (note,) if note else ()


def steps_per_pixel(crystal: Crystal, experiment: Experiment) -> int:
    """Paths of the photons, phi steps and mosaic domains."""
    return paths_per_pixel(experiment) * experiment.scan.steps * crystal.domains


def of_image(config: Config, image: Image) -> Config:
    """The configuration of a run of one of its images alone."""
    crystal, beam = config.crystal, config.beam
    if image.orientation is not None:
        crystal = crystal.model_copy(update={"orientation": image.orientation})
    if image.beam.wavelength is not None:
        beam = beam.model_copy(update={"wavelength": image.beam.wavelength})
    return config.model_copy(update={"images": (image,), "crystal": crystal, "beam": beam})


def build_model(config: Config, known: Setup | None = None) -> Setup:
    """Crystal and experiment of a configuration, of its first image where it has some; `known` has the same structure
    factors, which are then not read again. Raises InputError where a file it names is wrong."""
    config = of_image(config, config.images[0]) if config.images else config
    like = torch.zeros((), dtype=torch.float64, device=choose_device(config.device))
    crystal = _crystal(config, like)
    factors, note = (known.experiment.structure_factors, known.notes[0]) if known else _structure_factors(config, like)
    source = _source(config)
    detector = build_detector(config, crystal, source)
    experiment = Experiment(
        beam=build_beam(config, like),
        detector=detector,
        scan=build_scan(config, like),
        structure_factors=factors,
        background=_background(config, detector),
        scale=like + (config.images[0].scale if config.images else 1.0),
    )
    overlap = () if config.shoebox else _overlap(crystal, experiment)
    interference, remarks = choose_interference(config, crystal, experiment)
    misset_deg = like.new_tensor(config.crystal.orientation.misset_deg)
    notes = (note, *overlap, *lost_parallax(config.detector, source), *remarks)
    region = _region(config, detector, source)
    return Setup(crystal, experiment, misset_deg, interference, notes, region, source)


def build_space(config: Config, setup: Setup) -> ParameterSpace:
    """The configuration's free parameters. Raises InputError for those that no image could determine."""
    if config.crystal.shape == "tophat" and (idle := {"cell", "orientation"} & set(config.refinement.free)):
        raise InputError(
            f"refinement.free: {' and '.join(sorted(idle))} cannot be refined with crystal.shape tophat, whose spots"
            " have no slope; accepted: shapes square, round and gauss"
        )
    plane = config.background.model == "plane"
    space = ParameterSpace.of(setup.crystal, setup.experiment, config.refinement.free, setup.misset_deg, plane)
    require_identifiable(space)
    return space


def build_problem(config: Config, setup: Setup) -> ImageProblem:
    """The configuration's image against its model. Raises InputError for an image that cannot be refined against
    and for free parameters that no image could determine."""
    space = build_space(config, setup)
    observation = build_observation(config, setup)
    noise = choose_noise(config.refinement.loss, config.detector.readout_noise)
    return ImageProblem(
        space, observation, observation.pixels(), noise, build_restraints(config, space), setup.interference
    )


def image_file(config: Config) -> Path:
    """The image's path, a glob resolved. Raises InputError where there is none, or more than one."""
    if not config.images:
        raise InputError("key 'images' is missing; accepted: a list such as [{file: image.npz}]")
    pattern = config.images[0].file
    found = files_of(pattern)
    if len(found) != 1:
        listed = ", ".join(path.name for path in found[:3])
        raise InputError(
            f"key 'images.0.file': {pattern} fits {len(found)} files {listed}; this version refines one image"
        )
    return Path(os.path.abspath(found[0]))


def _crystal(config: Config, like: Tensor) -> Crystal:
    given = config.crystal
    cell, rotation = _cell_and_rotation(config, like)
    rotation = misset_rotation(like.new_tensor(given.orientation.misset_deg)) @ rotation
    return Crystal(
        cell,
        rotation,
        _cells(config, cell),
        _mosaic(given.mosaic, like),
        given.shape,
        like.new_tensor(given.b_factor),
        given.space_group,
    )


def _mosaic(given: MosaicConfig, like: Tensor) -> Mosaic | GaussianMosaic:
    if given.model == "domains":
        return Mosaic.sampled(like.new_tensor(given.spread_deg), given.domains, given.seed)
    xx, yy, zz, xy, xz, yz = given.covariance
    return GaussianMosaic.of(like.new_tensor([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))


def _cells(config: Config, cell: Tensor) -> Tensor:
    """N (3,): as given, or as many cells as reach over the block's size; what the beam does not reach in y and z, as
    nanoBragg.c has it, does not count where the beam has a size."""
    given = config.crystal
    if given.size_um is None:
        return cell.new_tensor(given.cells)
    along_a, *across = given.size_um
    lit = [min(size, config.beam.size * UM_PER_MM) if config.beam.size else size for size in across]
    found = torch.ceil(cell.new_tensor([along_a, *lit]) * ANGSTROM_PER_UM / cell[:3]).clamp_min(1.0)
    if float(found.max()) > MOST_CELLS:
        raise InputError(f"key 'crystal.size_um' stands for {found.max():g} unit cells; accepted: up to {MOST_CELLS}")
    return found


def _cell_and_rotation(config: Config, like: Tensor) -> tuple[Tensor, Tensor]:
    """The starting cell (6,) and the rotation (3, 3) that a matrix stands for; the identity without one."""
    given = config.crystal
    matrix = _a_matrix(config)
    if matrix is None:
        return like.new_tensor(given.cell), torch.eye(3).to(like)
    real_space = reciprocal_vectors(torch.from_numpy(matrix).to(like))
    own_cell = cell_of_rows(real_space)
    _check_matrix_cell(config, own_cell.tolist())
    rotation = torch.linalg.solve(real_space_vectors(own_cell), real_space).T
    return own_cell if given.cell is None else like.new_tensor(given.cell), rotation.contiguous()


def _check_matrix_cell(config: Config, own: list[float]) -> None:
    """Raise InputError where the matrix's cell is no crystal's, is not of the space group, or is far from the cell
    given beside it."""
    said = f"the orientation's matrix stands for the cell {', '.join(f'{x:.3f}' for x in own)} (Å, degrees)"
    group = gemmi.find_spacegroup_by_name(config.crystal.space_group)
    if config.crystal.cell is None and not fits_group(own, group, MATRIX_TOLERANCE):
        raise InputError(f"{said}; space group {group.xhm()} needs {group_needs(group)}: give crystal.cell as well")
    if not all(1 < x < 10_000 for x in own[:3]):
        raise InputError(
            f"{said}; accepted: edges of 1 to 10000 Å, so is the matrix really in 1/Å, without the wavelength?"
        )
    given = config.crystal.cell or own
    if any(abs(x - y) > FAR_CELL * y for x, y in zip(own, given, strict=True)):
        raise InputError(f"{said}, far from crystal.cell {list(given)}; correct one of them, or leave crystal.cell out")


def _a_matrix(config: Config) -> np.ndarray | None:
    """Columns a*, b*, c* (3, 3) in 1/Å, in the configuration's lab frame, where a matrix was given."""
    orientation = config.crystal.orientation
    if orientation.matrix is not None:
        mosflm = read_mosflm_matrix(orientation.matrix, config.beam.wavelength)
        return frame_change("mosflm", config.detector.convention) @ mosflm
    if orientation.expt is not None:
        frame = frame_change("expt", config.detector.convention)
        return np.asarray(frame @ lab_a_matrix(orientation.expt, orientation.index))
    return None if orientation.a_matrix is None else np.array(orientation.a_matrix).reshape(3, 3)


def _structure_factors(config: Config, like: Tensor) -> tuple[StructureFactors, str]:
    given = config.structure_factors
    if given.unknown:
        unit = StructureFactors.uniform(like.new_tensor(1.0))
        return replace(unit, d_min=given.d_min), "amplitudes are unknown, each found from its own spot"
    if given.file is None:
        uniform = StructureFactors.uniform(like.new_tensor(given.default))
        return replace(uniform, d_min=given.d_min), f"F = {given.default:g} for every reflection"
    reflections = read_structure_factors(given.file, given.column)
    grid, lowest = to_grid(reflections.hkl, reflections.amplitude, given.default)
    amplitude = torch.from_numpy(grid).to(like)
    listed = StructureFactors.from_grid(amplitude, lowest, given.default, given.interpolate)
    return replace(listed, d_min=given.d_min), reflections.note


def _background(config: Config, detector: Detector) -> Background:
    given, like = config.background, detector.distance
    if given.model == "plane" and detector.panels is not None:
        raise InputError("key 'background.model' is 'plane'; accepted for many panels: none, constant or file")
    plane = Background.plane(like.new_tensor((given.value, *given.slope)), detector.size)
    plane = replace(plane, water=like.new_tensor(given.water_um) if given.water_um else None)
    if given.file is None:
        return plane
    values = read_image(given.file, detector.shape).values
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(
            f"{given.file}: the background holds negative or undefined values; accepted: photons/pixel of 0 and above"
        )
    return replace(plane, image=torch.from_numpy(values).to(like))


def _source(config: Config) -> DialsExperiment | None:
    detector = config.detector
    return None if detector.file is None else read_experiment(detector.file, detector.index)


def _region(config: Config, detector: Detector, source: DialsExperiment | None) -> np.ndarray:
    """Pixels within detector.roi, on every panel, detector.mask and the trusted areas of a DIALS file. Raises
    InputError."""
    given, shape = config.detector, detector.shape
    chosen = np.zeros(shape, dtype=np.bool_)
    (top, bottom), (left, right) = (given.roi.slow or (0, given.size[0] - 1), given.roi.fast or (0, given.size[1] - 1))
    chosen[..., top : bottom + 1, left : right + 1] = True
    if source is not None:
        chosen &= unmasked(source, given.size).reshape(shape)
    return chosen if given.mask is None else chosen & read_mask(given.mask, shape)


def by_panel(key: str, value: float | tuple[float, ...], shape: tuple[int, ...]) -> float | np.ndarray:
    """A number for every pixel, or (panels, 1, 1) where there is one a panel. Raises InputError for another count."""
    if not isinstance(value, tuple):
        return value
    panels = shape[0] if len(shape) == 3 else 1
    if len(value) != panels:
        raise InputError(f"key '{key}' lists {len(value)} numbers; accepted: one, or {panels} of them, one a panel")
    return np.array(value).reshape(-1, 1, 1) if len(shape) == 3 else value[0]


def build_observation(config: Config, setup: Setup) -> Observation:
    """The configuration's first image, in photons. Raises InputError where it cannot be refined against."""
    path, given, experiment = image_file(config), config.detector, setup.experiment
    shape = experiment.detector.shape
    raw = read_image(path, shape, config.images[0].frame)
    trusted = raw.valid & setup.region & _counted_right(config.detector.saturation, setup.source, raw.values)
    mask = config.images[0].mask
    if mask is not None:
        trusted &= read_mask(mask, shape)
    trusted = _within_resolution(trusted, config, experiment)
    gain = by_panel("detector.gain", given.gain, shape)
    photons = (raw.values - by_panel("detector.offset", given.offset, shape)) / gain
    _require_usable(path, photons, trusted, _counts_only(config))
    like = experiment.scale
    readout = like.new_tensor((given.readout_noise / np.squeeze(gain)) ** 2)
    return Observation(
        torch.from_numpy(np.where(trusted, photons, 0.0)).to(like), torch.from_numpy(trusted).to(like.device), readout
    )


def _counted_right(saturation: float | None, source: DialsExperiment | None, counts: np.ndarray) -> np.ndarray:
    """Pixels whose counts (ADU) are below detector.saturation and in the trusted range of a DIALS file."""
    right = np.ones(counts.shape, dtype=np.bool_) if saturation is None else counts < saturation
    if source is None:
        return right
    low, high = trusted_ranges(source)
    stack = counts.reshape(len(source.panels), *counts.shape[-2:])
    inside = (stack >= low) & (stack <= high if saturation is None else True)
    return right & inside.reshape(counts.shape)


def _within_resolution(trusted: np.ndarray, config: Config, experiment: Experiment) -> np.ndarray:
    """The trusted pixels whose centre lies within the resolution limits at the start's geometry."""
    limits = config.refinement.resolution
    if limits.min is None and limits.max is None:
        return trusted
    within = torch.from_numpy(trusted).to(experiment.scale.device)
    for _, part in Pixels.chosen(within, experiment.scale).tiles(TILE_PIXELS):
        ray, _ = rays(experiment.detector.points(part.fast + 0.5, part.slow + 0.5, part.panel))
        vectors = scattering_vectors(ray, experiment.beam.direction[None], experiment.beam.wavelength[None])
        q = torch.linalg.vector_norm(vectors[:, 0], dim=0)
        within[part.place] = (q <= 1 / (limits.min or 1e-12)) & (q >= 1 / (limits.max or 1e12))
    return within.cpu().numpy()


def _counts_only(config: Config) -> bool:
    """Whether the loss is that of counts, which cannot be below zero."""
    loss = config.refinement.loss
    return loss == "poisson" or (loss == "robust" and config.detector.readout_noise == 0)


def _require_usable(path: Path, photons: np.ndarray, trusted: np.ndarray, counts_only: bool) -> None:
    if not trusted.any():
        raise InputError(
            f"{path}: no pixel is left to refine against after masks, roi, saturation and resolution limits; widen one"
        )
    if undefined := int((~np.isfinite(photons[trusted])).sum()):
        raise InputError(
            f"{path}: {undefined} pixels are NaN or infinite; mark them in a mask file (images.0.mask, 0 = leave out)"
        )
    if counts_only and (negative := int((photons[trusted] < 0).sum())):
        raise InputError(
            f"{path}: {negative} pixels are below zero photons (lowest {photons[trusted].min():g}), which the loss"
            " of counts cannot have; set detector.offset, mask them, or use refinement.loss: gaussian with"
            " detector.readout_noise"
        )


def build_restraints(config: Config, space: ParameterSpace) -> tuple[Restraint, ...]:
    """What the configuration knows of the parameters of a space. Raises InputError."""
    labels, like = {p.name: p.labels for p in space.parameters}, space.zero()
    given = config.refinement.restraints.given()
    for name, restraint in given.items():
        key = f"key 'refinement.restraints.{name}'"
        if name not in labels:
            raise InputError(f"{key}: {name} is not refined; add {name} to refinement.free or leave it out")
        if len(restraint.target) != len(labels[name]):
            needs = f"{len(labels[name])}, for {', '.join(labels[name])}"
            raise InputError(f"{key}: target has {len(restraint.target)} values; accepted: {needs}")
    return tuple(Restraint(name, like.new_tensor(r.target), like.new_tensor(r.sigma)) for name, r in given.items())
