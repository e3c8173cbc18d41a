"""Parameter counts against published ones."""

import jax
import pytest

from tests.models import cases


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Xie et al. 2021 (SegFormer), table 1 (B0: 3.8 M there, 3.75 M in mmsegmentation's model zoo):
# encoder and head, 150 classes of ADE20K.
@pytest.mark.parametrize(
    ("variant", "millions"),
    [("b0", 3.75), ("b1", 13.7), ("b2", 27.5), ("b3", 47.3), ("b4", 64.1), ("b5", 84.7)],
)
def test_segformer(variant, millions):
    got = count(cases.shapes(cases.model(f"segformer_{variant}", 150))["params"]) / 1e6
    assert round(got, 2 if variant == "b0" else 1) == millions


def test_segformer_b0_to_the_parameter():
    # transformers: SegformerForSemanticSegmentation, nvidia/segformer-b0-finetuned-ade-512-512
    assert count(cases.shapes(cases.model("segformer_b0", 150))["params"]) == 3_752_694


# torchvision's documented num_params of the ImageNet models, less the classifier over 512 or 2048
# channels and 1000 classes.
@pytest.mark.parametrize(
    ("variant", "whole", "channels"),
    [
        ("resnet18", 11_689_512, 512),
        ("resnet34", 21_797_672, 512),
        ("resnet50", 25_557_032, 2048),
        ("resnet101", 44_549_160, 2048),
    ],
)
def test_resnet_trunk(variant, whole, channels):
    variables = cases.shapes(cases.model(f"deeplabv3plus_{variant}"))
    assert count(variables["params"]["backbone"]) == whole - 1000 * (channels + 1)


def test_mobilenet_v2_without_the_last_convolution_and_the_classifier():
    # torchvision's documented num_params of mobilenet_v2: 3,504,872
    variables = cases.shapes(cases.model("deeplabv3plus_mobilenet_v2"))
    last = 320 * 1280 + 2 * 1280
    assert count(variables["params"]["backbone"]) == 3_504_872 - 1000 * 1281 - last == 1_811_712


@pytest.mark.parametrize("name", ["deeplabv3plus_mobilenet_v2", "deeplabv3plus_resnet18"])
def test_separable_convolutions_save_parameters(name):
    separable, dense = (
        count(cases.shapes(cases.model(name, separable=flag))["params"]) for flag in (True, False)
    )
    cin, saved = cases.model(name).stage_channels[3], 0
    # three atrous convolutions, two of the decoder: 9 * cin * 256 against 9 * cin + 2 * cin norm
    for channels in (cin, cin, cin, 256 + 48, 256):
        saved += 9 * channels * 256 - (9 * channels + 2 * channels + channels * 256)
    assert dense - separable == saved


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "segformer_b0"])
def test_classes_change_the_classifier_alone(name):
    few, many = (cases.shapes(cases.model(name, k))["params"] for k in (2, 150))
    width = few["classifier"]["kernel"].shape[2]
    assert count(many) - count(few) == 148 * (width + 1)


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "segformer_b0"])
def test_plain_and_other_strides_have_the_same_variables(name):
    options = {"head": "plain"} if name == "segformer_b0" else {"output_stride": 8}
    assert cases.shapes(cases.model(name, **options)) == cases.shapes(cases.model(name))
