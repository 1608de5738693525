"""What is not the crystal: instrument, structure factors and background, held together."""

from dataclasses import dataclass

from torch import Tensor

from refine.model.background import Background
from refine.model.beam import Beam
from refine.model.detector import Detector
from refine.model.scan import Scan
from refine.model.structure_factors import StructureFactors


@dataclass(frozen=True)
class Experiment:
    """Everything besides the crystal that the image depends on; scale () multiplies the beam's fluence."""

    beam: Beam
    detector: Detector
    scan: Scan
    structure_factors: StructureFactors
    background: Background
    scale: Tensor
