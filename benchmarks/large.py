"""A set of the size of NIH ChestX-ray14, 112,120 images of 30,805 patients: time and peak memory of every step.

    python benchmarks/large.py [--images 112120] [--part 8000] [--folder DIR]

The images are drawn: PNGs of 64 pixels, blends of two of some thousand radiographs with a gain, a shift of the grey
levels and noise of their own, in the folders and with the tables of that set, of which the package takes a plain one.
Steps run one after the other, each in a process of its own: the check (again with the statistics kept, and the search
for near-identical images by itself), MobileNet with random weights, `compare` with the features kept, the report made
again, and the embedding of --part images by one process, by 2 and 4 Dask workers, and by 4 of which one is killed in
the middle. In full, it takes up to 25 minutes and 2 GB of disk. With --folder the images stay there, and so does what
was measured: a run that was interrupted goes on. Fails where a step takes more than 4 GB, the search more than a
minute, a planted copy is not found, or workers compute other features than one process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from common import command_line, conclude, disk_bytes, figure, fresh, parse, peak_megabytes, scratch, seconds_of
from PIL import Image

from cxr_sklearn import FrozenEmbedder, ImageLoader, load_frame, make_radiographs
from cxr_sklearn.datasets.audit import similar_groups
from cxr_sklearn.features._image_stats import image_stats
from cxr_sklearn.features.store import NoStore

SIZE, IN_FOLDER, AT_ONCE = 64, 10_000, 1_000
#: Of the set: its images, patients, images with pneumonia and images in test_list.txt.
IMAGES, PATIENTS, ILL, IN_TEST = 112_120, 30_805, 1_431, 25_596
#: Copies of either kind among the training images of one patient.
PLANTED = 10
#: Images with each finding in the set.
FINDINGS = {
    "Infiltration": 19_894, "Effusion": 13_317, "Atelectasis": 11_559, "Nodule": 6_331, "Mass": 5_782,
    "Pneumothorax": 5_302, "Consolidation": 4_667, "Pleural_Thickening": 3_385, "Cardiomegaly": 2_776,
    "Emphysema": 2_516, "Edema": 2_303, "Fibrosis": 1_686, "Hernia": 227,
}  # fmt: skip
COLUMNS = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position",
    "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
)  # fmt: skip
RECIPE = """from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import FrozenEmbedder, ImageLoader


def build(store="auto", weights="imagenet", random_state=None):
    embedder = FrozenEmbedder("MobileNet", weights=weights, store=store)
    classifier = LogisticRegression(C=0.01, max_iter=1000, random_state=random_state)
    return make_pipeline(ImageLoader(size=64), embedder, StandardScaler(), classifier)
"""
MOST_MB, MOST_SECONDS = 4_096, 60


def main() -> None:
    """Measure all steps and print one JSON object."""
    options = parse(__doc__, {"images": (IMAGES, 600), "part": (8_000, 300)}, "folder")
    with scratch() if options.folder is None else contextlib.nullcontext(options.folder) as folder:
        found = {name: measured(folder, name, step) for name, step in steps(folder, options.images, options.part)}
    conclude("large", options, figures_of(found, options.images, options.part))


def measured(folder: Path, name: str, step: partial[dict]) -> dict:
    """Return what a step gave in this folder, now or in an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "measured.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    if name not in known:
        known[name] = step()
        file.write_text(json.dumps(known, indent=1))
        print(f"{name}: {known[name]}", file=sys.stderr, flush=True)
    return known[name]


