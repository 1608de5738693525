"""Loading: what is refused and in which words, overrides, paths, and that junk never gets past InputError."""

import contextlib
import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from refine.app.load import dump_config, load_config, parse_config
from refine.errors import InputError

MINIMAL = """\
beam: {wavelength: 1.0}
detector:
  distance: 100
  pixel_size: 0.1
  size: [64, 32]
  beam_center_px: [16.0, 32.0]
crystal:
  cell: [70, 80, 90, 85, 95, 105]
structure_factors: {file: F.hkl}
"""
HERE = Path("/data/set")
KEY_LINES = {"beam": 1, "detector": 2, "detector.distance": 3, "crystal": 7, "crystal.cell": 8, "structure_factors": 9}
MATRIX = "{a_matrix: [0.01, 0, 0, 0, 0.01, 0, 0, 0, %s]}"


def parse(text=MINIMAL, *overrides):
    return parse_config(text, "c.yaml", HERE, overrides)


def error(text=MINIMAL, *overrides):
    with pytest.raises(InputError) as caught:
        parse(text, *overrides)
    message = str(caught.value)
    for jargon in (
        "Input should",
        "pydantic",
        "http",
        "Value error",
        "Traceback",
        "Extra inputs",
        "_ABSENT",
        "object at",
    ):
        assert jargon not in message
    return message


def test_minimal():
    config = parse()
    assert config.detector.distance == 100.0
    assert isinstance(config.detector.distance, float)
    assert config.detector.size == (64, 32)


def test_paths_are_taken_from_the_configs_folder(tmp_path):
    (tmp_path / "c.yaml").write_text(MINIMAL + "images: [{file: ../raw/x.npz, mask: /m.npz}]\n")
    config = load_config(tmp_path / "c.yaml", ["output.directory=out"])
    assert config.images[0].file == tmp_path / "../raw/x.npz"
    assert config.images[0].mask == Path("/m.npz")
    assert config.structure_factors.file == tmp_path / "F.hkl"
    assert config.output.directory == tmp_path / "out"


def test_default_output_is_beside_the_config():
    assert parse().output.directory == HERE / "run"


@pytest.mark.parametrize("number", ["1e29", "1.26e29", "1E+29", "+1e3", "1", ".5", "1.", "1e-3"])
def test_numbers_in_every_spelling(number):
    assert parse(MINIMAL, f"beam.fluence={number}").beam.fluence == float(number)
    text = MINIMAL.replace("{wavelength: 1.0}", f"{{wavelength: 1.0, fluence: {number}}}")
    assert parse(text).beam.fluence == float(number)


@pytest.mark.parametrize("word", ["no", "on", "2024-05-01", "1:30", "0x1f", "1_000"])
def test_yaml_1_1_surprises_are_text(word):
    assert parse(MINIMAL, f"title={word}").title == word


def test_leading_zero_is_decimal():
    assert parse(MINIMAL, "seed=010").seed == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "c.yaml:1: the file is empty"),
        ("# nothing\n", "c.yaml:1: the file is empty"),
        ("- 1\n", "c.yaml:1: the file holds list"),
        ("hello\n", "c.yaml:1: the file holds str"),
        (MINIMAL + "title: [1\n", "c.yaml:11: not valid YAML"),
        (MINIMAL + "title: a: b\n", "c.yaml:10: not valid YAML"),
        (MINIMAL + "title: \x01\n", "c.yaml:10: not valid YAML: character U+0001"),
        (MINIMAL + "---\na: 1\n", "c.yaml:10: not valid YAML"),
        (MINIMAL + "title: " + "[" * 5000, "nested too deeply"),
        ("a: &a [*a]\n", "deeply nested"),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{k}: &{k} [{', '.join('*' + j for _ in range(9))}]\n" for j, k in zip("abcdefgh", "bcdefghi", strict=True)
        ), "too many"),
        (MINIMAL + "title: !!python/object/apply:os.getcwd []\n", "c.yaml:10: key 'title' is not a plain value"),
        ("!!set {a, b}\n", "c.yaml:1: the file is not a plain value"),
        (MINIMAL + 'title: "\\0"\n', "c.yaml:10: key 'title' is not a plain value"),
        (MINIMAL + "seed: " + "9" * 5000 + "\n", "c.yaml:10: key 'seed' is not a plain value"),
        (MINIMAL + "seed: 1\nseed: 2\n", "c.yaml:11: key 'seed' is given twice, first in line 10"),
        (MINIMAL.replace("distance: 100", "distance: 100\n  distance: 120"), "key 'detector.distance' is given twice"),
    ],
)  # fmt: skip
def test_bad_yaml(text, expected):
    message = error(text)
    assert expected in message
    assert len(message.splitlines()) == 1


