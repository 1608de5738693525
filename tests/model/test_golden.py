"""The forward model against the images of nanoBragg.c; see tests/golden/README.md."""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import f64, relative

from refine.model.background import Background
from refine.model.beam import Beam
from refine.model.conventions import CONVENTIONS
from refine.model.crystal import Crystal, Mosaic
from refine.model.detector import Detector
from refine.model.experiment import Experiment
from refine.model.forward import expected_image
from refine.model.scan import Scan
from refine.model.structure_factors import StructureFactors
from refine.physics.cell import cell_of_rows, real_space_vectors
from refine.physics.rotation import axis_rotation, misset_rotation
from refine.physics.sources import Spread, even_steps, tilt_grid

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = (
    "cubic_square_n5",
    "flat_n1",
    "tetragonal_n20_os3",
    "hexagonal_unequal_n_os2",
    "mono_hkl_nointerp",
    "sparse_hkl_default_f",
    "mosaic",
    "phi_scan",
    "polarization",
    "dispersion",
    "divergence_round",
)
OVERSAMPLED = ("tetragonal_n20_os3", "hexagonal_unequal_n_os2", "polarization")
AGREEMENT = 2e-7  # of the image's maximum; the images are float32


@cache
def manifest() -> dict[str, Any]:
    return yaml.safe_load((GOLDEN / "manifest.yaml").read_text())


def golden_case(name: str) -> dict[str, Any]:
    return next(case for case in manifest()["cases"] if case["name"] == name)


def stored(name: str, array: str = "image") -> torch.Tensor:
    with np.load(GOLDEN / golden_case(name)["image"]) as arrays:
        return torch.from_numpy(arrays[array].astype(float))


def structure_factors(case: dict[str, Any]) -> StructureFactors:
    default = float(case["facts"]["default_F"])
    if not case["inputs"]:
        return StructureFactors.uniform(f64(default))
    with gzip.open(GOLDEN / f"{case['inputs'][0]}.gz") as lines:
        table = np.loadtxt(lines)
    indices = table[:, :3].astype(int)
    lowest = indices.min(0)
    grid = np.full(indices.max(0) - lowest + 1, default)
    grid[tuple((indices - lowest).T)] = table[:, 3]
    return StructureFactors.from_grid(torch.from_numpy(grid), tuple(int(i) for i in lowest), default)


def spread(facts: dict[str, Any]) -> Spread:
    """The case's rays, one where it has neither divergence nor dispersion."""
    widths = [1e3 * facts.get(f"{side}divrange_rad", 0.0) for side in "hv"]
    steps = tuple(facts.get(f"{side}divsteps", 1) for side in "hv")
    colours = even_steps(facts.get("dispsteps", 1))
    same = torch.ones_like(colours)
    return Spread(
        f64(widths), tilt_grid(steps), f64(100 * facts.get("dispersion", 0.0)), colours, same, same / len(same)
    )


def build(name: str, corner_factors: bool = True) -> tuple[Crystal, Experiment]:
    """The case through the API, every vector from the program's own facts."""
    case = golden_case(name)
    facts = case["facts"]
    rows = f64([facts["a_A"], facts["b_A"], facts["c_A"]])
    cell = cell_of_rows(rows)
    orientation = torch.linalg.inv(rows) @ real_space_vectors(cell)
    mosaic = Mosaic.sampled(torch.rad2deg(f64(facts["mosaic_spread_rad"])), facts["mosaic_domains"])
    crystal = Crystal(cell, orientation, f64(facts["N"]), mosaic, "square", f64(0.0))
    vector = {key: f64(facts[f"{key}_vector"]) for key in ("beam", "polar", "fdet", "sdet", "spindle")}
    pixel = facts["pixel_size_m"] * 1e3
    beam = Beam(
        f64(facts["lambda0_m"] * 1e10),
        vector["beam"],
        f64(facts["fluence"]),
        f64(facts["kahn_polarization"]),
        vector["polar"],
        spread(facts),
    )
    detector = Detector(
        (facts["spixels"], facts["fpixels"]),
        f64(pixel),
        f64(facts["distance_m"] * 1e3),
        f64(facts["Fbeam_m"] * 1e3 / pixel, facts["Sbeam_m"] * 1e3 / pixel),
        f64([0.0, 0.0, 0.0]),
        f64(0.0),
        vector["fdet"],
        vector["sdet"],
        vector["beam"],
        f64(facts["twotheta_axis"]),
        "beam",
        facts["oversample"],
        corner_factors=corner_factors,
    )
    scan = Scan(
        torch.rad2deg(f64(facts["phi0_rad"])),
        torch.rad2deg(f64(facts["osc_rad"])),
        facts["phisteps"],
        vector["spindle"],
    )
    level = Background.plane(f64([0.0, 0.0, 0.0]), detector.size)
    return crystal, Experiment(beam, detector, scan, structure_factors(case), level, f64(1.0))


