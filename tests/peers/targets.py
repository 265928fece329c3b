"""The concepts' target pictures, as `cdbench world preview --concepts` draws them."""

import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image

# the rows of the sheet
CATEGORIES = ["dog", "cat", "teddybear", "chair", "flower", "car", "cup", "robot", "mushroom", "boat"]
# a cell of it: a picture shown three times as large, a gap, one line of text
COLUMNS, SIDE, ZOOM, GAP, LINE = 8, 64, 3, 8, 15


def targets(program):
    """Pictures, and the number of each one's category."""
    with tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(temporary) / "concepts.png"
        command = [program, "world", "preview", "--concepts", "-o", out]
        subprocess.run(command, check=True, capture_output=True)
        sheet = np.asarray(Image.open(out).convert("RGB"))
    width, height = SIDE * ZOOM + GAP, SIDE * ZOOM + GAP + LINE
    assert sheet.shape[:2] == (len(CATEGORIES) * height, COLUMNS * width), sheet.shape
    for row in range(len(CATEGORIES)):
        for column in range(COLUMNS):
            top, left = row * height, column * width
            cell = sheet[top : top + SIDE * ZOOM : ZOOM, left : left + SIDE * ZOOM : ZOOM]
            yield Image.fromarray(cell), row
