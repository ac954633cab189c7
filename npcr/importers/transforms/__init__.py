# SPDX-License-Identifier: Apache-2.0
"""The importer of transforms.json of nerfstudio, instant-ngp and NeRF-synthetic."""

from npcr.importers.transforms.importer import TransformsImporter, read_transforms

__all__ = ["TransformsImporter", "read_transforms"]
