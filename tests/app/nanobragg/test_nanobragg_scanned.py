"""Lists of structure factors, read as C's fscanf reads them."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine.app.nanobragg.scanned import scanned_grid
from refine.errors import InputError

Listed = dict[tuple[int, int, int], float]


def scan(text: str, folder: Path, default: float = 0.5) -> tuple[Listed, tuple[int, ...], str]:
    """What differs from the default, the box's shape, the remark."""
    path = folder / "list.hkl"
    path.write_text(text)
    grid, low, note = scanned_grid(path, default)
    places = np.argwhere(grid != default)
    indices = [(int(h), int(k), int(l)) for h, k, l in places + low]  # noqa: E741 - the field's own names
    return dict(zip(indices, grid[tuple(places.T)].tolist(), strict=True)), grid.shape, note


@pytest.mark.parametrize(
    ("text", "listed", "shape"),
    [
        ("1 2 3 4.5\n-1 0 3 -7e1", {(1, 2, 3): 4.5, (-1, 0, 3): -70.0}, (3, 3, 1)),
        ("\n\n  1\t2 3\n4.5 -1 0\r\n+3 .25\n\n", {(1, 2, 3): 4.5, (-1, 0, 3): 0.25}, (3, 3, 1)),
        ("-1-2-3 4\n", {(-1, -2, -3): 4.0}, (1, 1, 1)),
        ("1 1 1 5\n1 1 1 6\n", {(1, 1, 1): 6.0}, (1, 1, 1)),
    ],
)
def test_numbers_are_a_stream(text: str, listed: Listed, shape: tuple[int, ...], tmp_path: Path) -> None:
    assert scan(text, tmp_path) == (listed, shape, "")


_TEXT = st.text(st.sampled_from("0123456789+-.eE# \n\t"), max_size=60)


@given(_TEXT)
def test_any_text_is_read_or_refused(text: str) -> None:
    with TemporaryDirectory() as folder, suppress(InputError):
        assert scan(text, Path(folder))[1]


def test_a_fifth_column_begins_the_next_reflection(tmp_path: Path) -> None:
    """1 1 1 9, 2 0 0 4, 7 3 1 1 1 by five columns is 1 1 1 9, 2 0 0 4, 7 3 1 1 by four."""
    listed, shape, note = scan("1 1 1 9 2\n0 0 4 7 3\n1 1 \n", tmp_path)
    assert listed == {(1, 1, 1): 9.0, (2, 0, 0): 4.0, (7, 3, 1): 1.0}
    assert (shape, note) == ((7, 4, 2), "")


@pytest.mark.parametrize("end", ["# more\n", "h k l F\n", "2 x 1 1\n", "2 1 1 1.5.5\n"])
def test_a_word_ends_the_list(end: str, tmp_path: Path) -> None:
    listed, shape, note = scan(f"0 0 0 3\n1 1 1 4\n{end}5 5 5 5\n", tmp_path)
    assert (listed, shape) == ({(0, 0, 0): 3.0, (1, 1, 1): 4.0}, (2, 2, 2))
    assert "is read up to line 3, where '" in note


def test_an_index_with_a_decimal_point_ends_the_entries_but_not_the_box(tmp_path: Path) -> None:
    """The range is that of all indices, cut to whole numbers."""
    listed, shape, note = scan("0 0 0 3\n1 1 1 4\n-2.9 2.0 1 9\n4 4 4 9\n# end\n9 9 9 9\n", tmp_path)
    assert listed == {(0, 0, 0): 3.0, (1, 1, 1): 4.0}
    assert shape == (7, 5, 5)
    assert "line 3, where '-2.9 2.0 1 9'" in note


@pytest.mark.parametrize("text", ["", "h k l F\n1 1 1 1\n", "1 2 3\n", "# list\n"])
def test_a_list_without_a_reflection_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"list\.hkl: holds no reflection"):
        scan(text, tmp_path)


@pytest.mark.parametrize("text", ["1e999 0 0 1\n", "0 0 0 1\n99999 99999 99999 1\n"])
def test_indices_too_large_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"beyond 2147483647|accepted are 200000000"):
        scan(text, tmp_path)
