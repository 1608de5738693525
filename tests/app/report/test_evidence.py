"""What a report says of an image against what is known of it."""

from itertools import pairwise

import gemmi
import numpy as np
import pytest
from cli import START, TRUTH, configuration, result
from scipy import stats

from refine.app.main import main
from refine.app.report.canvas import canvas, picture
from refine.app.report.evidence import Evidence, gather_evidence, normal_residuals, paired, radial, shells
from refine.app.report.page import best_and_worst
from refine.app.report.source import Compared, read_run
from refine.io.experiments import Panel


@pytest.fixture(scope="module", params=[{}, {"scan": {"phi0": 20, "osc": 1, "steps": 5}}], ids=["still", "rotation"])
def run(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("evidence")
    crystal = {"cells": [15, 15, 15], **request.param}
    detector = {"size": [160, 160], "beam_center_px": [80, 78], "pixel_size": 0.3}
    for values in (TRUTH, START):
        config = configuration(directory, values, crystal={**crystal, "cell": values["cell"]} |
                               {"orientation": {"misset_deg": values["misset_deg"]}}, detector=detector)  # fmt: skip
        if values is TRUTH:
            assert main(["simulate", str(config), "-o", str(directory / "image.npz"), "--noise"]) == 0
    assert main(["run", str(config), "-o", str(directory / "out")]) == 0
    return read_run(directory / "out")


@pytest.fixture(scope="module")
def evidence(run):
    return gather_evidence(run.images[0], run.experiment)


def test_residuals_of_the_right_model_are_unit_normal(evidence):
    found = normal_residuals(evidence)
    assert len(found) == 160 * 160
    assert stats.kstest(found, "norm").pvalue > 1e-3
    assert evidence.residual.std() == pytest.approx(1, abs=0.02)


def test_residuals_of_a_wrong_model_are_not(evidence):
    off = Compared(
        "off",
        evidence.compared.observed,
        evidence.compared.model * 1.1,
        evidence.compared.trusted,
        evidence.compared.readout,
    )
    wrong = Evidence(off, evidence.residual, evidence.spots, evidence.reciprocal)
    assert stats.kstest(normal_residuals(wrong), "norm").pvalue < 1e-6


def test_spots_are_indexed(evidence, run):
    """1/d of the brightest pixel is that of the cell's reflection, to the width of a pixel."""
    spots = evidence.spots
    bright = spots.observed > np.median(spots.observed)
    assert bright.sum() > 10
    cell = gemmi.UnitCell(*result(run.directory)["cell"]["value"])
    wanted = np.array([cell.calculate_d(hkl.tolist()) for hkl in spots.hkl[bright]])
    difference = np.abs(1 / spots.d[bright] - 1 / wanted)
    assert np.quantile(difference, 0.8) < 0.3 / 60
    other = np.roll(wanted, 1)
    assert np.median(difference) < 0.05 * np.median(np.abs(1 / spots.d[bright] - 1 / other))


def test_every_bright_spot_is_in_both_images(evidence):
    spots = evidence.spots
    assert (spots.in_image & spots.in_model).mean() > 0.9
    both = paired(spots)
    assert np.abs(spots.model_at - spots.observed_at)[both].mean() < 0.3
    assert spots.chi2.mean() == pytest.approx(1, abs=0.15)


def test_shells_hold_every_spot_once(evidence):
    found = shells(evidence.spots)
    assert sum(shell.spots for shell in found) == len(evidence.spots.d)
    assert all(one.high >= other.low for one, other in pairwise(found))
    assert all(shell.correlation > 0.95 and shell.r < 0.2 for shell in found)


def test_rings_average_observed_and_model(evidence):
    rings = radial(evidence)
    error = (rings.observed / rings.model - 1) / rings.error
    assert len(rings.reciprocal) > 50
    assert np.abs(error).max() < 5
    assert error.std() == pytest.approx(1, abs=0.35)


def test_best_and_worst_are_different_spots(evidence):
    chosen = best_and_worst(evidence)
    assert len({*chosen["best"], *chosen["worst"]}) == 12
    assert max(evidence.spots.chi2[chosen["best"]]) < min(evidence.spots.chi2[chosen["worst"]])


def test_panels_are_laid_out_as_they_stand():
    axes = {"fast": (1, 0, 0), "slow": (0, -1, 0)}
    sizes = {"image_size": (4, 3), "pixel_size": (0.5, 0.5)}
    turned = Panel(origin=(4.5, 0, -50), fast=(0, -1, 0), slow=(-1, 0, 0), image_size=(4, 3), pixel_size=(0.5, 0.5))
    layout = canvas((Panel(origin=(0, 0, -50), **axes, **sizes), turned))
    assert layout.size == (9, 4)
    stack = np.arange(24.0).reshape(2, 3, 4)
    laid = layout.laid_out(stack)
    assert np.array_equal(laid[:3, :4], stack[0])
    assert np.array_equal(laid[:, 6:], stack[1, ::-1].T)
    assert np.isnan(laid[:, 4:6]).all()


def test_binned_pictures_keep_photons_and_significance(evidence):
    layout = canvas((Panel((0, 0, -1), (1, 0, 0), (0, -1, 0), (160, 160), (0.1, 0.1)),))
    shown = picture(evidence.compared, layout, 60)
    assert shown.block == 3
    assert shown.observed.shape == (54, 54)
    assert np.nanmean(shown.observed[:53, :53]) == pytest.approx(evidence.compared.observed[:159, :159].mean())
    assert np.nanstd(shown.residual) == pytest.approx(1, abs=0.06)
