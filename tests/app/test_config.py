"""The schema: descriptions, defaults, what a space group asks of a cell, the round trip and the starter."""

import re
from pathlib import Path

import gemmi
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from refine.app import config_crystal
from refine.app.config import Config
from refine.app.config_errors import Explainer
from refine.app.config_instrument import DEFAULT_FLUENCE, Beam, Detector, Rotations
from refine.app.config_refinement import SOLVER_NAMES
from refine.app.config_yaml import Document
from refine.app.load import dump_config, parse_config
from refine.app.template import starter_config

HERE = Path("/data/set")
MATRIX = "{a_matrix: [0.01, 0, 0, 0, 0.01, 0, 0, 0, %s]}"
DIMENSIONLESS = {"cells_factor", "polarization", "seed", "scale", "holdout", "relative_sigma"}
CELL = (70.0, 80.0, 90.0, 85.0, 95.0, 105.0)


def minimal():
    return {
        "beam": {"wavelength": 1.0},
        "detector": {"distance": 100.0, "pixel_size": 0.1, "size": (64, 32), "beam_center_px": (16.0, 32.0)},
        "crystal": {"cell": CELL},
        "structure_factors": {"file": "F.hkl"},
    }


def parse(text, *overrides):
    return parse_config(text, "c.yaml", HERE, overrides)


def every_model():
    found, waiting = [], [Config.model_json_schema()]
    schema = waiting[0]
    for name, node in [("Config", schema), *schema["$defs"].items()]:
        found += [(f"{name}.{key}", child) for key, child in node["properties"].items()]
    return found


def holds_numbers(node):
    if isinstance(node, dict):
        return node.get("type") in ("number", "integer") or any(
            holds_numbers(v) for k, v in node.items() if k not in ("examples", "default")
        )
    return isinstance(node, list) and any(holds_numbers(item) for item in node)


