"""The option syntax of nanoBragg.c: names, order, values, and what is refused."""

import math

import pytest

from refine.app.nanobragg.given import Given
from refine.app.nanobragg.option import Option
from refine.app.nanobragg.options import OPTIONS, parse, usage
from refine.app.nanobragg.words import Lenient, Strict
from refine.errors import InputError

DEFAULTS = {"-square_xtal", "-round_div", "-mosflm", "-progress"}  # say what is so already


def given(line: str) -> Given:
    return parse(line.split()).given


def example(option: Option) -> list[str]:
    """Values that differ from every default."""
    return ["sample"] if option.names == ("-pivot",) else ["7"] * len(option.values.split())


def name_of(option: Option) -> str:
    return option.names[0]


def effective(option: Option) -> bool:
    return bool(option.sets(example(option), Strict())) and not DEFAULTS & set(option.names)


@pytest.mark.parametrize("option", list(filter(effective, OPTIONS)), ids=name_of)
def test_every_option_does_something_under_every_name(option: Option) -> None:
    for name in option.names:
        assert parse([name, *example(option), "-adc", "0"]).given != given("-adc 0" if name != "-adc" else ""), name


@pytest.mark.parametrize("option", OPTIONS, ids=name_of)
def test_a_value_left_out_is_an_error_that_names_the_option(option: Option) -> None:
    words = [option.names[0], *example(option)[:-1]]
    if len(option.values.split()) > 0 and option.names[0] != "-cell":
        with pytest.raises(InputError, match=f"^{option.names[0]} needs .* found"):
            parse(words)


def test_no_two_options_share_a_name() -> None:
    names = [name for option in OPTIONS for name in option.names]
    assert len(names) == len(set(names))


def test_the_last_option_counts_and_the_pivot_follows_it() -> None:
    assert given("-distance 60 -distance 70").distance == 70 / 1000
    assert given("-close_distance 60 -distance 70").pivot == "beam"
    assert given("-distance 70 -Xclose 3").pivot == "sample"
    assert given("-ORGX 3 -pivot beam").pivot == "beam"
    assert given("-xds -fdet_vector 1 0 0").convention == "custom"
    assert given("-fdet_vector 1 0 0 -xds").convention == "xds"
    assert given("-detector_thick 50 -detector_abs inf").sensor_thickness == 0
    assert given("-detector_abs inf -detector_thick 50").sensor_thickness == 50 * 1e-6
    assert not given("-polar 0.5 -nopolar").polarized
    assert given("-nopolar -polar 0.5").polarized
    assert given("-nonoise -noisefile n.img").noise
    assert not given("-noisefile n.img -nonoise").noise


def test_units() -> None:
    read = given("-energy 11000 -phi 180 -dmin 2 -water 5 -divergence 3 -detector_abs 350 -dispersion 2 -mosaic 90")
    assert read.wavelength == pytest.approx(12398.42 / 11000 * 1e-10, rel=1e-15)
    assert (read.phi0, read.mosaic_spread) == (math.pi, math.pi / 2)
    assert (read.dmin, read.water, read.hdiv_range, read.vdiv_range) == (2e-10, 5e-6, 3e-3, 3e-3)
    assert read.attenuation == pytest.approx(1 / 350e-6, rel=1e-15)
    assert read.dispersion == 0.02


@pytest.mark.parametrize(
    ("line", "cell"),
    [
        ("-cell 60 -N 5", (60, 0, 0, 0)),
        ("-cell 60 70 80", (60, 70, 80, 0)),
        ("-cell 60 70 80 90 -N 5", (60, 70, 80, math.pi / 2)),
        ("-cell 60 70 80 90 -cell 50 40", (50, 40, 80, math.pi / 2)),
    ],
)
def test_a_cell_may_be_shorter_than_six_numbers(line: str, cell: tuple[float, ...]) -> None:
    """0 is not given; an earlier -cell holds for what a later one leaves out."""
    read = given(line)
    assert (read.cell_a, read.cell_b, read.cell_c, read.cell_alpha) == pytest.approx(cell)


