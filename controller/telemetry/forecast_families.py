"""The metrics of looks ahead, of replicas. See `catalog`."""

from __future__ import annotations

from controller.telemetry.family import Family, MetricType

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ERRORS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_SHARES = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)

FORECASTS: tuple[Family, ...] = (
    Family(
        "tally_forecast_seconds",
        MetricType.HISTOGRAM,
        "Time of computing a look ahead, in a process of its own.",
        (),
        _SECONDS,
    ),
    Family(
        "tally_forecast_start_error_seconds",
        MetricType.HISTOGRAM,
        "By how much the beginning of a task differed from what a forecast first told of it.",
        (),
        _ERRORS,
    ),
    Family(
        "tally_forecast_start_error_ratio",
        MetricType.HISTOGRAM,
        "The same, as a share of the task's wait since it was told, or of the wait that was told, if that is"
        " longer: 1 at most.",
        (),
        _SHARES,
    ),
)
