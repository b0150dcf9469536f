"""SUMO's plain XML: what the layouts (`streets`, `highway`) produce and netconvert reads.

Every polyline in this package is a float64[n, 2] array in metres, x east, y north.
"""

import dataclasses
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

KINDS = ("grid", "random", "spider", "highway")
PARKED = "parked"  # beginning of the names of parked vehicles' types
PARKED_CLASS = "custom1"  # of vehicles that stand on parking lanes; one of SUMO's classes without a meaning


@dataclasses.dataclass
class PlainNetwork:
    """A network before netconvert.

    Attributes:
      nodes: `<node>` elements.
      edges: `<edge>` and `<roundabout>` elements.
      options: further options for netconvert.
    """

    nodes: list[ET.Element] = dataclasses.field(default_factory=list)
    edges: list[ET.Element] = dataclasses.field(default_factory=list)
    options: list[str] = dataclasses.field(default_factory=list)

    def add_node(self, name: str, xy: np.ndarray, kind: str, **attributes: str) -> None:
        """Adds a junction of SUMO's node type `kind` at xy [m]."""
        place = {"id": name, "x": f"{xy[0]:.2f}", "y": f"{xy[1]:.2f}", "type": kind}
        self.nodes.append(ET.Element("node", place | attributes))

    def add_edge(self, name: str, ends: tuple[str, str], shape: np.ndarray, **attributes: object) -> ET.Element:
        """Adds a directed road along `shape`; attributes are SUMO's (numLanes, speed, priority, width, ...)."""
        place = {"id": name, "from": ends[0], "to": ends[1], "shape": shape_text(shape)}
        edge = ET.Element("edge", place | {key: str(value) for key, value in attributes.items()})
        self.edges.append(edge)
        return edge


def shape_text(shape: np.ndarray) -> str:
    """A polyline the way SUMO writes it."""
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in shape)


def parse_shape(text: str) -> np.ndarray:
    """The inverse of `shape_text`; a third coordinate is dropped."""
    return np.array([[float(value) for value in point.split(",")[:2]] for point in text.split()], np.float64)


def write_elements(path: Path, root: str, elements: list[ET.Element]) -> None:
    """Writes elements under a root tag."""
    tree = ET.Element(root)
    tree.extend(elements)
    ET.ElementTree(tree).write(path, encoding="utf-8")