@pytest.mark.parametrize(("key", "node"), every_model(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_key_has_a_description_with_its_unit(key, node):
    assert node.get("description"), key
    if holds_numbers(node) and key.split(".")[1] not in DIMENSIONLESS | {"options"}:
        assert Explainer(Config, Document({}, {(): ""}, ())).accepted(node).count(", in "), key


def test_the_schema_walk_sees_every_section():
    keys = [key for key, _ in every_model()]
    assert len(keys) > 70
    assert "Beam.wavelength" in keys
    assert "CellRestraint.sigma" in keys


def test_defaults():
    config = Config.model_validate(minimal())
    assert config.beam.fluence == config.beam.fluence_value == DEFAULT_FLUENCE
    assert config.crystal.cells == (20.0, 20.0, 20.0)
    assert config.crystal.mosaic.seed == -12345678
    assert config.refinement.free == ("cell", "orientation", "scale")
    assert config.refinement.optimizer.name in SOLVER_NAMES


def test_values_are_frozen():
    config = Config.model_validate(minimal())
    with pytest.raises(ValidationError):
        config.beam.wavelength = 2.0


def test_flux_exposure_and_size_make_the_fluence():
    beam = Beam(wavelength=1.0, flux=1e12, exposure=0.5, size=0.1)
    assert beam.fluence is None
    assert beam.fluence_value == pytest.approx(0.5e12 / 1e-8)


@pytest.mark.parametrize(("convention", "pivot"), [("mosflm", "beam"), ("xds", "sample"), ("dials", "sample")])
def test_pivot_is_the_conventions_own_unless_given(convention, pivot):
    detector = Detector.model_validate(minimal()["detector"] | {"convention": convention})
    assert detector.pivot == pivot
    given = detector.model_copy(update={"rotations": Rotations(pivot="sample")})
    assert given.pivot == "sample"


def test_cell_pattern_agrees_with_gemmi_for_every_group():
    groups = list(gemmi.spacegroup_table())
    assert len(groups) > 500
    for group in groups:
        check_cell_pattern(group)


def check_cell_pattern(group):
    named = dict(zip(config_crystal.CELL_NAMES, (50.0, 60.0, 70.0, 80.0, 85.0, 95.0), strict=True))
    ideal = [named[p] if isinstance(p, str) else p for p in config_crystal.cell_pattern(group)]
    assert gemmi.UnitCell(*ideal).is_compatible_with_spacegroup(group), group.xhm()
    assert config_crystal.fits_group(tuple(ideal), group)
    for i in range(6):
        bent = list(ideal)
        bent[i] *= 1.01
        expected = gemmi.UnitCell(*bent).is_compatible_with_spacegroup(group)
        assert config_crystal.fits_group(tuple(bent), group) is expected, (group.xhm(), i)


def test_symmetry_tolerance_is_relative():
    group = gemmi.find_spacegroup_by_name("P 4")
    assert config_crystal.fits_group((100.0, 100.009, 50.0, 90.0, 90.0, 90.0), group)
    assert not config_crystal.fits_group((100.0, 100.011, 50.0, 90.0, 90.0, 90.0), group)


def test_python_construction_is_as_strict():
    with pytest.raises(ValidationError, match="wavelength"):
        Beam(wavelength=True)
    with pytest.raises(ValidationError, match="exposure"):
        Beam(wavelength=1.0, flux=1e12)
    assert issubclass(Config, BaseModel)


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["title='1e29'"],
        ["title='null'"],
        ["title='  a: # \u00e5 \\u2028'"],
        ["beam={wavelength: 1.1, flux: 1e12, exposure: 0.1, size: 0.2, polarization: null}"],
        ["crystal.cell=null", "crystal.orientation=" + MATRIX % "1e-05"],
        ["refinement.optimizer.options={a: 1, b: 1.0, c: true}", "images.0.file='*.npz'", "threads=4"],
        ["crystal.mosaic={spread_deg: 0.3, domains: 9}", "background={model: plane, value: 3, slope: [0.1, 1e-9]}"],
    ],
)
def test_dump_reads_back_equal(assignments):
    config = parse(starter_config(), *assignments)
    text = dump_config(config)
    again = parse_config(text, "dumped.yaml", Path("/elsewhere"))
    assert again == config
    assert dump_config(again) == text
    for name, value in config.refinement.optimizer.options.items():
        assert type(again.refinement.optimizer.options[name]) is type(value)


def test_dump_holds_every_default():
    assert set(yaml.safe_load(dump_config(parse(starter_config())))) == set(Config.model_fields)
    assert "spread_deg: 0.0" in dump_config(parse(starter_config()))


@given(title=st.text(st.characters(codec="utf-8", exclude_characters="\0")), wavelength=st.floats(1e-300, 1e300))
@settings(deadline=None)
def test_any_title_and_wavelength_survive_the_round_trip(title, wavelength):
    data = minimal() | {"title": title, "beam": {"wavelength": wavelength}}
    config = Config.model_validate(data)
    again = parse_config(dump_config(config), "c", Path())
    assert again.title == title
    assert again == config


def test_starter_loads():
    config = parse(starter_config(title="x: 'y' # z", cell=(50, 50, 60, 90, 90, 120), space_group="P 61"))
    assert config.title == "x: 'y' # z"
    assert config.crystal.space_group == "P 61"
    assert config.images[0].file == HERE / "image.npz"


def test_starters_commented_keys_are_the_defaults():
    bare = parse(starter_config())
    text = re.sub(r"(?m)^( *)#(?=\w+:)", r"\1", starter_config())
    assert text.count("\n") == starter_config().count("\n")
    full = parse(text)
    assert full.crystal.orientation.matrix == HERE / "A.mat"
    plain = full.crystal.orientation.model_copy(update={"matrix": None})
    assert full.model_copy(update={"crystal": full.crystal.model_copy(update={"orientation": plain})}) == bare
    offered = set(re.findall(r"(?m)^ *(?:- )?(\w+):", text))
    assert offered >= set(Config.model_fields)