def steps(folder: Path, n: int, n_part: int) -> Iterator[tuple[str, partial[dict]]]:
    """Yield all steps in their order."""
    table, out, store = folder / "labels.csv", folder / "run", ["--store", folder / "store"]
    check = ["check", table, *store, "--json", "--quiet"]
    recipes = ["--pipeline", folder / "mobilenet.py", "--weights", "random"]
    yield "draw", partial(fresh, draw, folder=folder, n=n)
    for name in ("check", "check again"):
        yield name, partial(fresh, command, words=check, output=folder / "check.json")
    yield "near-identical", partial(fresh, search, folder=folder)
    yield "embed", partial(fresh, embed, folder=folder)
    compare = ["compare", table, *recipes, "--out", out, *store, "--quiet"]
    yield "compare", partial(fresh, command, words=compare, output=folder / "compare.txt")
    yield "report", partial(fresh, command, words=["report", out], output=folder / "report.txt")
    for name, workers, killed in (("1", 1, False), ("2", 2, False), ("4", 4, False), ("killed", 4, True)):
        yield name, partial(fresh, share_out, folder=folder, n=n_part, workers=workers, killed=killed)


def figures_of(found: dict[str, dict], n: int, n_part: int) -> list[dict]:
    """Judge all steps."""
    shown = {
        "check": f"load_frame and check, {found['check']['said']}",
        "check again": "statistics kept",
        "near-identical": f"{found['near-identical']['groups']} groups, {2 * PLANTED} of them planted",
        "embed": f"{n / found['embed']['seconds']:,.0f} images/s in {found['embed']['precision']}, from the table to "
        f"the store of {found['embed']['disk']:,.0f} MB",
        "compare": "features kept; 5 folds and a fit of the recipe and of shortcuts, report and models included",
        "report": "from the tables of the run",
    }
    figures = [figure(f"{n:,} images drawn", found["draw"]["seconds"], "", unit="s")]
    for name, text in shown.items():
        most = {"most": MOST_SECONDS} if name == "near-identical" else {}
        figures += [
            figure(f"{name}: time", found[name]["seconds"], text, unit="s", **most),
            figure(f"{name}: peak memory", found[name]["megabytes"], "", most=MOST_MB, unit="MB"),
        ]
    for name in ("1", "2", "4", "killed"):
        who = "one process" if name == "1" else f"{name} Dask workers" if name.isdigit() else "4 Dask workers, 1 killed"
        memory = f"{found[name]['megabytes']:,.0f} MB in all processes"
        figures.append(figure(f"embedding by {who}", n_part / found[name]["seconds"], memory, unit="images/s"))
    differ = sum(found[name]["digest"] != found["1"]["digest"] for name in ("2", "4", "killed"))
    return [*figures, figure("runs of workers with other features than one process", differ, "", most=0, unit="runs")]


def command(words: list[str], output: str) -> dict:
    """Run a command of the shell; it has one process, whose peak memory the system tells."""
    start = time.perf_counter()
    with Path(output).open("w") as file:
        done = subprocess.run([*command_line(), *words], stdout=file, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"cxr-sklearn {words[0]} ended with status {done.returncode}; see {output}")
    result = {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}
    if words[0] == "check":
        found = json.loads(Path(output).read_text())
        counts = {kind: len(found[kind]) for kind in ("identical", "near_identical")}
        if found["unreadable"] or min(counts.values()) < PLANTED:
            raise RuntimeError(f"{PLANTED} identical and near-identical images were planted, found were {counts}")
        result["said"] = f"{counts['identical']} identical and {counts['near_identical']} near-identical pairs found"
    return result


def search(folder: str) -> dict:
    """Search for near-identical images alone; that most statistics are read before is not timed."""
    rows = load_frame(Path(folder) / "labels.csv", sizes=False)
    spectra = image_stats(rows["path"], Path(folder) / "store", "", 0).spectra
    groups: list[Any] = []
    seconds = seconds_of(lambda: groups.extend(similar_groups(spectra)))
    return {"seconds": seconds, "megabytes": peak_megabytes(), "groups": len(groups)}


def embed(folder: str) -> dict:
    """Embed all images into the store."""
    start, store = time.perf_counter(), Path(folder) / "store"
    paths = load_frame(Path(folder) / "labels.csv", sizes=False)["path"]
    embedder = FrozenEmbedder("MobileNet", weights="random", store=store)
    embedder.fit_transform(ImageLoader(size=SIZE).transform(paths))
    seconds, megabytes, disk = time.perf_counter() - start, peak_megabytes(), disk_bytes(store) / 1e6
    if embedder.n_embedded_ != len(paths) - PLANTED:  # copies of a file are embedded once
        raise RuntimeError(f"{embedder.n_embedded_:,} images were embedded")
    return {"seconds": seconds, "megabytes": megabytes, "precision": embedder.precision_, "disk": disk}


