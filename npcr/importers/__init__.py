# SPDX-License-Identifier: Apache-2.0
"""Importers: from the layouts of other tools to a scene that is ready to train.

An importer reads a source into a `Capture`; `import_capture` writes a capture as a scene; `npcr import` has a
sub-command for each importer registered here. A new importer subclasses `Importer` in a file of its own and gets one
line below; from outside this package `register_importer` does the same.
"""

from npcr.importers.base import Capture, Importer, Option, View
from npcr.importers.colmap import ColmapImporter
from npcr.importers.lenses import Lens
from npcr.importers.metashape import MetashapeImporter
from npcr.importers.nhr import NhrImporter
from npcr.importers.registry import find_importer, importers, register_importer, unregister_importer
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import TransformsImporter

__all__ = ["Capture", "Importer", "Lens", "Option", "View", "find_importer", "import_capture", "importers",
           "register_importer", "unregister_importer"]

register_importer(ColmapImporter())
register_importer(TransformsImporter())
register_importer(NhrImporter())
register_importer(MetashapeImporter())
