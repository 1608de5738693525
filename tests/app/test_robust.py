"""Hot pixels: one in a thousand shall not move the cell by more than its uncertainty."""

import numpy as np
import pytest
from cli import START, observed, result

from refine.app.main import main

SETTING = {
    "beam": {"wavelength": 1.0, "fluence": 3e27},
    "detector": {"distance": 60.0, "pixel_size": 0.25, "size": [192, 192], "beam_center_px": [96.0, 95.0]},
    "refinement": {"free": ["cell", "orientation", "scale", "background"]},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hot")
    observed(directory, **SETTING)
    image = np.load(directory / "image.npz")["image"]
    for seed in range(3):
        generator = np.random.default_rng(seed)
        spoilt = image.copy()
        chosen = generator.choice(image.size, image.size // 1000, replace=False)
        spoilt.flat[chosen] = 10 ** generator.uniform(2, 5, len(chosen))
        np.savez(directory / f"hot{seed}.npz", image=spoilt)
    return directory


def refined(place, image, loss):
    out = place / f"{image}-{loss}"
    command = ["run", str(place / "config.yaml"), "-o", str(out), f"images=[{{file: {image}.npz}}]"]
    code = main([*command, f"refinement.loss={loss}"])
    return code, result(out)


def shift(found, clean):
    """The largest change of a cell parameter, in its esd of the clean fit."""
    value, before, esd = (
        np.array(part) for part in (found["cell"]["value"], clean["cell"]["value"], clean["cell"]["esd"])
    )
    return np.abs((value - before) / esd).max()


@pytest.mark.parametrize("seed", range(3))
def test_the_robust_loss_does_not_mind_them(place, seed):
    _, clean = refined(place, "image", "robust")
    code, found = refined(place, f"hot{seed}", "robust")
    assert code == 0
    assert found["status"] == "converged"
    assert shift(found, clean) < 1
    assert np.abs(np.array(clean["cell"]["start"]) - clean["cell"]["value"]).max() > 20 * min(clean["cell"]["esd"])
    esds = np.array(found["cell"]["esd"]) / clean["cell"]["esd"]
    assert np.abs(esds - 1).max() < 0.05


def test_the_poisson_loss_does_and_says_so(place):
    _, clean = refined(place, "image", "poisson")
    _, found = refined(place, "hot0", "poisson")
    assert found["status"] != "converged" or any("refinement.loss: robust" in w for w in found["warnings"])
    assert found["status"] != "converged" or shift(found, clean) > 1
    assert not any("robust" in warning for warning in clean["warnings"])
    assert START["cell"] == pytest.approx(clean["cell"]["start"])


def test_without_hot_pixels_both_give_the_same(place):
    _, poisson = refined(place, "image", "poisson")
    _, robust = refined(place, "image", "robust")
    assert shift(robust, poisson) < 0.2
    assert np.abs(np.array(robust["cell"]["esd"]) / poisson["cell"]["esd"] - 1).max() < 0.02


def test_unweighted_least_squares_is_right_within_its_larger_uncertainties(place):
    _, poisson = refined(place, "image", "poisson")
    code, found = refined(place, "image", "mse")
    assert code == 0
    errors = np.array(found["cell"]["esd"])
    assert (errors > poisson["cell"]["esd"]).all()
    assert (np.abs(np.array(found["cell"]["value"]) - poisson["cell"]["value"]) < 4 * errors).all()
    assert found["loss"]["reduced_deviance"] == pytest.approx(found["loss"]["expected_deviance"], rel=0.1)
