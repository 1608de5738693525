"""DIALS experiment lists (.expt): what a file says of beam, panels, crystal and rotation, in DIALS' lab frame.

Right-handed, mm, the crystal at the origin, photons along -z or nearly so; the models are those of dxtbx
(https://dxtbx.readthedocs.io).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import scipy
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.reading import guarded, read_content

Vector = NDArray[np.float64]
Rectangle = tuple[int, int, int, int]
RIGHT_ANGLE = 1e-3  # cosine below which two axes are at right angles
_LARGEST = 1e100  # number that can be calculated with
_PARALLAX, _SIMPLE = "ParallaxCorrectedPxMmStrategy", "SimplePxMmStrategy"


@dataclass(frozen=True)
class Panel:
    """One flat detector panel, DIALS lab frame.

    origin:        mm, outer corner of the first pixel; fast, slow: unit vectors of the pixel axes.
    image_size:    (fast, slow) pixels; pixel_size: (fast, slow) mm.
    trusted_range: (lowest, highest) ADU that are trusted; gain: ADU per photon; pedestal: ADU.
    thickness:     mm and mu: 1/mm of the sensor; 0 where unknown.
    mask:          untrusted rectangles (first fast, first slow, end fast, end slow), pixels, the ends not in them.
    parallax:      whether positions are corrected for the depth at which rays are absorbed.
    """

    origin: Sequence[float]
    fast: Sequence[float]
    slow: Sequence[float]
    image_size: tuple[int, int]
    pixel_size: tuple[float, float]
    trusted_range: tuple[float, float] = (0.0, 1e9)
    gain: float = 1.0
    pedestal: float = 0.0
    thickness: float = 0.0
    material: str = ""
    mu: float = 0.0
    name: str = "Panel"
    mask: tuple[Rectangle, ...] = ()
    parallax: bool = False

    @property
    def strategy(self) -> str:
        """DIALS' name of the way from pixels to mm."""
        return _PARALLAX if self.parallax else _SIMPLE


@dataclass(frozen=True)
class DialsBeam:
    """direction: (3,) unit vector the photons travel along; wavelength: Å; polarization: unit normal (3,) of the plane
    of polarisation and the fraction in it, or None where the file has none."""

    direction: Vector
    wavelength: float
    polarization: tuple[Vector, float] | None


@dataclass(frozen=True)
class DialsCrystal:
    """real_space: (3, 3) rows a, b, c in Å, lab frame, at rotation angle zero and before the goniometer's fixed and
    setting rotations where there is a rotation; space_group: extended Hermann-Mauguin symbol."""

    real_space: Vector
    space_group: str


@dataclass(frozen=True)
class DialsRotation:
    """Images numbered from `first` to `last`, each over `width` degrees from `start` on.

    axis: (3,) unit vector, lab frame; mount: (3, 3), setting times fixed rotation, which takes the crystal of the file
    to the lab frame at angle zero.
    """

    first: int
    last: int
    start: float
    width: float
    axis: Vector
    mount: Vector


@dataclass(frozen=True)
class DialsExperiment:
    """One experiment of a file: its models, the whole document and its place in it. rotation is None for a still;
    identifier, by which reflection tables know the experiment, in files of old versions."""

    path: Path
    document: dict[str, Any]
    index: int
    beam: DialsBeam
    panels: tuple[Panel, ...]
    crystal: DialsCrystal | None
    rotation: DialsRotation | None
    identifier: str | None

    def required_crystal(self) -> DialsCrystal:
        """The crystal. Raises InputError where the experiment has none."""
        if self.crystal is None:
            raise InputError(
                f"{self.path}: key 'experiment.{self.index}.crystal' is missing: the experiment is not indexed; "
                "accepted: a file behind dials.index or dials.stills_process"
            )
        return self.crystal


def read_experiment(path: str | Path, index: int = 0) -> DialsExperiment:
    """The experiment of this number, from 0, in a DIALS .expt file (JSON, also packed by gzip or bzip2).

    Raises InputError, which names file and key, for anything else and for what is missing or out of range.
    """
    path = Path(path)
    with guarded(path, "a DIALS experiment list"):
        return _read(path, _document(path), index)


def _read(path: Path, document: dict[str, Any], index: int) -> DialsExperiment:
    whole = _Entry(path, "", document)
    experiments = whole["experiment"].entries()
    if not index < len(experiments):
        raise InputError(
            f"{path}: has {len(experiments)} experiments, not one of index {index}; accepted: 0 to "
            f"{len(experiments) - 1}"
        )
    models = {kind: _model(whole, experiments[index], kind) for kind in _KINDS}
    crystal, detector, beam = models["crystal"], models["detector"], models["beam"]
    if detector is None or beam is None:
        missing = "detector" if detector is None else "beam"
        raise InputError(f"{path}: key '{experiments[index].key}.{missing}' is missing; accepted: its number")
    rotation = _rotation(models["goniometer"], models["scan"])
    panels = tuple(_panels(detector))
    found = None if crystal is None else _crystal(crystal)
    named = experiments[index].get("identifier")
    identifier = None if named is None else named.text() or None
    return DialsExperiment(path, document, index, _beam(beam), panels, found, rotation, identifier)


