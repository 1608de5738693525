"""The forward model: what it leaves alone, what must not matter, and what must."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from builders import crystal, experiment, f64, largest, relative, rich_crystal, rich_experiment
from torch import Tensor

from refine.model.background import Background
from refine.model.forward import expected_image, expected_photons
from refine.model.observation import Observation
from refine.model.pixels import Pixels
from refine.model.structure_factors import StructureFactors
from refine.physics.interference import interference
from refine.physics.rotation import misset_rotation

SIZE = (24, 20)


def tensors(record: Any) -> list[Tensor]:
    """Every tensor held by nested records."""
    if isinstance(record, Tensor):
        return [record]
    if not is_dataclass(record):
        return []
    return [tensor for item in fields(record) for tensor in tensors(getattr(record, item.name))]


def rich() -> tuple[Any, Any]:
    return rich_crystal(), rich_experiment(size=SIZE)


@pytest.mark.parametrize("shape", ["square", "gauss"])
def test_evaluating_twice_writes_nothing_and_repeats_bit_for_bit(shape: str) -> None:
    sample, instrument = rich_crystal(shape), rich_experiment(size=SIZE)
    pixels = Pixels.whole(SIZE, instrument.scale)
    held = [tensor for record in (sample, instrument, pixels) for tensor in tensors(record)]
    assert len(held) > 25
    before = [tensor.clone() for tensor in held]
    first = expected_photons(sample, instrument, pixels)
    second = expected_photons(sample, instrument, pixels)
    assert torch.equal(first, second)
    assert largest(first) > 100
    assert all(torch.equal(a, b) for a, b in zip(before, held, strict=True))


def test_order_of_the_pixels_does_not_matter(rng: torch.Generator) -> None:
    sample, instrument = rich()
    pixels = Pixels.whole(SIZE, instrument.scale)
    order = torch.randperm(len(pixels), generator=rng)
    shuffled = Pixels(pixels.slow[order], pixels.fast[order])
    whole = expected_photons(sample, instrument, pixels)
    assert relative(expected_photons(sample, instrument, shuffled), whole[order]) < 1e-14
    assert relative(whole, expected_image(sample, instrument).flatten()) < 1e-14


def test_tiles_do_not_matter() -> None:
    sample, instrument = rich()
    whole = expected_image(sample, instrument)
    assert whole.shape == SIZE
    assert all(relative(expected_image(sample, instrument, tile), whole) < 1e-14 for tile in (1, 7, 479, 480))


def test_the_reference_sum_gives_the_same_image() -> None:
    sample, instrument = rich()
    pixels = Pixels.whole(SIZE, instrument.scale)
    wanted = expected_photons(sample, instrument, pixels, interference)
    assert relative(expected_photons(sample, instrument, pixels), wanted) < 1e-12


def test_scale_and_fluence_multiply_the_crystal_and_not_the_background() -> None:
    sample, instrument = rich()
    dark = replace(instrument, background=Background.plane(f64(0.0, 0.0, 0.0), SIZE))
    spots = expected_image(sample, dark)
    assert largest(spots) > 100
    scaled = replace(instrument, scale=f64(2.5))
    brighter = replace(instrument, beam=replace(instrument.beam, fluence=instrument.beam.fluence * 2.5))
    assert relative(expected_image(sample, instrument), spots + 2.0) < 1e-14
    assert relative(expected_image(sample, scaled), 2.5 * spots + 2.0) < 1e-14
    assert relative(expected_image(sample, brighter), 2.5 * spots + 2.0) < 1e-14


def test_b_factor_damps_by_the_resolution() -> None:
    sample, instrument = crystal(cells=(1.0, 1.0, 1.0), shape="square"), experiment(size=SIZE)
    instrument = replace(instrument, background=Background.plane(f64(0.0, 0.0, 0.0), SIZE))
    positions = instrument.detector.sites(Pixels.whole(SIZE, instrument.scale)).positions[:, 0]
    q = positions / torch.linalg.vector_norm(positions, dim=0) - instrument.beam.direction[:, None]
    ratio = expected_image(replace(sample, b_factor=f64(30.0)), instrument) / expected_image(sample, instrument)
    assert relative(ratio.flatten(), torch.exp(-15 * (q**2).sum(0))) < 1e-12
    assert float(ratio.min()) < 0.95


def test_polarization_none_is_no_correction() -> None:
    sample, instrument = crystal(), experiment(size=SIZE)
    dark = replace(instrument, background=Background.plane(f64(0.0, 0.0, 0.0), SIZE))
    none, some = (
        expected_image(sample, replace(dark, beam=replace(dark.beam, polarization=kahn))) for kahn in (None, f64(0.0))
    )
    positions = dark.detector.sites(Pixels.whole(SIZE, dark.scale)).positions[:, 0]
    forward = (positions / torch.linalg.vector_norm(positions, dim=0) * dark.beam.direction[:, None]).sum(0)
    assert relative(some.flatten(), none.flatten() * (1 + forward**2) / 2) < 1e-13
    assert relative(some, none) > 1e-4


def test_more_mosaicity_and_phi_are_means_over_their_steps() -> None:
    sample, instrument = crystal(), experiment(size=SIZE)
    swept = replace(instrument, scan=replace(instrument.scan, phi0=f64(2.0), osc=f64(3.0), steps=3))
    stills = [
        expected_image(sample, replace(instrument, scan=replace(instrument.scan, phi0=f64(2.0 + k)))) for k in range(3)
    ]
    assert relative(expected_image(sample, swept), torch.stack(stills).mean(0)) < 1e-12
    assert relative(stills[0], stills[1]) > 0.05


def test_rotating_the_crystal_about_the_spindle_is_phi() -> None:
    sample, instrument = crystal(), experiment(size=SIZE)
    turned = replace(sample, orientation=misset_rotation(f64(0.0, 0.0, 7.0)) @ sample.orientation)
    moved = replace(instrument, scan=replace(instrument.scan, phi0=f64(7.0)))
    assert relative(expected_image(sample, moved), expected_image(turned, instrument)) < 1e-11


def test_the_same_experiment_in_another_lab_frame_is_the_same_image() -> None:
    """xds and dials frames differ in their spindle only; mosflm's axes are other vectors for the same panel."""
    images = []
    for convention in ("mosflm", "xds", "dials"):
        instrument = experiment(convention, SIZE)
        panel = instrument.detector
        frame = torch.stack([panel.fast, panel.slow, torch.linalg.cross(panel.fast, panel.slow)], 1)
        polarized = replace(instrument, beam=replace(instrument.beam, polarization_axis=panel.fast))
        images.append(expected_image(crystal(orientation=frame @ misset_rotation(f64(9.0, 18.0, 27.0))), polarized))
    assert relative(images[1], images[2]) < 1e-14
    assert relative(images[0], images[1]) < 1e-11


