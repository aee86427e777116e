"""Submits a task, waits for it, and prints its state."""

from controller.client import connect

with connect() as tally:  # by etcd or a gateway, as the settings of the tally command say
    tally.submit({"id": "hello-py", "command": ["echo", "hello"], "resources": {"cpu": "100m"}})
    print(tally.wait(["hello-py"])["hello-py"].state)
