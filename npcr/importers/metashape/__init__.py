# SPDX-License-Identifier: Apache-2.0
"""The importer of Agisoft Metashape's exports of cameras."""

from npcr.importers.metashape.importer import MetashapeImporter, read_metashape

__all__ = ["MetashapeImporter", "read_metashape"]
