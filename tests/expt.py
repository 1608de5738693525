"""DIALS documents of a small tetragonal still, whole or cut into tiles, as tests need them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

SIZE = (64, 80)  # slow, fast pixels of the whole
PIXEL = 0.4  # mm
TILT = Rotation.from_euler("xyz", [2.0, -3.0, 1.0], degrees=True).as_matrix()
FAST, SLOW = TILT @ [1.0, 0.0, 0.0], TILT @ [0.0, -1.0, 0.0]
ORIGIN = np.array([0.0, 0.0, -60.0]) - 38.3 * PIXEL * FAST - 30.8 * PIXEL * SLOW
CELL = np.diag([50.0, 50.0, 70.0])
TURN = Rotation.from_euler("xyz", [20.0, 35.0, -50.0], degrees=True).as_matrix()
REAL_SPACE = CELL @ TURN.T


def panel(origin: Any, fast: Any = FAST, slow: Any = SLOW, size: tuple[int, int] = SIZE, **more: Any) -> dict[str, Any]:
    """A panel or, with its keys that say nothing, a group; `size` slow, fast."""
    return {
        "name": "tile", "type": "SENSOR_PAD", "fast_axis": list(map(float, fast)), "slow_axis": list(map(float, slow)),
        "origin": list(map(float, origin)), "raw_image_offset": [0, 0], "image_size": [size[1], size[0]],
        "pixel_size": [PIXEL, PIXEL], "trusted_range": [-10.0, 60000.0], "thickness": 0.0, "material": "", "mu": 0.0,
        "identifier": "", "mask": [], "gain": 1.0, "pedestal": 0.0, "px_mm_strategy": {"type": "SimplePxMmStrategy"},
        **more,
    }  # fmt: skip


def document(panels: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """An experiment list of one still with a flat hierarchy of panels, the whole detector where none are given."""
    panels = [panel(ORIGIN)] if panels is None else panels
    root = panel([0, 0, 0], [1, 0, 0], [0, 1, 0], (0, 0), name="", type="")
    axes = {f"real_space_{name}": list(row) for name, row in zip("abc", REAL_SPACE, strict=True)}
    return {
        "__id__": "ExperimentList",
        "experiment": [
            {"__id__": "Experiment", "identifier": "one", "beam": 0, "detector": 0, "crystal": 0, "imageset": 0}
        ],
        "imageset": [{"__id__": "ImageSet", "images": ["still.cbf"], "params": {"kept": True}}],
        "beam": [
            {"direction": [0.0, 0.0, 1.0], "wavelength": 1.1, "polarization_normal": [0.0, 1.0, 0.0],
             "polarization_fraction": 0.9, "flux": 3.0}
        ],
        "detector": [
            {"panels": panels, "hierarchy": {**root, "children": [{"panel": k} for k in range(len(panels))]}}
        ],
        "goniometer": [],
        "scan": [],
        "crystal": [
            {"__id__": "crystal", **axes, "space_group_hall_symbol": "P 4", "B_covariance": [0.0] * 81,
             "ML_half_mosaicity_deg": 0.1}
        ],
        "profile": [],
        "scaling_model": [],
        **more,
    }  # fmt: skip


def tiles(rows: int = 2, columns: int = 2) -> list[dict[str, Any]]:
    """The whole detector cut into tiles, rows first."""
    height, width = SIZE[0] // rows, SIZE[1] // columns
    corners = [(row * height, column * width) for row in range(rows) for column in range(columns)]
    return [panel(ORIGIN + PIXEL * (fast * FAST + slow * SLOW), size=(height, width)) for slow, fast in corners]


def cut(image: np.ndarray, rows: int = 2, columns: int = 2) -> np.ndarray:
    """An image (slow, fast) as the stack (panels, slow, fast) of those tiles."""
    blocks = image.reshape(rows, image.shape[0] // rows, columns, image.shape[1] // columns)
    return blocks.transpose(0, 2, 1, 3).reshape(rows * columns, *blocks.shape[1::2])


def written(path: Path, content: dict[str, Any]) -> Path:
    """The document as a file."""
    path.write_text(json.dumps(content))
    return path
