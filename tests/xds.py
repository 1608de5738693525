"""The instrument and crystal of tests/expt.py as XDS writes them, seen from a lab frame turned at random."""

import numpy as np
from expt import FAST, ORIGIN, PIXEL, REAL_SPACE, SIZE, SLOW
from scipy.spatial.transform import Rotation

WAVELENGTH, AXIS = 1.1, np.array([0.6, 0.8, 0.0])
FRAME = Rotation.from_euler("xyz", [25.0, -40.0, 70.0], degrees=True).as_matrix()
DISTANCE = float(np.cross(FAST, SLOW) @ ORIGIN)
ORG = (-FAST @ ORIGIN / PIXEL + 0.5, -SLOW @ ORIGIN / PIXEL + 0.5)
NUMBERS = f"{SIZE[1]} {SIZE[0]} {PIXEL} {PIXEL}"


def turned(vector):
    return " ".join(map(str, FRAME @ vector))


EXPOSURES = f"3 10.0 0.5 {turned(AXIS)}\n{WAVELENGTH} {turned([0, 0, -1 / WAVELENGTH])}\n"
AXES = "\n".join(turned(vector) for vector in (FAST, SLOW, np.cross(FAST, SLOW)))
ABC = "\n".join(turned(vector) for vector in REAL_SPACE)
GROUP = "75 50.0 50.0 70.0 90.0 90.0 90.0"
NEW = (
    f" XPARM.XDS    VERSION Jan 1, 2024\n{EXPOSURES}{GROUP}\n{ABC}\n1 {NUMBERS}\n{ORG[0]} {ORG[1]} {DISTANCE}\n{AXES}\n"
    f"1 1 {SIZE[1]} 1 {SIZE[0]}\n0 0 0 1 0 0 0 1 0\n"
)
OLD = f"{EXPOSURES}{NUMBERS}\n{DISTANCE} {ORG[0]} {ORG[1]}\n{AXES}\n{GROUP}\n{ABC}\n"
INPUT = f"""\
! a comment with ORGX= 1
JOB= XYCORR INIT !COLSPOT
ORGX= {ORG[0]} ORGY= {ORG[1]}  ! both on a line
NX= {SIZE[1]} NY= {SIZE[0]} QX= {PIXEL} QY= {PIXEL}
DETECTOR_DISTANCE= {DISTANCE}
OSCILLATION_RANGE= 0.5
STARTING_ANGLE= 10.0
STARTING_FRAME= 3
X-RAY_WAVELENGTH= {WAVELENGTH}
ROTATION_AXIS= {turned(AXIS)}
INCIDENT_BEAM_DIRECTION= {turned([0, 0, -1])}
DIRECTION_OF_DETECTOR_X-AXIS= {turned(FAST)}
DIRECTION_OF_DETECTOR_Y-AXIS= {turned(SLOW)}
SPACE_GROUP_NUMBER= 75
UNIT_CELL_CONSTANTS= 50 50 70 90 90 90
UNIT_CELL_A-AXIS= {turned(REAL_SPACE[0])}
UNIT_CELL_B-AXIS= {turned(REAL_SPACE[1])}
UNIT_CELL_C-AXIS= {turned(REAL_SPACE[2])}
DETECTOR= PILATUS MINIMUM_VALID_PIXEL_VALUE= 0 OVERLOAD= 1048500
SENSOR_THICKNESS= 0.32
SILICON= 4.0
FRACTION_OF_POLARIZATION= 0.99
POLARIZATION_PLANE_NORMAL= {turned([0, 1, 0])}
NAME_TEMPLATE_OF_DATA_FRAMES= ../images/x_????.cbf CBF
DATA_RANGE= 5 90
UNTRUSTED_RECTANGLE= 487 495 0 2528
"""
