"""Wrong input: exit code 2, a message that names it, no traceback, nothing written."""

import gzip

import gemmi
import numpy as np
import pytest
from cli import START, configuration, observed

from refine.app.main import main


@pytest.fixture
def ready(tmp_path):
    observed(tmp_path)
    return tmp_path


def complaint(directory, capsys, *settings, command="run"):
    """The message of a command that must fail with exit code 2 and leave the earlier result as it was."""
    out = directory / "out"
    out.mkdir(exist_ok=True)
    (out / "result.yaml").write_text("earlier")
    before = sorted(path.name for path in out.iterdir())
    assert main([command, str(directory / "config.yaml"), "-o", str(out), *settings]) == 2
    assert sorted(path.name for path in out.iterdir()) == before
    assert (out / "result.yaml").read_text() == "earlier"
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_missing_image(ready, capsys):
    assert "nowhere.npz" in complaint(ready, capsys, "images.0.file=nowhere.npz")


def test_missing_configuration(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_no_image_at_all(ready, capsys):
    assert "images" in complaint(ready, capsys, "images=[]")


def test_image_of_another_shape(ready, capsys):
    said = complaint(ready, capsys, "detector.size=[32, 64]")
    assert "64 x 64" in said
    assert "32 x 64" in said


def test_one_frame_of_many(ready, capsys):
    np.savez(ready / "frames.npz", image=[np.load(ready / "image.npz")["image"], np.full((64, 64), -5.0)])
    assert main(["validate", str(ready / "config.yaml"), "images=[{file: frames.npz, frame: 1}]"]) == 0
    assert "below zero photons" in complaint(ready, capsys, "images=[{file: frames.npz, frame: 2}]")
    assert "has 2 frames, not one of number 3" in complaint(ready, capsys, "images=[{file: frames.npz, frame: 3}]")
    assert "images.0.frame" in complaint(ready, capsys, "images=[{file: frames.npz}]")


def test_image_without_the_key(ready, capsys):
    np.savez(ready / "other.npz", picture=np.zeros((64, 64)))
    said = complaint(ready, capsys, "images.0.file=other.npz")
    assert "image" in said
    assert "picture" in said


def test_nan_pixels(ready, capsys):
    image = np.load(ready / "image.npz")["image"].astype(float)
    image[3, 4:9] = np.nan
    np.savez(ready / "nan.npz", image=image)
    assert "5 pixels are NaN" in complaint(ready, capsys, "images.0.file=nan.npz")


def test_negative_counts(ready, capsys):
    np.savez(ready / "negative.npz", image=np.load(ready / "image.npz")["image"] - 2.5)
    said = complaint(ready, capsys, "images.0.file=negative.npz")
    assert "below zero photons" in said
    assert "gaussian" in said


def test_empty_mask(ready, capsys):
    np.save(ready / "mask.npy", np.zeros((64, 64)))
    assert "no pixel is left" in complaint(ready, capsys, "images.0.mask=mask.npy")


def test_mtz_without_the_column(ready, capsys):
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 1")
    mtz.set_cell_for_all(gemmi.UnitCell(*START["cell"]))
    mtz.add_dataset("d")
    mtz.add_column("FP", "F")
    mtz.set_data(np.array([[1, 2, 3, 100.0]], np.float32))
    mtz.write_to_file(str(ready / "f.mtz"))
    said = complaint(ready, capsys, "structure_factors={file: f.mtz, column: FOBS}")
    assert "FOBS" in said
    assert "FP" in said


def test_broken_structure_factors(ready, capsys):
    (ready / "f.hkl").write_text("1 2 3 10.0\n1 2 x 10.0\n")
    said = complaint(ready, capsys, "structure_factors.file=f.hkl")
    assert "f.hkl" in said
    assert "2" in said
    (ready / "f.hkl.gz").write_bytes(gzip.compress(b"1 2 3 10.0\n" * 1000)[:-20])
    assert "f.hkl.gz" in complaint(ready, capsys, "structure_factors.file=f.hkl.gz")


def test_cell_against_its_space_group(ready, capsys):
    said = complaint(ready, capsys, "crystal.space_group=P 4")
    assert "a = b" in said


def test_two_theta_beside_the_rotation_about_its_axis(ready, capsys):
    said = complaint(ready, capsys, "refinement.free=[cell, twotheta, detector_rotations.z]")
    assert "twotheta" in said
    assert "detector_rotations.z" in said


def test_parameters_without_effect(ready, capsys):
    (ready / "zero.hkl").write_text("0 0 0 0.0\n")
    said = complaint(ready, capsys, "structure_factors={file: zero.hkl}")
    assert "cell, orientation, scale have no effect" in said


def test_unknown_key_and_wrong_value(ready, capsys):
    assert "did you mean 'pixel_size'" in complaint(ready, capsys, "detector.pixel_sze=0.1")
    assert "wavelength" in complaint(ready, capsys, "beam.wavelength=-1")


def test_unknown_solver_option(ready, capsys):
    said = complaint(ready, capsys, "refinement.optimizer.options={damping: 1}")
    assert "initial_damping" in said


def test_restraint_on_a_fixed_cell(ready, capsys):
    restraint = "refinement.restraints.cell={target: [40, 50, 60, 80, 95, 105], sigma: [1, 1, 1, 1, 1, 1]}"
    assert "refinement.free" in complaint(ready, capsys, restraint, "refinement.free=[scale]")


def test_glob_of_none_and_of_two(ready, capsys):
    assert "fits 0 files" in complaint(ready, capsys, "images.0.file=shot_*.npz")
    np.savez(ready / "image2.npz", image=np.zeros((64, 64)))
    assert "fits 2 files" in complaint(ready, capsys, "images.0.file=image*.npz")


def test_output_that_cannot_be_a_folder(ready, capsys):
    (ready / "file").write_text("")
    assert main(["run", str(ready / "config.yaml"), "-o", str(ready / "file" / "out")]) == 2
    assert "cannot be made a folder" in capsys.readouterr().err


def test_cuda_without_a_device_is_refused(ready, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "CUDA" in complaint(ready, capsys, "device=cuda")


def test_command_line_itself(tmp_path, capsys):
    for arguments in (
        [],
        ["rn"],
        ["run"],
        ["run", "c.yaml", "--fast"],
        ["run", "c.yaml", "stray"],
        ["simulate", "c.yaml"],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("refine: ")


def test_simulate_to_an_unknown_format(ready, capsys):
    assert main(["simulate", str(ready / "config.yaml"), "-o", str(ready / "x.xyz")]) == 2
    assert ".npz" in capsys.readouterr().err


def test_init_leaves_an_existing_file(tmp_path, capsys):
    target = tmp_path / "c.yaml"
    assert main(["init", str(target)]) == 0
    written = target.read_text()
    assert main(["init", str(target)]) == 2
    assert target.read_text() == written
    assert "exists already" in capsys.readouterr().err


def test_validate_reads_what_it_names(ready, capsys):
    assert main(["validate", str(configuration(ready, START))]) == 0
    said = capsys.readouterr().out
    assert "4096 of 4096 pixels used" in said
    assert "cell (6)" in said
    assert main(["validate", str(ready / "config.yaml"), "images.0.file=nowhere.npz"]) == 2


def test_debug_shows_the_traceback_and_keeps_the_exit_code(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.yaml"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_gaussian_noise_needs_a_readout(ready, capsys):
    assert "detector.readout_noise" in complaint(ready, capsys, "refinement.loss=gaussian")


def test_cell_of_a_matrix_is_held_against_the_space_group_and_the_cell_beside_it(ready, capsys):
    triclinic = "a_matrix: [0.025, 0.001, 0, 0, 0.02, 0.002, 0, 0, 0.017]"
    said = complaint(ready, capsys, f"crystal={{space_group: P 43 21 2, orientation: {{{triclinic}}}}}")
    assert "needs a = b" in said
    said = complaint(ready, capsys, f"crystal.orientation={{{triclinic}}}", "crystal.cell=[80, 50, 60, 90, 90, 90]")
    assert "far from crystal.cell" in said
    unit = "a_matrix: [1, 0, 0, 0, 1, 0, 0, 0, 1]"
    assert "1 to 10000" in complaint(ready, capsys, f"crystal={{orientation: {{{unit}}}}}")


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_a_set_that_cannot_be_told_apart_is_refused_for_every_solver(ready, capsys, solver):
    free = "refinement.free=[orientation, detector_rotations.x]"
    said = complaint(ready, capsys, free, "beam.polarization=null", f"refinement.optimizer.name={solver}")
    assert "orientation, detector_rotations.x" in said


def test_validate_refuses_what_run_refuses(ready, capsys):
    settings = ["refinement.free=[orientation, detector_rotations.x]", "beam.polarization=null"]
    assert main(["validate", str(ready / "config.yaml"), *settings]) == 2
    assert "orientation, detector_rotations.x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("refinement.optimizer={name: adam, options: {horizon: 0}}", "horizon"),
        ("refinement.optimizer.options={initial_damping: -1}", "initial_damping"),
        ("refinement.optimizer.options={initial_damping: true}", "initial_damping"),
        ("detector.size=[100000, 100000]", "detector.size"),
        ("threads=3000000000", "threads"),
        ("crystal.scan.steps=10000000000", "crystal.scan.steps"),
        ("crystal.mosaic={domains: 100000000, spread_deg: 1}", "crystal.mosaic.domains"),
    ],
)
def test_values_beyond_reason(ready, capsys, setting, said):
    assert said in complaint(ready, capsys, setting)


def test_restraint_of_the_wrong_length(ready, capsys):
    said = complaint(ready, capsys, "refinement.restraints.orientation={target: [1, 2], sigma: [1, 1]}")
    assert "target has 2 values; accepted: 3, for misset_x, misset_y, misset_z" in said
    said = complaint(ready, capsys, "refinement.restraints.scale={target: 1.0, sigma: [1.0, 2.0]}")
    assert "key 'refinement.restraints.scale.sigma' is [1.0, 2.0]; accepted: 1 numbers, one for each target" in said


def test_every_parameter_can_be_named_in_a_restraint():
    from refine.app.config_refinement import FreeName, Restraints

    assert {name.split(".")[0] for name in FreeName.__args__} == set(Restraints.model_fields)


def test_restraint_target_against_the_space_group(ready, capsys):
    restraint = "refinement.restraints.cell={target: [40, 50, 60, 80, 95, 105], sigma: [1, 1, 1, 1, 1, 1]}"
    cubic = ["crystal.cell=[50, 50, 50, 90, 90, 90]", "crystal.space_group=P 2 3"]
    assert "refinement.restraints.cell.target" in complaint(ready, capsys, restraint, *cubic)


def test_an_image_that_is_a_loop_of_links(ready, capsys):
    (ready / "loop.npz").symlink_to(ready / "loop.npz")
    assert "loop.npz" in complaint(ready, capsys, "images.0.file=loop.npz")


def test_simulated_image_must_be_finite(ready, capsys):
    assert (
        main(["simulate", str(ready / "config.yaml"), "-o", str(ready / "x.npz"), "structure_factors.default=1e200"])
        == 2
    )
    assert "not numbers" in capsys.readouterr().err
    assert not (ready / "x.npz").exists()


def test_names_in_the_schema_are_those_in_the_code():
    from typing import get_args

    from refine.app.config_refinement import SOLVER_NAMES, FreeName
    from refine.parameters.catalogue import CATALOGUE
    from refine.solvers.registry import SOLVERS

    assert set(get_args(FreeName)) == set(CATALOGUE) | {"amplitudes"}  # found from the spots, not by a solver
    assert set(SOLVER_NAMES) == set(SOLVERS)
