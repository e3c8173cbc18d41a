"""The two students and what they minimise together, in PyTorch, for torch_step.py."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

IGNORE = 255  # label
WIDTH = 256  # channels of ASPP, of the decoder and of the common shape
LOW_LEVEL = 48  # channels that F1 is reduced to


def conv_norm(channels, width, size, stride=1, dilation=1, relu=True):
    """Convolution, BatchNorm and (unless `relu` is False) ReLU."""
    padding = dilation * (size // 2)
    conv = nn.Conv2d(channels, width, size, stride, padding, dilation, bias=False)
    activation = [nn.ReLU(inplace=True)] if relu else []
    return nn.Sequential(conv, nn.BatchNorm2d(width), *activation)


def shortcut(channels, width, stride):
    """The identity, or a 1x1 convolution where the shape changes."""
    if stride == 1 and channels == width:
        return nn.Identity()
    return conv_norm(channels, width, 1, stride, relu=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels, width, stride, dilations):
        """`dilations` are those of the two 3x3 convolutions."""
        super().__init__()
        self.conv1 = conv_norm(channels, width, 3, stride, dilations[0])
        self.conv2 = conv_norm(width, width, 3, 1, dilations[1], relu=False)
        self.shortcut = shortcut(channels, width, stride)

    def forward(self, x):
        """[B, channels, h, w] -> [B, width, h / stride, w / stride]."""
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 strides (v1.5)."""

    expansion = 4

    def __init__(self, channels, width, stride, dilations):
        """The 3x3 convolution has the first of `dilations`."""
        super().__init__()
        self.conv1 = conv_norm(channels, width, 1)
        self.conv2 = conv_norm(width, width, 3, stride, dilations[0])
        self.conv3 = conv_norm(width, 4 * width, 1, relu=False)
        self.shortcut = shortcut(channels, 4 * width, stride)

    def forward(self, x):
        """[B, channels, h, w] -> [B, 4 * width, h / stride, w / stride]."""
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


def in_turn(stages, x):
    """What each stage makes of the one before."""
    features = []
    for stage in stages:
        x = stage(x)
        features.append(x)
    return features


# name: (block, blocks in each stage)
RESNETS = {
    "deeplabv3plus_resnet18": (BasicBlock, (2, 2, 2, 2)),
    "deeplabv3plus_resnet50": (Bottleneck, (3, 4, 6, 3)),
    "deeplabv3plus_resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """The stem and four residual stages; the last is dilated after its first block."""

    def __init__(self, name):
        """`name` is a key of RESNETS."""
        super().__init__()
        block, depths = RESNETS[name]
        self.stem = nn.Sequential(conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.stages, self.channels = nn.ModuleList(), []
        channels = 64
        for i, (depth, stride) in enumerate(zip(depths, (1, 2, 2, 1), strict=True)):
            width, dilation = 64 * 2**i, 2 if i == 3 else 1
            blocks = [block(channels, width, stride, (1, dilation))]
            channels = width * block.expansion
            blocks += [block(channels, width, 1, (dilation,) * 2) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            self.channels.append(channels)

    def forward(self, images):
        """[B, 3, H, W] -> the features F1 to F4."""
        return in_turn(self.stages, self.stem(images))


class DeepLabV3Plus(nn.Module):
    """The CNN student: plain (not separable) convolutions, output stride 16."""

    def __init__(self, name, classes):
        """`name` is a key of RESNETS."""
        super().__init__()
        self.backbone = ResNet(name)
        low, high = self.backbone.channels[0], self.backbone.channels[3]
        self.branches = nn.ModuleList([conv_norm(high, WIDTH, 1)])
        for rate in (6, 12, 18):
            self.branches.append(conv_norm(high, WIDTH, 3, dilation=rate))
        self.pool = conv_norm(high, WIDTH, 1)
        self.project = nn.Sequential(conv_norm(5 * WIDTH, WIDTH, 1), nn.Dropout(0.1))
        self.reduce_low = conv_norm(low, LOW_LEVEL, 1)
        self.decoder = nn.Sequential(
            conv_norm(WIDTH + LOW_LEVEL, WIDTH, 3),
            conv_norm(WIDTH, WIDTH, 3),
            nn.Dropout(0.1),
            nn.Conv2d(WIDTH, classes, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.decoder[-1].weight, std=0.01)
        nn.init.zeros_(self.decoder[-1].bias)

    def forward(self, images):
        """[B, 3, H, W] -> logits [B, classes, H / 4, W / 4] and the features F1 to F4."""
        features = self.backbone(images)
        low, x = self.reduce_low(features[0]), features[3]
        pooled = self.pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        x = self.project(torch.cat([branch(x) for branch in self.branches] + [pooled], 1))
        x = torch.cat([resize(x, low.shape[2:]), low], 1)
        return self.decoder(x), features


# name: (channels of the stages, blocks in each stage, width of the head)
MITS = {
    "segformer_b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "segformer_b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "segformer_b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
}


def segformer(name, classes, attention):
    """The ViT student: transformers' SegFormer; `attention` is "sdpa" or "eager"."""
    channels, depths, width = MITS[name]
    config = SegformerConfig(
        hidden_sizes=channels,
        depths=depths,
        decoder_hidden_size=width,
        num_labels=classes,
        attn_implementation=attention,
    )
    return SegformerForSemanticSegmentation(config)


def resize(x, size):
    """Bilinear interpolation at half-pixel centres."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def borrow(stage, features):
    """Features through a peer's stage, whose parameters learn nothing from it."""
    fixed = {name: value.detach() for name, value in stage.named_parameters()}
    return torch.func.functional_call(stage, fixed, (features,))


def kl(student, teacher):
    """KL(teacher || student) over channels, [B, C, h, w] -> [B, h, w]; the teacher is stopped."""
    log_s = F.log_softmax(student.float(), 1)
    log_t = F.log_softmax(teacher.detach().float(), 1)
    return (log_t.exp() * (log_t - log_s)).sum(1)


def standardise(x):
    """Mean 0 and variance 1 over channels."""
    centred = x.float() - x.float().mean(1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + 1e-6)


def cosine(student, teacher):
    """1 - cosine similarity over channels; the teacher is stopped."""
    return 1 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=1)


