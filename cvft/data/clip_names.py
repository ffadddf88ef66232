r"""Finds the file that the name of a clip means: in rows, on the command line, in Python.

name -> `file://` and `~` written out -> the file, absolute, with links resolved
URL -> where its clip lies in the cache once it is fetched

A name in another Unicode form of the same letters (NFC, NFD) is the same name. Any other difference is told and never overlooked:
letter case, `\\` for `/`, `%20` for a blank, a path of another machine. Looking for near names costs one listing per folder.
"""

from __future__ import annotations

import bisect
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from cvft.data.fetch.cache import place_of
from cvft.data.fetch.urls import is_url, parse_url, show_url
from cvft.errors import NUM_SHOWN, ValueProblem, did_you_mean, quote, visible

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Ends of the names of single frames."""

NUM_COMPARED = 2000
"""Most names of a folder that a missing one is compared with letter by letter: those beside it in the alphabet."""

MOST_SHOWN = 400
"""Characters of a name that a message shows: a path whole, but not a clip that somebody wrote into the row."""

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/+)")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class ClipNames:
    """Finds many clips; each name and each folder is looked at once.

    Args:
        root: Folder that relative names start from.
        url_cache: Folder that clips named by URL are fetched to; without one they are refused.
    """

    def __init__(self, root: Path, *, url_cache: Path | None = None) -> None:
        self.urls: dict[Path, str] = {}
        """Place -> URL, for the clips that were found by one."""
        self._root = root.absolute()
        self._url_cache = None if url_cache is None else url_cache.absolute()
        self._found: dict[str, Path | ValueProblem] = {}
        self._frames: dict[str, list[Path]] = {}
        self._folders: dict[Path, Folder] = {}
        self._resolved: dict[str, Path] = {}
        self._num_compared = 0

    def find(self, name: str) -> Path:
        """Returns the file that a name means, absolute with links resolved. That of a URL need not be there yet.

        Raises:
            ValueProblem: when it means no file that can be a clip, with what is like it.
        """
        found = self._found.get(name)
        if found is None:
            try:
                found = self._find(name)
            except ValueProblem as error:
                found = error
            self._found[name] = found
        if isinstance(found, ValueProblem):
            raise found
        return found

    def frames_in(self, name: str) -> list[Path]:
        """Returns the pictures in a folder, in the order of the numbers in their names.

        Raises:
            ValueProblem: when it is no folder, or has no pictures.
        """
        if name not in self._frames:
            path = self._root / _expand(name)
            listed = [each for each in Folder(path).names if each.lower().endswith(PICTURES)]
            if not listed:
                need = "a folder of pictures, or a list of them: each has its second in `seconds`"
                raise ValueProblem(_quote_path(name), need)
            self._frames[name] = [self.find(str(path / each)) for each in sorted(listed, key=_by_number)]
        return self._frames[name]

    def _find(self, name: str) -> Path:
        if self._url_cache is not None and is_url(name):
            url = parse_url(name)
            place = place_of(self._url_cache, url)
            self.urls[place] = url.text
            return place
        written = os.path.join(self._root, name)
        path = alike = None
        try:
            if not os.path.lexists(written):
                path = self._root / _expand(name)
                alike = None if os.path.lexists(path) else self._walk(path)
                if alike is not None and _nfc(str(alike)) == _nfc(str(path)):
                    path, alike = alike, None
                written = str(path)
            path = self._resolve_folder(written)
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                path = path.resolve()
                status = path.stat()
        except FileNotFoundError as error:
            raise self._explain_missing(name, path or Path(written), alike) from error
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, ValueProblem):
                raise
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueProblem(f"{_quote_path(name)}, which cannot be opened ({reason})", "a readable file") from error
        if stat.S_ISDIR(status.st_mode):
            raise self._explain_folder(name, path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueProblem(f"{_quote_path(name)}, which is not a regular file", "a video file")
        if status.st_size == 0:
            hint = "copy or download it again"
            raise ValueProblem(f"{_quote_path(name)}, which is empty (0 bytes)", "a video file", hint)
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            got = f"{_quote_path(name)}, a file whose path is not UTF-8 ({_quote_path(path)})"
            raise ValueProblem(got, "a path that can be written in JSON", "rename it") from error
        return path

    def _resolve_folder(self, path: str) -> Path:
        """Resolves the links of a path's folder, once for all that is in it."""
        folder, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir):
            return Path(path).resolve()
        if folder not in self._resolved:
            self._resolved[folder] = Path(folder).resolve()
        return self._resolved[folder] / name

    def _walk(self, path: Path) -> Path | None:
        """Follows a path, and where a part is not there the one name of the folder that looks like it; None: none, or several."""
        here, parts = path.parent, [path.name]
        if not self._folder(here).names:
            here, parts = Path(path.anchor), list(path.parts[1:])
        for part in parts:
            if part != ".." and not os.path.lexists(here / part):
                alike = self._folder(here).alike(part)
                if len(alike) != 1:
                    return None
                part = alike[0]
            here /= part
        return here

    def _folder(self, path: Path) -> Folder:
        if path not in self._folders:
            self._folders[path] = Folder(path)
        return self._folders[path]

    def _explain_missing(self, name: str, path: Path, alike: Path | None) -> ValueProblem:
        if _WINDOWS.match(name):
            return self._explain_windows(name)
        hint = f"{_quote_path(self._show(alike))} exists: {_difference(str(path), str(alike))}" if alike else ""
        hint = hint or self._hint_slashes(name) or self._hint_place(name)
        if not hint and not os.path.isdir(path.parent):
            above = next(folder for folder in path.parents if os.path.isdir(folder))
            gone = path.relative_to(above).parts[0]
            got = f"{_quote_path(name)}, which does not exist: there is no {quote(gone)} in {_quote_path(above)}"
            return ValueProblem(got, "an existing file", self._hint_near(above, gone) or _START)
        got = f"{_quote_path(name)}, which does not exist at {_quote_path(path)}"
        return ValueProblem(got, "an existing file", hint or self._hint_near(path.parent, path.name) or _START)

    def _explain_windows(self, name: str) -> ValueProblem:
        parts = PureWindowsPath(name).parts[1:]
        hint = self._hint_tail(parts)
        if name[1] == ":" and os.path.isfile(mounted := Path("/mnt", name[0].lower(), *parts)):
            hint = f"it is {_quote_path(mounted)} on this machine"
        hint = hint or "copy the clip to this machine and write where it is, with `/` between folders"
        return ValueProblem(f"the Windows path {_quote_path(name)}", "a path on this machine", hint)

    def _hint_slashes(self, name: str) -> str:
        turned = name.replace("\\", "/")
        found = self._walk(self._root / turned) if turned != name else None
        return f"{_quote_path(self._show(found))} exists: write `/` between folders" if found else ""

    def _hint_place(self, name: str) -> str:
        """Says where else the name leads to a file: from the current folder, or with fewer folders in front."""
        here = Path.cwd()
        if os.path.isfile(here / name):
            start = f"relative paths start from {_quote_path(self._root)}"
            return f"{_quote_path(here / name)} exists, but {start}: set data.video_root to {_quote_path(here)}"
        return self._hint_tail(Path(name).parts)

    def _hint_tail(self, parts: Sequence[str]) -> str:
        tails = (Path(*parts[start:]) for start in range(len(parts)))
        found = next((tail for tail in tails if os.path.isfile(self._root / tail)), None)
        return (
            f"write {_quote_path(found)}, which exists in {_quote_path(self._root)}, if it is the clip" if found else ""
        )

    def _hint_near(self, folder: Path, name: str) -> str:
        listed = self._folder(folder)
        same_stem = listed.same_stem(name)
        if same_stem:
            return f"did you mean {' or '.join(quote(each) for each in same_stem[:NUM_SHOWN])}?"
        self._num_compared += 1
        if self._num_compared > NUM_SHOWN:  # an error shows no more of a kind
            return ""
        return did_you_mean(name, listed.beside(name))

    def _explain_folder(self, name: str, path: Path) -> ValueProblem:
        names = self._folder(path).names
        pictures = [each for each in names if each.lower().endswith(PICTURES)]
        if pictures:
            got = f"{_quote_path(name)}, which is a folder of {len(pictures)} pictures"
            return ValueProblem(got, "a video file", hint_frames(f"{name}/{pictures[0]}"))
        hint = f"name one of its files: {_quote_path(f'{name}/{names[0]}')}" if names else ""
        return ValueProblem(f"{_quote_path(name)}, which is a folder", "a video file", hint)

    def _show(self, path: Path) -> Path:
        return path.relative_to(self._root) if path.is_relative_to(self._root) else path


