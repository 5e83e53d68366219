"""Make this folder's files anew: `python tests/data/fashion-mnist/make.py [FULL]`, from Debian's dataset by default."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_export.scoring.datasets.idx import read_idx

HERE = Path(__file__).parent
OF_EACH_CLASS = {"train": 50, "t10k": 10}


def subset(full: Path, part: str) -> dict[str, NDArray[np.uint8]]:
    """Return the first images of each class and their labels, by the names of their files, in their original order."""
    names = [f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"]
    images, labels = (read_idx(full / name) for name in names)
    kept = np.sort(np.concatenate([np.flatnonzero(labels == k)[: OF_EACH_CLASS[part]] for k in range(10)]))
    return dict(zip(names, (images[kept], labels[kept]), strict=True))


def main(full: Path) -> None:
    """Write the four files."""
    for part in OF_EACH_CLASS:
        for name, values in subset(full, part).items():
            header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
            (HERE / name).write_bytes(gzip.compress(header + values.tobytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist"))
