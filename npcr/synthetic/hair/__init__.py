# SPDX-License-Identifier: Apache-2.0
"""Ray-traced scenes of hair: surfaces, grooms, rendering (extra `hair`), clouds."""
