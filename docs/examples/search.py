"""Find the images of a folder that are most like an image, and print their paths with the cosine as CSV.

python search.py BUNDLE FOLDER IMAGE ...             compares with every image of the folder, in numpy
python search.py BUNDLE FOLDER IMAGE ... --usearch   looks in an index, for very many images: pip install usearch

The vectors are kept in a file, so that the next search embeds only images that are new or were changed.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edgekit
from edgekit.errors import EdgekitError, ImageError

Vector = NDArray[np.float32]
Search = Callable[[Vector, int], tuple[NDArray[np.integer], Vector]]
"""Finds the places and cosines of the nearest vectors to one vector, the nearest first."""


def unit(vector: Vector) -> Vector:
    """The vector with length 1, as which most bundles give it."""
    return np.divide(vector, max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)


def embed_folder(session: edgekit.Session, folder: Path, store: Path) -> tuple[list[str], Vector]:
    """Names and vectors [N,K] of a folder's images. Vectors of images that haven't changed come from the store."""
    known: dict[str, Vector] = {}
    if store.exists():
        with np.load(store, allow_pickle=False) as stored:
            if stored["bundle"] == session.bundle.sha256:  # those of another bundle can't be compared
                known = dict(zip(stored["states"].tolist(), stored["vectors"], strict=True))
    vectors: dict[str, Vector] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        state = f"{path.relative_to(folder).as_posix()}\t{path.stat().st_mtime_ns}"
        try:
            vectors[state] = known[state] if state in known else unit(session.embed(path))
        except ImageError as error:
            print(f"skipped: {error}", file=sys.stderr)
    if not vectors:
        sys.exit(f"'{folder}' has no image. Give a folder with images.")
    rows = np.stack(list(vectors.values()))
    draft = store.with_name(f".{store.name}")  # Ctrl-C while it is written must not leave half of a store
    with draft.open("wb") as file:
        np.savez(file, bundle=session.bundle.sha256, states=list(vectors), vectors=rows)
    draft.replace(store)
    return [state.partition("\t")[0] for state in vectors], rows


def brute_force(vectors: Vector) -> Search:
    """Compare with all vectors [N,K]."""

    def search(query: Vector, count: int) -> tuple[NDArray[np.integer], Vector]:
        cosines = vectors @ query
        best = np.argsort(-cosines, kind="stable")[:count]
        return best, cosines[best]

    return search


def with_usearch(vectors: Vector) -> Search:
    """Look in an index of the vectors [N,K]. It may miss a near one."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)

    def search(query: Vector, count: int) -> tuple[NDArray[np.integer], Vector]:
        matches = index.search(query, count)
        return matches.keys, 1 - matches.distances

    return search


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the images of a folder that are most like an image.")
    parser.add_argument("bundle", help="folder of a bundle that gives vectors")
    parser.add_argument("folder", type=Path, help="folder to search, with its subfolders")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images to compare with")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="images to print for each (default: 5)")
    parser.add_argument("--store", type=Path, default="vectors.npz", help="file of vectors (default: vectors.npz)")
    parser.add_argument("--usearch", action="store_true", help="look in an index of usearch")
    options = parser.parse_args()
    table = csv.writer(sys.stdout, lineterminator="\n")
    with edgekit.load(options.bundle) as session:
        queries = [unit(session.embed(image)) for image in options.images]
        names, vectors = embed_folder(session, options.folder, options.store)
    search = with_usearch(vectors) if options.usearch else brute_force(vectors)
    for image, query in zip(options.images, queries, strict=True):
        for place, cosine in zip(*search(query, options.top), strict=True):
            table.writerow([image, names[place], f"{cosine:.4f}"])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed. The first lines of this file say how to install it.")
    except (EdgekitError, OSError) as error:
        sys.exit(str(error))
