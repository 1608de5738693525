"""DIALS experiment lists: what is read from them, and what is put back."""

import bz2
import copy
import json

import numpy as np
import pytest
from expt import REAL_SPACE, document, panel, tiles, written
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from refine.errors import InputError
from refine.io.experiment_writer import refined_document
from refine.io.experiments import local_frame, read_experiment

TEXT = json.dumps(document())
TURN = Rotation.from_euler("xyz", [10.0, -20.0, 30.0], degrees=True).as_matrix()
GONIOMETER = {"rotation_axis": [0.0, 1.0, 0.0], "fixed_rotation": TURN.flatten().tolist(),
              "setting_rotation": TURN.T.flatten().tolist()}  # fmt: skip


def read(path, content, index=0):
    return read_experiment(written(path / "x.expt", content), index)


def rotating(**scan):
    changed = document(goniometer=[GONIOMETER], scan=[{"image_range": [3, 12], **scan}])
    changed["experiment"][0] |= {"goniometer": 0, "scan": 0}
    return changed


def nested():
    """Two panels in a group in a root, both tilted."""
    content = document([panel([1, 2, 3]), panel([-4, 5, 6])])
    group = panel([7, 8, -90], TURN[:, 0], TURN[:, 1], children=[{"panel": 1}, {"panel": 0}])
    content["detector"][0]["hierarchy"] |= {"children": [group], "origin": [1.0, 1.0, -2.0]}
    content["detector"][0]["hierarchy"] |= {"fast_axis": TURN[:, 1].tolist(), "slow_axis": TURN[:, 2].tolist()}
    return content


def test_a_still(tmp_path):
    found = read(tmp_path, document())
    assert found.rotation is None
    assert found.beam.wavelength == 1.1
    assert found.beam.direction.tolist() == [0, 0, -1]
    assert found.crystal.space_group == "P 4"
    np.testing.assert_array_equal(found.crystal.real_space, REAL_SPACE)


def test_the_experiment_of_an_index(tmp_path):
    content = document()
    content["beam"].append({**content["beam"][0], "wavelength": 2.0})
    content["experiment"].append({**content["experiment"][0], "identifier": "two", "beam": 1})
    assert read(tmp_path, content, 0).beam.wavelength == 1.1
    assert read(tmp_path, content, 1).beam.wavelength == 2.0
    with pytest.raises(InputError, match=r"has 2 experiments, not one of index 2; accepted: 0 to 1"):
        read(tmp_path, content, 2)


def test_content_decides_not_the_name(tmp_path):
    (tmp_path / "any.thing").write_bytes(bz2.compress(json.dumps(document()).encode()))
    assert read_experiment(tmp_path / "any.thing").beam.wavelength == 1.1


def test_panels_stand_where_their_groups_put_them(tmp_path):
    content = nested()
    root, group = content["detector"][0]["hierarchy"], content["detector"][0]["hierarchy"]["children"][0]
    found = read(tmp_path, content).panels
    for shown, local in zip(found, content["detector"][0]["panels"], strict=True):
        placed = local_frame(root) @ local_frame(group) @ local_frame(local)
        np.testing.assert_allclose(shown.origin, placed[:3, 3], atol=1e-13)
        np.testing.assert_allclose(shown.slow, placed[:3, 1], atol=1e-13)


