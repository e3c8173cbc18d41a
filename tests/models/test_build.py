"""Unknown names and invalid options are refused, with the valid ones."""

import pytest

from collabseg_jax import models

CNN, VIT = "deeplabv3plus_resnet18", "segformer_b0"


def refused(name, *args, **options):
    with pytest.raises(ValueError) as caught:
        models.build(name, *args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_model():
    message = refused("segformer_b9")
    assert "'segformer_b9'" in message
    assert all(name in message for name in models.MODELS)


def test_unknown_option():
    message = refused(VIT, drop_paths=0.1)
    assert "'drop_paths'" in message
    assert "did you mean 'drop_path'" in message
    options = "align_corners, bn_eps, bn_momentum, drop_path, dropout, dropout_kind, dtype, head"
    assert message.endswith(f"valid: {options}, layer_norm_eps, remat, width")
    message = refused(CNN, outputstride=16)
    options = "atrous_rates, bn_eps, bn_momentum, decoder, dropout, dropout_kind, dtype"
    assert message.endswith(f"valid: {options}, output_stride, remat, separable, stem, stride_in")


@pytest.mark.parametrize("option", [{"encoder": "b5"}, {"output_stride": 16}, {"parent": None}])
def test_what_is_no_option_of_segformer(option):
    assert next(iter(option)) in refused(VIT, **option)


@pytest.mark.parametrize("stride", [4, 12, 64])
def test_output_stride(stride):
    message = refused(CNN, output_stride=stride)
    assert f"output_stride is {stride}" in message
    assert "one of 8, 16, 32 (decoder=paper)" in message


def test_smp_has_no_output_stride_32():
    message = refused(CNN, output_stride=32, decoder="smp")
    assert message == "output_stride is 32, expected one of 8, 16 (decoder=smp)"


@pytest.mark.parametrize("rates", [(6, 12), (6, 12, 18, 24), (0, 6, 12)])
def test_atrous_rates(rates):
    assert f"atrous_rates is {rates}, expected three of at least 1" in refused(
        CNN, atrous_rates=rates
    )


@pytest.mark.parametrize(
    ("name", "option", "value", "valid"),
    [
        (VIT, "head", "flat", "folded, plain"),
        (VIT, "dropout_kind", "chanel", "channel, element"),
        (CNN, "decoder", "papers", "paper, smp"),
        (CNN, "stem", "3x3", "7x7, deep"),
        (CNN, "stride_in", "7x7", "1x1, 3x3"),
    ],
)
def test_choices(name, option, value, valid):
    message = refused(name, **{option: value})
    assert f"{option} of {name} {value!r}" in message
    assert valid in message


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (VIT, "layer_norm_eps", 0.0),
        (CNN, "bn_eps", -1e-5),
        (CNN, "bn_momentum", 1.0),
        (VIT, "dropout", 1.0),
        (VIT, "drop_path", -0.1),
        (VIT, "width", -1),
        ("deeplabv3plus_mobilenet_v2", "stem", "deep"),
        ("deeplabv3plus_mobilenet_v2", "stride_in", "1x1"),
    ],
)
def test_values(name, option, value):
    assert f"{option} is {value!r}, expected" in refused(name, **{option: value})


@pytest.mark.parametrize("classes", [0, 1])
def test_number_of_classes(classes):
    assert f"num_classes is {classes}" in refused(CNN, classes)


def test_options_arrive():
    model = models.build(CNN, 7, output_stride=8, dropout=0.0)
    assert (model.num_classes, model.output_stride, model.dropout) == (7, 8, 0.0)
    for rates, expected in (((), (12, 24, 36)), ((3, 6, 9), (3, 6, 9))):
        model = models.build(CNN, 7, output_stride=8, atrous_rates=rates)
        bound = model.bind({"params": {}})
        assert bound.aspp.rates == expected
