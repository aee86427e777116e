"""The Kubernetes engine: runs attempts as pods."""

from controller.errors import need_extra

need_extra("the engine kubernetes", "kubernetes", "kubernetes")
