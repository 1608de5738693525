"""No option that does nothing: every key of the schema, given another value, changes what a run gives."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import gemmi
import h5py
import numpy as np
import pytest
import refl
import torch
import yaml
from cli import START, TRUTH, configuration
from expt import REAL_SPACE, SIZE, document, panel, written
from pydantic import BaseModel

from refine.app.build import build_model
from refine.app.config import Config
from refine.app.load import load_config
from refine.app.main import main

REFUSED = {
    "detector.size",
    "crystal.mosaic.model",
    "refinement.pixels",
    "structure_factors.unknown",
}  # alone, without what belongs to it
NO_RESULT = {"device"}  # where it is computed: cuda is refused here, and gives the same where there is one
FULL = [  # an instrument in which everything acts
    "beam={wavelength: 1.0, fluence: 1e28, polarization: 0.7, dispersion: {percent: 1, steps: 2},"
    " divergence: {horizontal_mrad: 3, vertical_mrad: 2, steps: 2}}",
    "crystal.mosaic={spread_deg: 0.5, domains: 3}",
    "crystal.b_factor=3",
    "detector.thickness={um: 300, attenuation_um: 400, steps: 2}",
    "background.water_um=3",
]
SMOOTH = [
    "crystal={cell: [40.1, 49.9, 60.2, 80.2, 94.8, 105.1], orientation: {misset_deg: [12.1, -25.1, 33.1]},"
    " cells: [6, 6, 6], shape: gauss, mosaic: {model: gaussian, spread_deg: 0.3}}",
    "beam={wavelength: 1.0, fluence: 1e28, gaussian: {bandwidth_percent: 0.5, horizontal_mrad: 2, vertical_mrad: 1}}",
]
THICK = ["detector.thickness={um: 300, attenuation_um: 400, steps: 2}"]
DIVERGENT = ["beam.divergence={horizontal_mrad: 3, vertical_mrad: 2, steps: 4}"]
COLOURED = ["beam.dispersion={percent: 2, steps: 2}"]
LIT = ["beam={wavelength: 1.0, flux: 1e16, exposure: 0.1, size: 0.3}"]
DIALS = ["detector={file: two.expt}", "beam={fluence: 1e28}", "images=[{file: dials.npz}]",
         "crystal={orientation: {expt: two.expt}, cells: [6, 6, 6]}"]  # fmt: skip
LISTED = ["structure_factors={file: f.mtz, column: F, default: 5}"]
STAGED = ["refinement.strategy=stages", "refinement.stages=[{stage: pixels, max_iterations: 1}, {stage: pixels}]"]
STILL = [
    "beam={wavelength: 1.0, fluence: 2e27}",
    "detector={distance: 100, pixel_size: 0.172, size: [256, 256], beam_center_px: [128.5, 127]}",
    "crystal={cell: [70, 80, 90, 85, 95, 105], orientation: {misset_deg: [12, -25, 33]}, cells: [25, 25, 25],"
    " shape: gauss, mosaic: {model: gaussian, spread_deg: 0.15}}",
]
STILLS = [*STILL, "images=[{file: still.npz}]", "structure_factors={unknown: true}", "refinement.free=[cell]",
          "refinement.pixels={shoebox: {size: 15, min_signal: 5}}"]  # fmt: skip
RIGHT = ["crystal.cell=[40, 50, 59.88, 90, 90, 90]"]
OWN = "images=[{file: image.npz, orientation: {%s}}]"
OWN_EXPT = [*DIALS, "images=[{file: dials.npz, orientation: {expt: two.expt}}]"]
KNOWN = [*STILLS, "structure_factors={unknown: false, default: 100}", "refinement.free=[cell, amplitudes]"]
AXES = {"beam": "[1, 0.02, 0]", "spindle": "[0, 1, 0]", "twotheta": "[0, 1, 0]", "polarization": "[0, 1, 0.3]",
        "fast": "[0.02, 0, 1]", "slow": "[0.02, -1, 0]"}  # fmt: skip
TURNED = ["beam.polarization=0.9", "crystal.scan={phi0: 2, osc: 3, steps: 3}", "detector.rotations={twotheta: 4}"]

# key: settings under which it means something, and another value
FLIPS: dict[str, tuple[list[str], str]] = {
    "title": ([], "another"),
    "images.0.file": ([], "other.npz"),
    "images.0.mask": ([], "mask.npy"),
    "images.0.scale": ([], "1.2"),
    "images.0.frame": (["images=[{file: two.h5, frame: 1}]"], "2"),
    "images.0.orientation.misset_deg": ([OWN % "misset_deg: [12.1, -25.1, 33.1]"], "[12.2, -25.1, 33.1]"),
    "images.0.orientation.matrix": ([*RIGHT, OWN % "matrix: A.mat"], "C.mat"),
    "images.0.orientation.a_matrix": (
        [*RIGHT, OWN % "a_matrix: [0.025, 0, 0, 0, 0.02, 0, 0, 0, 0.0167]"],
        "[0.025, 0, 0, 0, 0, -0.0167, 0, 0.02, 0]",
    ),
    "images.0.orientation.expt": (OWN_EXPT, "moved.expt"),
    "images.0.orientation.index": (OWN_EXPT, "1"),
    "images.0.beam.wavelength": ([], "1.02"),
    "images.0.spots": (STILLS, "spots.refl"),
    "beam.wavelength": ([], "1.02"),
    "beam.fluence": ([], "1.1e28"),
    "beam.flux": (LIT, "2e16"),
    "beam.exposure": (LIT, "0.2"),
    "beam.size": (LIT, "0.4"),
    "beam.polarization": ([], "0.9"),
    "beam.divergence.horizontal_mrad": (DIVERGENT, "5"),
    "beam.divergence.vertical_mrad": (DIVERGENT, "5"),
    "beam.divergence.steps": (DIVERGENT, "3"),
    "beam.divergence.round": (DIVERGENT, "false"),
    "beam.dispersion.percent": (COLOURED, "3"),
    "beam.dispersion.steps": (COLOURED, "3"),
    "beam.gaussian.bandwidth_percent": (SMOOTH, "1"),
    "beam.gaussian.horizontal_mrad": (SMOOTH, "4"),
    "beam.gaussian.vertical_mrad": (SMOOTH, "4"),
    "beam.spectrum": ([], "spectrum.txt"),
    "beam.sources": ([], "sources.txt"),
    "detector.distance": ([], "61"),
    "detector.pixel_size": ([], "0.61"),
    "detector.size": ([], "[64, 63]"),
    "detector.beam_center_px": ([], "[32, 31]"),
    "detector.convention": ([], "xds"),
    **{f"detector.axes.{name}": (TURNED, value) for name, value in AXES.items()},
    "detector.rotations.x": ([], "1"),
    "detector.rotations.y": ([], "1"),
    "detector.rotations.z": ([], "1"),
    "detector.rotations.twotheta": ([], "1"),
    "detector.rotations.pivot": (["detector.rotations.y=3"], "sample"),
    "detector.gain": ([], "1.5"),
    "detector.offset": ([], "-1"),
    "detector.readout_noise": (["detector.readout_noise=1", "refinement.loss=gaussian"], "3"),
    "detector.saturation": ([], "20"),
    "detector.thickness.um": (THICK, "200"),
    "detector.thickness.attenuation_um": (THICK, "300"),
    "detector.thickness.steps": (THICK, "3"),
    "detector.thickness.parallax": (["detector.thickness={um: 300, attenuation_um: 400, steps: 1}"], "dials"),
    "detector.curved": ([], "true"),
    "detector.point_pixel": ([], "true"),
    "detector.oversample": ([], "2"),
    "detector.roi.fast": ([], "[3, 50]"),
    "detector.roi.slow": ([], "[3, 50]"),
    "detector.mask": ([], "mask.npy"),
    "detector.file": (DIALS, "moved.expt"),
    "detector.index": (DIALS, "1"),
    "crystal.cell": ([], "[40.2, 49.8, 60.2, 80.2, 94.8, 105.1]"),
    "crystal.space_group": (["crystal.cell=[40, 40, 60, 90, 90, 90]"], "P 4"),
    "crystal.orientation.misset_deg": ([], "[12.2, -25.1, 33.1]"),
    "crystal.orientation.matrix": (["crystal.cell=null", "crystal.orientation={matrix: A.mat}"], "B.mat"),
    "crystal.orientation.a_matrix": (
        ["crystal.cell=null", "crystal.orientation={a_matrix: [0.025, 0.001, 0, 0, 0.02, 0, 0, 0, 0.017]}"],
        "[0.025, 0.002, 0, 0, 0.02, 0, 0, 0, 0.017]",
    ),
    "crystal.orientation.expt": (DIALS, "moved.expt"),
    "crystal.orientation.index": (DIALS, "1"),
    "crystal.cells": ([], "[6, 6, 7]"),
    "crystal.size_um": (
        ["crystal={cell: [40, 50, 60, 80, 95, 105], size_um: [0.03, 0.03, 0.03]}"], "[0.05, 0.03, 0.03]"
    ),
    "crystal.shape": ([], "gauss"),
    "crystal.mosaic.model": (["crystal.shape=gauss", "crystal.mosaic={spread_deg: 0.4, domains: 3}"], "gaussian"),
    "crystal.mosaic.spread_deg": (["crystal.mosaic={spread_deg: 0.4, domains: 3}"], "0.6"),
    "crystal.mosaic.covariance_deg2": (
        ["crystal.shape=gauss", "crystal.mosaic={model: gaussian, covariance_deg2: [0.1, 0.1, 0.1, 0, 0, 0]}"],
        "[0.1, 0.1, 0.1, 0.02, 0, 0]",
    ),
    "crystal.mosaic.domains": (["crystal.mosaic={spread_deg: 0.4, domains: 3}"], "4"),
    "crystal.mosaic.seed": (["crystal.mosaic={spread_deg: 0.4, domains: 3}"], "-7"),
    "crystal.scan.phi0": (TURNED, "3"),
    "crystal.scan.osc": (TURNED, "2"),
    "crystal.scan.steps": (TURNED, "2"),
    "crystal.b_factor": ([], "5"),
    "structure_factors.file": (LISTED, "g.mtz"),
    "structure_factors.column": (LISTED, "G"),
    "structure_factors.default": ([], "90"),
    "structure_factors.unknown": ([], "true"),
    "structure_factors.interpolate": (LISTED, "true"),
    "structure_factors.d_min": ([], "4"),
    "background.model": (["refinement.free=[cell, background]"], "plane"),
    "background.value": ([], "2"),
    "background.slope": (["background={model: plane, value: 3}"], "[0.02, 0]"),
    "background.file": (["background={model: file, file: level.npz}"], "level2.npz"),
    "background.water_um": ([], "5"),
    "refinement.free": ([], "[cell]"),
    "refinement.loss": ([], "mse"),
    "refinement.pixels": ([], "spots"),
    "refinement.pixels.shoebox.size": (STILLS, "11"),
    "refinement.pixels.shoebox.min_signal": (STILLS, "12"),
    "refinement.restraints.amplitudes.relative_sigma": (
        [*KNOWN, "refinement.restraints.amplitudes={relative_sigma: 0.3}"], "0.05"
    ),
    "refinement.holdout": (STILLS, "0.2"),
    "refinement.resolution.min": ([], "4"),
    "refinement.resolution.max": ([], "9"),
    "refinement.optimizer.name": ([], "adam"),
    "refinement.optimizer.max_iterations": ([], "2"),
    "refinement.optimizer.options": ([], "{initial_damping: 5}"),
    "refinement.strategy": ([], "auto"),
    "refinement.stages.0.stage": (
        ["refinement.strategy=stages", "refinement.stages=[{stage: pixels}, {stage: pixels}]"], "indexing"
    ),
    "refinement.stages.0.cells_factor": (STAGED, "0.5"),
    "refinement.stages.0.spots_only": (STAGED, "true"),
    "refinement.stages.0.max_iterations": (STAGED, "3"),
    "output.directory": ([], "elsewhere"),
    "output.report": ([], "true"),
    "compatibility": (["detector.oversample=2", "detector.distance=30"], "[corner_factors]"),
    "device": ([], "cuda"),
    "dtype": ([], "float32"),
    "compile": (["compile=false"], "true"),
    "threads": ([], "2"),
    "seed": ([], "7"),
}  # fmt: skip
RESTRAINTS = {  # values to be pulled to; more free than needed is no harm
    "cell": "[40, 50, 60, 80, 95, 105]", "orientation": "[12, -25, 33]", "scale": "1.1", "cells": "[6, 6, 6]",
    "mosaic": "0.4", "b_factor": "2", "wavelength": "1.01", "distance": "60.5", "beam_center": "[32, 31]",
    "detector_rotations": "[0.1, 0.1, 0.1]", "twotheta": "0.1", "polarization": "0.6", "divergence": "[2.5, 2.5]",
    "dispersion": "1.1", "bandwidth": "0.6", "thickness": "310", "attenuation": "410", "background": "3.2",
    "water": "3.1",
}  # fmt: skip


def _restraint_flips() -> Iterator[tuple[str, tuple[list[str], str]]]:
    for name, target in RESTRAINTS.items():
        numbers = yaml.safe_load(target)
        many = isinstance(numbers, list)
        other, sigma = ([x * 1.01 for x in numbers], [0.1] * len(numbers)) if many else (numbers * 1.01, 0.1)
        base = [*(SMOOTH if name == "bandwidth" else FULL), f"refinement.free=[{name}]"]
        base += [f"refinement.restraints.{name}={{target: {target}, sigma: {sigma}}}"]
        yield f"refinement.restraints.{name}.target", (base, str(other))
        yield f"refinement.restraints.{name}.sigma", (base, str([0.2] * len(numbers) if many else 0.2))


FLIPS |= dict(_restraint_flips())


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections(part)]


def leaves(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key of the schema, dotted, 0 for the place in a list."""
    for name, field in kind.model_fields.items():
        inner = dict.fromkeys(sections(field.annotation))
        listed = "0." if get_origin(field.annotation) is tuple else ""
        for section in inner:
            yield from leaves(section, f"{before}{name}.{listed}")
        if not inner or Literal in map(get_origin, get_args(field.annotation)):
            yield f"{before}{name}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    truth = configuration(folder, TRUTH)
    for name, settings in (("image.npz", []), ("other.npz", ["seed=1"])):
        assert main(["simulate", str(truth), "-o", str(folder / name), "--noise", *settings]) == 0
    configuration(folder, START, refinement={"strategy": "single", "optimizer": {"name": "lm", "max_iterations": 1}},
                  title="one")  # fmt: skip
    with h5py.File(folder / "two.h5", "w") as file:
        file["image"] = [np.load(folder / name)["image"] for name in ("image.npz", "other.npz")]
    np.save(folder / "mask.npy", np.arange(4096).reshape(64, 64) % 3)
    for name, level in (("level.npz", 3.0), ("level2.npz", 3.5)):
        np.savez(folder / name, image=np.full((64, 64), level))
    (folder / "spectrum.txt").write_text("0.99 1\n1.01 2\n")
    (folder / "sources.txt").write_text("-10 0 0\n-10 0 0.1 2\n")
    (folder / "A.mat").write_text("0.025 0 0\n0 0.02 0\n0 0 0.0167\n" + "0 0 0\n" * 6)
    (folder / "B.mat").write_text("0.025 0.001 0\n0 0.02 0\n0 0 0.0167\n" + "0 0 0\n" * 6)
    (folder / "C.mat").write_text("0.025 0 0\n0 0 -0.0167\n0 0.02 0\n" + "0 0 0\n" * 6)
    still = [
        "simulate",
        str(folder / "config.yaml"),
        "-o",
        str(folder / "still.npz"),
        "--noise",
        *STILL,
        "background.value=5",
    ]
    assert main(still) == 0
    amplitudes(folder)
    dials_files(folder)
    one = ["int", [5, np.array([0, -1, 0, -1, 0], "<i4").tobytes()]]
    refl.written(folder / "spots.refl", refl.table(data=refl.columns(id=one)))
    return folder


