"""The feature store: rows of 512 float32 written and read, against a file per image and joblib.Memory, by the million.

    python benchmarks/store.py [--rows 5856] [--million 1000000]

Rows are written as FrozenEmbedder writes them, in claims of 32, and read by one call; the million in claims of 1,000
and reads of 10,000. The rivals keep a row per image: `numpy.save`, and a function cached by joblib.Memory that looks
the row up. Each side writes and reads in processes of its own, and every row that is read is compared. Then two and
four processes write at the same time. Fails where 5,856 rows take more than 50 ms to read, joblib.Memory is not 20
times slower both ways, a row is lost, or the memory of a process grows by more than a tenth from a tenth of the million
to all of it.
"""

from __future__ import annotations

import functools
import hashlib
import time
from pathlib import Path

import numpy as np
from common import conclude, disk_bytes, fastest, figure, fresh, parse, peak_megabytes, scratch, together
from joblib import Memory

from cxr_sklearn import FeatureStore

WIDTH, CLAIM, MANY_CLAIM, MANY_READ = 512, 32, 1_000, 10_000
WANTED_READ_S, WANTED_RATIO, WANTED_GROWTH = 0.05, 20, 1.1


def main() -> None:
    """Measure all sides and print one JSON object."""
    options = parse(__doc__, {"rows": (5856, 300), "million": (1_000_000, 20_000), "rounds": (3, 1)})
    with scratch() as folder:
        figures = against_rivals(folder, options.rows, options.rounds)
        figures += written_together(folder, options.rows)
    with scratch() as folder:
        figures += by_the_million(folder, options.million)
    conclude("store", options, figures)


def against_rivals(folder: Path, n: int, rounds: int) -> list[dict]:
    """Figures of ours beside one file per image and joblib.Memory."""
    seconds, sizes = {}, {}
    for name, (write, read, more) in {
        "ours": (write_ours, read_ours, {}),
        "npy": (write_npy, read_npy, {}),
        "joblib": (write_joblib, read_joblib, {}),
        f"ours by {MANY_CLAIM:,}": (write_ours, read_ours, {"claim": MANY_CLAIM}),
    }.items():
        places = [folder / f"{name}-{i}" for i in range(rounds)]
        seconds[name, "written"] = fastest([fresh(write, folder=place, stop=n, **more) for place in places])
        seconds[name, "read"] = fastest([fresh(read, folder=place, stop=n) for place in places])
        sizes[name] = disk_bytes(places[0])
    figures = []
    for way in ("written", "read"):
        shown = ", ".join(f"{name} {1000 * seconds[name, way]:,.1f} ms" for name in sizes)
        for rival, wanted in (("joblib", WANTED_RATIO), ("npy", None)):
            ratio = seconds[rival, way] / seconds["ours", way]
            figures.append(figure(f"{n:,} rows {way}, against {rival}", ratio, shown, least=wanted))
    shown = f"{n / seconds['ours', 'read']:,.0f} rows/s"
    figures.append(figure(f"{n:,} rows read", seconds["ours", "read"], shown, most=WANTED_READ_S, unit="s"))
    shown = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
    shown += f"; the rows themselves {4 * WIDTH * n / 1e6:.1f} MB"
    figures.append(figure("bytes on disk, against joblib", sizes["joblib"] / sizes["ours"], shown))
    return figures


