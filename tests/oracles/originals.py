"""Models of the original libraries with random weights in which every number matters."""

import numpy as np

from tests.oracles import smp, torch, torchvision, transformers

MIT_SHAPES = {  # Xie et al. 2021, table 6: channels, blocks, width of the head
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}
CLASSES = 7


def randomise(module, seed=0):
    """Random weights, norms and running statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("num_batches_tracked"):
                continue
            if value.ndim >= 2:
                value.normal_(0, (value[0].numel()) ** -0.5, generator=generator)
            elif name.endswith(("weight", "running_var")):
                value.uniform_(0.5, 1.5, generator=generator)
            else:
                value.normal_(0, 0.3, generator=generator)
    return module.eval()


def segformer(variant, **config):
    channels, depths, width = MIT_SHAPES[variant]
    config = {
        "hidden_sizes": list(channels),
        "depths": list(depths),
        "decoder_hidden_size": width,
        "num_labels": CLASSES,
        **config,
    }
    return randomise(
        transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**config))
    )


def smp_deeplab(encoder, **options):
    return randomise(smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=CLASSES, **options))


def smp_segformer(encoder):
    return randomise(smp.Segformer(encoder, encoder_weights=None, classes=CLASSES))


def torchvision_model(name):
    return randomise(getattr(torchvision.models, name)())


def run(module, images):
    """What a torch model makes of NHWC images, NHWC again; images stay as they are."""
    with torch.no_grad():
        out = module(torch.tensor(images).permute(0, 3, 1, 2))
    return numpy(getattr(out, "logits", out))


def numpy(tensor):
    """[B, C, H, W] of torch -> [B, H, W, C] of NumPy."""
    return np.ascontiguousarray(tensor.detach().permute(0, 2, 3, 1).numpy())
