"""The Docker engine: runs attempts as containers of one Docker daemon."""

from controller.errors import need_extra

need_extra("the engine docker", "docker", "docker")