def written_together(folder: Path, n: int) -> list[dict]:
    """Figures of processes that write at the same time."""
    figures, rates = [], {}
    for writers in (1, 2, 4):
        place, share = folder / f"writers-{writers}", -(-n // writers)
        calls = [{"folder": place, "start": i * share, "stop": min((i + 1) * share, n)} for i in range(writers)]
        runs = together(write_ours, calls)
        rates[writers] = n / (max(run["end"] for run in runs) - min(run["begin"] for run in runs))
        if writers > 1:
            lost = n - fresh(read_ours, folder=place, stop=n)["right"]
            shown = f"{rates[writers]:,.0f} rows/s; one writer {rates[1]:,.0f}"
            figures.append(figure(f"{writers} writers at once, rows lost", lost, shown, most=0, unit="rows"))
    return figures


def by_the_million(folder: Path, n: int) -> list[dict]:
    """Figures of many rows: time, bytes, and memory beside that for a tenth of them."""
    found = {}
    for rows in (n // 10, n):
        place = folder / str(rows)
        found[rows, "written"] = fresh(write_ours, folder=place, stop=rows, claim=MANY_CLAIM)
        found[rows, "read"] = fresh(read_ours, folder=place, stop=rows, chunk=MANY_READ)
    megabytes = disk_bytes(folder / str(n)) / 1e6
    figures = []
    for way in ("written", "read"):
        few, many = found[n // 10, way], found[n, way]
        shown = f"{many['peak']:.0f} MB, for {n // 10:,} rows {few['peak']:.0f} MB; {n / many['seconds']:,.0f} rows/s"
        growth = many["peak"] / few["peak"]
        figures.append(figure(f"memory while {n:,} rows are {way}", growth, shown, most=WANTED_GROWTH))
        slower = (many["seconds"] / n) / (few["seconds"] / (n // 10))
        shown = f"{many['seconds']:.1f} s, {megabytes:,.0f} MB on disk"
        figures.append(figure(f"time per row, {n:,} against {n // 10:,} rows {way}", slower, shown))
    lost = n - found[n, "read"]["right"]
    figures.append(figure(f"rows lost of {n:,}", lost, "all compared", most=0, unit="rows"))
    return figures


def made(start: int, stop: int) -> tuple[list[bytes], np.ndarray]:
    """Return keys and rows that are the same in every process."""
    keys = [hashlib.sha256(b"%d" % i).digest() for i in range(start, stop)]
    rows = np.empty((stop - start, WIDTH), dtype=np.float32)
    rows[:] = np.arange(WIDTH) + np.arange(start, stop)[:, np.newaxis] / 8
    return keys, rows


def write_ours(folder: str, stop: int, start: int = 0, claim: int = CLAIM) -> dict:
    """Write rows in claims, and return the seconds of the claims, when they began and ended, and the peak memory."""
    seconds, begin = 0.0, time.time()
    store = FeatureStore(folder, "benchmark", {"width": WIDTH})
    with store.kept_open():
        for first in range(start, stop, claim):
            keys, rows = made(first, min(first + claim, stop))
            row_of = dict(zip(keys, rows, strict=True))
            before = time.perf_counter()
            with store.claim(keys) as (missing, known):
                known.update((key, row_of[key]) for key in missing)
            seconds += time.perf_counter() - before
        before = time.perf_counter()
    seconds += time.perf_counter() - before
    return {"seconds": seconds, "begin": begin, "end": time.time(), "peak": peak_megabytes()}


def read_ours(folder: str, stop: int, chunk: int | None = None) -> dict:
    """Read all rows, in chunks or by one call, and return the seconds, how many are right, and the peak memory."""
    seconds, right = 0.0, 0
    store = FeatureStore(folder, "benchmark", {"width": WIDTH})
    for first in range(0, stop, chunk or stop):
        keys, expected = made(first, min(first + (chunk or stop), stop))
        before = time.perf_counter()
        rows, found = store.read(keys)
        seconds += time.perf_counter() - before
        right += int((found & (rows == expected).all(axis=1)).sum())
        del keys, expected, rows, found  # or a second chunk would stand beside the first
    return {"seconds": seconds, "right": right, "peak": peak_megabytes()}


def write_npy(folder: str, stop: int) -> dict:
    """Write a file per row."""
    keys, rows = made(0, stop)
    Path(folder).mkdir()
    before = time.perf_counter()
    for key, row in zip(keys, rows, strict=True):
        np.save(Path(folder, key.hex()), row)
    return {"seconds": time.perf_counter() - before}


def read_npy(folder: str, stop: int) -> dict:
    """Read a file per row."""
    keys, expected = made(0, stop)
    before = time.perf_counter()
    rows = np.stack([np.load(Path(folder, f"{key.hex()}.npy")) for key in keys])
    seconds = time.perf_counter() - before
    return {"seconds": seconds, "right": int((rows == expected).all(axis=1).sum())}


@functools.cache
def _table(stop: int) -> dict[bytes, np.ndarray]:
    return dict(zip(*made(0, stop), strict=True))


def row_of(key: bytes, stop: int) -> np.ndarray:
    """Stand for the network: all it costs is looking the row up."""
    return _table(stop)[key]


def write_joblib(folder: str, stop: int) -> dict:
    """Call a function that joblib remembers, once per row."""
    cached = Memory(folder, verbose=0).cache(row_of)
    keys = list(_table(stop))
    before = time.perf_counter()
    for key in keys:
        cached(key, stop)
    return {"seconds": time.perf_counter() - before}


def read_joblib(folder: str, stop: int) -> dict:
    """Call it again in another process."""
    cached = Memory(folder, verbose=0).cache(row_of)
    keys, expected = made(0, stop)
    if not cached.check_call_in_cache(keys[0], stop):
        raise RuntimeError("joblib has forgotten the rows")
    before = time.perf_counter()
    rows = np.stack([cached(key, stop) for key in keys])
    seconds = time.perf_counter() - before
    return {"seconds": seconds, "right": int((rows == expected).all(axis=1).sum())}


if __name__ == "__main__":
    main()