def share_out(folder: str, n: int, workers: int, killed: bool) -> dict:
    """Embed n images with Dask workers, or with one process, all of which have loaded the network before."""
    paths = load_frame(Path(folder) / "labels.csv", sizes=False)["path"][: n + 1]
    first, batch = (ImageLoader(size=SIZE).transform(part) for part in (paths[:1], paths[1:]))
    embedder = FrozenEmbedder("MobileNet", weights="random", store=None).fit(batch)
    features: list[Any] = []
    if workers == 1:
        embedder.transform(first)
        seconds = seconds_of(lambda: features.append(embedder.transform(batch)))
        megabytes = peak_megabytes()
    else:
        from dask.distributed import Client, LocalCluster

        options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options) as cluster, Client(cluster) as client, joblib.parallel_config("dask"):
            client.run(embedder.transform, first)
            if killed:
                kill_in_the_middle(next(iter(client.run(os.getpid).values())), n // embedder.batch_size_ // 16)
            seconds = seconds_of(lambda: features.append(embedder.transform(batch)))
            megabytes = peak_megabytes() + sum(client.run(peak_megabytes).values())
    return {"seconds": seconds, "megabytes": megabytes, "digest": hashlib.sha256(features[0].tobytes()).hexdigest()}


def kill_in_the_middle(pid: int, after: int) -> None:
    """Let this process kill a worker when it has got so many answers."""
    claim, claims = NoStore.claim, []

    def claim_and_kill(self: NoStore, keys: Any) -> Any:
        claims.append(len(keys))
        if len(claims) == max(after, 1):
            os.kill(pid, signal.SIGKILL)
        return claim(self, keys)

    NoStore.claim = claim_and_kill


def draw(folder: str, n: int) -> dict:
    """Write the images and the tables."""
    start, root = time.perf_counter(), Path(folder)
    for old in root.glob("images_*"):  # of an interrupted run
        shutil.rmtree(old)
    rows = draw_table(n)
    for number in rows["folder"].unique():
        (root / number / "images").mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        for ill in (False, True):
            parts = pool.map(partial(draw_originals, ill), range(4))
            np.save(root / f"originals-{ill}.npy", np.concatenate(list(parts)))
        parts = [rows.iloc[start : start + AT_ONCE] for start in range(0, n, AT_ONCE)]
        list(pool.map(partial(write_images, root), parts))
    plant_copies(root, rows)
    write_tables(root, rows)
    time.sleep(2.1)  # files as young as that are never taken for unchanged
    return {"seconds": time.perf_counter() - start, "megabytes": peak_megabytes()}


def draw_table(n: int) -> pd.DataFrame:
    """Draw patients, findings and splits, as in the set; a small one has more pneumonia, so that there is some."""
    rng, n_patients = np.random.default_rng(0), n * PATIENTS // IMAGES
    weight = rng.lognormal(0, 1.2, n_patients)
    n_images = 1 + rng.multinomial(n - n_patients, weight / weight.sum())
    patient = np.repeat(np.arange(1, n_patients + 1), n_images)
    rows = pd.DataFrame({"patient": patient})
    rows["follow_up"] = rows.groupby("patient").cumcount()
    rows["folder"] = [f"images_{i // IN_FOLDER + 1:03d}" for i in range(n)]
    rows["name"] = [f"{p:08d}_{i:03d}.png" for p, i in zip(patient, rows["follow_up"], strict=True)]
    rows["path"] = rows["folder"] + "/images/" + rows["name"]
    rows["ill"] = rng.random(n) < max(ILL / IMAGES, 100 / n)
    names, shares = list(FINDINGS), np.array(list(FINDINGS.values())) / sum(FINDINGS.values())
    others = np.where(rng.random(n) < 0.54, 0, rng.integers(1, 4, n))
    rows["findings"] = [
        "|".join(sorted([*rng.choice(names, k, replace=False, p=shares), *["Pneumonia"] * ill])) or "No Finding"
        for k, ill in zip(others, rows["ill"], strict=True)
    ]
    order = rng.permutation(n_patients)
    before = np.empty(n_patients)  # share of the images that patients earlier in this order have
    before[order] = (np.cumsum(n_images[order]) - n_images[order]) / n
    test = IN_TEST / IMAGES
    rows["split"] = np.select([before[patient - 1] < test, before[patient - 1] < test + 0.08], ["test", "val"], "train")
    return rows


def draw_originals(ill: bool, seed: int) -> np.ndarray:
    """Draw one radiograph of each of 1,500 healthy or 500 ill patients."""
    images, frame = make_radiographs(2_000, size=SIZE, prevalence=0.25, random_state=seed)
    return images[((frame["target"] == ill) & ~frame["patient"].duplicated()).to_numpy()]


def write_images(folder: Path, rows: pd.DataFrame) -> None:
    """Write images, each a blend of two originals: with a gain and noise alone, they would be near-identical."""
    rng, n = np.random.default_rng(rows.index[0]), len(rows)
    originals = {ill: np.load(folder / f"originals-{ill}.npy", mmap_mode="r") for ill in (False, True)}
    share, gain = rng.uniform(0.35, 0.65, n), rng.uniform(1.1, 1.5, n)
    for i, path, ill, a, b in zip(rows.index, rows["path"], rows["ill"], share, gain, strict=True):
        # Every pair of originals once: the first goes round while the distance to the second grows from round to round.
        known = originals[ill]
        distance, first = divmod(i, len(known))
        one, other = (known[at % len(known)].astype(np.float32) for at in (first, first + distance + 1))
        pixels = b * (a * one + (1 - a) * other - 128) + rng.uniform(110, 145) + rng.normal(0, 5, one.shape)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / path, compress_level=1)


