"""The images of a run, each made ready by itself."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from refine.app.build import Setup, build_model, build_observation, of_image
from refine.app.config import Config, Image
from refine.errors import InputError
from refine.io.experiments import read_experiment
from refine.io.imagesets import files_of
from refine.io.reflection_tables import Spots, read_spots
from refine.model.prediction import corner_resolution
from refine.parameters.blocks import holding
from refine.parameters.space import ParameterSpace
from refine.problem.identifiability import require_identifiable
from refine.problem.noise import choose_noise
from refine.problem.placement import Choice, Still
from refine.problem.shoebox_problem import Shape

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ready:
    """An image: its name, which no other has, in the names of files and of values, and as it is shown; the
    configuration of a run of it alone, its start, the pixels, and observed spots where there are some."""

    path: Path
    name: str
    shown: str
    config: Config
    setup: Setup
    still: Still
    spots: Spots | None


@dataclass(frozen=True)
class Failed:
    """An image that is left out, and why."""

    path: Path
    reason: str


def listed_images(config: Config) -> tuple[Image, ...]:
    """The images of a configuration, globs resolved. Raises InputError."""
    if not config.images:
        raise InputError("key 'images' is missing; accepted: a list such as [{file: image.cbf}]")
    found: list[Image] = []
    for number, image in enumerate(config.images):
        if not (paths := files_of(image.file)):
            raise InputError(f"key 'images.{number}.file': no file fits {image.file}; accepted: a file, or a pattern")
        found += [image.model_copy(update={"file": Path(os.path.abspath(path))}) for path in paths]
    names = [(image.file, image.frame) for image in found]
    if twice := [name for k, (name, frame) in enumerate(names) if (name, frame) in names[:k]]:
        raise InputError(f"key 'images': {twice[0]} is there twice; accepted: each image once")
    return tuple(found)


def make_ready(config: Config) -> tuple[list[Ready], list[Failed]]:
    """The images, with one starting cell for all, and those that cannot be read. Raises InputError where none can."""
    images = listed_images(config)
    settings = [of_image(config, image) for image in images]
    ready: list[Ready] = []
    failed: list[Failed] = []
    known: Setup | None = None
    for image, alone, named in zip(images, settings, _names(images), strict=True):
        try:
            known = build_model(alone, known)
            ready.append(_ready(image, named, alone, known))
        except InputError as error:
            if len(images) == 1:
                raise
            failed.append(Failed(image.file, str(error)))
    if not ready:
        reasons = "\n".join(failure.reason for failure in failed)
        raise InputError(f"none of the {len(images)} images can be used:\n{reasons}")
    return _with_one_cell(ready), failed


def _names(images: Sequence[Image]) -> list[tuple[str, str]]:
    """Of every image a name that no other has, and what it is shown as: its file's, where that says which it is."""
    files = [image.file.name for image in images]
    stems = [name.partition(".")[0] for name in files]
    told = [
        f"{stem}_{image.frame}" if image.frame and stems.count(stem) > 1 else stem
        for stem, image in zip(stems, images, strict=True)
    ]
    if len(set(told)) < len(told):
        told = [f"{number}_{stem}" for number, stem in enumerate(stems, 1)]
    return [(name, file if files.count(file) == 1 else name) for name, file in zip(told, files, strict=True)]


def _ready(image: Image, names: tuple[str, str], config: Config, setup: Setup) -> Ready:
    orientation, spots = config.crystal.orientation, None
    if image.spots is not None:
        named = None if orientation.expt is None else read_experiment(orientation.expt, orientation.index)
        spots = read_spots(image.spots, None if named is None else named.identifier)
    return Ready(image.file, *names, config, setup, _still(config, setup), spots)


def _still(config: Config, setup: Setup) -> Still:
    settings, box = config.refinement, config.shoebox
    assert box is not None
    limits, factors = settings.resolution, config.structure_factors
    d_min = max(limits.min or 0.0, factors.d_min or 0.0, corner_resolution(setup.experiment))
    centring = gemmi.find_spacegroup_by_name(config.crystal.space_group).centring_type()
    choice = Choice(
        box.size, box.min_signal, d_min, limits.max or float("inf"), settings.holdout, config.seed, centring
    )
    noise = choose_noise(settings.loss, config.detector.readout_noise)
    background: Shape = "plane" if config.background.model == "plane" else "constant"
    known = None if factors.unknown else setup.experiment.structure_factors
    observation = build_observation(config, setup)
    return Still(observation, noise, background, choice, known, _relative_sigma(config))


def _relative_sigma(config: Config) -> float:
    """Of the intensities about the known ones: 0 where they are exact, infinity where they are free."""
    settings = config.refinement
    if config.structure_factors.unknown:
        return float("inf")
    if "amplitudes" not in settings.free:
        return 0.0
    pull = settings.restraints.amplitudes
    return float("inf") if pull is None else pull.relative_sigma


def free_space(ready: Ready) -> tuple[ParameterSpace, tuple[str, ...]]:
    """An image's free parameters, and what is said of those that are found otherwise. Raises InputError."""
    settings, setup = ready.config.refinement, ready.setup
    eliminated, notes = {"amplitudes", "background"}, list[str]()
    if ready.still.relative_sigma == float("inf") and (idle := {"scale", "b_factor"} & set(settings.free)):
        eliminated |= idle
        notes.append(f"{' and '.join(sorted(idle))} stay as they are: free amplitudes take their part")
    axis = int(setup.experiment.beam.direction.abs().argmax())
    about_beam = f"detector_rotations.{'xyz'[axis]}"
    if "orientation" in settings.free and {"detector_rotations", about_beam} & set(settings.free):
        eliminated.add(about_beam)
        notes.append(f"{about_beam} stays as it is: the crystal turned about the beam does the same")
    names = [name for name in settings.free if name not in eliminated]
    space = ParameterSpace.of(setup.crystal, setup.experiment, names, setup.misset_deg)
    if about_beam in eliminated:
        turned = (holding(p, axis) if p.name == "detector_rotations" else p for p in space.parameters)
        space = ParameterSpace(space.start, tuple(turned))
    require_identifiable(space)
    return space, tuple(notes)


def _with_one_cell(ready: list[Ready]) -> list[Ready]:
    """With the mean of the images' starting cells in all of them."""
    cells = np.array([one.setup.crystal.cell.tolist() for one in ready])
    if len(ready) == 1 or not np.ptp(cells, axis=0).any():
        return ready
    mean = tuple(float(value) for value in cells.mean(0))
    found = []
    for one in ready:
        crystal = one.config.crystal.model_copy(update={"cell": mean})
        config = one.config.model_copy(update={"crystal": crystal})
        found.append(replace(one, config=config, setup=build_model(config, one.setup)))
    return found
