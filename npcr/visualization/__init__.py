# SPDX-License-Identifier: Apache-2.0
"""Images for people: comparisons of renderings, captions, and previews of cameras and clouds."""
