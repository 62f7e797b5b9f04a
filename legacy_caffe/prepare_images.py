"""A folder of images, one subfolder per class, as the arrays that dual_net.py reads.

    python legacy_caffe/prepare_images.py cats-and-dogs OUT --side 227

Classes are numbered in the order of their names.  Files that PIL reads are converted to RGB and
scaled to side x side pixels, whatever their shape, as the thesis did (section 7.2); PIL is needed
for those only.  A .npy file is taken as it is: uint8 [side, side, 3].  Every n-th image of a class,
n = --test-every, becomes a test image.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from legacy_caffe.batches import BadData

SUFFIXES = {".npy", ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff",
            ".webp"}


def read_image(path: Path, side: int) -> np.ndarray:
    """One image, uint8 [3, side, side], red, green and blue.  Raises BadData."""
    try:
        pixels = _load_array(path) if path.suffix == ".npy" else _load_with_pil(path, side)
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be read as an image ({error}); repair or remove it"
                      ) from None
    if pixels.dtype != np.uint8 or pixels.shape != (side, side, 3):
        raise BadData(f"{path}: expected uint8 [{side}, {side}, 3], found {pixels.dtype} "
                      f"{list(pixels.shape)}; scale it first, or set --side")
    return pixels.transpose(2, 0, 1)


def _load_array(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def _load_with_pil(path: Path, side: int) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise BadData(f"{path}: this kind of file needs PIL; 'pip install pillow', or save the "
                      f"images as .npy, uint8 [{side}, {side}, 3]") from None
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def split(source: Path, test_every: int) -> tuple[list[str], list[list[tuple[Path, int]]]]:
    """The names of the classes, and (file, label) of the training and of the test images.

    Raises BadData for fewer than two classes, or a class without images.
    """
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    if len(folders) < 2:
        raise BadData(f"{source}: expected one subfolder per class, at least two, found "
                      f"{len(folders)}")
    parts: list[list[tuple[Path, int]]] = [[], []]
    for label, folder in enumerate(folders):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if len(files) < test_every:
            raise BadData(f"{folder}: {len(files)} images, too few for one test image in "
                          f"{test_every}; add some, or lower --test-every")
        for number, path in enumerate(files, start=1):
            parts[number % test_every == 0].append((path, label))
    return [folder.name for folder in folders], parts


def prepare(source: Path, out: Path, side: int, test_every: int) -> list[str]:
    """Write the arrays, an image at a time, and classes.txt; returns the names of the classes."""
    names, parts = split(source, test_every)
    out.mkdir(parents=True, exist_ok=True)
    for part, files in zip(("train", "test"), parts, strict=True):
        images = np.lib.format.open_memmap(out / f"{part}_images.npy", "w+", np.uint8,
                                           (len(files), 3, side, side))
        for image, (path, _) in zip(images, files, strict=True):
            image[...] = read_image(path, side)
        images.flush()
        np.save(out / f"{part}_labels.npy", np.array([label for _, label in files], np.int64))
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2, 65 for bad data, 74 for the disk."""
    parser = argparse.ArgumentParser("prepare_images.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with one subfolder per class")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--side", type=int, default=227, help="pixels (default: 227)")
    parser.add_argument("--test-every", type=int, default=10, metavar="N",
                        help="one image in N is a test image (default: 10)")
    arguments = parser.parse_args(argv)
    if arguments.side < 1 or arguments.test_every < 2:
        parser.error("--side must be at least 1 and --test-every at least 2")
    try:
        names = prepare(arguments.source, arguments.out, arguments.side, arguments.test_every)
    except BadData as error:
        print(f"prepare_images.py: {error}", file=sys.stderr)
        return 65
    except OSError as error:
        print(f"prepare_images.py: {error.filename} ({error.strerror})", file=sys.stderr)
        return 74
    print(f"{arguments.out}: {len(names)} classes: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