def plant_copies(folder: Path, rows: pd.DataFrame) -> None:
    """Replace training images by copies of an image of the same patient: of the file, and a little brighter."""
    again = rows[(rows["follow_up"] == 1) & (rows["split"] == "train") & ~rows["ill"]].index[: 2 * PLANTED]
    for place, i in enumerate(again):
        source, copy = (folder / rows["path"][j] for j in (i - 1, i))
        if place < PLANTED:
            shutil.copyfile(source, copy)
        else:
            pixels = np.asarray(Image.open(source)) * 0.9 + 20
            Image.fromarray(pixels.astype(np.uint8)).save(copy, compress_level=1)


def write_tables(folder: Path, rows: pd.DataFrame) -> None:
    """Write the tables of the set, the plain one that the package takes, and the recipe."""
    rng = np.random.default_rng(1)
    age, woman = rng.integers(1, 95, rows["patient"].max() + 1), rng.random(rows["patient"].max() + 1) < 0.435
    lines = [
        f"{row.name},{row.findings},{row.follow_up},{row.patient},{age[row.patient]},{'MF'[int(woman[row.patient])]},"
        f"{('PA', 'AP')[row.Index % 2]},{SIZE},{SIZE},0.143,0.143\n"
        for row in rows.itertuples()
    ]
    (folder / "Data_Entry_2017.csv").write_text("".join([",".join(COLUMNS) + "\n", *lines]))
    for name, is_test in (("train_val_list", False), ("test_list", True)):
        listed = rows["name"][(rows["split"] == "test") == is_test]
        (folder / f"{name}.txt").write_text("\n".join(listed) + "\n")
    plain = rows[["path", "patient", "split"]].assign(label=np.where(rows["ill"], "pneumonia", "normal"))
    plain.to_csv(folder / "labels.csv", index=False)
    (folder / "mobilenet.py").write_text(RECIPE)


if __name__ == "__main__":
    main()
