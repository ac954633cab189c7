# SPDX-License-Identifier: Apache-2.0
"""Point clouds out of photographs: carved from mattes, densified by stereo, colored, filtered."""