def masked_mean(values, where):
    """Mean of `values` where `where` holds; 0 where it holds nowhere."""
    return (values * where).sum() / where.sum().clamp(min=1)


class Collab(nn.Module):
    """Two students, or one alone, and what they minimise."""

    def __init__(self, cnn, vit, losses):
        """One student may be None; `losses` between two are "full" or "dml"."""
        super().__init__()
        self.cnn, self.vit, self.full = cnn, vit, losses == "full"
        if cnn is not None and vit is not None and self.full:
            c, v = cnn.backbone.channels, vit.config.hidden_sizes
            shapes = {"g1c": (c[0], v[0]), "g1v": (v[0], c[0])}  # names as in collabseg_jax
            shapes |= {"g4c": (c[3], WIDTH), "g4v": (v[3], WIDTH)}
            self.bridges = nn.ModuleDict({k: nn.Conv2d(*shape, 1) for k, shape in shapes.items()})

    def forward(self, images, labels):
        """Images [B, 3, H, W] float, labels [B, H, W] int64 -> scalar."""
        logits, features = {}, {}
        if self.cnn is not None:
            logits["cnn"], features["cnn"] = self.cnn(images)
        if self.vit is not None:
            features["vit"] = in_turn(self.vit.segformer.stages, images)
            logits["vit"] = self.vit.decode_head(features["vit"])
        valid = labels != IGNORE
        logits = {name: resize(z.float(), labels.shape[1:]) for name, z in logits.items()}
        ce = {
            name: F.cross_entropy(z, labels, ignore_index=IGNORE, reduction="none")
            for name, z in logits.items()
        }
        loss = sum(masked_mean(values, valid) for values in ce.values())
        if len(logits) == 1:
            return loss
        ce = {name: values.detach() for name, values in ce.items()}
        for learner, teacher in (("cnn", "vit"), ("vit", "cnn")):
            where = valid & (ce[teacher] < ce[learner]) if self.full else valid
            distance = masked_mean(kl(logits[learner], logits[teacher]), where)
            loss = loss + (0.3 if self.full else 1.0) * distance
        if self.full:
            loss = loss + 0.3 * self.hfd(features) + 0.5 * self.bsd_region(features, ce, valid)
        return loss

    def hfd(self, features):
        """Each student's F1 through the peer's second stage, with the peer's F2."""
        cnn, vit = features["cnn"], features["vit"]
        as_vit = borrow(self.vit.segformer.stages[1], self.bridges["g1c"](cnn[0]))
        as_cnn = borrow(self.cnn.backbone.stages[1], self.bridges["g1v"](vit[0]))
        return cosine(as_vit, vit[1]).mean() + cosine(as_cnn, cnn[1]).mean()

    def bsd_region(self, features, ce, valid):
        """Both F4 in a common shape; in each of its cells the lower mean cross-entropy teaches."""
        grid = features["cnn"][3].shape[2:]
        cnn = self.bridges["g4c"](features["cnn"][3])
        vit = resize(self.bridges["g4v"](features["vit"][3]), grid)
        share = F.adaptive_avg_pool2d(valid.float(), grid)
        cnn_ce = F.adaptive_avg_pool2d(ce["cnn"], grid) / share.clamp(min=1e-6)
        vit_ce = F.adaptive_avg_pool2d(ce["vit"], grid) / share.clamp(min=1e-6)
        cnn_learns, vit_learns = (share > 0) & (vit_ce < cnn_ce), (share > 0) & (cnn_ce < vit_ce)
        cnn, vit = standardise(cnn), standardise(vit)
        return masked_mean(kl(cnn, vit), cnn_learns) + masked_mean(kl(vit, cnn), vit_learns)
