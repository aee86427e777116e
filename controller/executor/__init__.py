"""Python functions as tasks: an executor of `concurrent.futures` whose calls run where Tally runs tasks."""

from controller.errors import need_extra

need_extra("an executor", "executor", "cloudpickle", "fsspec")

from controller.executor.executor import CallFailed, TallyExecutor, TallyFuture  # noqa: E402  # after the check

__all__ = ["CallFailed", "TallyExecutor", "TallyFuture"]