def test_whole_numbers_are_cut() -> None:
    assert given("-N 5.7").n_b == 5
    assert given("-mosaic_seed -12").mosaic_seed == -12


def test_a_name_is_recognised_inside_a_word() -> None:
    assert given("-wavelength 2").wavelength == 2e-10
    assert given("-mosaicity 90").mosaic_spread == math.pi / 2
    assert given("-matrix A.mat").mat == "A.mat"
    assert parse(["--cell", "60"]).notes == ("--cell is read as -cell",)


def test_the_twotheta_axis_is_read_as_twotheta_too() -> None:
    parsed = parse(["-twotheta", "10", "-twotheta_axis", "0", "0", "1"])
    assert parsed.given.twotheta == 0
    assert parsed.given.pivot == "sample"
    assert parsed.notes == ("-twotheta_axis 0 is also read as -twotheta 0, as nanoBragg.c does",)
    assert given("-twotheta_axis 0 0 1 -twotheta 180").twotheta == math.pi


def test_the_misset_seed_is_read_as_misset_where_three_words_follow() -> None:
    after = given("-misset random -misset_seed 180 -cell 90")
    assert not after.misset_random
    assert after.misset == (math.pi, 0.0, math.pi / 2)
    assert after.misset_seed == 180
    assert given("-misset_seed 12 -misset random -N 5").misset_random
    assert given("-cell 90 -misset random -misset_seed 180").misset_random
    assert given("-oversample_thick -N 5").oversample == -1


@pytest.mark.parametrize("line", ["-dispstep 3 -N 5", "-hdiv 0.28 -N 5", "-vdiv 0.28 -N 5", "-dump x.bin -N 5"])
def test_what_nanobragg_reads_over_has_a_note(line: str) -> None:
    parsed = parse(line.split())
    assert parsed.given == given("-N 5")
    assert len(parsed.notes) == 1
    assert line.split()[0] in parsed.notes[0]


def test_a_last_curved_det_is_ignored() -> None:
    assert given("-curved_det -N 5").curved
    parsed = parse(["-N", "5", "-curved_det"])
    assert not parsed.given.curved
    assert "-curved_det is ignored" in parsed.notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-distence 60", "option -distence is not known .* did you mean -distance"),
        ("-phi0 60", "option -phi0 .* did you mean -phi"),
        ("-N 5 6", "'6' belongs to no option"),
        ("distance 60", "'distance' belongs to no option; did you mean -distance"),
        ("-distance -lambda 1", "^-distance: '-lambda' is not a number; accepted is mm"),
        ("-distance 60mm", "^-distance: '60mm' is not a number"),
        ("-distance nan", "^-distance: 'nan' is not a number"),
        ("-distance 1e999", "^-distance: '1e999' is not a number"),
        ("-detpixels 1e3", "^-detpixels: '1e3' is not a whole number"),
        ("-cell", "^-cell needs a b c"),
        ("-cell -N 5", "^-cell: '-N' is not a number"),
        ("-misset 10 20", "^-misset needs x y z"),
        ("-energy 0", "^-energy: an energy of 0 eV"),
        ("-beam_vector 0 0 0", "^-beam_vector: 0 0 0 has no direction"),
        ("-pivot middle", "^-pivot: 'middle' is no pivot; accepted are beam and sample"),
        ("-hkl -default_F 3", "^-hkl: '-default_F' is an option, not a file"),
        ("-roi 1 2 3", "^-roi needs xmin xmax ymin ymax"),
    ],
)
def test_wrong_input_names_the_option(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(line.split())


@pytest.mark.parametrize(
    ("word", "number", "integer"), [("12.5e1x", 125.0, 12), ("-cell", 0.0, 0), ("-.5", -0.5, 0), ("+7", 7.0, 7)]
)
def test_numbers_as_c_reads_them(word: str, number: float, integer: int) -> None:
    assert Lenient().number(word) == number
    assert Lenient().integer(word) == integer


def test_usage_lists_every_name() -> None:
    assert all(f" {name} " in usage() for option in OPTIONS for name in option.names)