def test_unreadable_files(tmp_path):
    path = tmp_path / "c.yaml"
    with pytest.raises(InputError, match=r"c\.yaml: cannot be read \(No such file"):
        load_config(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)
    path.write_bytes(b"title: x\nbeam: \xff\n")
    with pytest.raises(InputError, match=r"c\.yaml:2: byte 0xff is not UTF-8"):
        load_config(path)
    path.write_bytes(b" " * 1_000_001)
    with pytest.raises(InputError, match="above 1000000 bytes"):
        load_config(path)


def test_unknown_key():
    message = error(MINIMAL.replace("pixel_size", "pixel_sze"))
    assert (
        "c.yaml:4: key 'detector.pixel_sze' is not known; did you mean 'pixel_size'? Accepted here: distance,"
        in message
    )
    assert (
        "c.yaml:2: key 'detector.pixel_size' is missing; accepted: a number above 0, in mm; example: pixel_size: 0.1"
        in message
    )


def test_key_of_another_section():
    assert "c.yaml:10: key 'wavelength' is not known; did you mean 'beam.wavelength'?" in error(
        MINIMAL + "wavelength: 1\n"
    )


def test_key_that_is_like_nothing():
    assert "key 'qqq' is not known. Accepted here: title, images, beam" in error(MINIMAL + "qqq: 1\n")
    assert "key '1' is not known" in error(MINIMAL + "1: 1\n")


