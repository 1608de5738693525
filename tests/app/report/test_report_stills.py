"""The part of report.html on stills, from files written here."""

import csv
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from refine.app.main import main
from refine.app.report.images import draw_offsets
from refine.app.report.source import read_run
from refine.app.report.stills import best_and_worst, own_values, shared_values
from refine.app.report.stills_source import read_stills

COLUMNS = [
    *("image", "h", "k", "l", "panel", "x_model_px", "y_model_px", "x_obs_px", "y_obs_px"),
    *("amplitude", "amplitude_esd", "background", "score", "holdout"),
]
COUNT, EDGE = 40, 7
HEAD = "name,unit,state,start,value,esd,lower,upper"


def entry(name: str) -> dict:
    """An image of result.yaml."""
    return {
        "file": f"/far/{name}.cbf",
        "a_matrix": [0.02, 0, 0, 0, 0.02, 0, 0, 0, 0.01],
        "reduced_deviance": 1.25,
        "reflections": {"used": 30, "held_out": 10},
        "median_offset_px": {"used": 0.5, "held_out": None},
    }


def boxes(path: Path, numbers: np.ndarray) -> None:
    """Spots that grow from the first reflection to the last."""
    spot = np.exp(-((np.arange(EDGE) - EDGE // 2) ** 2) / 2)
    model = 2 + 10 * np.arange(1, COUNT + 1)[:, None, None] * spot[:, None] * spot
    used = np.ones(model.shape, bool)
    used[:, 0] = False
    with h5py.File(path, "w") as file:
        file["observed"], file["model"], file["background"] = model + 1, model, np.full(model.shape, 2.0)
        file["used"], file["miller_index"] = used, numbers


def results(place: Path, *names: str) -> Path:
    """The results directory of a run of stills, its scores falling from the first reflection to the last."""
    numbers = np.stack([np.arange(1, COUNT + 1), np.full(COUNT, 2), np.full(COUNT, -3)], 1)
    rows = []
    for name in names:
        suffix = f"_{name}" if len(names) > 1 else ""
        boxes(place / f"shoeboxes{suffix}.h5", numbers)
        for k, hkl in enumerate(numbers.tolist()):
            seen = ["", ""] if k == 3 else [10 + k, 20.5]
            rows.append([f"{name}.cbf", *hkl, 0, 10 + k, 20, *seen, 5, 1, 2, 1 + 1 / (k + 1), int(k % 4 == 0)])
    with (place / "reflections.csv").open("w") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    tags = [f"[{name}]" for name in names] if len(names) > 1 else [""]
    own = [f"misset_x{tag},degrees,refined,0,0.5,0.01,-inf,inf\nscale{tag},,fixed,1,1,,," for tag in tags]
    (place / "parameters.csv").write_text("\n".join([HEAD, "a,Å,refined,50,50.1,0.02,40,60", *own]) + "\n")
    left_out = [{"file": "/far/dark.cbf", "reason": "too few <spots>"}]
    result = {"status": "converged", "reason": "done", "images": [entry(name) for name in names], "left_out": left_out}
    (place / "result.yaml").write_text(yaml.safe_dump(result))
    return place


def page(place: Path) -> str:
    assert main(["report", str(place)]) == 0
    return (place / "report.html").read_text(encoding="utf-8")


def test_page_shows_shoeboxes_and_what_is_left_out(tmp_path):
    text = page(results(tmp_path, "one"))
    assert "dark.cbf: too few &lt;spots&gt;" in text
    assert text.count('observed, model"') == 16
    assert text.count("data:image/png") == 16
    assert "deviance a pixel of 40 shoeboxes, median 1.05" in text
    assert re.search(r'data-label="offset, used">0.5<.*data-label="offset, held out">–<', text)
    assert "observed.npz" not in text
    before = (tmp_path / "report.html").read_bytes()
    page(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_best_are_bright_and_worst_are_of_all(tmp_path):
    (still,) = read_stills(results(tmp_path, "one"), {"images": [entry("one")]})
    best, worst = best_and_worst(still)
    assert best == list(range(39, 31, -1))
    assert worst == list(range(8))
    assert still.held.sum() == 10
    assert np.isnan(still.offset[3])
    np.testing.assert_allclose(np.delete(still.offset, 3), 0.5)
    np.testing.assert_allclose(still.reciprocal[0], np.linalg.norm([0.02, 0.04, 0.03]))
    assert np.isnan(still.boxes.observed[:, 0]).all()
    np.testing.assert_allclose(still.boxes.observed[:, 1:] - still.boxes.model[:, 1:], 1)


def test_shared_values_once_and_own_ones_by_image(tmp_path):
    run = read_run(results(tmp_path, "one", "two"))
    assert [row.name for row in shared_values(run.parameters)] == ["a"]
    ((heads, rows),) = own_values(run.parameters)
    assert [(head.name, head.unit) for head in heads] == [("misset_x", "degrees")]  # the scale is fixed
    found = {image: [row.value for row in values] for image, values in rows.items()}
    assert found == {"one": [0.5], "two": [0.5]}
    text = page(tmp_path)
    assert text.count("<th>a</th>") == 1
    assert text.count("<h2>Image ") == 2
    assert "misset_x [degrees]" in text


@pytest.mark.parametrize("name", ["shoeboxes.h5", "refined.expt"])
def test_what_is_missing_is_left_out(tmp_path, name):
    (results(tmp_path, "one") / name).unlink(missing_ok=True)
    text = page(tmp_path)
    assert "median 1.05" in text
    assert ("explained best" in text) == (name != "shoeboxes.h5")
    assert "map of predicted" not in text


@pytest.mark.parametrize("damage", ["cut", "others"])
def test_damaged_boxes_are_named(tmp_path, damage, capsys):
    path = results(tmp_path, "one") / "shoeboxes.h5"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    else:
        boxes(path, np.zeros((COUNT, 3), int))
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "shoeboxes.h5" in said
    assert "Traceback" not in said


def test_held_out_offsets_have_a_median_of_their_own():
    held = np.arange(20) % 2 == 0
    moved = np.where(held[:, None], [0.0, 0.5], [0.25, 0.0])
    caption = draw_offsets(np.full((20, 2), 9.0), moved, (32, 32), "model less observed", held).caption
    assert "median length 0.250 pixels (used, blue: 10), 0.500 pixels (held out, orange: 10)" in caption
