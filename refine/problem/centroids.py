"""Cell and orientation from spot positions alone: a start within reach of the image's own minimum.

Where model spots no longer touch observed ones, the image's gradient says nothing. A spot's scattering vector q does:
its Miller indices a_j . q are whole numbers to within the width of a reflection. With the nearest whole numbers taken
at low resolution first, where they are safe, this is a small least-squares problem whose range is many spot widths.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from refine.parameters.jacobian import jacobian
from refine.parameters.space import ParameterSpace
from refine.physics.mosaic import step_rotations
from refine.physics.scattering import rays, scattering_vectors
from refine.problem.lattice_search import lattice_candidates
from refine.problem.problem import Counts
from refine.problem.quadratic import Quadratic
from refine.problem.spots import Spots
from refine.solvers.levenberg_marquardt import LevenbergMarquardt, damped_shift, predicted_decrease
from refine.solvers.loop import Stop, solve
from refine.solvers.solution import Status

MOST_SPOTS = 500
FEWEST_SPOTS = 8
MAIN_SPOTS = 0.5  # the brighter part of the spots: among the others are side lobes, whose indices are not whole
FIRST_SHELL = 15  # spots of lowest resolution to begin with
SHELL_GROWTH = 1.25
ALTERNATIONS = 5  # of indexing and least squares, at most ...
DAMPING = 1e-3  # of a step, as Levenberg-Marquardt begins
AS_FORESEEN = 0.05  # relative difference of a decrease from the one foreseen
SETTLED = 0.1  # ... until z changes by less than this
MANY_SPOTS = 40  # fewer could agree on wrong indices by chance
MOST_INDEXED = 0.75  # of the spots: their lattice is found
CANDIDATES = 3  # triples of lattice vectors that are tried
INDEXED = 0.2  # a spot is indexed where all three indices are this close to whole; by chance 6 % are


@dataclass(frozen=True)
class CentroidProblem:
    """Spots (3, n) scattering vectors at phi = 0, in 1/Å, against whole Miller indices (3, n); weights (3, n)."""

    space: ParameterSpace
    scattering: Tensor
    indices: Tensor
    weights: Tensor
    counts: Counts = field(default_factory=Counts)

    def residuals(self, z: Tensor) -> Tensor:
        """Weighted distances (3 n,) of the fractional from the whole indices."""
        real_space = self.space.to_model(z).crystal.real_space
        return (self.weights * (real_space @ self.scattering - self.indices)).flatten()

    def loss(self, z: Tensor) -> Tensor:
        """Half the sum of squares (); infinite outside the parameters' limits."""
        residuals = self.residuals(z)
        return residuals @ residuals / 2 if self.space.admits(z) else z.new_tensor(torch.inf)

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss () and its gradient (n,)."""
        model = self.quadratic(z)
        return model.value, model.gradient

    def quadratic(self, z: Tensor) -> Quadratic:
        """Value, gradient and Gauss-Newton curvature."""
        self.counts.jacobians += 1
        if not self.space.admits(z):
            return Quadratic.zero(z)._replace(value=z.new_tensor(torch.inf))
        at = self.space.leaves(z)
        rates = jacobian(self.space.placed(at).crystal.real_space, *at).reshape(3, 3, -1)
        residuals = self.residuals(z)
        columns = (self.weights[..., None] * torch.einsum("jcn,cs->jsn", rates, self.scattering)).flatten(0, 1)
        return Quadratic(residuals @ residuals / 2, residuals @ columns, columns.T @ columns)

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        """The Hessian times v (n,)."""

        def half_squares(at: Tensor) -> Tensor:
            return (self.residuals(at) ** 2).sum() / 2

        return torch.func.jvp(torch.func.grad(half_squares), (z,), (v,))[1]


@dataclass(frozen=True)
class CentroidStart:
    """z (n,) at which the observed spots have whole indices, and the fraction of them that do."""

    z: Tensor
    indexed: float


def centroid_starts(space: ParameterSpace, spots: Spots) -> list[CentroidStart]:
    """Starts from indexing the observed spots, best first: from the given cell and orientation, and, unless most of
    many spots agree on that, from lattice vectors looked for in a wide neighbourhood.

    Moves cell and orientation only, as far as they are free; empty where neither is, or where there are too few spots.
    """
    movable = tuple(p for p in space.parameters if p.name in ("cell", "orientation"))
    if not movable:
        return []
    main = max(MANY_SPOTS, int(MAIN_SPOTS * len(spots.fast)))
    scattering = spot_scattering(space, spots.brightest(main))
    if scattering.shape[2] < FEWEST_SPOTS:
        return []
    part = ParameterSpace(space.start, movable)
    found = [_indexed(part, part.zero(), scattering)]
    if found[0].indexed < MOST_INDEXED or scattering.shape[2] < MANY_SPOTS:
        expected = part.to_model(part.zero()).crystal.real_space
        middle = scattering[:, scattering.shape[1] // 2]
        for vectors in lattice_candidates(expected, middle)[:CANDIDATES]:
            found.append(_indexed(part, _nearest(part, vectors), scattering))
            if found[-1].indexed >= MOST_INDEXED:
                break
    everything = spot_scattering(space, spots)
    ranked = sorted(found, key=lambda start: -start.indexed)
    fitted = [_fitted(part, start.z, everything) for start in ranked]
    return [CentroidStart(_widened(space, part, z), start.indexed) for z, start in zip(fitted, ranked, strict=True)]


def _indexed(part: ParameterSpace, start: Tensor, scattering: Tensor) -> CentroidStart:
    z = _index_outwards(part, start, scattering)
    return CentroidStart(z, _indexed_fraction(part, z, scattering))


def _nearest(part: ParameterSpace, vectors: Tensor) -> Tensor:
    """z of the crystal whose lattice vectors are nearest to given ones (3, 3), in rows, relative to their lengths."""
    weights = (1 / torch.linalg.vector_norm(vectors, dim=1))[:, None].expand(3, 3)
    target = CentroidProblem(part, torch.eye(3).to(vectors), vectors, weights)
    return _solved(target, part.zero())


def _widened(space: ParameterSpace, part: ParameterSpace, z: Tensor) -> Tensor:
    """z of a part of the parameters as one of all, the others at their start."""
    found = {p.name: values for p, values in zip(part.parameters, part.split(z), strict=True)}
    pairs = zip(space.parameters, space.split(space.zero()), strict=True)
    return torch.cat([found.get(p.name, values) for p, values in pairs])


def spot_scattering(space: ParameterSpace, spots: Spots) -> Tensor:
    """Scattering vectors (3, K, n) in 1/Å of the brightest spots at the start's geometry, by ascending length, turned
    back to phi = 0 from each of K phi steps."""
    crystal, experiment = space.start
    like = crystal.cell
    fast, slow = (torch.from_numpy(part[:MOST_SPOTS].copy()).to(like) for part in (spots.fast, spots.slow))
    panel = None if spots.panel is None else torch.from_numpy(spots.panel[:MOST_SPOTS].copy()).to(like.device)
    ray, _ = rays(experiment.detector.points(fast, slow, panel))
    q = scattering_vectors(ray, experiment.beam.direction[None], experiment.beam.wavelength[None])[:, 0]
    q = q[:, torch.argsort(torch.linalg.vector_norm(q, dim=0))]
    scan = experiment.scan
    angles = torch.deg2rad(torch.stack([torch.zeros_like(scan.phi0), scan.phi0, scan.osc]))
    still = like.new_zeros(1, 3), like.new_zeros(1)
    turned = step_rotations(angles, *still, scan.axis, scan.steps)
    return torch.einsum("kdc,dn->ckn", turned, q)


def _index_outwards(space: ParameterSpace, start: Tensor, scattering: Tensor) -> Tensor:
    """z after alternating indexing and least squares, from the first shell of spots to all of them."""
    z, count, total = start, float(FIRST_SHELL), scattering.shape[2]
    while True:
        z = _fitted(space, z, scattering[:, :, : min(int(count), total)])
        if count >= total:
            return z
        count *= SHELL_GROWTH


def _fitted(space: ParameterSpace, z: Tensor, scattering: Tensor) -> Tensor:
    """z after indexing and least squares in turn, until neither changes anything."""
    for _ in range(ALTERNATIONS):
        before, z = z, _solved(_assigned(space, z, scattering), z)
        if float((z - before).abs().max()) < SETTLED:
            break
    return z


def _solved(problem: CentroidProblem, z: Tensor) -> Tensor:
    """z at the minimum: one step away where the loss falls as foreseen, since residuals are nearly linear."""
    here = problem.quadratic(z)
    shift = damped_shift(here, DAMPING)
    foreseen = predicted_decrease(here, shift)
    if abs(float(here.value - problem.loss(z + shift)) - foreseen) <= AS_FORESEEN * foreseen:
        return z + shift
    solution = solve(problem, LevenbergMarquardt(), z, Stop(max_iterations=8))
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return solution.z


def _assigned(space: ParameterSpace, z: Tensor, scattering: Tensor) -> CentroidProblem:
    """The least-squares problem with every spot at its best phi step and on its nearest indices.

    Weights: inverse of a reflection's width, 1/N and the mosaic spread; spots far from whole indices count less, as
    under a Cauchy distribution.
    """
    crystal = space.to_model(z).crystal
    fractional = torch.einsum("jc,ckn->jkn", crystal.real_space, scattering)
    best = ((fractional - fractional.round()) ** 2).sum(0).argmin(0)
    every = torch.arange(scattering.shape[2], device=best.device)
    fractional, chosen = fractional[:, best, every], scattering[:, best, every]
    indices = fractional.round()
    lengths = torch.linalg.vector_norm(indices, dim=0)
    width = 0.5 / crystal.cells[:, None] + torch.deg2rad(crystal.mosaic.spread_deg) * lengths
    distance = (((fractional - indices) / width.clamp_min(0.05)) ** 2).sum(0)
    return CentroidProblem(space, chosen, indices, 1 / (width * torch.sqrt(1 + distance)))


def _indexed_fraction(space: ParameterSpace, z: Tensor, scattering: Tensor) -> float:
    real_space = space.to_model(z).crystal.real_space
    fractional = torch.einsum("jc,ckn->jkn", real_space, scattering)
    off = (fractional - fractional.round()).abs().amax(0).amin(0)
    return float((off < INDEXED).double().mean())