@pytest.mark.parametrize(
    "assignment",
    ["images=[{file: a, background: 1}]", "background.model=radial"],
)
def test_not_yet_supported(assignment):
    message = error(MINIMAL, assignment)
    assert re.search("(is|are) not supported by this version yet", message)
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("beam.wavelength=-1.0", "key 'beam.wavelength' is -1.0; accepted: a number above 0, in Å"),
        ("beam.wavelength=true", "is true; accepted: a number above 0, in Å"),
        ("beam.wavelength='1.0'", 'is "1.0"; accepted: a number above 0, in Å'),
        ("beam.wavelength=.nan", "is NaN; accepted: a number above 0, in Å"),
        ("beam.wavelength=.inf", "is Infinity; accepted"),
        ("beam.wavelength=1e999", "is Infinity; accepted"),
        ("detector.offset=-.inf", "is -Infinity; accepted: a number, in ADU"),
        ("beam.wavelength=null", "is null; accepted"),
        ("beam.wavelength=[1]", "is [1]; accepted"),
        ("beam.fluence=0", "key 'beam.fluence' is 0; accepted: a number above 0, in photons/m^2 or null"),
        ("beam.polarization=1.5", "accepted: a number at least -1 and at most 1 or null"),
        ("beam.flux=1e12", "key 'beam.exposure' is missing; accepted: flux (photons/s) + exposure (s) + size (mm)"),
        ("beam={wavelength: 1, fluence: 1e20, flux: 1, exposure: 1, size: 1}", "or flux + exposure + size, not both"),
        ("beam.divergence.vertical_mrad=1", "key 'beam.divergence.steps' is 1 (the default); accepted: 2 or more"),
        ("beam.dispersion={percent: 1, steps: 1}", "key 'beam.dispersion.steps' is 1; accepted: 2 or more"),
        ("crystal.mosaic.domains=0", "is 0; accepted: a whole number at least 1 and at most 100000, in domains"),
        ("detector.size=[0, 4]", "key 'detector.size.0' is 0; accepted: a whole number at least 1 and at most"),
        ("detector.size=[64.0, 4]", "key 'detector.size.0' is 64.0; accepted: a whole number"),
        ("detector.size=[4]", "key 'detector.size' is [4]; accepted: a list of 2 whole numbers"),
        ("detector.size=[4, 4, 4]", "key 'detector.size' is [4, 4, 4]; accepted: a list of 2 whole numbers"),
        ("detector.size=4", "key 'detector.size' is 4; accepted: a list of 2 whole numbers"),
        ("detector.gain=0", "accepted: a number above 0, in ADU/photon"),
        ("detector.readout_noise=-1", "accepted: a number at least 0, in ADU"),
        ("detector.oversample=65", "at most 64, in sub-pixels"),
        ("detector.convention=mosfilm", "accepted: mosflm, denzo, adxv, xds, dials or expt; did you mean 'mosflm'?"),
        ("detector.rotations.pivot=origin", "accepted: beam or sample or null"),
        ("detector=5", "key 'detector' is 5; accepted: a mapping of the keys distance, pixel_size"),
        ("title=5", "key 'title' is 5; accepted: text, in quotes"),
        ("images=[5]", "key 'images.0' is 5; accepted: a mapping of the keys file, mask"),
        ("images=[{}]", "key 'images.0.file' is missing; accepted: a file name"),
        ("images=[{file: ''}]", "key 'images.0.file' is \"\"; accepted: a file name"),
        ("images=[{file: 5}]", "key 'images.0.file' is 5; accepted: a file name"),
        ("crystal.cell=null", "is missing; accepted: a list of 3 numbers above 1 and below 10000, in Å, then"),
        ("crystal.cell=[70, 80, 1, 85, 95, 105]", "cell.2' is 1; accepted: a number above 1 and below 10000, in Å"),
        ("crystal.cell=[70, 80, 90, 85, 95, 179]", "cell.5' is 179; accepted: a number above 1 and below 179, in deg"),
        ("crystal.cell=[70, 80, 90, 120, 120, 120]", "positive volume: alpha + beta + gamma below 360"),
        ("crystal.cell=[70, 80, 90, 120, 50, 60]", "positive volume: alpha below beta + gamma"),
        ("crystal.cell=[70, 80, 90, 50, 120, 60]", "positive volume: beta below alpha + gamma"),
        ("crystal.cell=[70, 80, 90, 50, 60, 120]", "positive volume: gamma below alpha + beta"),
        ("crystal.space_group=P 4", "P 4 needs a = b, alpha = beta = gamma = 90"),
        ("crystal.space_group=P 61", "P 61 needs a = b, alpha = beta = 90, gamma = 120"),
        ("crystal.space_group=C 2", "C 1 2 1 needs alpha = gamma = 90"),
        ("crystal.space_group=R 3:R", "R 3:R needs a = b = c, alpha = beta = gamma"),
        ("crystal.space_group=P 21 21 2l", "did you mean 'P 21 21 2'"),
        ("crystal.space_group='0'", "accepted: a Hermann-Mauguin symbol such as 'P 21 21 21'"),
        ("crystal.space_group=19", "is 19; accepted: text"),
        ("crystal.orientation=" + MATRIX % "-0.01", "key 'crystal.orientation.a_matrix' is [0.01, 0.0, 0.0"),
        ("crystal.orientation=" + MATRIX % "0", "a positive determinant (right-handed), in 1/Å"),
        ("crystal.orientation=" + (MATRIX % "1").replace("{", "{matrix: A.mat, "), "one of matrix and a_matrix, not"),
        ("crystal.orientation.misset_deg=[0, 0]", "accepted: a list of 3 numbers, in degrees"),
        ("crystal.cells=[20, 20, 0.5]", "cells.2' is 0.5; accepted: a number at least 1 and at most 100000, in unit"),
        ("crystal.shape=sphere", "accepted: square, round, gauss or tophat"),
        ("crystal.mosaic.spread_deg=0.1", "key 'crystal.mosaic.domains' is 1 (the default); accepted: 2 or more"),
        ("crystal.mosaic.spread_deg=0.1", "one domain is always the identity"),
        ("structure_factors={}", "key 'structure_factors.file' is missing; accepted: a file name, unknown: true"),
        ("structure_factors={default: 1, column: F}", "key 'structure_factors.column'"),
        ("background={model: none, value: 5}", "key 'background.value' is 5.0; accepted: 0 with model 'none'"),
        ("background={model: file, file: b.npz, value: 5}", "accepted: 0 with model 'file'"),
        ("background={model: constant, slope: [1, 0]}", "key 'background.slope' is [1.0, 0.0]; accepted: [0, 0] with"),
        ("background.model=file", "key 'background.file' is missing; accepted: a file name when model is 'file'"),
        ("background={model: plane, file: b.npz}", "key 'background.file' is \"b.npz\"; accepted: null"),
        ("refinement.free=[cel]", "key 'refinement.free.0' is \"cel\"; accepted: cell, orientation"),
        ("refinement.free=[cel]", "did you mean 'cell'?"),
        ("refinement.free=[]", "is []; accepted: a list of 1 or more parameters"),
        ("refinement.free=[cell, cell]", "each parameter once; 'cell' is there twice"),
        ("refinement.free=[detector_rotations, detector_rotations.x]", "'detector_rotations.x' is there twice"),
        ("refinement.free=[mosaic]", "accepted: mosaic only when crystal.mosaic has spread_deg above 0"),
        ("refinement.free=[background]", "accepted: background only when background.model is not none"),
        ("refinement.loss=posson", "did you mean 'poisson'?"),
        ("refinement.pixels=some", "accepted: all"),
        ("refinement.resolution={min: 3, max: 2}", "key 'refinement.resolution.min' is 3.0; accepted: below max (2.0)"),
        ("refinement.optimizer.name=adm", "scipy-nelder-mead; did you mean 'adam'?"),
        ("refinement.optimizer.max_iterations=0", "accepted: a whole number at least 1"),
        ("refinement.optimizer.options={a: x}", "key 'refinement.optimizer.options.a' is \"x\"; accepted: a number"),
        ("refinement.optimizer.options={a: .nan}", "key 'refinement.optimizer.options.a' is NaN"),
        ("refinement.strategy=fast", "accepted: auto, single or stages"),
        ("refinement.restraints.cell={target: [70, 80, 90, 85, 95, 105]}", "restraints.cell.sigma' is missing"),
        ("refinement.restraints.cell={target: [70, 80, 90, 85, 95, 105], sigma: [1, 1, 1, 1, 1, 0]}",
         "key 'refinement.restraints.cell.sigma.5' is 0; accepted: a number above 0, in degrees"),
        ("device=gpu", "accepted: auto, cpu or cuda"),
        ("dtype=float16", "accepted: float64 or float32"),
        ("threads=0", "key 'threads' is 0; accepted: a whole number at least 1 and at most 1024, in threads or null"),
        ("seed=1.0", "key 'seed' is 1.0; accepted: a whole number"),
    ],
)  # fmt: skip
def test_wrong_value(assignment, expected):
    message = error(MINIMAL, assignment)
    assert message.startswith((f"override {assignment!r}: key '", "c.yaml:"))
    assert message.startswith("override") or re.search("is missing|the default|its space group", message)
    assert expected in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("key", ["beam", "detector", "crystal", "structure_factors"])