_KINDS = ("beam", "detector", "goniometer", "scan", "crystal")


@dataclass(frozen=True)
class _Entry:
    """A value of the document with its place, which messages name."""

    path: Path
    key: str
    value: Any

    def wrong(self, accepted: str) -> InputError:
        shown = json.dumps(self.value, default=str)
        found = shown if len(shown) <= 60 else shown[:57] + "..."
        return InputError(f"{self.path}: key '{self.key}' is {found}; accepted: {accepted}")

    def get(self, name: str) -> "_Entry | None":
        if not isinstance(self.value, dict):
            raise self.wrong("a mapping")
        value = self.value.get(name)
        return None if value is None else _Entry(self.path, f"{self.key}.{name}".lstrip("."), value)

    def __getitem__(self, name: str) -> "_Entry":
        found = self.get(name)
        if found is None:
            inside = f"{self.key}.{name}".lstrip(".")
            raise InputError(f"{self.path}: key '{inside}' is missing; accepted: an experiment list as DIALS writes it")
        return found

    def entries(self) -> list["_Entry"]:
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [_Entry(self.path, f"{self.key}.{i}", item) for i, item in enumerate(self.value)]

    def numbers(self, count: int) -> Vector:
        if not isinstance(self.value, list) or len(self.value) != count or not all(map(_is_number, self.value)):
            raise self.wrong(f"a list of {count} finite numbers")
        return np.array(self.value, dtype=np.float64)

    def unit(self) -> Vector:
        vector = self.numbers(3)
        if not (length := np.linalg.norm(vector)) > 0:
            raise self.wrong("a vector other than 0 0 0")
        return np.asarray(vector / length)

    def number(self, above: float = -np.inf) -> float:
        if not _is_number(self.value) or not self.value > above:
            raise self.wrong("a finite number" + (f" above {above:g}" if np.isfinite(above) else ""))
        return float(self.value)

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return self.value

    def whole(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            raise self.wrong("a whole number, at least 0")
        return self.value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _document(path: Path) -> dict[str, Any]:
    content = read_content(path)
    accepted = "a DIALS experiment list such as indexed.expt"
    if not content.lstrip()[:1] == b"{":
        raise InputError(f"{path}: is no JSON ({len(content)} bytes, begins {content[:8]!r}); accepted: {accepted}")
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("__id__") != "ExperimentList":
        raise InputError(f"{path}: key '__id__' is not \"ExperimentList\"; accepted: {accepted}")
    return document


def _model(whole: _Entry, experiment: _Entry, kind: str) -> _Entry | None:
    """The model that an experiment points to, None where it has none."""
    pointer = experiment.get(kind)
    if pointer is None:
        return None
    found, number = whole[kind].entries(), pointer.whole()
    if not number < len(found):
        raise pointer.wrong(f"the number of one of the {len(found)} in '{kind}'")
    return found[number]


def _beam(entry: _Entry) -> DialsBeam:
    if entry.get("wavelength") is None:
        raise InputError(
            f"{entry.path}: key '{entry.key}.wavelength' is missing; accepted: a beam of one wavelength, in Å"
        )
    normal, fraction = entry.get("polarization_normal"), entry.get("polarization_fraction")
    polarization = (normal.unit(), fraction.number()) if normal and fraction else None
    if fraction is not None and not 0 <= fraction.number() <= 1:
        raise fraction.wrong("a number from 0 to 1")
    return DialsBeam(0.0 - entry["direction"].unit(), entry["wavelength"].number(above=0), polarization)


def _crystal(entry: _Entry) -> DialsCrystal:
    axes = np.array([entry[f"real_space_{name}"].numbers(3) for name in "abc"])
    if not np.linalg.det(axes) > 0:
        raise entry["real_space_a"].wrong("vectors a, b, c of a right-handed cell, in Å")
    symbol = entry["space_group_hall_symbol"]
    with guarded(entry.path, f"a space group at key '{symbol.key}'"):
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(symbol.text()))
    if group is None:
        raise symbol.wrong("the Hall symbol of a space group in a usual setting")
    return DialsCrystal(axes, group.xhm())


def _rotation(goniometer: _Entry | None, scan: _Entry | None) -> DialsRotation | None:
    """None for a still: without goniometer or scan, or with one that does not turn."""
    if goniometer is None or scan is None or (span := _oscillation(scan)) is None or span[1] == 0:
        return None
    first, last = (int(number) for number in scan["image_range"].numbers(2))
    if goniometer.get("axes") is not None:
        axis, mount = _many_axes(goniometer)
    else:
        setting, fixed = (goniometer[f"{name}_rotation"].numbers(9).reshape(3, 3) for name in ("setting", "fixed"))
        axis, mount = setting @ goniometer["rotation_axis"].unit(), setting @ fixed
    return DialsRotation(first, last, *span, axis, mount)


