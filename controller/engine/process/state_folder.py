"""The process engine's folder of one cluster: which engine it is, and which installation has which part of
it.

`<state_dir>/<cluster>/` holds
- `engine.json`: the engine's identity, a random id that is made once, when the folder is; and which
  installation has `attempts`, and which others of the same cluster name have a place of their own. Never made
  anew where it is missing beside attempts of a running replica: then the folder is not the one it was, and
  nothing may be concluded from it.
- `attempts`, `trash`: of the installation that came first. So it is where a version of Tally ran that knew no
  installations: its attempts go to the installation that adopts them (see `core.model.installation`), and to
  no other.
- `others/<installation>/attempts`, `trash`: of any further one.
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
    """What `engine.json` says. `first` has `attempts`, "" when nobody has claimed it."""

    id: str
    first: str = ""
    others: tuple[str, ...] = ()


# at import: msgspec prepares a type when it is first used, and two threads at once crash it
msgspec.json.Decoder(Places)


class StateFolder:
    """See the module's docstring. `make`: where there is none; a reader makes none.

    Raises OSError, and EngineUnavailable when `engine.json` is not what it should be.
    """

    def __init__(self, home: Path, *, make: bool = True) -> None:
        self.home = home
        if make and not (home / _FILE).exists():
            for folder in (home, home / "attempts", home / "trash"):
                # outputs may hold what is not for everyone's eyes
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                if not (home / _FILE).exists():
                    self._write(Places(id=uuid.uuid4().hex[:16]))

    def places(self) -> Places:
        """What the folder says of itself now."""
        path = self.home / _FILE
        try:
            data = read_bytes(self.home, _FILE)
            if data is not None:
                return msgspec.json.decode(data, type=Places)
        except (msgspec.MsgspecError, OSError) as error:
            raise EngineUnavailable(f"{path} is damaged: {error}; restore it") from error
        raise EngineUnavailable(
            f"{path} is gone: this is not the folder that it was. Put it back as it was, or restart the"
            " replica"
        )

    def place_of(self, installation: Installation, *, claim: bool) -> Path:
        """The folder that has the installation's `attempts` and `trash`; with `claim` it is given one, if
        it has none.
        """
        places = self.places()
        if claim and installation.id not in (places.first, *places.others):
            places = self._claim(installation)
        elif places.first and installation.id not in (places.first, *places.others):
            raise EngineUnavailable(
                f"{self.home} is of installation {places.first}, and has nothing of {installation.id}: is it"
                " the right folder?"
            )
        return self._path_of(installation.id, places)

    def others(self, own: Path) -> dict[str, list[str]]:
        """Attempts of other installations than the one that has `own`: id ("" for none) → names."""
        places = self.places()
        found = {}
        for mark in (places.first, *places.others):
            place = self._path_of(mark, places)
            if (
                place != own
                and (place / "attempts").is_dir()
                and (names := sorted(os.listdir(place / "attempts")))
            ):
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
        """Alone among all replicas and commands that share the folder."""
        directory = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
            os.fsync(directory)
        finally:
            os.close(directory)