def test_missing_section(key):
    data = yaml.safe_load(MINIMAL)
    del data[key]
    message = error(yaml.safe_dump(data))
    assert re.search(
        rf"^c.yaml:1: key '{key}' is missing; accepted: a mapping of the keys .*; example: {key}: {{", message
    )


def test_every_problem_is_reported_with_its_line():
    text = MINIMAL.replace("1.0}", "-1.0}").replace("100", "far").replace("70", "0.7").replace("F.hkl", "7")
    lines = error(text + "seed: x\nseed: y\nqqq: 1\n").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["c.yaml:11"] + [f"c.yaml:{n}" for n in (1, 3, 8, 9, 10, 12)]


def test_lines_name_the_key_and_not_its_value():
    text = MINIMAL.replace("cell: [70,", "cell:\n    - 0\n    - ").replace("80, 90, 85, 95, 105]", "80")
    lines = error(text).splitlines()
    assert lines[0].startswith("c.yaml:8: key 'crystal.cell' is [0, 80]") or lines[0].startswith("c.yaml:9:")
    assert any(line.startswith("c.yaml:9: key 'crystal.cell.0' is 0") for line in lines)


@pytest.mark.parametrize("assignment", ["", "title", "=x", "a..b=c", ".a=1", "a.=1"])
def test_malformed_override(assignment):
    message = error(MINIMAL, assignment)
    assert message.startswith(f"override {assignment!r}: not of the form KEY.PATH=VALUE")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("detectr.distance=1", "key 'detectr' is not known; did you mean 'detector'?"),
        ("detector.distanse=1", "key 'detector.distanse' is not known; did you mean 'distance'?"),
        ("detector.distance.mm=1", "which has no keys"),
        ("detector.size.9=1", "'9' is no index of a list of 2"),
        ("detector.size.x=1", "'x' is no index of a list of 2"),
        ("images.1.file=x", "'1' is no index of a list of 0"),
        ("crystal.cell=[1, 2", "not valid YAML"),
        ("beam={wavelength: 1, wavelength: 2}", "the value has a repeated key"),
        ("title=!!python/name:os.system ''", "not plain YAML"),
    ],
)
def test_override_that_leads_nowhere(assignment, expected):
    message = error(MINIMAL, assignment)
    assert message.startswith(f"override {assignment!r}: ")
    assert expected in message