def _oscillation(scan: _Entry) -> tuple[float, float] | None:
    """Start and width in degrees of the first image, None where the scan has no angles."""
    if (pair := scan.get("oscillation")) is not None:
        start, width = pair.numbers(2)
        return float(start), float(width)
    properties = scan.get("properties")
    starts = None if properties is None else properties.get("oscillation")
    if properties is None or starts is None or not starts.entries():
        return None
    angles = [entry.number() for entry in starts.entries()]
    if len(angles) > 1:
        return angles[0], angles[1] - angles[0]
    return angles[0], properties["oscillation_width"].entries()[0].number()


def _many_axes(goniometer: _Entry) -> tuple[Vector, Vector]:
    """Lab axis (3,) and mount (3, 3) of a goniometer of several axes, the one next to the crystal first."""
    axes, angles = (goniometer[name].entries() for name in ("axes", "angles"))
    scanned = goniometer["scan_axis"].whole()
    if len(axes) != len(angles) or not scanned < len(axes):
        raise goniometer["scan_axis"].wrong("the number of one of the axes, each of which has an angle")
    turns = [
        scipy.spatial.transform.Rotation.from_rotvec(axis.unit() * angle.number(), degrees=True).as_matrix()
        for axis, angle in zip(axes, angles, strict=True)
    ]
    fixed, setting = np.eye(3), np.eye(3)
    for turn in turns[:scanned]:
        fixed = turn @ fixed
    for turn in turns[scanned + 1 :]:
        setting = turn @ setting
    return setting @ axes[scanned].unit(), setting @ fixed


def _panels(detector: _Entry) -> Iterator[Panel]:
    """The panels in the lab frame, through the groups that hold them."""
    panels = detector["panels"].entries()
    if not panels:
        raise detector["panels"].wrong("one panel or more")
    hierarchy = detector.get("hierarchy")
    holders = dict(_holders(hierarchy, np.eye(4))) if hierarchy is not None else {}
    for number, entry in enumerate(panels):
        yield _panel(entry, holders.get(number, np.eye(4)))


def local_frame(entry: dict[str, Any]) -> Vector:
    """Motion (4, 4) from the own axes of a panel or group (along fast, slow, their normal; mm) to those of the group
    that holds it."""
    fast, slow = (np.array(entry[f"{name}_axis"], dtype=np.float64) for name in ("fast", "slow"))
    fast, slow = fast / np.linalg.norm(fast), slow / np.linalg.norm(slow)
    motion = np.eye(4)
    motion[:3] = np.column_stack([fast, slow, np.cross(fast, slow), np.array(entry["origin"], dtype=np.float64)])
    return motion


def _holders(group: _Entry, outer: Vector) -> Iterator[tuple[int, Vector]]:
    """By panel number, the motion (4, 4) from the axes of its group to the lab."""
    here = outer @ _frame(group)
    for child in group["children"].entries():
        panel = child.get("panel")
        if panel is None:
            yield from _holders(child, here)
        else:
            yield panel.whole(), here


def _frame(entry: _Entry) -> Vector:
    fast, slow = entry["fast_axis"].unit(), entry["slow_axis"].unit()
    if abs(fast @ slow) > RIGHT_ANGLE:
        raise entry["slow_axis"].wrong(f"a vector at right angles to fast_axis {entry['fast_axis'].value}")
    entry["origin"].numbers(3)
    return local_frame(entry.value)


def _panel(entry: _Entry, holder: Vector) -> Panel:
    placed = holder @ _frame(entry)
    strategy, optional = entry.get("px_mm_strategy"), {}
    for name in ("gain", "pedestal", "thickness", "mu"):
        if (given := entry.get(name)) is not None:
            optional[name] = given.number(above=0) if name == "gain" else given.number()
    low, high = entry["trusted_range"].numbers(2)
    width, height = (int(size) for size in entry["image_size"].numbers(2))
    across, down = (float(size) for size in entry["pixel_size"].numbers(2))
    if min(width, height) < 1 or min(across, down) <= 0:
        raise entry["image_size"].wrong("pixels of a size above 0, and at least one along each side")
    rectangles = [item.numbers(4) for item in mask.entries()] if (mask := entry.get("mask")) is not None else []
    return Panel(
        origin=tuple(placed[:3, 3].tolist()),
        fast=tuple(placed[:3, 0].tolist()),
        slow=tuple(placed[:3, 1].tolist()),
        image_size=(width, height),
        pixel_size=(across, down),
        trusted_range=(float(low), float(high)),
        material=str(entry.value.get("material", "")),
        name=str(entry.value.get("name", "")),
        mask=tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in rectangles),
        parallax=strategy is not None and strategy["type"].value == _PARALLAX,
        **optional,
    )
