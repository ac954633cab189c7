# SPDX-License-Identifier: Apache-2.0
"""Ray-traced scenes of hair: bodies, grooms, rendering with Mitsuba (extra `hair`), point clouds."""