def test_overrides():
    config = parse(
        MINIMAL, "crystal.cell=[70, 80, 90, 90, 90, 90]", "crystal.cell.2=91", "images.0.file=x.npz",
        "refinement.optimizer.name=adam", "refinement.optimizer.options={rate: 0.1, steps: 3, nesterov: true}",
        "title=a=b", "beam.wavelength=2", "beam.wavelength=1.5",
    )  # fmt: skip
    assert config.crystal.cell == (70.0, 80.0, 91.0, 90.0, 90.0, 90.0)
    assert config.images[0].file == HERE / "x.npz"
    assert config.refinement.optimizer.options == {"rate": 0.1, "steps": 3, "nesterov": True}
    assert config.refinement.optimizer.options["nesterov"] is True
    assert config.title == "a=b"
    assert config.beam.wavelength == 1.5


def test_override_mends_a_wrong_file():
    assert parse(MINIMAL.replace("100", "far"), "detector.distance=90").detector.distance == 90.0


def test_the_cell_may_come_with_the_matrix():
    config = parse(MINIMAL, "crystal.cell=null", "crystal.orientation={matrix: A.mat, misset_deg: [1, 2, 3]}")
    assert config.crystal.cell is None
    assert config.crystal.orientation.matrix == HERE / "A.mat"
    assert parse(MINIMAL, "crystal.cell=null", "crystal.orientation=" + MATRIX % "0.02").crystal.orientation.a_matrix


KEYS = st.sampled_from(
    ["beam", "detector", "crystal", "images", "refinement", "background", "cell", "free", "file", "size", "model",
     "title", "optimizer", "options", "orientation", "a_matrix", "space_group", "mosaic",
     "structure_factors", "output", "1", ""]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | KEYS | st.dates()
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=9) | st.dictionaries(KEYS | st.integers(), inner), max_leaves=12
)


def may_only_raise_input_error(text, *overrides):
    with contextlib.suppress(InputError):
        dump_config(parse(text, *overrides))


@given(junk=st.dictionaries(KEYS | st.text(max_size=5), JUNK))
@settings(deadline=None)
def test_junk_mappings_only_raise_input_errors(junk):
    with pytest.raises(InputError):
        parse(yaml.safe_dump(junk))


@given(text=st.text())
@settings(deadline=None)
def test_junk_text_only_raises_input_errors(text):
    may_only_raise_input_error(text)
    may_only_raise_input_error(MINIMAL + text)
    may_only_raise_input_error(MINIMAL, text)
    may_only_raise_input_error(MINIMAL, "title=" + text)


def spots(data, path=()):
    yield path
    if isinstance(data, dict | list):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from spots(data[key], (*path, key))


FULL = yaml.safe_load(dump_config(parse(MINIMAL, "images.0.file=x.npz", "crystal.orientation=" + MATRIX % "0.02")))


@given(spot=st.sampled_from([path for path in spots(FULL) if path]), junk=JUNK)
@settings(deadline=None, max_examples=300)
def test_junk_in_a_good_config_only_raises_input_errors(spot, junk):
    data = deepcopy(FULL)
    inner = data
    for key in spot[:-1]:
        inner = inner[key]
    inner[spot[-1]] = junk
    may_only_raise_input_error(yaml.safe_dump(data))
