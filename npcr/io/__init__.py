# SPDX-License-Identifier: Apache-2.0
"""The only readers and writers of camera files, point clouds, images, videos."""
