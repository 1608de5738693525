"""Reflections of a Gaussian mosaic one by one, against the sum over the image and against their own derivatives."""

import pytest
import torch
from builders import TRICLINIC, f64, largest, relative
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refine.physics.cell import real_space_vectors
from refine.physics.gaussian_mosaic import Blur, gaussian_interference
from refine.physics.gaussian_spots import PAIRS, GaussianSpots, gaussian_spots, profiles, reflected
from refine.physics.interference import Steps
from refine.physics.mosaic import mosaic_domains
from refine.physics.rotation import misset_rotation

CELLS = f64(12.0, 9.0, 15.0)
TURNS = torch.linalg.cholesky(f64([[4.0, 1.5, -0.5], [1.5, 2.0, 0.8], [-0.5, 0.8, 3.0]]) * 1e-6)
BLURS = {
    "sharp": Blur(torch.zeros(3, 3, dtype=torch.float64), f64(0.0), torch.zeros(0, 3, dtype=torch.float64)),
    "mosaic": Blur(TURNS, f64(0.0), torch.zeros(0, 3, dtype=torch.float64)),
    "all": Blur(TURNS, f64(3e-3), f64([[0.0, 1e-3, 0.0], [0.0, 0.0, 5e-4]])),
}
BEAM, WAVELENGTH = f64(0.0, 0.0, 1.0), f64(1.1)
PIXEL, DISTANCE = 0.1, 100.0  # mm


def rows() -> Tensor:
    """a, b, c (3, 3) in Å."""
    return real_space_vectors(f64(TRICLINIC)) @ misset_rotation(f64(9.0, 18.0, 27.0)).T


def indices(half: int = 6) -> Tensor:
    """All (R, 3) but the origin."""
    line = torch.arange(-half, half + 1, dtype=torch.float64)
    whole = torch.cartesian_prod(line, line, line)
    return whole[whole.abs().sum(1) > 0]


def spots(name: str, which: Tensor | None = None) -> GaussianSpots:
    return gaussian_spots(indices() if which is None else which, rows(), CELLS, BLURS[name])


def near(found: GaussianSpots, width: float = 0.05) -> Tensor:
    """Scattering vectors (3, R, 8) about the spots, `width` in Miller indices."""
    generator = torch.Generator().manual_seed(3)
    away = width * torch.randn(3, len(found.centres) * 8, generator=generator, dtype=torch.float64)
    return found.centres.T[:, :, None] + torch.linalg.solve(rows(), away).unflatten(1, (-1, 8))


@pytest.mark.parametrize("name", BLURS)
def test_a_spot_is_the_interference_about_it(name: str) -> None:
    steps = Steps(*mosaic_domains(1, 1), f64(0.0, 0.0, 1.0), 1, f64([[[1.0]]]), f64(0.0, 0.0, 0.0), "gauss")
    found = spots(name)
    q = near(found)
    wanted = gaussian_interference(q.flatten(1), rows(), CELLS, BLURS[name], f64(0.0, 0.0, 0.0), steps)
    values = profiles(found, q).values.flatten()
    bright = wanted > 1e-6 * wanted.max()
    assert int(bright.sum()) > 5000
    assert largest(values[bright] / wanted[bright] - 1) < 1e-10


def test_blurs_lower_and_widen() -> None:
    sharp, wide = spots("sharp"), spots("all")
    assert bool((wide.log_heights < sharp.log_heights).all())
    assert bool((torch.linalg.eigvalsh(wide.covariances - sharp.covariances) > -1e-12).all())


