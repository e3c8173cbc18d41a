"""The encoders, stage by stage, against float64 NumPy written from the definitions."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from collabseg_jax import interop
from collabseg_jax.models.mix_transformer import MixTransformer
from tests.interop import files
from tests.models import cases
from tests.models import reference as ref


def torch_conv_norm(x, tensors, conv, norm, stride=1, dilation=1, activation=ref.relu6):
    kernel = tensors[f"{conv}.weight"].transpose(2, 3, 1, 0)
    of = ref.depthwise if kernel.shape[2] == 1 else ref.conv
    leaves = ("weight", "bias", "running_mean", "running_var")
    x = ref.batch_norm(of(x, kernel, stride, dilation), *(tensors[f"{norm}.{k}"] for k in leaves))
    return activation(x)


def mobilenet_v2(x, tensors, replaced):
    """F1..F4 of torchvision's `features`, whose blocks in `replaced` do not stride.

    From the block after a replaced one on, the depthwise convolutions are dilated.
    """
    x = torch_conv_norm(x, tensors, "features.0.0", "features.0.1", 2)
    dilation, maps = 1, {}
    for index, t, cin, cout, stride in files.blocks():
        name, i, y, rate = f"features.{index}.conv", 0, x, dilation
        if index in replaced:
            stride, dilation = 1, 2 * dilation
        if t != 1:
            y = torch_conv_norm(y, tensors, f"{name}.0.0", f"{name}.0.1")
            i = 1
        y = torch_conv_norm(y, tensors, f"{name}.{i}.0", f"{name}.{i}.1", stride, rate)
        y = torch_conv_norm(
            y, tensors, f"{name}.{i + 1}", f"{name}.{i + 2}", activation=lambda y: y
        )
        x = x + y if stride == 1 and cin == cout else y
        maps[index] = x
    return [maps[i] for i in (3, 6, 13, 17)]


@pytest.mark.parametrize(("stride", "replaced"), [(16, {14}), (8, {7, 14}), (32, set())])
def test_mobilenet_v2_from_torchvision_names(tmp_path, stride, replaced):
    tensors = files.tensors()
    path = files.write(tmp_path / "w.safetensors", tensors)
    module = cases.model("deeplabv3plus_mobilenet_v2", output_stride=stride)
    variables, _ = interop.load_pretrained(
        path,
        name="deeplabv3plus_mobilenet_v2",
        model=module,
        variables=cases.variables(cases.model("deeplabv3plus_mobilenet_v2")),
    )
    x = cases.noise(2, 33, 47, 3)
    expected = mobilenet_v2(cases.wide(x), cases.wide(tensors), replaced)
    stages = range(1, 5) if stride == 16 else range(3, 5)
    if stride != 16:  # stages 1 and 2 are the same at every output stride
        x = np.float32(expected[1])
    for i in stages:
        x = cases.stage(module, variables, i, x, batch_stats=False)
        assert cases.difference(x, expected[i - 1]) < 2e-5


def mit_stage(x, p, index, depth, eps):
    """Xie et al. 2021, section 3.1; patch embedding and reduction have an epsilon of their own."""
    heads, reduction = ((1, 8), (2, 4), (5, 2), (8, 1))[index]
    x = ref.conv(x, p["patch_embed"]["kernel"], 4 if index == 0 else 2) + p["patch_embed"]["bias"]
    x = ref.layer_norm(x, p["patch_norm"], 1e-5)
    for j in range(1, depth + 1):
        x = mit_block(x, p[f"block{j}"], heads, reduction, eps)
    return ref.layer_norm(x, p["norm"], eps)


def mit_block(x, p, heads, reduction, eps):
    y = ref.layer_norm(x, p["norm1"], eps)
    a, source = p["attention"], y
    if reduction > 1:
        source = ref.conv(y, a["reduce"]["kernel"], reduction, padding=0) + a["reduce"]["bias"]
        source = ref.layer_norm(source, a["reduce_norm"], 1e-5)
    q, k, v = (
        ref.linear(z, a[name]).reshape(x.shape[0], -1, x.shape[-1])
        for name, z in (("query", y), ("key", source), ("value", source))
    )
    y = np.stack([ref.attention(*image, heads) for image in zip(q, k, v, strict=True)])
    x = x + ref.linear(y.reshape(x.shape), a["out"])
    f = p["ffn"]
    y = ref.linear(ref.layer_norm(x, p["norm2"], eps), f["fc1"])
    y = ref.gelu(ref.depthwise(y, f["depthwise"]["kernel"]) + f["depthwise"]["bias"])
    return x + ref.linear(y, f["fc2"])


def mit_variables(module):
    """Random, with inputs of the LayerNorms so small that the epsilon matters."""
    flat = traverse_util.flatten_dict(cases.variables(module))
    small = {"patch_embed", "reduce", "patch_norm", "out", "fc2"}
    loud = {"query", "key"}  # so that attention differs between positions
    for path in flat:
        flat[path] = flat[path] * (0.03 if small & set(path) else 2 if loud & set(path) else 1)
    return traverse_util.unflatten_dict(flat)


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
@pytest.mark.parametrize(
    ("i", "shape"),
    [(1, (67, 97, 3)), (2, (19, 27, 32)), (3, (9, 11, 64)), (4, (5, 7, 160))],
)
def test_mix_transformer_stage(i, shape, eps):
    module = cases.model("segformer_b0", layer_norm_eps=eps)
    variables = mit_variables(module)
    x = cases.noise(2, *shape)
    got = cases.stage(module, variables, i, x, drop=False)
    p = cases.wide(variables["params"]["backbone"][f"stage{i}"])
    assert cases.difference(got, mit_stage(cases.wide(x), p, i - 1, 2, eps)) < 2e-5


@pytest.mark.parametrize(("variant", "depths"), [("b0", (2, 2, 2, 2)), ("b2", (3, 4, 6, 3))])
def test_stochastic_depth_rises_linearly_over_all_blocks(variant, depths):
    stages = MixTransformer(variant, drop_path=0.3).bind({}).stages
    rates = [stage.drop_paths for stage in stages]
    assert tuple(map(len, rates)) == depths
    np.testing.assert_allclose(sum(rates, ()), np.linspace(0, 0.3, sum(depths)), atol=1e-12)


def shortcut(x, y, p, s, stride):
    if "downsample" in p:
        return ref.conv_norm(x, p["downsample"], s["downsample"], stride, activation=lambda x: x)
    assert x.shape == y.shape
    return x


def basic(x, p, s, stride, first, second):
    y = ref.conv_norm(x, p["conv1"], s["conv1"], stride, first)
    y = ref.conv_norm(y, p["conv2"], s["conv2"], 1, second, activation=lambda x: x)
    return ref.relu(y + shortcut(x, y, p, s, stride))


def bottleneck(x, p, s, stride, first, second):
    y = ref.conv_norm(x, p["conv1"], s["conv1"])
    y = ref.conv_norm(y, p["conv2"], s["conv2"], stride, first)
    y = ref.conv_norm(y, p["conv3"], s["conv3"], activation=lambda x: x)
    return ref.relu(y + shortcut(x, y, p, s, stride))


# (model, output stride, stage, stride, dilation of the block before, dilation)
@pytest.mark.parametrize(
    ("name", "output_stride", "i", "stride", "before", "dilation"),
    [
        ("resnet18", 8, 1, 1, 1, 1),
        ("resnet18", 8, 2, 2, 1, 1),
        ("resnet18", 8, 3, 1, 1, 2),
        ("resnet18", 8, 4, 1, 2, 4),
        ("resnet18", 16, 4, 1, 1, 2),
        ("resnet18", 32, 4, 2, 1, 1),
        ("resnet50", 16, 2, 2, 1, 1),
        ("resnet50", 8, 3, 1, 1, 2),
    ],
)
def test_resnet_stage(name, output_stride, i, stride, before, dilation):
    module = cases.model(f"deeplabv3plus_{name}", output_stride=output_stride)
    variables = cases.variables(cases.model(f"deeplabv3plus_{name}"))
    p, s = (variables[k]["backbone"] for k in ("params", "batch_stats"))
    channels = 3 if i == 1 else module.stage_channels[i - 2]
    x = cases.noise(1, *((39, 53) if i == 1 else (7, 9)), channels)
    got = cases.stage(module, variables, i, x, batch_stats=False)
    x = cases.wide(x)
    if i == 1:
        x = ref.max_pool(ref.conv_norm(x, cases.wide(p["stem"]), cases.wide(s["stem"]), 2))
    block = basic if name == "resnet18" else bottleneck
    names = sorted((n for n in p if n.startswith(f"stage{i}_")), key=lambda n: int(n[12:]))
    assert len(names) == {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}[name][i - 1]
    for j, n in enumerate(names):
        first = (stride, before) if j == 0 else (1, dilation)
        x = block(x, cases.wide(p[n]), cases.wide(s[n]), *first, dilation)
    assert cases.difference(got, x) < 2e-5


def test_borrowed_stage_sees_its_own_batch():
    """HFD: a stage of ResNet with the statistics of what it is given, running ones untouched."""
    module = cases.model("deeplabv3plus_resnet18")
    variables = cases.variables(module)
    x = cases.noise(2, 9, 12, 64)
    borrowed = cases.stage(module, variables, 2, x, batch_stats=True)
    p = variables["params"]["backbone"]
    y = cases.wide(x)
    for j in (1, 2):
        y = batch_basic(y, cases.wide(p[f"stage2_block{j}"]), 2 if j == 1 else 1)
    assert cases.difference(borrowed, y) < 2e-5
    other = jax.tree.map(lambda a: a + 1, variables["batch_stats"])
    again = cases.stage(module, variables | {"batch_stats": other}, 2, x, batch_stats=True)
    np.testing.assert_array_equal(again, borrowed)


def batch_basic(x, p, stride):
    def unit(x, p, stride, activation):
        y = ref.conv(x, p["conv"]["kernel"], stride)
        return activation(
            ref.batch_norm(y, **p["norm"], mean=y.mean((0, 1, 2)), var=y.var((0, 1, 2)))
        )

    y = unit(unit(x, p["conv1"], stride, ref.relu), p["conv2"], 1, lambda y: y)
    if "downsample" in p:
        x = unit(x, p["downsample"], stride, lambda y: y)
    return ref.relu(x + y)
