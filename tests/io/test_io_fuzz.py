"""Files cut short or with flipped bits give an InputError or a well-formed result, never anything else."""

import bz2
import gzip

import gemmi
import numpy as np
import pytest
from expt import document, tiles, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refl import table
from refl import written as table_written

from refine.errors import InputError
from refine.io.beams import read_source_list, read_spectrum
from refine.io.experiments import DialsExperiment, read_experiment
from refine.io.geometries import read_mosflm_matrix
from refine.io.images import RawImage, read_image, write_image
from refine.io.reflection_tables import Spots, read_spots
from refine.io.reflections import ReflectionList, read_structure_factors

IMAGE = np.random.default_rng(1).integers(0, 70000, (6, 9)).astype(float)
KINDS = [".npz", ".npy", ".cbf", ".img", ".h5", ".bin", ".cbf.gz", ".img.bz2", ".mtz", ".hkl", ".hkl.gz", ".mat",
         ".spectrum", ".sources", ".expt", ".refl"]  # fmt: skip
MATRIX = "0.02 0 0\n0 0.025 0\n0 0 0.02\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n50 40 50 90 90 90\n0 0 0\n"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for suffix in (".npz", ".npy", ".cbf", ".img", ".h5", ".bin"):
        write_image(folder / f"x{suffix}", IMAGE)
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 21 21 21")
    mtz.set_cell_for_all(gemmi.UnitCell(30, 40, 50, 90, 90, 90))
    mtz.add_dataset("d")
    mtz.add_column("F", "F")
    mtz.set_data(np.array([[h, k, 1, 10 * h + k] for h in range(4) for k in range(4)], dtype=np.float32))
    mtz.write_to_file(str(folder / "x.mtz"))
    (folder / "x.hkl").write_text("".join(f"{h} {k} 1 {h * 10.5 + k}\n" for h in range(4) for k in range(4)))
    (folder / "x.mat").write_text(MATRIX)
    (folder / "x.spectrum").write_text("# Å, weight\n0.98 1\n1.02 2.5\n")
    (folder / "x.sources").write_text("-10 0 0\n-10 0 0.1 2\n-10 0.1 0 3 1.1e-10\n")
    written(folder / "x.expt", document(tiles(1, 2)))
    table_written(folder / "x.refl", table())
    content = {suffix: (folder / f"x{suffix}").read_bytes() for suffix in KINDS if suffix.count(".") == 1}
    content |= {".cbf.gz": gzip.compress(content[".cbf"]), ".img.bz2": bz2.compress(content[".img"])}
    return content | {".hkl.gz": gzip.compress(content[".hkl"])}


def read(path):
    if path.suffix in (".spectrum", ".sources"):
        return np.column_stack(read_spectrum(path) if path.suffix == ".spectrum" else read_source_list(path, 1.0))
    if path.suffix == ".expt":
        return read_experiment(path)
    if path.suffix == ".refl":
        return read_spots(path, "one")
    if path.suffix == ".mat":
        return read_mosflm_matrix(path, 1.0)
    return read_structure_factors(path) if ".hkl" in path.name or ".mtz" in path.name else read_image(path, (6, 9))


def check(result):
    if isinstance(result, RawImage):
        assert result.values.shape == result.valid.shape == (6, 9)
        assert result.values.dtype == np.float64
    elif isinstance(result, DialsExperiment):
        assert result.beam.wavelength > 0
        assert all(np.isfinite([*panel.origin, *panel.fast, *panel.slow]).all() for panel in result.panels)
    elif isinstance(result, Spots):
        assert result.hkl.shape == (len(result.panel), 3)
        assert np.all(np.isfinite(result.xy))
        assert np.all(result.panel >= 0)
    elif isinstance(result, ReflectionList):
        assert result.hkl.shape == (len(result.amplitude), 3)
        assert np.all(np.isfinite(result.amplitude))
    elif result.shape != (3, 3):
        assert np.all(np.isfinite(result))
        assert np.all(result[:, -1] > 0) or result.shape[1] == 2
    else:
        assert np.linalg.det(result) > 0


@pytest.mark.parametrize("suffix", KINDS)
def test_originals_are_read(originals, tmp_path, suffix):
    (tmp_path / f"x{suffix}").write_bytes(originals[suffix])
    check(read(tmp_path / f"x{suffix}"))


@pytest.mark.parametrize("suffix", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_damage_is_survived(originals, tmp_path, suffix, data):
    content = bytearray(originals[suffix])
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))), label="end")
    flips = data.draw(st.lists(st.integers(0, 8 * len(content) - 1), max_size=6), label="bits")
    for bit in flips:
        content[bit // 8] ^= 1 << bit % 8
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content[:end])
    try:
        check(read(path))
    except InputError as error:
        assert path.name in str(error)  # noqa: PT017