_START = "relative paths start from the folder of the data file, or from the video root when given"


def hint_frames(first: str) -> str:
    """Says how a row names ready frames.

    Args:
        first: Name of one of them.
    """
    return (
        "name them in one list, or their folder, and say when each was taken: "
        f'`"videos": [["{visible(first)}", ...]], "seconds": [0, 0.5, ...]`'
    )


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """Returns what names are sorted by: text as it stands, numbers by their value."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if number % 2 else (1, 0, part) for number, part in enumerate(parts)]


class Folder:
    """The names in a folder, listed once; none where it cannot be listed.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.names = sorted(os.listdir(path))
        except OSError:
            self.names = []

    @cached_property
    def _by_look(self) -> dict[str, list[str]]:
        return _index(self.names, _look_of)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _index(self.names, _stem_of)

    def alike(self, name: str) -> list[str]:
        """Returns the names that look like a name; those of the same letters alone, where there are any."""
        alike = self._by_look.get(_look_of(name), [])
        return [each for each in alike if _nfc(each) == _nfc(name)] or alike

    def same_stem(self, name: str) -> list[str]:
        """Returns the names that differ in what follows the last point."""
        return self._by_stem.get(_stem_of(name), [])

    def beside(self, name: str) -> list[str]:
        """Returns all names, or of very many those nearest in the alphabet; hidden ones only beside a hidden one."""
        names = self.names if name.startswith(".") else [each for each in self.names if not each.startswith(".")]
        start = max(0, bisect.bisect(names, name) - NUM_COMPARED // 2)
        return names[start : start + NUM_COMPARED]


def _index(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    index: dict[str, list[str]] = defaultdict(list)
    for name in names:
        index[key(name)].append(name)
    return index


def _expand(name: str) -> str:
    """Writes out `~` and `file://`, and refuses other URLs.

    Raises:
        RuntimeError: when nobody has that home.
    """
    if name.startswith("~"):
        return str(Path(name).expanduser())
    if name.startswith("data:"):
        hint = "write the clip to a file and give its path"
        raise ValueProblem(f"a clip inside the row ({quote(name[:30])})", "the path of a local file", hint)
    url = _URL.match(name)
    if url is None:
        return name
    if url["scheme"].lower() != "file":
        hint = "download the clip and give its path" + (
            "" if is_url(name) else "; only `http://` and `https://` are fetched"
        )
        raise ValueProblem(f"the URL {_quote_path(show_url(name))}", "the path of a local file", hint)
    host, slash, path = (
        name[len("file://") :].partition("/") if url["slashes"] == "//" else ("", "/", name[url.end() :])
    )
    if host not in ("", "localhost"):
        hint = f"for a file of this machine write {_quote_path(unquote(host + slash + path))}, or `file:///` and the whole path"
        raise ValueProblem(
            f"the URL {_quote_path(show_url(name))}, of a machine {quote(host)}", "the path of a local file", hint
        )
    path = path if _WINDOWS.match(path) else f"/{path}"
    return path if os.path.lexists(path) else unquote(path)


def _difference(name: str, other: str) -> str:
    """Says what tells apart two names that look alike."""
    if name.lower() == other.lower():
        return "letter case counts"
    if unquote(name) == other:
        return "`%20` and its like are read in `file://` names only"
    if "".join(name.split()) == "".join(other.split()):
        return "blanks count"
    return f"the name given is {Path(name).name!a}, that of the file {Path(other).name!a}"


def _look_of(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", unquote(name)).casefold().split())


def _stem_of(name: str) -> str:
    return _nfc(name).rpartition(".")[0] or name


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _quote_path(path: Path | str) -> str:
    return quote(path, most=MOST_SHOWN)