def amplitudes(folder: Path) -> None:
    """f.mtz with columns F and G, and g.mtz of other amplitudes."""
    hkl = [(h, k, m) for h in range(-14, 15) for k in range(-14, 15) for m in range(15) if (m, k, h) > (0, 0, 0)]
    for name, factor in (("f.mtz", 1.0), ("g.mtz", 1.1)):
        mtz = gemmi.Mtz(with_base=True)
        mtz.spacegroup = gemmi.SpaceGroup("P 1")
        mtz.set_cell_for_all(gemmi.UnitCell(40, 50, 60, 80, 95, 105))
        mtz.add_dataset("d")
        mtz.add_column("F", "F")
        if name == "f.mtz":
            mtz.add_column("G", "F")
        values = [factor * (80 + (5 * h + 3 * k + m) % 40) for h, k, m in hkl]
        rows = [[*index, *[value, 100.0][: len(mtz.columns) - 3]] for index, value in zip(hkl, values, strict=True)]
        mtz.set_data(np.array(rows, np.float32))
        mtz.write_to_file(str(folder / name))


def dials_files(folder: Path) -> None:
    """two.expt of two experiments, and moved.expt whose detector and crystal stand elsewhere."""
    whole = document()
    moved = document([panel([-14, 13, -62])])
    second = {**whole["experiment"][0], "detector": 1, "crystal": 1, "identifier": "two"}
    turned = {**whole["crystal"][0], "real_space_a": (REAL_SPACE[0] @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]).tolist(),
              "real_space_b": (REAL_SPACE[1] @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]).tolist(),
              "real_space_c": (REAL_SPACE[2] @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]).tolist()}  # fmt: skip
    written(folder / "two.expt", {**whole, "experiment": [whole["experiment"][0], second],
                                  "detector": [*whole["detector"], *moved["detector"]],
                                  "crystal": [*whole["crystal"], turned]})  # fmt: skip
    written(folder / "moved.expt", {**moved, "crystal": [turned]})
    np.savez(folder / "dials.npz", image=np.random.default_rng(1).poisson(3.0, SIZE))


