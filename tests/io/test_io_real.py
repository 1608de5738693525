"""Beamline images and calculated amplitudes of real crystals, where they are at hand."""

import csv
import os
from pathlib import Path

import fabio
import gemmi
import numpy as np
import pytest
import yaml

from refine.errors import InputError
from refine.io.experiments import read_experiment
from refine.io.images import read_image
from refine.io.reflection_tables import read_spots
from refine.io.reflections import read_structure_factors, to_grid

REAL = Path(os.environ.get("REFINE_REAL_DATA", Path(__file__).parents[3] / "shared" / "real"))
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL}; set REFINE_REAL_DATA")


def test_pilatus_image_agrees_with_fabio():
    path = next(REAL.glob("thau_3_2_0003/*.cbf.bz2"))
    image = read_image(path, (2527, 2463))
    with fabio.open(str(path)) as opened:
        np.testing.assert_array_equal(image.values, opened.data)
        np.testing.assert_array_equal(image.valid, (opened.data >= 0) & (opened.data <= 115897))  # its Count_cutoff
    assert image.values.max() == 1046527
    assert 0.05 < np.mean(~image.valid) < 0.15


def test_full_imgcbf_is_explained():
    with pytest.raises(InputError, match="full imgCBF"):
        read_image(next(REAL.glob("thermolysin_idx*/*.cbf.bz2")))


@pytest.mark.parametrize("path", sorted(REAL.glob("*/dials_indexed.refl")), ids=lambda path: path.parent.name)
def test_indexed_spots_are_those_of_the_plain_export(path):
    experiment = read_experiment(path.with_name("dials_refined.expt"))
    spots = read_spots(path, experiment.identifier)
    with path.with_name("spots.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["lattice"] == "0"]
    (crystal,) = yaml.load(path.with_name("geometry.yaml").read_text(), yaml.CSafeLoader)["crystals"][:1]
    hkl = np.array([[int(row[name]) for name in "hkl"] for row in rows]) @ np.transpose(crystal["h_dials_from_h_here"])
    np.testing.assert_array_equal(spots.hkl, hkl)
    np.testing.assert_array_equal(spots.panel, [int(row["panel"]) for row in rows])
    places = [[float(row["xobs_px"]), float(row["yobs_px"])] for row in rows]
    np.testing.assert_allclose(spots.xy, places, atol=6e-4)  # the export is rounded
    other = next(one for one in sorted(REAL.glob("*/dials_indexed.refl")) if one != path)
    with pytest.raises(InputError, match=f"not of {experiment.identifier}"):
        read_spots(other, experiment.identifier)


def test_anomalous_mtz_agrees_with_the_text_list():
    folder = REAL / "thermolysin_structure_factors"
    expanded = read_structure_factors(folder / "thermolysin_2tli_fmodel.mtz")
    listed = read_structure_factors(folder / "thermolysin_2tli_fmodel.hkl.gz")
    grid, low = to_grid(expanded.hkl, expanded.amplitude, np.nan)
    compared = 0
    for op in gemmi.SpaceGroup("P 61 2 2").operations().sym_ops:
        place = tuple((listed.hkl @ (np.array(op.rot) // op.DEN) - low).T)
        np.testing.assert_allclose(grid[place], listed.amplitude, atol=1e-3)
        compared += len(listed.hkl)
        grid[place] = listed.amplitude
    assert compared > len(expanded.hkl) > 800_000
    mates = grid[np.isfinite(grid) & np.isfinite(grid[::-1, ::-1, ::-1])]
    assert mates.size == len(expanded.hkl)
    assert np.nanmax(np.abs(grid - grid[::-1, ::-1, ::-1])) > 1
