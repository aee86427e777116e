"""`python -m controller.config`: the table of settings that stands in deploy/configuration.md."""

from controller.config.settings import table

print(table())  # noqa: T201  # its purpose
