"""The CUDA kernels of src/nn/device, run on the CPU, against PyTorch.

Compiles them with g++ behind a stand-in for a GPU (cuda_kernels/emulate.cpp): a thread for each thread of
a block, with the barriers of blocks and warps. It shows that the arithmetic and the indices are right; it
shows nothing about speed or about what only a GPU does. Needs g++ 12 and torch, and no GPU.
"""

import ctypes
import math
import pathlib
import subprocess
import tempfile

import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).parent
TYPES = {"f32": (torch.float32, 1e-5), "f16": (torch.float16, 4e-3), "bf16": (torch.bfloat16, 3e-2)}


def build():
    out = pathlib.Path(tempfile.mkdtemp()) / "kernels.so"
    folder = HERE / "cuda_kernels"
    command = ["g++", "-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", "-w", f"-I{folder}"]
    subprocess.run([*command, str(folder / "emulate.cpp"), "-o", str(out)], check=True)
    return ctypes.CDLL(str(out))


LIBRARY = build()


class Long(int):
    """A kernel's argument of type long long."""


def launch(name, grid, threads, *arguments):
    launcher = getattr(LIBRARY, f"{name}_launcher")
    launcher.restype = ctypes.c_void_p
    types, values = [ctypes.c_uint] * 3, [*grid, threads]
    for x in arguments:
        if isinstance(x, torch.Tensor):
            assert x.is_contiguous()
            types.append(ctypes.c_void_p)
            values.append(x.data_ptr())
        elif isinstance(x, float):
            types.append(ctypes.c_float)
            values.append(x)
        else:
            types.append(ctypes.c_longlong if isinstance(x, Long) else ctypes.c_int)
            values.append(int(x))
    ctypes.CFUNCTYPE(None, *types)(launcher())(*values)


def close(what, found, wanted, tolerance):
    error = (found.double() - wanted.double()).abs().max().item()
    scale = max(wanted.abs().max().item(), 1.0)
    assert error <= tolerance * scale, f"{what}: {error:.2e} of {scale:.2e}"


def leaves(dtype, *shapes, offset=0.0):
    """Random values that the type has, in f64 with gradients."""
    made = [torch.randn(s) + (offset if i == 0 else 0.0) for i, s in enumerate(shapes)]
    return [x.to(dtype).double().requires_grad_() for x in made]


def group_norm(kind, batch, groups, width, h, w, silu, offset):
    dtype, tolerance = TYPES[kind]
    c, pixels = groups * width, h * w
    x, weight, bias = leaves(dtype, (batch, c, h, w), (c,), (c,), offset=offset)
    y = F.group_norm(x, groups, weight, bias, 1e-3)
    y = F.silu(y) if silu else y
    dy = torch.randn(y.shape).to(dtype)
    y.backward(dy.double())
    a, b, d = (t.detach().to(dtype) for t in (x, weight, bias))
    out, dx = torch.empty_like(a), torch.empty_like(a)
    moments, sums = torch.empty(batch, groups, 2), torch.empty(batch, 2 * c)
    sizes = [groups, c, pixels, int(silu)]
    launch(f"group_norm_{kind}", (batch * groups, 1), 64, a, b, d, out, moments, *sizes, 1e-3)
    launch(f"group_norm_sums_{kind}", (batch * c, 1), 64, a, moments, b, d, dy, sums, *sizes)
    launch(f"group_norm_backward_{kind}", (batch * c, 1), 32, a, moments, b, d, dy, sums, dx, *sizes)
    close("group norm", out, y.detach(), tolerance * 4)
    close("group norm, ∂x", dx, x.grad, tolerance * 20)
    close("group norm, ∂w", sums.sum(0)[:c], weight.grad, tolerance * 20)
    close("group norm, ∂b", sums.sum(0)[c:], bias.grad, tolerance * 20)


