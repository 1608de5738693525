"""From files to a written configuration."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine.app.config_yaml import Document, override
from refine.app.importing import sources
from refine.app.importing.draft import SECTIONS, Draft, Gap, Setting
from refine.app.importing.image import defaults, from_pixels
from refine.app.importing.kinds import Kind, kind_of
from refine.app.load import parse_config
from refine.errors import InputError
from refine.io.atomic import write_text
from refine.io.experiments import read_experiment
from refine.io.hdf5_images import HDF5_MAGIC
from refine.io.image_headers import image_number, read_header
from refine.io.instruments import Instrument
from refine.io.nexus import read_master
from refine.io.reading import read_start
from refine.io.xds import read_xds_input, read_xparm

_HEADERS = (b"###CBF", b"{", HDF5_MAGIC)
_REQUIRED = (
    Gap("images.0.file", "image.cbf", "the observed image"),
    Gap("beam.wavelength", 1.0, "Å"),
    Gap("detector.distance", 100.0, "mm, sample to the direct-beam spot"),
    Gap("detector.pixel_size", 0.1, "mm"),
    Gap("detector.size", [512, 512], "slow, fast pixels"),
    Gap("detector.beam_center_px", [256.0, 256.0], "fast, slow pixels; the outer corner of the first pixel is (0, 0)"),
    Gap("crystal.cell", [70, 80, 90, 85, 95, 105], "a b c (Å), alpha beta gamma (degrees)"),
    Gap("crystal.orientation", {"misset_deg": [0, 0, 0]}, "of the crystal; or matrix: A.mat, expt: indexed.expt"),
    Gap("structure_factors.file", "F.mtz", "h k l F text, .mtz or .cif"),
)  # fmt: skip
_BY_DIALS = ("beam.wavelength", "detector.distance", "detector.pixel_size", "detector.size", "detector.beam_center_px")


@dataclass(frozen=True)
class Holdings:
    """The files given, one of a kind at most."""

    files: dict[Kind, Path]

    def get(self, kind: Kind) -> Path | None:
        """The file of a kind, None where there is none."""
        return self.files.get(kind)


def import_files(files: Sequence[Path], output: Path, assignments: Sequence[str], index: int, force: bool) -> list[str]:
    """Write a configuration of what the files say to `output`; lines on what was found and what is missing.

    assignments: 'key.path=value', over what the files say. index: which experiment of a DIALS .expt, from 0. An
    existing output is left alone without `force`. Raises InputError.
    """
    if output.exists() and not force:
        raise InputError(f"{output}: exists already and is left as it is; give another name with -o, or --force")
    if index < 0:
        raise InputError(f"--index {index}: accepted: the number of an experiment in the .expt, from 0")
    settings = given(assignments)
    image = settings.value("images.0.file", str)
    if image is not None:
        files, settings = [*files, output.parent / image], settings.without("images.0.file")
    held = sorted_out(files)
    draft = deepened(gathered(held, settings, index), assignments)
    draft += defaults(draft)
    draft += Draft(gaps=tuple(_gaps(draft, by_dials=held.get("experiments") is not None)))
    title = (draft.value("images.0.file", Path) or next(iter(held.files.values()))).name.partition(".")[0]
    parse_config(draft.filled().text(title, output.parent), str(output), output.absolute().parent)
    write_text(output, draft.text(title, output.parent))
    missing = draft.missing()
    return [*draft.found, *(f"missing {gap.key}: {gap.why}" for gap in missing), _next(output, missing)]


def _next(output: Path, missing: Sequence[Gap]) -> str:
    if missing:
        return f"{output}: written, with what is missing as comments; fill it in, then: refine validate {output}"
    return f"{output}: written; next: refine validate {output}"


def sorted_out(files: Sequence[Path]) -> Holdings:
    """The files by kind. Raises InputError for two of a kind and for kinds that say the same thing."""
    found: dict[Kind, Path] = {}
    for path in files:
        kind = kind_of(path)
        if kind in found:
            raise InputError(f"{path}: is the second file of {kind}, after {found[kind]}; accepted: one of each kind")
        found[kind] = path
    rivals: tuple[tuple[Kind, Kind], ...] = (("experiments", "xparm"), ("experiments", "xds input"))
    for one, other in (*rivals, ("xparm", "matrix"), ("experiments", "matrix")):
        if one in found and other in found:
            raise InputError(f"{found[other]}: says otherwise what {found[one]} says; accepted: one of the two")
    return Holdings(found)


def given(assignments: Sequence[str]) -> Draft:
    """The settings of the command line. Raises InputError."""
    document = Document({}, {(): "the command line"}, ())
    for assignment in assignments:
        document = override(document, assignment)
    return Draft(tuple(_settings(document.data, ())))


def _settings(value: Any, path: tuple[str, ...]) -> Iterator[Setting]:
    """A setting for each key of a section or image, and for each key outside of them; the mapping at a section's key
    is one, too."""
    depth = _depth(path)
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if len(path) == 1 and path[0] in SECTIONS and not inside:
        raise InputError(f"{path[0]} is given as {value!r}; accepted: keys of it, such as {path[0]}.KEY=VALUE")
    if len(path) == depth or (path and not inside):
        yield Setting(".".join(path), value, "given")
        return
    for key, item in inside:
        yield from _settings(item, (*path, str(key)))


def _depth(path: Sequence[str]) -> int:
    """How many parts the key of a setting has."""
    return 3 if path and path[0] == "images" else 2


def deepened(draft: Draft, assignments: Sequence[str]) -> Draft:
    """With what the files say of the rest of a mapping of which a part is given, as in detector.thickness.um=1."""
    paths = [assignment.partition("=")[0].strip().split(".") for assignment in assignments]
    whole = []
    for key in {".".join(path[: _depth(path)]) for path in paths if len(path) > _depth(path)}:
        values = [setting.value for setting in draft.settings if setting.key == key and isinstance(setting.value, dict)]
        whole += [Setting(key, {**values[1], **values[0]}, "given in part")] if len(values) > 1 else []
    return Draft(tuple(whole)) + draft


def gathered(held: Holdings, settings: Draft, index: int) -> Draft:
    """All that the files say, what is given first. Raises InputError."""
    image, expt, spots = held.get("image"), held.get("experiments"), held.get("spots")
    draft = settings if image is None else settings + Draft((Setting("images.0.file", image, ""),))
    experiment = None if expt is None else read_experiment(expt, index)
    if experiment is not None:
        draft += sources.from_experiment(experiment, index)
        draft += sources.of_pulse(experiment, draft)
    draft += _of_instruments(held, draft)
    if (matrix := held.get("matrix")) is not None:
        draft += sources.from_matrix(matrix, draft.number("beam.wavelength"))
    if (amplitudes := held.get("structure factors")) is not None:
        draft += sources.from_amplitudes(amplitudes, draft.value("structure_factors.column", str))
    if spots is not None:
        draft += sources.from_spots(spots, experiment)
    if experiment is not None and experiment.rotation is None and _without_amplitudes(draft):
        draft += Draft((Setting("structure_factors.unknown", True, "a still's are found spot by spot"),))
        draft += Draft() if spots is None else Draft((Setting("images.0.spots", spots, "compared with the model's"),))
    return draft + from_pixels(draft, experiment)


def _without_amplitudes(draft: Draft) -> bool:
    named = draft.value("structure_factors.file", Path) or draft.value("structure_factors.file", str)
    return named is None and draft.number("structure_factors.default") is None


def _gaps(draft: Draft, by_dials: bool) -> Iterator[Gap]:
    """What every configuration needs, but for what a DIALS file or a matrix supplies."""
    orientation = draft.value("crystal.orientation", dict) or {}
    for gap in _REQUIRED:
        supplied = by_dials and gap.key in _BY_DIALS
        with_matrix = gap.key == "crystal.cell" and bool(orientation.keys() & {"expt", "matrix", "a_matrix"})
        found = draft.number("structure_factors.default") is not None or draft.says("structure_factors.unknown")
        amplitudes = gap.key == "structure_factors.file" and found
        if not (supplied or with_matrix or amplitudes or any(gap.key == other.key for other in draft.gaps)):
            yield gap


def _of_instruments(held: Holdings, draft: Draft) -> Draft:
    """What XDS and the image's header say; the first that says where the detector is gives all of the geometry."""
    if held.get("experiments") is not None:
        return Draft()
    found = list(_instruments(held))
    template = next(((path, one) for path, one in found if one.images), None)
    image = draft.value("images.0.file", Path)
    named = Draft() if image is not None or template is None else _template(*template)
    image = named.value("images.0.file", Path) or image
    number = draft.value("images.0.frame", int) or (1 if image is None else image_number(image))
    whole = True
    for path, instrument in found:
        named += sources.from_instrument(path.name, instrument, number, whole)
        whole = whole and instrument.distance is None
    return named


def _instruments(held: Holdings) -> Iterator[tuple[Path, Instrument]]:
    if (xparm := held.get("xparm")) is not None:
        yield xparm, read_xparm(xparm)
    if (keys := held.get("xds input")) is not None:
        yield keys, read_xds_input(keys)
    image = held.get("image")
    if image is not None and (start := read_start(image, len(HDF5_MAGIC))).startswith(_HEADERS):
        yield image, read_master(image) if start == HDF5_MAGIC else read_header(image)


def _template(path: Path, instrument: Instrument) -> Draft:
    """The first image that an XDS.INP names."""
    name = instrument.images or ""
    digits = name.count("?")
    whole = path.parent / name.replace("?" * digits, f"{instrument.first_image:0{digits}}") if digits else None
    whole = path.parent / name if whole is None else whole
    if not whole.is_file():
        return Draft(gaps=(Gap("images.0.file", whole.name, f"{whole}, named by {path.name}, is not there"),))
    return Draft((Setting("images.0.file", whole, f"named by {path.name}"),), found=(f"image {whole}",))
