# SPDX-License-Identifier: Apache-2.0
"""Errors that the user can correct: in files, configuration keys, or the installation.

Messages name the file, the line or key, the limit and the value found. The scripts print them as one line, without a
traceback, and exit with status 2 (`npcr.cli.run`). Errors of the caller's code are built-in exceptions instead.
"""


class NpcrError(Exception):
    """Base class of all errors that the user can correct."""


class ConfigError(NpcrError):
    """A configuration file or a KEY VALUE pair is wrong."""


class SceneError(NpcrError):
    """A file of a scene (cameras, point cloud, photograph, matte) is missing or wrong."""


class CheckpointError(NpcrError):
    """A checkpoint is missing, damaged, or does not fit the configuration or scene."""


class MissingExtraError(NpcrError):
    """A feature needs an optional package; the message gives the `pip install` command."""


class TrainingError(NpcrError):
    """Training cannot continue (a loss is not finite, for example)."""


class OutOfMemoryError(NpcrError):
    """GPU or host memory ran out; the message says which keys need less."""


class LostProcessError(NpcrError):
    """Another process of torchrun has ended or does not answer."""