def test_slopes_are_the_derivatives_by_the_packed_numbers() -> None:
    found = spots("all", f64([[1.0, 2.0, -3.0], [-4.0, 0.0, 1.0]]))
    q = near(found, 0.03)

    def logs(packed: Tensor) -> Tensor:
        """(2, 8) of the two spots with those numbers."""
        covariances = torch.zeros(len(packed), 3, 3, dtype=packed.dtype)
        for number, (i, j) in enumerate(PAIRS):
            place = torch.zeros(3, 3, dtype=packed.dtype)
            place[i, j] = place[j, i] = 1.0
            covariances = covariances + packed[:, 3 + number, None, None] * place
        return torch.log(profiles(GaussianSpots(packed[:, :3], covariances, packed[:, 9]), q).values)

    jacobian = torch.autograd.functional.jacobian(logs, found.packed())
    assert isinstance(jacobian, Tensor)
    for spot in range(2):
        wanted = jacobian[spot, :, spot].T  # (10, 8)
        slopes = profiles(found, q).slopes()[spot]
        assert all(relative(mine, theirs) < 1e-9 for mine, theirs in zip(slopes, wanted, strict=True))
        assert largest(jacobian[spot, :, 1 - spot]) == 0


@pytest.mark.parametrize("name", BLURS)
def test_photons_leave_from_the_ewald_sphere(name: str) -> None:
    found = reflected(spots(name), BEAM, WAVELENGTH)
    near = found.distances.abs() < 3
    assert int(near.sum()) > 20
    torch.testing.assert_close(torch.linalg.vector_norm(found.rays, dim=0), torch.ones(len(near)).double())
    at = (found.rays - BEAM[:, None]) / WAVELENGTH
    away = at.T - spots(name).centres
    mahalanobis = (away[:, None] @ torch.linalg.inv(spots(name).covariances) @ away[:, :, None])[:, 0, 0].sqrt()
    torch.testing.assert_close(mahalanobis[near], found.distances[near].abs(), rtol=0.01, atol=1e-6)


@given(st.floats(-60, 60), st.floats(0.01, 20))
def test_a_reflection_on_the_sphere_is_at_distance_nought(azimuth: float, two_theta: float) -> None:
    turned = torch.deg2rad(f64(azimuth, two_theta))
    ray = torch.stack([turned[1].sin() * turned[0].cos(), turned[1].sin() * turned[0].sin(), turned[1].cos()])
    centre = (ray - BEAM) / WAVELENGTH
    spot = spots("all", f64([[1.0, 2.0, -3.0]]))._replace(centres=centre[None])
    found = reflected(spot, BEAM, WAVELENGTH)
    assert largest(found.distances) < 1e-9
    assert largest(found.rays[:, 0] - ray) < 1e-12


def image_centroid(spot: GaussianSpots, ray: Tensor) -> Tensor:
    """Where (2,) in pixels the middle of one spot's image is from where its ray meets a flat detector."""
    hit = ray[:2] * DISTANCE / ray[2]
    line = PIXEL * (torch.arange(-40, 41).double() / 2)
    places = torch.cartesian_prod(line, line).T + hit[:, None]
    points = torch.cat([places, torch.full_like(places[:1], DISTANCE)])
    length = torch.linalg.vector_norm(points, dim=0)
    q = (points / length - BEAM[:, None]) / WAVELENGTH
    photons = profiles(spot, q[:, None]).values[0] / length**3
    assert float(photons.unflatten(0, (81, 81))[0].max()) < 1e-6 * float(photons.max())
    return ((places * photons).sum(1) / photons.sum() - hit) / PIXEL


@pytest.mark.parametrize("name", BLURS)
def test_the_ray_is_the_middle_of_the_spots_image(name: str) -> None:
    found = reflected(spots(name), BEAM, WAVELENGTH)
    seen = torch.nonzero((found.distances.abs() < 2.5) & (found.rays[2] > 0.85))[:, 0]
    assert len(seen) > 15
    ours = gaussian_spots(indices()[seen], rows(), CELLS, BLURS[name])
    for k, number in enumerate(seen.tolist()):
        one = GaussianSpots(*(part[k : k + 1] for part in ours))
        assert largest(image_centroid(one, found.rays[:, number])) < 0.01
