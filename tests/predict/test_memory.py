"""However large an input, only a few chunks of it are in memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import HUNG, REPOSITORY, command_environment

#: Images of 64x64 bytes: 328 MB on the disk, 1311 MB as the model reads them.
SMALL, LARGE, SIDE = 4_000, 80_000, 64

#: Predicts a small array, then a large one, then holds the large one; prints the peak after each.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from chapterflow.environment import load_tensorflow
load_tensorflow()
import keras
from chapterflow.predict.drift import Reference
from chapterflow.predict.batch_inputs import BatchInputs
from chapterflow.predict.table import Totals
from chapterflow.predict.table import Parts, write_result
from chapterflow.predict.batch import predict_parts
from chapterflow.predict.table import row_bytes, schema
from tests.predict.cards import CARD

side = int(sys.argv[1])
card = CARD.model_copy(update={"shape": [side, side, 1]})
pixels = keras.Input(card.shape)
network = keras.Model(pixels, keras.layers.Dense(10)(keras.layers.GlobalMaxPooling2D()(pixels)))
reference = Reference("noise", {"input mean": np.random.default_rng(0).random(500)}, {})

def peak():
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6

class Watched(Parts):
    def write(self, start, stop, table, unread, notes):
        # Rows that wait in malloc's memory break it into pieces too small for the next inputs.
        assert pa.total_allocated_bytes() >= table.nbytes
        super().write(start, stop, table, unread, notes)

def batch(name):
    inputs, parts = BatchInputs(), Watched(Path(f"{name}.parts"))
    inputs.add_files([f"{name}.npy"], card, (side, side))
    predict_parts(network, card, inputs.sources, parts, shape=(side, side, 1),
                  figures=sorted(reference.figures), on_chunk=lambda *_: None)
    joined = Totals(card, inputs, reference)
    write_result(Path(f"{name}.parquet"), joined.tables(parts), schema(card, labelled=False),
                 row_bytes(card), dict)
    return joined.examples

done = {}
for name in ("small", "large"):
    done[name] = batch(name), peak()
held = np.load("large.npy").astype(np.float32)
done["held"] = len(held), peak()
print(json.dumps(done))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    for name, count in (("small", SMALL), ("large", LARGE)):
        images = np.random.default_rng(0).integers(0, 17, (count, SIDE, SIDE, 1), np.uint8)
        np.save(tmp_path / f"{name}.npy", images)
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(SIDE)],
        cwd=tmp_path,
        env=command_environment(REPOSITORY),
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (small, first), (large, second), (_, held) = json.loads(result.stdout).values()
    assert (small, large) == (SMALL, LARGE)
    # Half of what the bytes of the file alone would take, an eighth of what the model reads.
    assert second - first < 160
    # What is measured would have shown it.
    assert held - second > 800