def outcome(place: Path, out: Path, settings: list[str]) -> Any:
    """All that a run gives, but for times, dates, and what its provenance repeats; 'refused' where it is."""
    before = torch.get_num_threads()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = main(["run", str(place / "config.yaml"), *settings])
    threads = torch.get_num_threads()
    torch.set_num_threads(before)
    if code == 2:
        return "refused"
    where = next(path for path in (out, place / "elsewhere") if (path / "result.yaml").exists())
    found = yaml.safe_load((where / "result.yaml").read_text())
    for noise in ("wall_seconds", "provenance"):
        del found[noise]
    shown = next(path for name in ("model.npz", "reflections.csv") if (path := where / name).exists())
    image = np.load(shown)["image"].tobytes() if shown.suffix == ".npz" else shown.read_text()
    said = (where / "refine.log").read_text().splitlines()[0]
    return code, threads, where.name, found, image, said, (where / "report.html").exists()


@pytest.mark.parametrize("key", [*FLIPS])
def test_another_value_changes_the_result_or_is_refused(key, place, tmp_path):
    base, value = FLIPS[key]
    if key == "compile":
        assert [compiled(place, setting) for setting in ("false", "true")] == [False, True]
        return
    if key == "seed":
        assert not np.array_equal(*(noisy(place, tmp_path / f"{seed}.npz", seed) for seed in (0, 7)))
        return
    plain = outcome(place, tmp_path / "plain", [f"output.directory={tmp_path / 'plain'}", *base])
    assert plain != "refused"
    flipped = outcome(place, tmp_path / "flip", [f"output.directory={tmp_path / 'flip'}", *base, f"{key}={value}"])
    if key in NO_RESULT:
        assert torch.cuda.is_available() or flipped == "refused"
        return
    assert named(flipped) != named(plain)
    assert (flipped == "refused") == (key in REFUSED)


def named(found: Any) -> Any:
    """Without the name of the directory, unless it is the one that the key under test gives."""
    return tuple(part for part in found if part not in ("plain", "flip")) if isinstance(found, tuple) else found


def compiled(place: Path, setting: str) -> bool:
    config = load_config(place / "config.yaml", [f"compile={setting}"])
    return bool(build_model(config).interference.how.compiled)


def noisy(place: Path, target: Path, seed: int) -> np.ndarray:
    assert main(["simulate", str(place / "config.yaml"), "-o", str(target), "--noise", f"seed={seed}"]) == 0
    return np.load(target)["image"]


def test_the_table_holds_every_key():
    assert set(FLIPS) == set(leaves(Config))