@pytest.mark.parametrize("path", sorted(manifest()["sha256"]))
def test_the_data_are_the_ones_that_were_generated(path: str) -> None:
    content = (
        (GOLDEN / path).read_bytes()
        if (GOLDEN / path).exists()
        else gzip.decompress((GOLDEN / f"{path}.gz").read_bytes())
    )
    assert hashlib.sha256(content).hexdigest() == manifest()["sha256"][path]


def test_every_case_is_tested_and_has_its_provenance() -> None:
    assert {case["name"] for case in manifest()["cases"]} == {*NAMES, "phi_from_zero"}
    assert len(manifest()["nanoBragg_c_sha256"]) == 64
    assert all(case["args"] for case in manifest()["cases"])


@pytest.mark.parametrize("name", NAMES)
def test_image_agrees_with_nanobragg(name: str) -> None:
    image = stored(name)
    assert float(image.max()) == golden_case(name)["max"] > 0
    assert relative(expected_image(*build(name)), image) < AGREEMENT


@pytest.mark.parametrize("name", OVERSAMPLED)
def test_factors_at_every_subpixel_are_another_image(name: str) -> None:
    assert 1e-5 < relative(expected_image(*build(name, corner_factors=False)), stored(name)) < 0.05


def test_rotation_is_applied_at_phi_zero() -> None:
    image = expected_image(*build("phi_from_zero"))
    assert relative(image, stored("phi_from_zero", "image_fixed")) < AGREEMENT
    assert relative(image, stored("phi_from_zero")) > 0.1


def test_mosaic_domains_are_the_ones_nanobragg_draws() -> None:
    wanted = stored("mosaic", "mosaic_umats")
    mosaic = build("mosaic")[0].mosaic
    found = axis_rotation(mosaic.axes, torch.deg2rad(mosaic.spread_deg) * mosaic.fractions)
    assert float((found - wanted).abs().max()) < 1e-8
    assert float((wanted[1:] - torch.eye(3)).abs().amax((1, 2)).min()) > 1e-3


@pytest.mark.parametrize("name", [*NAMES, "phi_from_zero"])
def test_convention_and_misset_are_those_of_the_command_line(name: str) -> None:
    facts = golden_case(name)["facts"]
    convention = CONVENTIONS["mosflm"]
    named = {"beam": "beam", "fdet": "fast", "sdet": "slow", "spindle": "spindle", "polar": "polarization"}
    for fact, ours in named.items():
        assert tuple(facts[f"{fact}_vector"]) == getattr(convention, ours)
    assert tuple(facts["twotheta_axis"]) == convention.twotheta
    rotation = misset_rotation(f64(facts["misset_deg"]))
    assert float((rotation - build(name)[0].orientation).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["dispersion", "divergence_round"])
def test_sources_are_nanobraggs(name: str) -> None:
    found, listed = build(name)[1].beam.sources, stored(name, "source_list")
    ratios = listed[:, 4] / listed[:, 4].mean()
    rays = ((-found.directions, found.wavelength_ratios), (listed[:, :3], ratios))
    order = [torch.argsort(towards[:, 1] * 1e6 + towards[:, 2] * 1e3 + colour) for towards, colour in rays]
    assert len(listed) == len(found.weights) > 1
    assert float((found.directions[order[0]] + listed[order[1], :3]).abs().max()) < 1e-12
    wavelengths = found.wavelength_ratios * build(name)[1].beam.wavelength
    assert float((wavelengths[order[0]] - listed[order[1], 4] * 1e10).abs().max()) < 1e-12
    assert float(found.weights.sum()) == pytest.approx(1)
