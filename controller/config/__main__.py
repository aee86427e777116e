"""`python -m controller.config` prints the table of settings in deploy/configuration.md."""

from controller.config.settings import table

print(table())  # noqa: T201  # its purpose
