"""From a nanoBragg.c command line to numbers."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from refine.app.nanobragg.cell import Lattice, cell_parameters, lattice, oriented_reciprocal, random_misset
from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.files import named
from refine.app.nanobragg.geometry import detector, frame, placed, sized
from refine.app.nanobragg.given import Given
from refine.app.nanobragg.headers import inherit
from refine.app.nanobragg.options import parse
from refine.app.nanobragg.sampling import mosaic, phi, recommended_oversample, sensor_layers
from refine.app.nanobragg.settings import (
    CrystalSettings,
    OutputSettings,
    Place,
    SamplingSettings,
    ScanSettings,
    Settings,
    StructureFactorSettings,
)
from refine.app.nanobragg.sources import beam, illuminated
from refine.app.nanobragg.vectors import Vector, length, scaled
from refine.errors import InputError
from refine.io.reading import read_head

_ANGSTROM = 1e-10


def resolve(arguments: Sequence[str], directory: Path, defects: Defects | None = None) -> Settings:
    """Settings of a command line, its files relative to `directory`; as nanoBragg.c unless `defects` says otherwise.

    Image headers come first (`-mask`, then `-img`), options override them wherever they stand. A stale `Fdump.bin`,
    which nanoBragg.c reads where there is no `-hkl`, is never read. `-misset random` without `-misset_seed`, and the
    noise without `-seed`, are seeded by the clock.

    Raises InputError for wrong input, with a message that names the option.
    """
    try:
        return _resolved(arguments, directory, Defects() if defects is None else defects)
    except (OverflowError, ZeroDivisionError) as error:
        raise InputError(f"a number on the command line is far too large or too small ({error})") from error


def _resolved(arguments: Sequence[str], directory: Path, defects: Defects) -> Settings:
    files = parse(arguments).given
    given, notes = parse(arguments, _inherited(files, directory))
    given = illuminated(sized(given))
    _check_files(given, directory)
    place, lit = placed(given), beam(given, frame(given), directory)
    crystal = _crystal(given, directory, defects)
    return Settings(
        crystal=crystal,
        beam=lit,
        detector=detector(given, place, sensor_layers(given, defects)),
        scan=_scan(given),
        sampling=_sampling(given, crystal, place, len(lit.sources), directory),
        structure_factors=_structure_factors(given, directory),
        water=given.water * 1e6,
        output=_output(given, directory),
        defects=defects,
        notes=notes,
    )


def _inherited(files: Given, directory: Path) -> Given:
    start = Given()
    if files.mask is not None:
        with named("-mask"):
            start = inherit(start, directory / files.mask, y_from_bottom=True)
    if files.img is not None:
        with named("-img"):
            start = inherit(start, directory / files.img, y_from_bottom=False)
    return start


def _check_files(given: Given, directory: Path) -> None:
    for option, name in (("-hkl", given.hkl), ("-stol", given.stol)):
        if name is not None:
            with named(option):
                read_head(directory / name)
    if given.mask is not None:
        masked = inherit(Given(), directory / given.mask, y_from_bottom=True)
        size, wanted = (masked.pixels_fast, masked.pixels_slow), (given.pixels_fast, given.pixels_slow)
        if size != wanted:
            raise InputError(f"-mask: {given.mask} has {size} pixels (fast, slow), the detector {wanted}")


def _crystal(given: Given, directory: Path, defects: Defects) -> CrystalSettings:
    misset = random_misset(_seed(given.misset_seed)) if given.misset_random else given.misset
    found = lattice(*oriented_reciprocal(given, directory, defects, misset))
    domains, spread = mosaic(given)
    return CrystalSettings(
        *found.direct,
        *found.reciprocal,
        volume=found.volume,
        cell=cell_parameters(found),
        misset=(math.degrees(misset[0]), math.degrees(misset[1]), math.degrees(misset[2])),
        cells=_cells(given, found),
        shape=given.shape,
        fudge=given.fudge,
        mosaic_spread=math.degrees(spread),
        mosaic_domains=domains,
        mosaic_seed=_seed(given.mosaic_seed),
    )


def _cells(given: Given, found: Lattice) -> tuple[int, int, int]:
    """N along a, b, c: as many as reach over the sample where its size is given."""
    edges = _edges(found.direct)
    sizes, counts = (given.sample_x, given.sample_y, given.sample_z), (given.n_a, given.n_b, given.n_c)
    a, b, c = (
        max(math.ceil(size / edge) if size > 0 else count, 1)
        for size, edge, count in zip(sizes, edges, counts, strict=True)
    )
    return a, b, c


def _edges(vectors: Sequence[Vector]) -> list[float]:
    return [length(scaled(vector, _ANGSTROM)) for vector in vectors]


def _scan(given: Given) -> ScanSettings:
    steps = phi(given)
    return ScanSettings(
        phi0=math.degrees(given.phi0),
        osc=math.degrees(steps.span),
        step=math.degrees(steps.step),
        steps=steps.steps,
        spindle=frame(given).spindle,
        angles=tuple(given.phi0 + steps.step * k for k in range(steps.steps)),
    )


def _sampling(given: Given, crystal: CrystalSettings, place: Place, sources: int, directory: Path) -> SamplingSettings:
    edges = _edges((crystal.a, crystal.b, crystal.c))
    largest = max(edge * count for edge, count in zip(edges, crystal.cells, strict=True))
    recommended = recommended_oversample(largest, given.wavelength, place.distance, given.pixel_size)
    oversample = given.oversample if given.oversample > 0 else recommended
    return SamplingSettings(
        oversample=oversample,
        recommended_oversample=recommended,
        oversample_thickness=given.oversample_thickness,
        oversample_polarization=given.oversample_polarization,
        oversample_solid_angle=given.oversample_solid_angle,
        steps=sources * crystal.mosaic_domains * phi(given).steps * oversample**2,
        roi=_roi(given),
        mask=None if given.mask is None else directory / given.mask,
        dmin=given.dmin / _ANGSTROM,
    )


def _roi(given: Given) -> tuple[int, int, int, int]:
    whole = (0, given.pixels_fast, 0, given.pixels_slow)
    x_from, x_to, y_from, y_to = (
        value if value >= 0 else default for value, default in zip(given.roi, whole, strict=True)
    )
    return x_from, x_to, y_from, y_to


def _structure_factors(given: Given, directory: Path) -> StructureFactorSettings:
    if given.hkl is None and given.default_f == 0:
        raise InputError("no structure factors: give -hkl FILE or -default_F F (a Fdump.bin is not read)")
    wanted = min(given.n_a, given.n_b, given.n_c) <= 2 if given.interpolate is None else given.interpolate
    return StructureFactorSettings(
        hkl=None if given.hkl is None else directory / given.hkl,
        default=given.default_f,
        interpolate=wanted and given.hkl is not None,
    )


def _output(given: Given, directory: Path) -> OutputSettings:
    return OutputSettings(
        float_file=directory / given.float_file,
        int_file=directory / given.int_file,
        noise_file=directory / given.noise_file if given.noise else None,
        pgm_file=directory / given.pgm_file if given.pgm else None,
        config_file=None if given.config is None else directory / given.config,
        int_scale=given.int_scale if given.int_scale > 0 else None,
        pgm_scale=given.pgm_scale if given.pgm_scale > 0 else None,
        adc_offset=given.adc_offset,
        seed=int(time.time()) if given.seed is None else given.seed,
        printout=given.printout,
        printout_pixel=given.printout_pixel if given.printout_pixel[0] >= 0 else None,
        progress=given.progress,
    )


def _seed(given: int | None) -> int:
    """The generator's start: the clock where none is given; nanoBragg.c takes 1 for 0 and for negative seeds."""
    return max(int(time.time()) if given is None else given, 1)
