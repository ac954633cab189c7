# SPDX-License-Identifier: Apache-2.0
"""Readers and writers of camera files, point clouds, images, videos, hair files and JSON."""
