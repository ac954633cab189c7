# SPDX-License-Identifier: Apache-2.0
"""The importer of COLMAP's sparse models."""

from npcr.importers.colmap.importer import ColmapImporter, read_colmap

__all__ = ["ColmapImporter", "read_colmap"]
