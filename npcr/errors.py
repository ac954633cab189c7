# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can mend.

Everything here is about the user's files, keys and machine, never about a bug of ours. Messages name the
file, the line or key, the limit and the value found; the scripts print them as one line and exit with 2
(`npcr.cli.run`), without a traceback.
"""


class NpcrError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(NpcrError):
    """A configuration file or a KEY VALUE pair is wrong."""


class SceneError(NpcrError):
    """A file of a scene (cameras, point cloud, photograph, matte) is missing or wrong."""


class CheckpointError(NpcrError):
    """A checkpoint is missing, damaged, or does not fit the configuration or scene."""


class MissingExtraError(NpcrError):
    """A feature needs an optional package; the message says which `pip install` brings it."""


class TrainingError(NpcrError):
    """Training cannot go on (a loss that is not finite, for example)."""
