"""Sets of radiographs: a check of 5,856 files, the names of a million, and JPEGs decoded at a reduced size.

python benchmarks/data.py [--originals DIR] [--images 5856] [--names 1000000]
"""

import argparse
import hashlib
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn

from cxr_sklearn import make_radiographs
from cxr_sklearn.images._decoding import Decoding

N_RIVAL, WANTED_RATIO = 200, 1.5
LIST_NAMES = "from cxr_sklearn import load_folder; import sys; print(len(load_folder(sys.argv[1])))"


def originals(folder: Path | None) -> list[bytes]:
    """Return the JPEGs of a folder, or some drawn ones of the size of a radiograph."""
    if folder is not None:
        return [path.read_bytes() for path in sorted(folder.rglob("*.jpeg"))]
    files = []
    for image in make_radiographs(10, size=1200, random_state=0)[0][:20]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def write_set(folder: Path, files: list[bytes], n: int) -> None:
    """Write n files in the layout of the public set; bytes behind the picture make each of them another one."""
    for i in range(n):
        split = "train" if i < 0.89 * n else "test"
        name = f"NORMAL/IM-{i:07d}-0001.jpeg" if i % 2 else f"PNEUMONIA/person{i}_virus_{i}.jpeg"
        path = folder / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[i % len(files)] + b"%d" % i if files else b"")


def timed(*command: str) -> tuple[float, float]:
    """Return seconds and peak memory in MB of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def by_hand(paths: list[Path]) -> float:
    """Return seconds per image of what a notebook does: SHA-256 and a perceptual hash, one image after the other."""
    start = time.perf_counter()
    for path in paths:
        hashlib.sha256(path.read_bytes()).digest()
        with Image.open(path) as image:
            small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
        low = dctn(small)[:8, :8]
        low > np.median(low)  # noqa: B015 - the hash
    return (time.perf_counter() - start) / len(paths)


def measure_check(files: list[bytes], n: int) -> float:
    """Time a first and a second check, and what a notebook does on a part of the files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder / "set", files, n)
        command = (
            sys.executable,
            "-m",
            "cxr_sklearn.cli",
            "check",
            str(folder / "set"),
            "--store",
            str(folder / "store"),
        )
        (first, megabytes), (second, _) = timed(*command), timed(*command)
        rival = by_hand(sorted((folder / "set").rglob("*.jpeg"))[:N_RIVAL]) * n
    print(f"check of {n:,} files: {first:.1f} s, {megabytes:.0f} MB; again {second:.1f} s; by hand {rival:.0f} s")
    return rival / first


def measure_names(n: int) -> None:
    """Time the table of n empty files."""
    with tempfile.TemporaryDirectory() as name:
        write_set(Path(name), [], n)
        seconds, megabytes = timed(sys.executable, "-c", LIST_NAMES, name)
    print(f"load_folder on {n:,} file names: {seconds:.1f} s, {megabytes:.0f} MB")


def measure_reduced(files: list[bytes]) -> None:
    """Time decoding to 224 pixels at a reduced and at the full size, and how the grey levels differ."""
    decode, seconds, differences = Decoding(224, 224, "stretch"), np.zeros(2), []
    for content in files:
        start = time.perf_counter()
        ours = decode(content)
        middle = time.perf_counter()
        with Image.open(io.BytesIO(content)) as image:
            whole = image.convert("L").resize((224, 224), Image.Resampling.BILINEAR)
        seconds += (middle - start, time.perf_counter() - middle)
        differences.append(np.abs(ours.astype(int) - np.asarray(whole)).ravel())
    reduced, full = 1000 * seconds / len(files)
    all_levels = np.concatenate(differences)
    print(
        f"a JPEG to 224 x 224: {reduced:.1f} ms, at full size {full:.1f} ms; grey levels differ by "
        f"{all_levels.mean():.2f} on average, 99.9 % of them by at most {np.quantile(all_levels, 0.999):.0f}"
    )


def main() -> None:
    """Measure all three, and fail where the check is not at least 1.5 times faster than by hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--originals", type=Path, help="folder of JPEGs as they came from the hospital")
    parser.add_argument("--images", type=int, default=5_856)
    parser.add_argument("--names", type=int, default=1_000_000)
    options = parser.parse_args()
    files = originals(options.originals)
    measure_reduced(files)
    ratio = measure_check(files, options.images)
    measure_names(options.names)
    print(f"ratio {ratio:.1f} (wanted: {WANTED_RATIO})")
    sys.exit(ratio < WANTED_RATIO)


if __name__ == "__main__":
    main()
