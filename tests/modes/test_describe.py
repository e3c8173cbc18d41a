"""What `--mode=describe` counts, against figures that others published, and what it prints."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from collabseg_jax import main, models, ops
from collabseg_jax.configs import base, quickstart
from collabseg_jax.errors import InputError
from collabseg_jax.models.bridges import COMMON_CHANNELS
from collabseg_jax.models.mix_transformer import MITS, REDUCTIONS
from collabseg_jax.models.segformer import WIDTH
from collabseg_jax.modes import describe
from collabseg_jax.run import record

ROOT = Path(__file__).parents[2]


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@functools.cache
def parts(name, size, classes=150, **options):
    return describe.parts(models.build(name, classes, **options), size)


def total(rows):
    return sum(part.macs for part in rows)


# What counts as a multiply-add.


def test_a_convolution():
    # 5x4 outputs of stride 2 over 9x8, each channel of 7 a sum of 3 * 3 * 2 products; batch of 2
    assert describe.macs(
        functools.partial(ops.conv, stride=2), shape(2, 9, 8, 2), shape(3, 3, 2, 7)
    ) == 2 * 5 * 4 * 7 * (3 * 3 * 2)


def test_dilation_adds_nothing_and_taps_on_padding_count():
    for dilation in (1, 2, 50):
        run = functools.partial(ops.conv, dilation=dilation)
        assert describe.macs(run, shape(1, 6, 5, 2), shape(3, 3, 2, 4)) == 6 * 5 * 4 * (3 * 3 * 2)


def test_a_depthwise_convolution():
    got = describe.macs(ops.depthwise_conv, shape(1, 6, 5, 8), shape(3, 3, 1, 8))
    assert got == 6 * 5 * 8 * 9


def test_a_convolution_in_two_groups():
    def run(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=2
        )

    # each of 6 outputs sees 4 of the 8 channels
    assert describe.macs(run, shape(1, 5, 5, 8), shape(3, 3, 4, 6)) == 5 * 5 * 6 * (3 * 3 * 4)


def test_kernels_in_another_layout():
    def run(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID")  # NCHW, OIHW

    assert describe.macs(run, shape(1, 2, 4, 4), shape(5, 2, 3, 3)) == 2 * 2 * 5 * (2 * 3 * 3)


def test_matrix_products():
    assert describe.macs(jnp.matmul, shape(3, 4), shape(4, 5)) == 3 * 4 * 5
    # batch of 2; contracted over two axes of 3 and 4
    run = functools.partial(jnp.einsum, "bmij,bijn->bmn")
    assert describe.macs(run, shape(2, 5, 3, 4), shape(2, 3, 4, 6)) == 2 * 5 * 6 * (3 * 4)


def test_attention_is_two_products():
    query, key = shape(1, 20, 2, 8), shape(1, 5, 2, 8)
    assert describe.macs(ops.attention, query, key, key) == 2 * (20 * 5 * 16)


def test_nothing_else_counts():
    def run(x):
        x = jax.nn.softmax(ops.gelu(x) * 2 + 1)
        return ops.max_pool_3x3_stride_2(x).mean() + jnp.sort(x).sum()

    assert describe.macs(run, shape(1, 8, 8, 4)) == 0


@pytest.mark.parametrize("formulation", ops.backend.FORMULATIONS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing_does_not_count(align_corners, formulation):
    def run(x, matrix):
        with ops.using(formulation):
            y = ops.resize_bilinear(x @ matrix, (13, 17), align_corners=align_corners)
        return y @ matrix

    cells = 4 * 5 + 13 * 17
    assert describe.macs(run, shape(1, 4, 5, 3), shape(3, 3)) == cells * 3 * 3
    # ... nor where the resizing is inside a jitted function, or outside of one.
    assert describe.macs(jax.jit(run), shape(1, 4, 5, 3), shape(3, 3)) == cells * 3 * 3


def test_a_product_counts_wherever_the_same_one_is_part_of_a_resizing():
    """What jit keeps of the traced product is shared by both calls."""
    product = jax.jit(jnp.matmul)

    def run(a):
        with jax.named_scope(ops.resize.SCOPE):
            b = product(a, a)
        return b + product(a, a)

    assert describe.macs(run, shape(3, 3)) == 27


def test_what_is_inside_other_functions_counts():
    @jax.custom_vjp
    def own(a):
        return a @ a

    own.defvjp(lambda a: (a @ a, a), lambda a, g: (g @ a @ a,))

    @jax.custom_jvp
    def other(a):
        return a @ a

    other.defjvp(lambda primals, tangents: (other(*primals), tangents[0]))
    a = shape(3, 3)
    for run in (own, other, jax.jit(jax.jit(jnp.dot)), jax.checkpoint(jnp.dot)):
        arguments = (a, a) if run not in (own, other) else (a,)
        assert describe.macs(run, *arguments) == 27


def test_loops_and_branches():
    a = shape(3, 3)

    def scanned(a):
        return jax.lax.scan(lambda x, _: (x @ a, None), a, length=5)[0]

    def branching(a):
        return jax.lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, a)

    def endless(a):
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, a)

    assert describe.macs(scanned, a) == 5 * 27
    assert describe.macs(branching, a) == 2 * 27
    with pytest.raises(ValueError, match="while"):
        describe.macs(endless, a)


def test_parameters():
    tree = {"a": jnp.zeros((3, 4)), "b": [shape(5), {"c": shape()}]}
    assert describe.parameters(tree) == 12 + 5 + 1
    assert describe.parameters({}) == 0


# Published figures.


def mmcv_extra(variant, side, classes):
    """What mmcv's counter adds to multiply-adds in SegFormer: see test_segformer."""
    channels, depths = MITS[variant]
    extra = (side // 4) ** 2 * (classes + WIDTH[variant])  # classifier's bias, head's ReLU
    for c, depth, stride, r in zip(channels, depths, (4, 8, 16, 32), REDUCTIONS, strict=True):
        cells = (side // stride) ** 2
        extra += cells * c + depth * cells * 4 * c  # patch embedding; depthwise of the Mix-FFN
        extra += depth * cells // r**2 * c if r > 1 else 0  # spatial reduction
    return extra


@pytest.mark.parametrize(
    ("variant", "side", "giga"),
    [
        ("b0", 512, 8.4),
        ("b1", 512, 15.9),
        ("b2", 512, 62.4),
        pytest.param("b3", 512, 79.0, marks=pytest.mark.slow),
        pytest.param("b4", 512, 95.7, marks=pytest.mark.slow),
        ("b5", 640, 183.3),
    ],
)
def test_segformer(variant, side, giga):
    """Xie et al. 2021, tables 1 and 2 (ADE20K, 150 classes), to the printed digit.

    Their figures are of tools/get_flops.py in NVlabs/SegFormer: mmcv's counter for the modules and
    a formula for the products of attention. Besides multiply-adds, mmcv counts one operation for
    each output of a convolution with bias (but not of a linear layer with bias), and one for each
    output of a ReLU; it knew neither GELU nor SyncBN nor, in its early versions, LayerNorm. That
    is 0.1 to 0.2% and decides the last digit of B2, B4 and B5: without it, as describe prints
    them, the figures are 8.4, 15.9, 62.3, 79.0, 95.6 and 183.1.
    """
    counted = total(parts(f"segformer_{variant}", (side, side), head="plain"))
    extra = mmcv_extra(variant, side, 150)
    assert round((counted + extra) / 1e9, 1) == giga
    assert 0 < extra < 0.002 * counted


def test_the_parts_of_segformer_b0():
    rows = parts("segformer_b0", (512, 512), head="plain")
    assert [part.name for part in rows] == ["F1", "F2", "F3", "F4", "head"]
    assert [part.stride for part in rows] == [4, 8, 16, 32, 4]
    assert [part.channels for part in rows] == [32, 64, 160, 256, 150]
    assert [part.grid[0] for part in rows] == [128, 64, 32, 16, 128]
    # transformers: nvidia/segformer-b0-finetuned-ade-512-512 has 3,752,694 parameters.
    assert sum(part.parameters for part in rows) == 3_752_694
    projections = (32 + 64 + 160 + 256 + 4) * 256
    fusion, classifier = 4 * 256 * 256 + 2 * 256, 257 * 150
    assert rows[4].parameters == projections + fusion + classifier
    cells = [part.grid[0] ** 2 for part in rows[:4]]
    projections = sum(n * part.channels * 256 for n, part in zip(cells, rows, strict=False))
    assert rows[4].macs == projections + cells[0] * (4 * 256 * 256 + 256 * 150)


def test_the_folded_head_saves_the_fusion():
    """Projections straight to the fused width, and the product of the matrices themselves."""
    folded, plain = (parts("segformer_b0", (512, 512), head=h) for h in ("folded", "plain"))
    assert folded[:4] == plain[:4]
    assert folded[4].parameters == plain[4].parameters
    channels = sum(part.channels for part in folded[:4])
    products = channels * 256 * 256 + 4 * 256 * 256  # kernels and biases by the fusion matrix
    fusion = 128 * 128 * 4 * 256 * 256
    assert plain[4].macs - folded[4].macs == fusion - products


# torchvision's documented GFLOPS at 224x224, which are multiply-adds of convolutions and linear
# layers, and what of it is not in our trunk: the classifier of 1000 classes, and MobileNetV2's last
# convolution, 320 to 1280 channels at 7x7.
@pytest.mark.parametrize(
    ("encoder", "giga", "rest"),
    [
        ("resnet18", 1.814, 512 * 1000),
        ("resnet34", 3.664, 512 * 1000),
        ("resnet50", 4.089, 2048 * 1000),
        ("resnet101", 7.801, 2048 * 1000),
        ("mobilenet_v2", 0.301, 1280 * 1000 + 7 * 7 * 320 * 1280),
    ],
)
def test_trunks(encoder, giga, rest):
    rows = parts(f"deeplabv3plus_{encoder}", (224, 224), output_stride=32)
    assert round((total(rows[:4]) + rest) / 1e9, 3) == giga
    assert [part.stride for part in rows] == [4, 8, 16, 32, 4]


def test_a_dilated_stage_costs_four_times_as_much():
    """But for the first block, which reads the finer grid of the stage before either way."""
    wide, narrow = (parts("deeplabv3plus_resnet18", (256, 256), output_stride=s) for s in (16, 32))
    assert wide[:3] == narrow[:3]
    assert (wide[3].stride, narrow[3].stride) == (16, 32)
    assert wide[3].macs == 4 * narrow[3].macs
    assert wide[3].parameters == narrow[3].parameters


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "segformer_b0"])
def test_strides_at_sizes_that_they_do_not_divide(name):
    for size in ((33, 32), (360, 95)):
        rows = parts(name, size)
        last = 32 if name == "segformer_b0" else 16
        assert [part.stride for part in rows] == [4, 8, 16, last, 4]
        assert all(part.grid == tuple(-(-n // part.stride) for n in size) for part in rows)


def test_aligned_corners_cost_what_others_do():
    """smp's enlargement is a product with matrices here, but no work of the network."""
    rows = parts("deeplabv3plus_resnet18", (512, 512), 21, decoder="smp", separable=False)
    # as segmentation-models-pytorch builds its head: ASPP with three dense 3x3 and a separable one
    # after it, 48 low-level channels, one separable 3x3, the classifier
    small, large = 32 * 32, 128 * 128
    aspp = small * (512 * 256 + 3 * 9 * 512 * 256 + 5 * 256 * 256) + 512 * 256
    refine = small * (9 * 256 + 256 * 256)
    decoder = large * (64 * 48 + 9 * 304 + 304 * 256 + 256 * 21)
    assert rows[4].macs == aspp + refine + decoder


def test_bridges():
    bridges = models.Bridges((64, 128, 256, 512), (32, 64, 160, 256))
    cnn, vit = parts("deeplabv3plus_resnet18", (512, 512)), parts("segformer_b0", (512, 512))
    count, work = describe.bridge_costs(bridges, cnn, vit)
    assert count == (64 * 32 + 32) + 32 * 64 + (512 + 256 + 2) * COMMON_CHANNELS
    # F4 of the CNN lies at stride 16; the ViT's is projected at stride 32 and enlarged.
    common = (32 * 32 * 512 + 16 * 16 * 256) * COMMON_CHANNELS
    assert work == 2 * 128 * 128 * 64 * 32 + common
    none = models.Bridges((64, 128, 256, 512), (32, 64, 160, 256), ("hfd",))
    assert describe.bridge_costs(none, cnn, vit)[1] == 2 * 128 * 128 * 64 * 32


# The mode.


def test_the_command_line_prints_both_students(tmp_path):
    folder = tmp_path / "never"
    command = [
        *(sys.executable, "-m", "collabseg_jax.main", "--mode=describe"),
        *("--config=configs/camvid.py", f"--workdir={folder}", f"--config.data.dir={folder}"),
        *(f"--config.data.raw_dir={folder}", f"--config.cnn.pretrained={folder}"),
        *("--config.describe.size=(384,512)", "--config.cnn.atrous_rates=(2,4,6)"),
    ]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert not folder.exists()
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    first = lines[0]
    assert "camvid" in first and "11 classes" in first and "384x512" in first
    heads = [i for i, line in enumerate(lines) if line and line[0] != " "][1:]
    assert [lines[i] for i in heads] == [
        "cnn: deeplabv3plus_mobilenet_v2",
        "vit: segformer_b0",
        "pair",
    ]
    cnn, vit, pair = (lines[i:j] for i, j in zip(heads, [*heads[1:], len(lines)], strict=True))
    assert "atrous_rates=(2,4,6)" in " ".join(cnn) and "head=folded" in " ".join(vit)

    def row(section, name):
        (line,) = (line for line in section if line.startswith(f"  {name} "))
        return line.replace(name, "", 1).split()

    for section, name in ((cnn, "deeplabv3plus_mobilenet_v2"), (vit, "segformer_b0")):
        rows = parts(name, (384, 512), 11)
        for part in rows:
            assert row(section, part.name) == [
                str(part.stride),
                str(part.channels),
                f"{part.grid[0]}x{part.grid[1]}",
                f"{part.parameters / 1e6:.3f}",
                f"{part.macs / 1e9:.3f}",
            ]
        for label, some in (("encoder (F1 to F4)", rows[:4]), ("total", rows)):
            count = sum(part.parameters for part in some)
            assert row(section, label) == [f"{count / 1e6:.3f}", f"{total(some) / 1e9:.3f}"]
    published = total(parts("segformer_b0", (384, 512), 11, head="plain"))
    assert row(vit, "as published, head=plain")[1] == f"{published / 1e9:.3f}"
    sums = [float(row(section, "total")[1]) for section in (cnn, vit)]
    assert float(row(pair, "both students")[1]) == pytest.approx(sum(sums), abs=0.0011)
    assert float(row(pair, "bridges (training only)")[0]) > 0


def test_bridges_and_the_published_head_are_named_only_if_they_are_there():
    config = base.get_config()  # ce alone needs no bridges
    config.vit.head = "plain"
    config.describe.size = (64, 64)
    described = describe.text(config)
    assert "bridges" not in described and "published" not in described
    config.losses.hfd.weight = 0.3
    assert "bridges" in describe.text(config)


@pytest.mark.parametrize("size", [(16, 512), (512, 31), (512,), (64, 64, 3), (64.5, 64), (-1, 64)])
def test_a_size_that_cannot_be(size):
    config = quickstart.get_config()
    with config.ignore_type():
        config.describe.size = size
    with pytest.raises(InputError, match=r"config\.describe\.size is .*height, width.*32"):
        main.run(config, mode="describe", workdir="")


def test_the_size_does_not_belong_to_a_run(tmp_path):
    """Another one continues it; and a run from before there was the section can still be used."""
    config = quickstart.get_config()
    recorded = config.to_dict()
    del recorded["describe"]
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "config": recorded}))
    config.describe.size = (64, 96)
    record.refuse_other_config(config, tmp_path)
    assert tuple(record.recorded_config(tmp_path, config).describe.size) == (64, 96)
