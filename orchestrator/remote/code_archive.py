"""What travels to a running cluster: the code as one zip file, with the user's own data files in
it.

Owns which files, their places in the archive and the limit of Ray's Jobs API. The archive of the
same files is the same bytes, so that the cluster, which names it by its content, takes it once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

from jobs.data import locations
from orchestrator.errors import InputError
from orchestrator.project import ROOT
from orchestrator.storage.sent_files import files_of

LIMIT_BYTES = 100 * 2**20
"""Largest body that Ray's Jobs API takes (its message and documentation say 512 MiB; measured: 413
from 100 MiB on).
"""
PARTS = ("orchestrator", "jobs", "conf", "data", "pyproject.toml")
"""What makes the program, where git cannot be asked."""
NUM_NAMED = 5


def tracked(root: Path = ROOT) -> list[Path]:
    """The files that git tracks, as they are now; of an installation without git the files of the
    program.
    """
    try:
        listed = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z"],  # noqa: S607  # the git of the user's PATH
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        files = [root / name for name in os.fsdecode(listed).split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        files = []
    if not files:  # also where the installation lies in an ignored folder of another project
        files = [file for part in PARTS for file in files_of(root / part)]
    return sorted(file for file in files if file.is_file())


def untracked(root: Path = ROOT) -> list[str]:
    """Files of the program that git does not track and does not ignore: they stay behind, which
    should be said.
    """
    ask = ["git", "-C", str(root), "ls-files", "-z", "--others", "--exclude-standard", "--", *PARTS]
    try:
        listed = subprocess.run(ask, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(name for name in os.fsdecode(listed).split("\0") if name)


def local(
    named: dict[str, str], storage: Path, typed: list[str], root: Path = ROOT
) -> dict[str, Path]:
    """Of the files and folders that settings name, those on this machine that have another place on
    the cluster.

    What lies in the storage every node sees; the project's own data the other side finds by itself,
    unless it was `typed`.
    """
    existing = {setting: Path(path) for setting, path in named.items() if locations.is_here(path)}
    return {
        setting: path
        for setting, path in existing.items()
        if not path.is_relative_to(storage)
        and (was_typed(setting, typed) or not travels(path, root))
    }


def was_typed(setting: str, typed: list[str]) -> bool:
    """Whether an argument gives a setting, or a dictionary that holds it."""
    names = [text.lstrip("+~").partition("=")[0] for text in typed]
    return any(
        setting == name or ("." in name and setting.startswith(f"{name}.")) for name in names
    )


def travels(path: Path, root: Path = ROOT) -> bool:
    """Whether git tracks a file, or all of a folder."""
    files = files_of(path) if path.is_relative_to(root) else []
    return bool(files) and set(files) <= set(tracked(root))


def pack(archive: Path, data: dict[str, Path], root: Path = ROOT) -> dict[str, str]:
    """Write the archive; returns the settings that point at the data's new place. Raises InputError
    when it is larger than Ray takes.
    """
    moved = {}
    members = {str(file.relative_to(root)): file for file in tracked(root)}
    for setting, path in data.items():
        if travels(path, root):
            moved[setting] = str(path.relative_to(root))
            continue
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
        if locations.is_pattern(str(path)):
            base = Path(locations.folder_of(str(path)))
            moved[setting] = f"shipped/{digest}/{path.relative_to(base)}"
            members |= {
                f"shipped/{digest}/{file.relative_to(base)}": file
                for match in locations.matching(str(path))
                for file in files_of(Path(match))
            }
            continue
        name_there = moved[setting] = f"shipped/{digest}/{path.name}"
        members |= {
            os.path.join(name_there, os.path.relpath(file, path))
            if path.is_dir()
            else name_there: file
            for file in files_of(path)
        }
    with (
        archive.open("wb") as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zip_archive,
    ):
        for name, file in sorted(members.items()):
            try:
                add(zip_archive, name, file)
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{str(file)!r} cannot be sent: its name is no UTF-8; rename it"
                ) from error
            except OSError as error:
                raise InputError(f"{file} cannot be sent: {error.strerror or error}") from error
            if stream.tell() > LIMIT_BYTES:
                raise too_large(members)
    if archive.stat().st_size > LIMIT_BYTES:
        raise too_large(members)
    return moved


def add(zip_archive: zipfile.ZipFile, name: str, file: Path) -> None:
    """Put a file under its name into an archive, no more of it than shows that it is too large: the
    whole may be a disk full.
    """
    entry = zipfile.ZipInfo(name)  # its date is 1980, always
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.file_size = file.stat().st_size
    with file.open("rb") as content, zip_archive.open(entry, "w") as packed:
        while (
            (piece := content.read(2**20))
            and zip_archive.fp is not None
            and zip_archive.fp.tell() <= LIMIT_BYTES
        ):
            packed.write(piece)


def too_large(members: dict[str, Path]) -> InputError:
    """Why the files of an archive, by their names in it, cannot be sent."""
    sizes = {name: file.stat().st_size for name, file in members.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:NUM_NAMED]
    named = ", ".join(f"{name} {sizes[name] / 2**20:.0f} MiB" for name in largest)
    return InputError(
        f"{sum(sizes.values()) / 2**20:.0f} MiB of code, data and models do not pack into the "
        f"{LIMIT_BYTES >> 20} MiB of Ray's Jobs API; "
        f"the largest files: {named}. Put data and models into the storage, which every node sees, "
        "or the code into its image: "
        "cluster.code=image"
    )


def code_digest(root: Path = ROOT) -> str:
    """Hash over the program's own files, the same on every machine that has the same code."""
    digest = hashlib.sha256()
    for folder in ("orchestrator", "jobs", "conf"):
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in (".py", ".yaml"):
                digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
