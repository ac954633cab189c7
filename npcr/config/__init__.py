# SPDX-License-Identifier: Apache-2.0
"""The configuration: one schema of keys (`npcr.config.schema`), and loading, overriding, checking and writing it."""

from npcr.config.loading import (
    changed,
    default_config,
    dump_config,
    explicit_keys,
    from_dict,
    load_config,
    to_dict,
    validate,
)

__all__ = ["changed", "default_config", "dump_config", "explicit_keys", "from_dict", "load_config", "to_dict",
           "validate"]
