"""Times every operation of `collabseg_jax.ops` in both formulations, interleaved.

    python benchmarks/ops.py [rounds] [name ...]        about two minutes on two cores

Medians in milliseconds, forward and forward + backward; the ratio is plain over cpu.
"""

import statistics
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp

from collabseg_jax import ops


def draw(*shape, scale=1.0):
    return scale * jax.random.normal(jax.random.key(len(shape)), shape)


def cases():
    """(operation, shape as text, function, arguments)."""
    for n, size, cin, cout, stride, dilation in [
        (32, 1, 1024, 256, 1, 1),
        (64, 1, 64, 256, 1, 1),
        (128, 1, 24, 144, 1, 1),
        (64, 3, 304, 256, 1, 1),
        (64, 3, 128, 128, 1, 1),
        (32, 3, 128, 128, 1, 1),
        (32, 3, 256, 256, 1, 1),
        (16, 3, 256, 256, 1, 1),
        (16, 3, 512, 512, 1, 2),
        (128, 3, 64, 64, 1, 1),
        (64, 3, 64, 64, 1, 1),
        (64, 3, 64, 128, 2, 1),
        (32, 3, 128, 256, 2, 1),
        (256, 7, 3, 64, 2, 1),
        (256, 7, 3, 32, 4, 1),
    ]:
        x, kernel = draw(2, n, n, cin), draw(size, size, cin, cout, scale=0.05)
        run = partial(ops.conv, stride=stride, dilation=dilation)
        # The gradient for the image is never wanted.
        arguments = (x, kernel) if cin > 3 else (kernel,)
        fixed = run if cin > 3 else partial(run, x)
        yield "conv", f"{size}x{size} {n} {cin}->{cout} /{stride} d{dilation}", fixed, arguments
    for coarse, grid in [((16, 16), (64, 64)), ((23, 30), (90, 120))]:
        maps = draw(2, *coarse, 256), draw(2, *grid, 48)
        text = f"3x3 256 of {coarse}, 48 of {grid} ->256"
        yield "two_grids", text, ops.conv_two_grids, (*maps, draw(3, 3, 304, 256, scale=0.02))
    for n, size, channels in [(128, 8, 32), (64, 4, 64), (32, 2, 160)]:
        x, kernel = draw(2, n, n, channels), draw(size, size, channels, channels, scale=0.05)
        run = partial(ops.conv, stride=size, padding=0)
        yield "conv", f"reduction {size} {n} {channels}", run, (x, kernel)
    for n, channels, stride, dilation in [
        (128, 128, 1, 1),
        (128, 96, 2, 1),
        (32, 512, 1, 1),
        (16, 1024, 1, 1),
        (16, 512, 1, 12),
    ]:
        run = partial(ops.depthwise_conv, stride=stride, dilation=dilation)
        text = f"{n} {channels} /{stride} d{dilation}"
        yield "depthwise", text, run, (draw(2, n, n, channels), draw(3, 3, 1, channels))
    for n in (128, 256):
        yield "pool", f"{n} 64", ops.max_pool_3x3_stride_2, (draw(2, n, n, 64),)
    for n, channels, shape in [
        (128, 21, (512, 512)),
        (32, 256, (128, 128)),
        (16, 256, (128, 128)),
        (64, 256, (150, 170)),
        (128, 64, (16, 16)),
    ]:
        run = partial(ops.resize_bilinear, shape=shape)
        yield "resize", f"{n} {channels} to {shape}", run, (draw(2, n, n, channels),)
    for n, m, heads, depth in [(16384, 256, 1, 32), (4096, 256, 2, 64), (256, 256, 8, 32)]:
        arguments = draw(2, n, heads, depth), draw(2, m, heads, depth), draw(2, m, heads, depth)
        yield "attention", f"{n} x {m}, {heads} heads of {depth}", ops.attention, arguments
    yield "gelu", "16384 128", ops.gelu, (draw(2, 16384, 128),)


def compiled(run, arguments, name):
    """Zero-argument functions that run forward, and forward + backward, to the end."""

    def back(arguments, cotangent):
        y, pull = jax.vjp(run, *arguments)
        return y, pull(cotangent)

    with ops.using(name):
        forward = jax.jit(run).lower(*arguments).compile()
        cotangent = jnp.ones_like(forward(*arguments))
        both = jax.jit(back).lower(arguments, cotangent).compile()
    return [partial(forward, *arguments), partial(both, arguments, cotangent)]


def main(rounds=7, *names):
    print(f"{'':40s}   forward ms            forward + backward ms")
    print(f"{'operation':40s}{'plain':>8s}{'cpu':>8s}{'ratio':>7s}", end="")
    print(f"{'plain':>10s}{'cpu':>8s}{'ratio':>7s}")
    for operation, text, run, arguments in cases():
        if names and operation not in names:
            continue
        calls = [c for name in ("plain", "cpu") for c in compiled(run, arguments, name)]
        times = [[] for _ in calls]
        for _ in range(int(rounds) + 1):
            for call, taken in zip(calls, times, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(call())
                taken.append(1e3 * (time.perf_counter() - start))
        plain, plain_both, cpu, cpu_both = (statistics.median(t[1:]) for t in times)
        print(f"{operation + ' ' + text:40s}{plain:8.2f}{cpu:8.2f}{plain / cpu:7.2f}", end="")
        print(f"{plain_both:10.2f}{cpu_both:8.2f}{plain_both / cpu_both:7.2f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
