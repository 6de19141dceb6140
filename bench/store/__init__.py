"""What is on disk: atomic files, a manifest with their sha256, and rows of results that become one DataFrame.

A folder's `manifest.json` lists each file with its sha256 and size; it is written after them, so a folder whose
manifest verifies is whole. Neither torch.load nor safetensors notices a flipped bit: this does.

A hash shows that a file is whole, not that it lies where it belongs. What is hashed therefore names inside what it is the
file of (a run's id, a key), and whoever reads it compares that with where it was found (`belongs`, `misplaced`).

Whoever writes into a folder holds its lock (`locked`); reading needs none. A manifest holds the hashes of the bytes that
were written (`put`), not of what lies there later.
`Row` documents every column of the results, in one place; the table in docs/rows.md is made from it.

    typed      values out of JSON, compared with types
    files      atomic writing, and what to do about a damaged file
    sealed     JSON, and JSON with its own sha256
    places     which run and data set a file or folder belongs to
    lock       one writer in a folder at a time
    manifests  the manifest of a folder
    row        the columns of a row
    rows       the rows of a folder, and of many as one DataFrame

Files and folders have their names from `reports.layout`.
"""

from bench.store.files import Unwritable, put, writable, write_atomic
from bench.store.lock import locked
from bench.store.manifests import manifest, missing, read_verified, verify, write_manifest
from bench.store.places import OF, baselines_of, belongs, metadata, misplaced, owner
from bench.store.row import ADDED, SCHEMA, Row, columns
from bench.store.rows import frame, has_rows, load_rows, results_key, save_rows, table
from bench.store.sealed import SEAL, parse, read_json, read_sealed, unsealed, write_json, write_sealed
from bench.store.typed import LARGEST, fits, fitting
from reports.layout import BASELINES, INFO, LOCK, MANIFEST, RESULTS

__all__ = [
    "ADDED",
    "BASELINES",
    "INFO",
    "LARGEST",
    "LOCK",
    "MANIFEST",
    "OF",
    "RESULTS",
    "SCHEMA",
    "SEAL",
    "Row",
    "Unwritable",
    "baselines_of",
    "belongs",
    "columns",
    "fits",
    "fitting",
    "frame",
    "has_rows",
    "load_rows",
    "locked",
    "manifest",
    "metadata",
    "misplaced",
    "missing",
    "owner",
    "parse",
    "put",
    "read_json",
    "read_sealed",
    "read_verified",
    "results_key",
    "save_rows",
    "table",
    "unsealed",
    "verify",
    "writable",
    "write_atomic",
    "write_json",
    "write_manifest",
    "write_sealed",
]
