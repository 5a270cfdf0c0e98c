"""What travels to a running cluster: the code as one zip file, with the user's own data files in it.

Owns which files, their places in the archive and the limit of Ray's Jobs API. The archive of the same files is the same bytes, so that the
cluster, which names it by its content, takes it once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

from jobs.config import Data, data_paths
from orchestrator.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
LIMIT_BYTES = 100 * 2**20
"""Largest body that Ray's Jobs API takes (its message and documentation say 512 MiB; measured: 413 from 100 MiB on)."""
PARTS = ("orchestrator", "jobs", "conf", "data", "pyproject.toml")
"""What makes the program, where git cannot be asked."""
NUM_NAMED = 5


def tracked(root: Path = ROOT) -> list[Path]:
    """The files that git tracks, as they are now; of an installation without git the files of the program."""
    try:
        listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, timeout=60, check=True).stdout
        found = [root / name for name in os.fsdecode(listed).split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        found = [file for part in PARTS for file in [root / part, *(root / part).rglob("*")] if "__pycache__" not in file.parts]
    return sorted(file for file in found if file.is_file())


def untracked(root: Path = ROOT) -> list[str]:
    """Files of the program that git does not track and does not ignore: they stay behind, which should be said."""
    ask = ["git", "-C", str(root), "ls-files", "-z", "--others", "--exclude-standard", "--", *PARTS]
    try:
        listed = subprocess.run(ask, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(name for name in os.fsdecode(listed).split("\0") if name)


def local_data(data: Data, root: Path = ROOT) -> dict[str, Path]:
    """The user's data files and folders outside the project, by the setting that names them."""
    paths = {setting: Path(path) for setting, path in data_paths(data).items()}
    return {setting: path for setting, path in paths.items() if path.exists() and not path.is_relative_to(root)}


def pack(archive: Path, data: dict[str, Path], root: Path = ROOT) -> dict[str, str]:
    """Write the archive; returns the settings that point at the data's new place. Raises InputError when it is larger than Ray takes."""
    moved, members = {}, {str(file.relative_to(root)): file for file in tracked(root)}
    for setting, path in data.items():
        place = f"shipped/{hashlib.sha256(str(path).encode()).hexdigest()[:8]}/{path.name}"
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        members |= {os.path.join(place, os.path.relpath(file, path)) if path.is_dir() else place: file for file in files}
        moved[setting] = place
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for name, file in sorted(members.items()):
            entry = zipfile.ZipInfo(name)  # its date is 1980, always
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            made.writestr(entry, file.read_bytes())
    if archive.stat().st_size > LIMIT_BYTES:
        with zipfile.ZipFile(archive) as made:
            largest = sorted(made.infolist(), key=lambda item: -item.compress_size)[:NUM_NAMED]
        named = ", ".join(f"{item.filename} {item.compress_size / 2**20:.0f} MiB" for item in largest)
        raise InputError(
            f"{archive.stat().st_size / 2**20:.0f} MiB of code and data are more than the {LIMIT_BYTES >> 20} MiB of Ray's Jobs API; "
            f"the largest files: {named}. Put data on storage that the cluster sees, or the code into its image: cluster.code=image"
        )
    return moved


def code_digest(root: Path = ROOT) -> str:
    """Hash over the program's own files, the same on every machine that has the same code."""
    digest = hashlib.sha256()
    for part in ("orchestrator", "jobs", "conf"):
        for file in sorted((root / part).rglob("*")):
            if file.suffix in (".py", ".yaml"):
                digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
