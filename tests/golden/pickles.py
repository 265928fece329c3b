"""Makes the pickles of this folder's `pickles/`: files that PyTorch writes, with the values they hold, and
files that nobody should open.

    python tests/golden/pickles.py
"""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent / "pickles"


class Calls:
    """What a pickle of this would do to who loads it."""

    def __reduce__(self):
        return os.system, ("touch /tmp/cdbench-was-here",)


def archive(name, program, storages=()):
    with zipfile.ZipFile(HERE / name, "w", zipfile.ZIP_STORED) as out:
        out.writestr("archive/data.pkl", program)
        for key, data in storages:
            out.writestr(f"archive/data/{key}", data)
        out.writestr("archive/version", "3\n")


def tensor(numel, shape, stride, offset=0):
    """The program of {"x": a tensor}, as torch writes it, with any numbers."""
    integer = lambda n: pickle.dumps(n, 2)[2:-1]
    tuple_of = lambda numbers: b"(" + b"".join(map(integer, numbers)) + b"t"
    text = lambda s: b"X" + len(s).to_bytes(4, "little") + s.encode()
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += integer(numel) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset)
    rebuilt += tuple_of(shape) + tuple_of(stride) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}(" + text("x") + rebuilt + b"u."


def main():
    HERE.mkdir(exist_ok=True)
    torch.manual_seed(7)
    half = torch.randn(2, 3).half()
    wide = torch.randn(4, 6)
    nested = {
        "state_dict": OrderedDict(
            {
                "plain": torch.randn(3, 2),
                "half": half,
                "bfloat": torch.randn(5).bfloat16(),
                "double": torch.randn(2).double(),
                "turned": torch.randn(2, 3).t(),
                "part": wide[1:3, 2:5],
                "kernel": torch.randn(2, 3, 1, 1).to(memory_format=torch.channels_last),
                "parameter": torch.nn.Parameter(torch.randn(2)),
                "empty": torch.zeros(0),
                "scalar": torch.tensor(4.0),
            }
        ),
        "top": torch.randn(2),
        "global_step": 470000,
        "epoch": 2**40,
        "betas": (0.9, None, True, [1, 2.5]),
        3: torch.randn(1),
    }
    module = torch.nn.Linear(2, 2)
    nested["module"] = module.state_dict()  # with `_metadata`
    torch.save(nested, HERE / "nested.pt")
    flat = {f"state_dict.{k}": v for k, v in nested["state_dict"].items()}
    flat |= {f"module.{k}": v for k, v in nested["module"].items()} | {"top": nested["top"]}
    save_file({k: v.detach().float().contiguous() for k, v in flat.items()}, HERE / "nested.safetensors")

    torch.save({"x": torch.ones(2)}, HERE / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"x": torch.ones(2)}, HERE / "newer_protocol.pt", pickle_protocol=4)
    program = io.BytesIO()
    pickle.Pickler(program, 2).dump({"x": Calls()})
    archive("calls.pt", program.getvalue())
    archive("calls_builtin.pt", b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.")

    numbers = torch.arange(6.0).numpy().tobytes()
    cases = {
        "whole": tensor(6, (2, 3), (3, 1)),
        "beyond": tensor(6, (2, 4), (4, 1)),
        "behind": tensor(6, (2, 2), (2, 1), 3),
        "repeated": tensor(6, (1 << 20, 1 << 20), (0, 0)),
        "huge": tensor(1 << 62, (1 << 62, 2), (2, 1)),
        "overflowing": tensor(6, (1 << 62, 1 << 62), (1, 1)),
        "negative": tensor(6, (-2, 3), (3, 1)),
        "liar": tensor(1 << 40, (1 << 40,), (1,)),
    }
    for name, program in cases.items():
        archive(f"{name}.pt", program, [("0", numbers)])
    archive("lost.pt", cases["whole"])
    with zipfile.ZipFile(HERE / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", tensor(1 << 20, (1 << 20,), (1,)))
        out.writestr("archive/data/0", bytes(4 << 20))
    with zipfile.ZipFile(HERE / "bomb_of_numbers.pt", "w") as out:
        out.writestr("archive/data.pkl", tensor(1 << 20, (1 << 20,), (1,)))
        out.writestr("archive/data/0", bytes(4 << 20), zipfile.ZIP_DEFLATED)
    # a list in a list in a list, and a pair of a pair of a pair: deep, and 2^60 values
    archive("deep.pt", b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".")
    archive("deep_tuples.pt", b"\x80\x02N" + b"\x85" * 20_000 + b".")
    archive("doubling.pt", b"\x80\x02N" + b"q\x00h\x00\x86" * 40 + b".")
    archive("long_text.pt", b"\x80\x02X\xff\xff\xff\xffab.")
    archive("short_call.pt", b"\x80\x02}(X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n)Ru.")


main()
