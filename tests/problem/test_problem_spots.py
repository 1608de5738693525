"""Spots and the start they give."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import experiment, f64, largest
from torch import Tensor

from refine.model.crystal import Crystal
from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.physics.rotation import misset_rotation
from refine.problem.centroids import CentroidProblem, _indexed, _nearest, centroid_starts, spot_scattering
from refine.problem.lattice_search import lattice_candidates
from refine.problem.spots import find_spots, local_background, observed_spots

TRUE_CELL = f64(37.0, 43.0, 51.0, 82.0, 95.0, 107.0)


def drawn(spots: list[tuple[float, float, float]], size: tuple[int, int] = (80, 90), level: float = 3.0) -> np.ndarray:
    """An image with gaussian spots (fast, slow, photons) on a flat background."""
    slow, fast = np.mgrid[: size[0], : size[1]] + 0.5
    image = np.full(size, level)
    for x, y, photons in spots:
        image += photons / (2 * np.pi) * np.exp(-((fast - x) ** 2 + (slow - y) ** 2) / 2)
    return image


SPOTS = [(20.3, 15.8, 900.0), (60.5, 40.2, 400.0), (35.0, 65.9, 2500.0)]


def test_spots_are_found_where_they_are_brightest_first() -> None:
    image = np.random.default_rng(1).poisson(drawn(SPOTS)).astype(float)
    found = find_spots(image, np.ones(image.shape, bool))
    assert len(found.fast) == 3
    for x, y, spot in zip(found.fast, found.slow, (SPOTS[2], SPOTS[0], SPOTS[1]), strict=True):
        assert abs(x - spot[0]) < 0.25
        assert abs(y - spot[1]) < 0.25
    assert list(found.significance) == sorted(found.significance, reverse=True)


def test_noise_and_untrusted_pixels_are_no_spots() -> None:
    noise = np.random.default_rng(2).poisson(3.0, (100, 100)).astype(float)
    assert len(find_spots(noise, np.ones(noise.shape, bool)).fast) <= 1
    image = drawn(SPOTS)
    trusted = np.ones(image.shape, bool)
    trusted[55:75, 25:45] = False
    image[60, 30] = np.nan
    found = find_spots(image, trusted)
    assert sorted(found.fast.round()) == [20, 60]


def test_local_background_looks_past_the_spots() -> None:
    found = local_background(drawn([(45.0, 40.0, 5000.0)]), np.ones((80, 90), bool))
    assert np.abs(found - 3.0).max() < 0.5


def test_hot_pixels_are_no_spots() -> None:
    rng = np.random.default_rng(4)
    image = rng.poisson(drawn(SPOTS)).astype(float)
    for slow, fast in rng.integers(5, 75, (30, 2)):
        image[slow, fast] = rng.uniform(500, 1e5)
    image[15, 20] = image[40, 60] = image[65, 35] = 5.0  # leave the spots recognisable
    found = find_spots(image, np.ones(image.shape, bool))
    assert len(found.fast) <= 6


def test_readout_noise_is_no_spots() -> None:
    rng = np.random.default_rng(3)
    image = rng.poisson(1.0, (120, 120)) + rng.normal(0, 6.0, (120, 120))
    assert len(find_spots(image, np.ones(image.shape, bool)).fast) > 10
    assert len(find_spots(image, np.ones(image.shape, bool), 36.0).fast) <= 1


def scene() -> Model:
    """A few degrees of rotation on a small panel."""
    sample = Crystal.simple(TRUE_CELL, misset_rotation(f64(9.0, 18.0, 27.0)), 20.0)
    sample = replace(sample, shape="gauss")
    instrument = experiment(size=(280, 280))
    panel = replace(instrument.detector, pixel_size=f64(0.08), distance=f64(25.0))
    scan = replace(instrument.scan, phi0=f64(1.0), osc=f64(1.5), steps=8)
    return Model(sample, replace(instrument, detector=panel, scan=scan, scale=f64(3e-3)))


@pytest.fixture(scope="module")
def observed() -> Observation:
    image = expected_image(*scene())
    return Observation.of(torch.poisson(image, generator=torch.Generator().manual_seed(3)))


def off_by(two_percent: Tensor, misset: Tensor) -> Crystal:
    sample, _ = scene()
    scale = torch.cat([1 + two_percent, torch.ones(3, dtype=torch.float64)])
    return replace(sample, cell=TRUE_CELL * scale, orientation=misset_rotation(misset) @ sample.orientation)


@pytest.mark.parametrize(
    ("lengths", "misset"),
    [
        ((0.02, -0.015, 0.02), (0.6, -0.5, 0.6)),
        ((-0.02, 0.02, -0.01), (-0.4, 0.8, 0.4)),
        ((0.01, 0.02, 0.02), (0.0, 0.0, 1.0)),
    ],
)
def test_a_start_two_percent_and_a_degree_off_is_brought_back(
    observed: Observation, lengths: tuple[float, ...], misset: tuple[float, ...]
) -> None:
    start = off_by(f64(lengths), f64(misset))
    truth, instrument = scene()
    space = ParameterSpace.of(start, instrument, ("scale", "cell", "orientation"))
    best = centroid_starts(space, observed_spots(observed, scene()))[0]
    z, indexed = best.z, best.indexed
    after = space.to_model(z).crystal.real_space

    def error(real_space: Tensor) -> float:
        return float(
            torch.linalg.matrix_norm(real_space - truth.real_space) / torch.linalg.matrix_norm(truth.real_space)
        )

    assert error(start.real_space) > 0.012
    assert error(after) < 0.1 * error(start.real_space)
    assert error(after) < 2e-3
    assert indexed > 0.9
    assert float(z[0]) == 0


def test_lattice_vectors_are_found_far_from_the_expected_ones(observed: Observation) -> None:
    """6 % and 5 degrees."""
    start = off_by(f64(0.06, -0.06, 0.06), f64(3.5, -3.0, 3.0))
    truth, instrument = scene()
    space = ParameterSpace.of(start, instrument, ("cell", "orientation"))
    scattering = spot_scattering(space, observed_spots(observed, scene()))
    (best, *_) = lattice_candidates(start.real_space, scattering[:, 4])
    wanted, before = truth.real_space, start.real_space
    assert largest(before - wanted) > 2.5
    assert largest(best - wanted) < 1.5
    found = _indexed(space, _nearest(space, best), scattering)
    assert found.indexed > 0.95
    assert largest(space.to_model(found.z).crystal.real_space - wanted) < 0.05


def test_spots_have_whole_indices_at_the_truth(observed: Observation) -> None:
    sample, instrument = scene()
    space = ParameterSpace.of(sample, instrument, ("cell",))
    scattering = spot_scattering(space, observed_spots(observed, scene()))
    assert scattering.shape[:2] == (3, 8)
    assert scattering.shape[2] > 40
    lengths = torch.linalg.vector_norm(scattering[:, 0], dim=0)
    assert bool((lengths.diff() >= 0).all())
    fractional = torch.einsum("jc,ckn->jkn", sample.real_space, scattering)
    off = (fractional - fractional.round()).abs().amax(0).amin(0)
    assert float((off < 0.1).double().mean()) > 0.95


def test_nothing_to_move_or_too_few_spots(observed: Observation) -> None:
    sample, instrument = scene()
    assert centroid_starts(ParameterSpace.of(sample, instrument, ("scale",)), observed_spots(observed, scene())) == []
    empty = Observation.of(torch.full((280, 280), 2.0, dtype=torch.float64))
    assert centroid_starts(ParameterSpace.of(sample, instrument, ("cell",)), observed_spots(empty, scene())) == []


def test_only_what_is_free_moves(observed: Observation) -> None:
    sample, instrument = scene()
    turned = replace(sample, orientation=misset_rotation(f64(0.3, -0.3, 0.4)) @ sample.orientation)
    space = ParameterSpace.of(turned, instrument, ("orientation",))
    model = space.to_model(centroid_starts(space, observed_spots(observed, scene()))[0].z)
    assert torch.equal(model.crystal.cell, TRUE_CELL)
    assert (
        largest(model.crystal.orientation - sample.orientation)
        < 1e-3
        < largest(turned.orientation - sample.orientation)
    )


def test_centroid_problem_is_consistent() -> None:
    sample, instrument = scene()
    space = ParameterSpace.of(sample, instrument, ("cell", "orientation"))
    generator = torch.Generator().manual_seed(5)
    indices = torch.randint(-6, 7, (3, 30), generator=generator).double()
    scattering = torch.linalg.solve(
        sample.real_space, indices + 0.03 * torch.randn(3, 30, generator=generator).double()
    )
    problem = CentroidProblem(space, scattering, indices, torch.rand(3, 30, generator=generator).double())
    z, v = torch.full((9,), 0.3).double(), torch.linspace(-1, 1, 9).double()
    value, gradient = problem.loss_and_gradient(z)
    assert float(problem.loss(z)) == pytest.approx(float(value))
    numeric = (problem.loss(z + 1e-4 * v) - problem.loss(z - 1e-4 * v)) / 2e-4
    assert float(gradient @ v) == pytest.approx(float(numeric), rel=1e-6)
    slopes = [problem.loss_and_gradient(z + t * v)[1] for t in (1e-4, -1e-4)]
    assert largest((slopes[0] - slopes[1]) / 2e-4 - problem.curvature_product(z, v)) < 1e-5 * largest(slopes[0])
    far = space.to_z({"cell": f64(37.0, 43.0, 80.0, 82.0, 95.0, 107.0)})
    assert float(problem.loss(far)) == float(problem.quadratic(far).value) == torch.inf