def test_background_of_a_plane_and_of_an_image() -> None:
    pixels = Pixels.whole(SIZE, f64(0.0))
    plane = Background.plane(f64(5.0, 0.1, -0.02), SIZE)
    photons = plane.photons(pixels).reshape(SIZE)
    assert float(photons.mean()) == pytest.approx(5.0)
    assert float(photons[3, 8] - photons[3, 7]) == pytest.approx(0.1)
    assert float(photons[4, 8] - photons[3, 8]) == pytest.approx(-0.02)
    known = torch.rand(SIZE, dtype=torch.float64)
    both = replace(plane, image=known, factor=f64(3.0)).photons(pixels).reshape(SIZE)
    assert relative(both, photons + 3 * known) < 1e-15


def test_observation_trusts_what_is_finite() -> None:
    photons = torch.rand(4, 5, dtype=torch.float64)
    photons[1, 2], photons[3, 4] = torch.nan, torch.inf
    seen = Observation.of(photons)
    assert seen.trusted.sum() == 18
    assert not seen.trusted[1, 2]
    assert not seen.trusted[3, 4]
    assert float(seen.readout_variance) == 0
    pixels = seen.pixels()
    assert bool(torch.isfinite(photons[pixels.slow.long(), pixels.fast.long()]).all())
    assert len(pixels) == 18


def test_pixels_are_listed_rows_first_and_cut_without_loss() -> None:
    pixels = Pixels.whole((2, 3), f64(0.0))
    assert pixels.slow.tolist() == [0, 0, 0, 1, 1, 1]
    assert pixels.fast.tolist() == [0, 1, 2, 0, 1, 2]
    parts = list(pixels.tiles(4))
    assert [len(part) for _, part in parts] == [3, 3]  # alike in length, none above 4
    assert torch.equal(torch.cat([part.fast for _, part in parts]), pixels.fast)


def test_structure_factors_keep_their_place_and_their_outside() -> None:
    grid = torch.arange(1.0, 9.0, dtype=torch.float64).reshape(2, 2, 2)
    built = StructureFactors.from_grid(grid, (-1, 0, 2), 0.5)
    assert built.lowest.tolist() == [-2, -1, 1]
    assert torch.equal(built.intensity[1:-1, 1:-1, 1:-1], grid**2)
    edge = built.intensity.clone()
    edge[1:-1, 1:-1, 1:-1] = 0.25
    assert torch.equal(edge, torch.full((4, 4, 4), 0.25, dtype=torch.float64))
    assert StructureFactors.uniform(f64(3.0)).intensity.tolist() == [[[9.0]]]
