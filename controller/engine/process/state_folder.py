"""The process engine's folder of one cluster: the engine's identity, and a place for each installation.

`<state_dir>/<cluster>/` has
- `engine.json`: the engine's identity, a random id that is made once, with the folder; the installation that
  has `attempts`; and the other installations of the same cluster name that have places. It is never replaced
  if it is missing beside attempts of a running replica: the folder is then another one, and nothing may be
  concluded from it.
- `attempts` and `trash`: the place of the first installation. Versions without installations used it, too:
  their attempts go to the installation that adopts them (see `core.model.installation`), and to no other.
- `others/<installation>/attempts` and `trash`: the places of further installations.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from controller.core.model.installation import Installation
from controller.engine.base import EngineUnavailable
from controller.engine.process.attempt_folder import read_bytes

_FILE = "engine.json"


class Places(Struct, frozen=True, kw_only=True):
    """The content of `engine.json`. `first` is the installation that has `attempts`; "": none yet."""

    id: str
    first: str = ""
    others: tuple[str, ...] = ()


# at import: msgspec prepares a type when it is first used, and two threads at once crash it
msgspec.json.Decoder(Places)


class StateFolder:
    """See the module's docstring. `make` creates the folder if there is none; a reader does not.

    Raises OSError, and EngineUnavailable if `engine.json` is invalid.
    """

    def __init__(self, home: Path, *, make: bool = True) -> None:
        self.home = home
        if make and not (home / _FILE).exists():
            for folder in (home, home / "attempts", home / "trash"):
                # outputs may be confidential
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                if not (home / _FILE).exists():
                    self._write(Places(id=uuid.uuid4().hex[:16]))

    def places(self) -> Places:
        """The present content of `engine.json`."""
        path = self.home / _FILE
        try:
            data = read_bytes(self.home, _FILE)
            if data is not None:
                return msgspec.json.decode(data, type=Places)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OSError) as error:
            raise EngineUnavailable(f"{path} is damaged: {error}; restore it") from error
        raise EngineUnavailable(
            f"{path} is gone: the state folder was moved or replaced. Restore it, or restart the replica"
        )

    def place_of(self, installation: Installation, *, claim: bool) -> Path:
        """The folder of the installation's `attempts` and `trash`; `claim` gives it one if it has none."""
        places = self.places()
        if claim and installation.id not in (places.first, *places.others):
            places = self._claim(installation)
        elif places.first and installation.id not in (places.first, *places.others):
            raise EngineUnavailable(
                f"{self.home} belongs to installation {places.first}, and has nothing of {installation.id}:"
                " check that state_dir names the right folder"
            )
        return self._path_of(installation.id, places)

    def others(self, own: Path) -> dict[str, list[str]]:
        """The attempts of the other installations, which do not have `own`: id ("": none) → names.

        For a folder that cannot be listed, one word that says why: it is not ours, and stops nobody.
        """
        places = self.places()
        found = {}
        for mark in (places.first, *places.others):
            place = self._path_of(mark, places)
            if place != own and (names := _listed(place / "attempts")):
                found[mark] = names
        return found

    def _path_of(self, mark: str, places: Places) -> Path:
        return self.home / "others" / mark if mark in places.others else self.home

    def _claim(self, installation: Installation) -> Places:
        with self._locked():
            places = self.places()
            if installation.id in (places.first, *places.others):
                return places
            if not places.first and (installation.adopts_unmarked or not os.listdir(self.home / "attempts")):
                places = msgspec.structs.replace(places, first=installation.id)
            else:
                for part in ("attempts", "trash"):
                    (self.home / "others" / installation.id / part).mkdir(
                        mode=0o700, parents=True, exist_ok=True
                    )
                places = msgspec.structs.replace(places, others=(*places.others, installation.id))
            self._write(places)
            return places

    def _write(self, places: Places) -> None:
        temporary = self.home / f".{_FILE}.{uuid.uuid4().hex}"
        with open(temporary, "xb") as file:
            file.write(msgspec.json.encode(places))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self.home / _FILE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Excludes all other replicas and commands that share the folder."""
        directory = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
            os.fsync(directory)
        finally:
            os.close(directory)


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        return [f"(cannot be listed: {error.strerror})"]
