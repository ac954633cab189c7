# SPDX-License-Identifier: Apache-2.0
"""The configuration: one table of keys (`npcr.config.keys`), and loading, overriding, checking and writing it."""

from npcr.config.keys import KEYS, checkpoint_keys, default_config
from npcr.config.loading import (
    changed,
    dump_config,
    explicit_keys,
    from_dict,
    load_beside,
    load_config,
    source_of,
    to_dict,
    unread_keys,
)
from npcr.config.validation import validate

__all__ = ["KEYS", "changed", "checkpoint_keys", "default_config", "dump_config", "explicit_keys", "from_dict",
           "load_beside", "load_config", "source_of", "to_dict", "unread_keys", "validate"]
