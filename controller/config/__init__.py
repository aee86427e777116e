"""Settings: flags, then `TALLY_…` variables, then a TOML file, then defaults. Secrets only by file path.

    settings     what can be set: one field of `Settings` is one setting, with its parser and its meaning
    loading      where the values come from, and whether they fit together
    values       the parsers

`python -m controller.config` prints the table in deploy/configuration.md.
"""

from controller.config.loading import (
    InvalidSetting,
    ResolvedConfig,
    check_timings,
    load_settings,
    settings_in_use,
)
from controller.config.settings import ENGINES, Settings, flag_of, table, text_of, variable_of
from controller.config.values import parse_endpoints

__all__ = [
    "ENGINES",
    "InvalidSetting",
    "ResolvedConfig",
    "Settings",
    "check_timings",
    "flag_of",
    "load_settings",
    "parse_endpoints",
    "settings_in_use",
    "table",
    "text_of",
    "variable_of",
]
