"""DIALS' own answers on real images, where they are at hand: geometry, predictions, observations."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from refine.app.build import Setup, build_model, build_problem
from refine.app.load import load_config
from refine.app.main import main
from refine.io.experiments import read_experiment

REAL = Path(os.environ.get("REFINE_REAL_DATA", Path(__file__).parents[3] / "shared" / "real"))
PACKAGES = sorted(path.parent for path in REAL.glob("*/geometry.yaml"))
pytestmark = pytest.mark.skipif(not PACKAGES, reason=f"no real data at {REAL}; set REFINE_REAL_DATA")
SAME = 1e-9


def geometry(package):
    return yaml.load((package / "geometry.yaml").read_text(), yaml.CSafeLoader)


def configured(package, folder, **changes):
    """A configuration of a package's refined experiment, its sensor from geometry.yaml where the file lost it."""
    expt, sensor = str(package / "dials_refined.expt"), geometry(package)["detector"]["panels"][0]
    image = package / "panels.npz"
    image = image if image.exists() else next(package.glob("*.cbf.bz2"))
    thickness = {"um": 1e3 * sensor["sensor_thickness_mm"], "attenuation_um": 1e3 / sensor["sensor_mu_per_mm"]}
    content = {
        "images": [{"file": str(image)}],
        "detector": {"file": expt, "thickness": {**thickness, "parallax": "dials"}},
        "crystal": {"orientation": {"expt": expt}, "shape": "gauss"},
        "structure_factors": {"default": 100.0},
        "background": {"model": "constant", "value": 1.0},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({k: {**v, **changes.get(k, {})} if k in changes else v for k, v in content.items()}))
    return path


@pytest.fixture(params=PACKAGES, ids=lambda path: path.name)
def package(request):
    return request.param


@pytest.mark.parametrize("name", ["dials_refined.expt", "dials_integrated.expt"])
def test_the_reader_agrees_with_the_plain_export(package, name):
    found, wanted = read_experiment(package / name), geometry(package)
    assert found.beam.wavelength == pytest.approx(wanted["beam"]["wavelength_A"], rel=SAME)
    np.testing.assert_allclose(found.beam.direction, wanted["beam"]["propagation_direction"], atol=SAME)
    np.testing.assert_allclose(found.beam.polarization[0], wanted["beam"]["polarization_normal"], atol=SAME)
    crystal, change = wanted["crystals"][0], np.array(wanted["crystals"][0]["h_dials_from_h_here"])
    a_matrix = np.linalg.inv(found.crystal.real_space) @ change
    np.testing.assert_allclose(a_matrix, np.reshape(crystal["A_matrix_reciprocal"], (3, 3)), atol=1e-12)
    assert found.crystal.space_group == crystal["space_group"]
    assert found.rotation is None
    assert len(found.panels) == wanted["detector"]["n_panels"]
    for panel, export in zip(found.panels, wanted["detector"]["panels"], strict=True):
        assert panel.name == export["name"]
        for ours, theirs in (("origin", "origin_mm"), ("fast", "fast_axis"), ("slow", "slow_axis")):
            np.testing.assert_allclose(getattr(panel, ours), export[theirs], atol=SAME)
        assert panel.image_size == tuple(export["image_size_px"])
        assert panel.pixel_size == pytest.approx(export["pixel_size_mm"], rel=SAME)
        assert panel.trusted_range == tuple(export["trusted_range"])
        assert (panel.gain, panel.pedestal, panel.parallax) == (export["gain"], export["pedestal"], True)
        assert panel.mask == tuple(map(tuple, export.get("untrusted_rectangles_f0_s0_f1_s1", ())))
        if panel.thickness:
            assert (panel.thickness, panel.mu) == (export["sensor_thickness_mm"], export["sensor_mu_per_mm"])


