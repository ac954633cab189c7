# SPDX-License-Identifier: Apache-2.0
"""From a folder to a scene to samples; augmentation; importers."""