def test_rotation(tmp_path):
    turned = read(tmp_path, rotating(oscillation=[10.0, 0.5])).rotation
    assert (turned.first, turned.last, turned.start, turned.width) == (3, 12, 10.0, 0.5)
    np.testing.assert_allclose(turned.mount, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(turned.axis, TURN.T @ [0, 1, 0], atol=1e-15)
    later = read(tmp_path, rotating(properties={"oscillation": [10.0, 10.5, 11.0]})).rotation
    assert (later.start, later.width) == (10.0, 0.5)
    assert read(tmp_path, rotating(oscillation=[10.0, 0.0])).rotation is None


def test_goniometer_of_several_axes(tmp_path):
    content = rotating(oscillation=[0.0, 1.0])
    axes, angles = [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 0.0]], [30.0, 40.0, 50.0]
    content["goniometer"] = [{"axes": axes, "angles": angles, "scan_axis": 1}]
    turned = read(tmp_path, content).rotation
    phi, kappa = Rotation.from_euler("x", 30, degrees=True), Rotation.from_euler("y", 50, degrees=True)
    np.testing.assert_allclose(turned.axis, kappa.apply([0, 0, 1]), atol=1e-15)
    np.testing.assert_allclose(turned.mount, (kappa * phi).as_matrix(), atol=1e-15)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("__id__",), "Other", "key '__id__'"),
        (("experiment", 0, "beam"), 3, "key 'experiment.0.beam' is 3"),
        (("experiment", 0, "detector"), None, "key 'experiment.0.detector' is missing"),
        (("experiment", 0, "crystal"), "crystal.json", "key 'experiment.0.crystal' is \"crystal.json\""),
        (("experiment",), {}, "key 'experiment' is {}; accepted: a list"),
        (("beam", 0, "wavelength"), -1.0, "key 'beam.0.wavelength' is -1.0"),
        (("beam", 0, "wavelength"), None, "key 'beam.0.wavelength' is missing"),
        (("beam", 0, "direction"), [0, 0, 0], "key 'beam.0.direction' is [0, 0, 0]"),
        (("beam", 0, "polarization_fraction"), 2, "key 'beam.0.polarization_fraction' is 2"),
        (("detector", 0, "panels"), [], "key 'detector.0.panels' is []"),
        (("detector", 0, "panels", 0, "origin"), [1, 2], "key 'detector.0.panels.0.origin' is [1, 2]"),
        (("detector", 0, "panels", 0, "fast_axis"), None, "key 'detector.0.panels.0.fast_axis' is missing"),
        (("detector", 0, "panels", 0, "slow_axis"), [1, 0, 0], "key 'detector.0.panels.0.slow_axis' is [1, 0, 0]"),
        (("detector", 0, "panels", 0, "image_size"), [0, 5], "key 'detector.0.panels.0.image_size'"),
        (("detector", 0, "panels", 0, "gain"), 0, "key 'detector.0.panels.0.gain' is 0"),
        (("detector", 0, "panels", 0, "mask"), [[1, 2, 3]], "key 'detector.0.panels.0.mask.0'"),
        (("detector", 0, "hierarchy", "children"), None, "key 'detector.0.hierarchy.children' is missing"),
        (("crystal", 0, "real_space_b"), [1, 2, float("nan")], "key 'crystal.0.real_space_b'"),
        (("crystal", 0, "real_space_a"), [0, 0, 0], "right-handed"),
        (("crystal", 0, "space_group_hall_symbol"), "Q 9", "crystal.0.space_group_hall_symbol"),
        (("experiment", 0, "identifier"), 7, "key 'experiment.0.identifier' is 7; accepted: text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, place, value, said):
    content = document()
    *path, last = place
    inside = content
    for part in path:
        inside = inside[part]
    inside[last] = value
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert "x.expt" in str(caught.value)
    assert said in str(caught.value)


def whole():
    """A rotation and two panels in a group."""
    content = nested()
    content["experiment"][0] |= {"goniometer": 0, "scan": 0}
    scan = {"image_range": [3, 12], "properties": {"oscillation": [10.0, 10.5], "oscillation_width": [0.5, 0.5]}}
    return content | {"goniometer": [copy.deepcopy(GONIOMETER)], "scan": [scan]}


def places(value, path=()):
    """The paths of everything inside a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


JSON = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=100)
@given(st.sampled_from(list(places(whole()))), JSON)
def test_any_other_value_is_read_or_named(tmp_path, place, value):
    content = whole()
    *path, last = place
    inside = content
    for part in path:
        inside = inside[part]
    inside[last] = value
    file = written(tmp_path / "x.expt", content)
    try:
        found = read_experiment(file)
    except InputError as error:
        assert "key '" in str(error).partition("x.expt: ")[2]  # noqa: PT017
        return
    assert found.beam.wavelength > 0
    assert found.identifier is None or found.identifier


@given(st.integers(0, len(TEXT) - 1))
def test_a_file_cut_short_is_named(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "short.expt"
    path.write_text(TEXT[:length])
    with pytest.raises(InputError, match=r"short\.expt"):
        read_experiment(path)


def test_other_files_are_named(tmp_path):
    (tmp_path / "list.expt").write_text("[1, 2]")
    (tmp_path / "deep.expt").write_text('{"a":' * 100_000)
    for name in ("list.expt", "deep.expt", "absent.expt"):
        with pytest.raises(InputError, match=name):
            read_experiment(tmp_path / name)
    content = document()
    del content["experiment"][0]["crystal"]
    with pytest.raises(
        InputError, match=r"x\.expt: key 'experiment\.0\.crystal' is missing: the experiment is not indexed"
    ):
        read(tmp_path, content).required_crystal()


def changed_keys(before, after, place=""):
    """Dotted keys at which two documents differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        every = before.keys() | after.keys()
        return {k for name in every for k in changed_keys(before.get(name), after.get(name), f"{place}.{name}")}
    if (
        isinstance(before, list)
        and isinstance(after, list)
        and len(before) == len(after)
        and not place.endswith("axis")
    ):
        pairs = enumerate(zip(before, after, strict=True))
        return {k for i, pair in pairs for k in changed_keys(*pair, f"{place}.{i}")}
    return set() if before == after else {place.strip(".")}


def test_only_what_was_refined_changes(tmp_path):
    content = document(tiles())
    content |= {"unknown": {"x": [1]}}
    content["crystal"][0]["note"] = "kept"
    content["experiment"][0]["more"] = 5
    source, before = read(tmp_path, content), copy.deepcopy(content)
    new = refined_document(source, real_space=REAL_SPACE * 1.01, space_group="P 4", beam={}, motion=None)
    assert source.document == before
    nonzero = {f"crystal.0.real_space_{name}.{k}" for name in "abc" for k in range(3)}
    assert changed_keys(before, new) == nonzero | {"crystal.0.B_covariance"}
    np.testing.assert_allclose(read(tmp_path, new).crystal.real_space, REAL_SPACE * 1.01, rtol=1e-15)


def test_a_rotated_crystal_goes_back_to_the_frame_of_its_file(tmp_path):
    content = rotating(oscillation=[10.0, 0.5])
    content["goniometer"][0] = {**GONIOMETER, "setting_rotation": GONIOMETER["fixed_rotation"]}
    source = read(tmp_path, content)
    lab = source.crystal.real_space @ source.rotation.mount.T
    new = refined_document(source, real_space=lab, space_group="P 4", beam={"wavelength": 1.2}, motion=None)
    again = read(tmp_path, new)
    np.testing.assert_allclose(again.crystal.real_space, source.crystal.real_space, atol=1e-12)
    assert again.beam.wavelength == 1.2


@pytest.mark.parametrize("content", [document(tiles()), nested()], ids=["flat", "nested"])
def test_a_detector_moves_as_a_rigid_body(tmp_path, content):
    source = read(tmp_path, content)
    moved = np.eye(4)
    moved[:3] = np.column_stack([TURN, [1.0, 2.0, 3.0]])
    new = read(tmp_path, refined_document(source, real_space=REAL_SPACE, space_group="P 4", beam={}, motion=moved))
    for before, after in zip(source.panels, new.panels, strict=True):
        np.testing.assert_allclose(after.origin, TURN @ before.origin + [1, 2, 3], atol=1e-11)
        np.testing.assert_allclose(after.fast, TURN @ before.fast, atol=1e-13)
    assert [panel.name for panel in new.panels] == [panel.name for panel in source.panels]


def test_shared_models_are_copied(tmp_path):
    content = document()
    content["experiment"].append({**content["experiment"][0], "identifier": "two"})
    source = read(tmp_path, content, 1)
    moved = np.eye(4)
    moved[2, 3] = -5
    new = refined_document(
        source, real_space=REAL_SPACE * 2, space_group="P 4 2 2", beam={"wavelength": 3.0}, motion=moved
    )
    first, second = read(tmp_path, new, 0), read(tmp_path, new, 1)
    assert (first.beam.wavelength, second.beam.wavelength) == (1.1, 3.0)
    assert (first.crystal.space_group, second.crystal.space_group) == ("P 4", "P 4 2 2")
    np.testing.assert_allclose(first.crystal.real_space * 2, second.crystal.real_space)
    assert second.panels[0].origin[2] == pytest.approx(first.panels[0].origin[2] - 5)
    assert [entry["identifier"] for entry in new["experiment"]] == ["one", "two"]