def still_rays(setup: Setup, hkl: np.ndarray) -> torch.Tensor:
    """Unit vectors (3, n) along which DIALS predicts reflections (n, 3): A h turned onto the sphere about A h x s0."""
    beam = setup.experiment.beam
    s0, q = (beam.direction / beam.wavelength).numpy(), (setup.crystal.a_matrix.numpy() @ hkl.T).T
    about = np.cross(q, s0)
    across = np.cross(s0, about)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    along = -(q * q).sum(1) / (2 * np.linalg.norm(s0))
    height = np.sqrt((q * q).sum(1) - along**2)
    rays = s0 + along[:, None] * s0 / np.linalg.norm(s0) + height[:, None] * across
    return torch.from_numpy((rays / np.linalg.norm(rays, axis=1, keepdims=True)).T)


def offsets(package, setup):
    """Distances (n,) in pixels of our predictions from DIALS' for the indexed spots."""
    with (package / "spots.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["lattice"] == "0"]
    change = np.array(geometry(package)["crystals"][0]["h_dials_from_h_here"])
    hkl = np.array([[int(row[name]) for name in "hkl"] for row in rows]) @ change.T
    panel = torch.tensor([int(row["panel"]) for row in rows])
    found = torch.stack(setup.experiment.detector.recorded(still_rays(setup, hkl), panel)).numpy()
    wanted = np.array([[float(row["xcal_px"]), float(row["ycal_px"])] for row in rows]).T
    assert len(rows) > 50
    return np.hypot(*(found - wanted))


def test_rays_meet_the_detector_where_dials_predicts(package, tmp_path):
    setup = build_model(load_config(configured(package, tmp_path)))
    found = offsets(package, setup)
    print(f"{package.name}: largest offset from DIALS' predictions {found.max():.5f} px")
    assert found.max() < 0.01
    without = build_model(load_config(tmp_path / "config.yaml", ["detector.thickness={um: 0}"]))
    assert offsets(package, without).max() > 0.2


def test_an_imported_configuration_predicts_as_dials(package, tmp_path, capsys):
    """The parallax that the .expt of a CSPAD has lost is there again, by silicon's attenuation."""
    stack = [package / "panels.npz"] if (package / "panels.npz").exists() else []
    held = [package / "dials_indexed.refl", package / "dials_refined.expt", *stack]
    path = tmp_path / "refine.yaml"
    assert main(["import", *map(str, held), "structure_factors={default: 100}", "-o", str(path)]) == 0
    said = capsys.readouterr().out
    missing = [line.split(":")[0] for line in said.splitlines() if line.startswith("missing")]
    assert missing == (["missing detector.gain"] if stack else [])
    given = load_config(path)
    assert given.images[0].file.name == ("panels.npz" if stack else f"{package.name}.cbf.bz2")
    assert given.refinement.loss == "robust"
    found = offsets(package, build_model(given))
    print(f"{package.name}: largest offset from DIALS' predictions {found.max():.5f} px")
    assert found.max() < 0.01


def test_a_piece_of_every_image_is_observed(package, tmp_path):
    roi = {"fast": [60, 90], "slow": [90, 120]}
    detector = {"file": str(package / "dials_refined.expt"), "roi": roi, "gain": 25.0, "readout_noise": 10.0}
    path = configured(package, tmp_path, detector=detector)
    given = load_config(path, ["refinement={loss: gaussian, free: [scale, background]}"])
    problem = build_problem(given, build_model(given))
    panels = geometry(package)["detector"]["n_panels"]
    assert 0.9 * panels * 31 * 31 < len(problem.pixels) <= panels * 31 * 31
    assert (problem.pixels.panel is None) == (panels == 1)


def test_a_many_panel_image_is_refused_for_one_panel(tmp_path, capsys):
    one, many = PACKAGES[0], PACKAGES[-1]
    path = configured(one, tmp_path)
    assert main(["validate", str(path), f"images.0.file={many / 'panels.npz'}"]) == 2
    assert "panels.npz" in capsys.readouterr().err
