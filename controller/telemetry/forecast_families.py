"""The metrics of looks ahead, of replicas. See `catalog`."""

from __future__ import annotations

from controller.telemetry.family import SHARES, WAITS, Family, MetricType

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

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
        WAITS,
    ),
    Family(
        "tally_forecast_start_error_ratio",
        MetricType.HISTOGRAM,
        "The same, as a share of the task's wait since it was told, or of the wait that was told, if that is"
        " longer: 1 at most.",
        (),
        SHARES,
    ),
)