def layer_norm(kind, rows, width):
    dtype, tolerance = TYPES[kind]
    x, weight, bias = leaves(dtype, (rows, width), (width,), (width,), offset=3.0)
    y = F.layer_norm(x, (width,), weight, bias, 1e-3)
    dy = torch.randn(y.shape).to(dtype)
    y.backward(dy.double())
    a, b, d = (t.detach().to(dtype) for t in (x, weight, bias))
    out, dx, moments = torch.empty_like(a), torch.empty_like(a), torch.empty(rows, 2)
    chunk = 16
    chunks = -(-rows // chunk)
    sums = torch.empty(chunks, 2 * width)
    blocks = -(-rows // 2)
    launch(f"layer_norm_{kind}", (blocks, 1), 64, a, b, d, out, moments, rows, width, 1e-3)
    launch(f"layer_norm_backward_{kind}", (blocks, 1), 64, a, moments, b, dy, dx, rows, width)
    grid = (-(-width // 32), chunks)
    launch(f"layer_norm_sums_{kind}", grid, 256, a, moments, dy, sums, rows, width, chunk)
    close("layer norm", out, y.detach(), tolerance * 4)
    close("layer norm, ∂x", dx, x.grad, tolerance * 20)
    close("layer norm, ∂w", sums.sum(0)[:width], weight.grad, tolerance * 20)
    close("layer norm, ∂b", sums.sum(0)[width:], bias.grad, tolerance * 20)


def activations(kind):
    dtype, tolerance = TYPES[kind]
    functions = [F.silu, F.gelu, lambda x: x * torch.sigmoid(1.702 * x)]
    for code, f in enumerate(functions):
        (x,) = leaves(dtype, (7, 33))
        y = f(x)
        dy = torch.randn(y.shape).to(dtype)
        y.backward(dy.double())
        a = x.detach().to(dtype)
        out, dx = torch.empty_like(a), torch.empty_like(a)
        launch(f"activate_{kind}", (2, 1), 32, a, out, code, Long(a.numel()))
        launch(f"activate_backward_{kind}", (2, 1), 32, a, dy, dx, code, Long(a.numel()))
        close(f"activation {code}", out, y.detach(), tolerance)
        close(f"activation {code}, ∂x", dx, x.grad, tolerance)
    (x,) = leaves(dtype, (5, 2 * 37))
    y = x[:, :37] * F.gelu(x[:, 37:])
    dy = torch.randn(y.shape).to(dtype)
    y.backward(dy.double())
    a = x.detach().to(dtype)
    out, dx = torch.empty(y.shape, dtype=dtype), torch.empty_like(a)
    launch(f"geglu_{kind}", (5, 1), 32, a, out, 37)
    launch(f"geglu_backward_{kind}", (5, 1), 32, a, dy, dx, 37)
    close("GEGLU", out, y.detach(), tolerance)
    close("GEGLU, ∂x", dx, x.grad, tolerance)


def softmax(kind, rows, width):
    dtype, tolerance = TYPES[kind]
    (x,) = leaves(dtype, (rows, width), offset=50.0)
    y = x.softmax(-1)
    dy = torch.randn(y.shape).to(dtype)
    a = x.detach().to(dtype)
    p, dx = torch.empty_like(a), torch.empty_like(a)
    launch(f"softmax_{kind}", (-(-rows // 2), 1), 64, a, p, rows, width)
    close("softmax", p, y.detach(), tolerance / 8)
    launch(f"softmax_backward_{kind}", (-(-rows // 2), 1), 64, p, dy, dx, rows, width)
    y.backward(dy.double())
    close("softmax, ∂x", dx, x.grad, tolerance)
    a[1] = -float("inf")
    a[1, width // 2] = 3.0
    launch(f"softmax_{kind}", (-(-rows // 2), 1), 64, a, p, rows, width)
    assert p[1].sum() == 1 and p[1, width // 2] == 1, "masked but for one"
    a[1, 0] = float("nan")
    launch(f"softmax_{kind}", (-(-rows // 2), 1), 64, a, p, rows, width)
    assert p[1].isnan().all() and not p[0].isnan().any(), "what is not a number is seen"


def attention(kind, batch, n, m, heads, d, causal):
    dtype, tolerance = TYPES[kind]
    width, padded = heads * d, next(w for w in (32, 48, 64, 80) if w >= d)
    q, k, v = leaves(dtype, (batch, n, width), (batch, m, width), (batch, m, width))
    split = [x.reshape(batch, -1, heads, d).transpose(1, 2) for x in (q, k, v)]
    scores = split[0] @ split[1].transpose(2, 3) * d**-0.5
    if causal:
        scores = scores.masked_fill(torch.ones(n, m).triu(1).bool(), -float("inf"))
    y = (scores.softmax(-1) @ split[2]).transpose(1, 2).reshape(q.shape)
    dy = torch.randn(y.shape).to(dtype)
    y.backward(dy.double())
    a, b, c = (x.detach().to(dtype) for x in (q, k, v))
    # what is not written would be seen
    out, dq, dk, dv = (torch.full_like(x, float("nan")) for x in (a, a, b, c))
    log_sums, along = torch.empty(batch, heads, n), torch.empty(batch, heads, n)
    sizes = [n, m, heads, d, int(causal), float(d**-0.5)]
    of_queries, of_keys = ((-(-rows // 64), batch * heads) for rows in (n, m))
    launch(f"attention_{padded}_{kind}", of_queries, 128, a, b, c, out, log_sums, *sizes)
    close("attention", out, y.detach(), tolerance)
    close("attention, sums", log_sums * math.log(2), scores.detach().logsumexp(-1), tolerance / 4)
    count = batch * n * heads
    launch(f"attention_along_{kind}", (-(-count // 4), 1), 128, out, dy, along, count, n, heads, d)
    rest = [a, b, c, dy, log_sums, along]
    launch(f"attention_queries_{padded}_{kind}", of_queries, 128, *rest, dq, *sizes)
    launch(f"attention_keys_{padded}_{kind}", of_keys, 128, *rest, dk, dv, *sizes)
    close("attention, ∂q", dq, q.grad, tolerance)
    close("attention, ∂k", dk, k.grad, tolerance)
    close("attention, ∂v", dv, v.grad, tolerance)
    b[0, 0, 0] = float("nan")
    launch(f"attention_{padded}_{kind}", of_queries, 128, a, b, c, out, log_sums, *sizes)
    assert out[0, :, :d].isnan().all() and not out[0, :, d:].isnan().any(), "NaN is seen"


def add_bias(kind):
    dtype, tolerance = TYPES[kind]
    for shape, inner in (((2, 5, 3, 4), 12), ((7, 5), 1)):
        x, b = torch.randn(shape).to(dtype), torch.randn(5).to(dtype)
        wanted = x + b.reshape((1, 5) + (1,) * (len(shape) - 2))
        out = torch.empty_like(x)
        launch(f"add_bias_{kind}", (2, 1), 32, x, b, out, x.numel(), inner, 5)
        close("bias", out, wanted, tolerance)


def copies(kind):
    x = torch.randn(2, 3, 4, 5).to(TYPES[kind][0])
    for y in (x.transpose(1, 2), x.permute(3, 0, 2, 1), x[:, 1:, :, 2:4]):
        out = torch.empty(y.shape, dtype=x.dtype)
        numbers = [y.numel(), *y.shape[1:], y.storage_offset(), *y.stride()]
        launch(f"copy_{kind}", (2, 1), 32, x, out, *numbers)
        close("copy", out, y, 0.0)
    kernel = torch.randn(3, 2, 2, 2).to(x.dtype)
    out = torch.empty(2, 3, 2, 2, dtype=x.dtype)
    launch(f"copy_{kind}", (1, 1), 32, kernel, out, 24, 2, 3, 4, 3, 0, 4, 8, -1)
    close("turned kernel", out, kernel.transpose(0, 1).flip(2, 3), 0.0)


def columns(kind, batch, channels, h, w, size, stride, before, after):
    dtype, _ = TYPES[kind]
    x = torch.randn(batch, channels, h, w).to(dtype)
    padded = F.pad(x.float(), (before, after, before, after))
    wanted = F.unfold(padded, size, stride=stride)  # [batch, places, pixels]
    out_h, out_w = ((n + before + after - size) // stride + 1 for n in (h, w))
    out = torch.empty(channels * size * size, batch * out_h * out_w, dtype=dtype)
    grid = (-(-out.shape[1] // 64), out.shape[0])
    sizes = [batch, channels, h, w, size, stride, before, out_h, out_w]
    launch(f"columns_{kind}", grid, 64, x, out, *sizes)
    close("columns", out, wanted.transpose(0, 1).reshape(out.shape), 0.0)


def adamw():
    p = torch.nn.Parameter(torch.randn(301))
    q, m, v = p.detach().clone(), torch.zeros(301), torch.zeros(301)
    optimizer = torch.optim.AdamW([p], lr=1e-2, weight_decay=1e-1)
    for t in range(1, 4):
        g = torch.randn(301)
        p.grad = g * 0.5
        optimizer.step()
        launch("adamw_f32", (3, 1), 64, q, g, m, v, Long(301), 0.5, 1 - 1e-3, 0.1, 0.999, 1e-3,
               float((1 - 0.999**t) ** -0.5), 1e-8, 1e-2 / (1 - 0.9**t))
    close("AdamW", q, p.detach(), 1e-6)
    parts = torch.empty(3)
    launch("squares_f32", (3, 1), 64, q, parts, Long(301))
    close("squares", parts.sum(), q.double().square().sum(), 1e-6)


torch.manual_seed(0)
torch.set_num_threads(1)
for kind in TYPES:
    for silu in (False, True):
        group_norm(kind, 2, 3, 4, 5, 7, silu, 0.0)
        group_norm(kind, 1, 2, 1, 3, 3, silu, 0.0)
    group_norm(kind, 2, 2, 40, 2, 2, True, 1.0)
    layer_norm(kind, 37, 45)
    layer_norm(kind, 3, 70)
    activations(kind)
    softmax(kind, 5, 77)
    softmax(kind, 2, 9)
    add_bias(kind)
    copies(kind)
    columns(kind, 2, 3, 6, 7, 3, 1, 1, 1)
    columns(kind, 2, 2, 7, 6, 3, 2, 0, 1)
for kind in ("f16", "bf16"):
    attention(kind, 1, 70, 77, 2, 40, False)
    attention(kind, 1, 130, 64, 1, 64, False)
    attention(kind, 2, 9, 3, 2, 80, False)
    attention(kind, 1, 77, 77, 2, 24, True)
    attention(kind, 1, 150, 150, 1, 56, True)
group_norm("f32", 2, 2, 3, 6, 6, True, 100.0)
adamw()
print("all kernels agree with PyTorch")
