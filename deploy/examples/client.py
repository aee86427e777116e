"""Submits a task, waits for it, and prints its state."""

from controller.client import Client

with Client.from_config() as tally:  # reads the settings that the tally command reads; or Client("https://…")
    tally.submit({"id": "hello-py", "command": ["echo", "hello"], "resources": {"cpu": "100m"}})
    print(tally.wait(["hello-py"])["hello-py"].state)
