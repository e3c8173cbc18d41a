"""Time one training step of a pair in PyTorch, to compare with step_time.py.

  python benchmarks/torch_step.py --cnn=deeplabv3plus_resnet18 --vit=segformer_b0 \\
      --classes=21 --batch=2 --crop=256,256 --precision=float32 --losses=full

Needs torch and transformers. Options and output are as there, --serve too; `compile_s` are the
seconds until the first step is done. There, --separable=false --head=plain gives the same students.
The losses are the same too, but the work is not equal everywhere ("ours" is the step there):

- Updates. Here fused SGD and AdamW at constant rates, and decay on every parameter. Ours evaluates
  poly schedules, decays kernels only, and of a pair keeps the whole old state where a loss or a
  gradient is not finite; here nothing guards against that.
- Diagnostics. Ours observes, of a pair, the most probable class at each pixel, who teaches whom in
  which pixels and regions (with --losses=dml too) and, with full, the spread of the features in the
  common shape. Nothing of it is here.
- Images. Here normalised float32, labels int64, both ready; ours normalises uint8 images within the
  step and has uint8 labels.
- Log-softmax. Here six over enlarged logits: two within cross-entropy, two in each KL. Ours needs
  two, as XLA merges equal ones.
- Regions. Here adaptive average pooling, whose cells overlap where F4's grid does not divide the
  crop (never if 16 divides height and width); ours, two matrix products, have no overlap.
- Borrowed stages. Here the CNN's moves its BatchNorms' running averages once more and the ViT's
  drops branches at random; ours does neither. G1v has a bias here, not in ours.
- Dropout. Here of elements, and once more after ASPP; ours drops channels before the classifiers.
- bfloat16. Here autocast chooses the type of each operation; ours computes in bfloat16 throughout,
  but norms, softmax, GELU and losses in float32. On CUDA autocast's LayerNorm returns float32.
- --compile covers the model and the losses, not clipping and updates; ours is one program.
"""

import argparse
import time

import timing
import torch
import transformers
from torch_models import IGNORE, MITS, RESNETS, Collab, DeepLabV3Plus, segformer


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--cnn", choices=list(RESNETS), default="deeplabv3plus_resnet18")
    p.add_argument("--vit", choices=list(MITS), default="segformer_b0")
    p.add_argument("--classes", type=int, default=21)
    p.add_argument(
        "--batch", type=int, default=2, help="at least 2, for BatchNorm of single values"
    )
    p.add_argument("--crop", default="256,256", help="height,width")
    p.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--losses", choices=["full", "dml"], default="full")
    p.add_argument("--solo", choices=["cnn", "vit"], help="one student, cross-entropy only")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--serve", action="store_true")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--compile", action="store_true", help="forward and backward by torch.compile")
    p.add_argument(
        "--channels-last", action="store_true", help="memory format of images and models"
    )
    p.add_argument("--attn", choices=["sdpa", "eager"], default="sdpa")
    p.add_argument("--threads", type=int, default=0, help="on the CPU; 0: torch's choice")
    p.add_argument("--no-tf32", action="store_true", help="on CUDA; else TF32 where float32 is")
    return p.parse_args()


def random_batch(a):
    """Normalised images [B, 3, H, W], labels [B, H, W] with one in twenty ignored."""
    height, width = map(int, a.crop.split(","))
    images = torch.randn(a.batch, 3, height, width, device=a.device)
    labels = torch.randint(0, a.classes, (a.batch, height, width), device=a.device)
    labels[torch.rand(labels.shape, device=a.device) < 0.05] = IGNORE
    return images, labels


def optimizers(parts):
    """(optimizer, parameters, norm that their gradient is clipped to) of each part."""
    chains = []
    for name, part in parts.items():
        parameters = list(part.parameters())
        if name == "cnn":
            settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
            chains.append((torch.optim.SGD(parameters, fused=True, **settings), parameters, 10.0))
        else:
            settings = {"lr": 6e-5, "weight_decay": 0.01}
            chains.append((torch.optim.AdamW(parameters, fused=True, **settings), parameters, 1.0))
    return chains


def build(a):
    """(step, params): a function that does one step and waits for it; parameters by part."""
    if a.threads:
        torch.set_num_threads(a.threads)
    if a.device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = not a.no_tf32
        torch.set_float32_matmul_precision("highest" if a.no_tf32 else "high")
    torch.manual_seed(0)
    cnn = None if a.solo == "vit" else DeepLabV3Plus(a.cnn, a.classes)
    vit = None if a.solo == "cnn" else segformer(a.vit, a.classes, a.attn)
    net = Collab(cnn, vit, a.losses).to(a.device).train()
    images, labels = random_batch(a)
    if a.channels_last:
        net = net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    parts = dict(net.named_children())
    learning = optimizers(parts)
    forward = torch.compile(net) if a.compile else net

    def step():
        for optimizer, _, _ in learning:
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(a.device, torch.bfloat16, enabled=a.precision == "bfloat16"):
            loss = forward(images, labels)
        loss.backward()
        for optimizer, parameters, norm in learning:
            torch.nn.utils.clip_grad_norm_(parameters, norm)
            optimizer.step()
        return loss.item()

    count = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return step, count


def main():
    a = parse()
    began = time.perf_counter()
    step, params = build(a)
    step()
    compile_s = time.perf_counter() - began
    cuda = a.device == "cuda"
    facts = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **{k: v for k, v in vars(a).items() if k != "serve"},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "compile_s": round(compile_s, 2),
        "params": params,
    }
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    timing.measure(
        step,
        facts,
        batch=a.batch,
        steps=a.steps,
        serve=a.serve,
        device_gb=(lambda: torch.cuda.max_memory_allocated() / 1e9) if cuda else None,
    )


if __name__ == "__main__":
    main()
