#!/usr/bin/env python3
"""Golden files of tensor-parallel layers: what PyTorch's DTensor computes, forward and backward, on gloo.

Made with PyTorch 2.15.0 (the wheel for CPython 3.11, Linux x86_64), run on its CPU backend; not part of CI, since the wheel
brings about 3 GB beside it. To make the files again:

    python3 -m venv torch && torch/bin/pip install torch==2.15.0 numpy safetensors
    torch/bin/python tools/goldens/make.py            # writes tests/layers/goldens/*.safetensors

Each case is a module of torch.nn parts, split by `parallelize_module` (ColwiseParallel, RowwiseParallel, SequenceParallel), over 2 and
4 processes (`attention_odd`: 3), in f32 and bf16, each time without and with sequence parallelism. A file, one per case and type, holds

    x, dy                 the input [S, D] and the gradient of the output; for the embedding `ids` I64 [S]; for the loss `targets` I64 [S]
    NAME                  every parameter, full, `[out, in]`, by its name in the module
    pP.y, pP.dx, pP.dNAME what P processes computed, gathered to full

What P = 2 (or 3) computed is that without sequence parallelism, what P = 4 computed that with it. All runs, kept or not, are
compared here with the unsplit module in f64 and must be within TOLERANCE of it, relative to the largest magnitude; the largest distance of
each kept run stands in the file's metadata (`pP.distance`), beside PyTorch's version, the type and the sizes that shapes do not tell.

The inputs are normal random numbers drawn here from the seed of a case: all data was made by this script, for this repository,
and has its license.
"""

import contextlib
import math
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.distributed._functional_collectives import wait_tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

SEQUENCE, WIDTH, FFN, VOCABULARY, EPS = 24, 24, 40, 50, 1e-5
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3e-2}
IGNORED = -100


class Pair(nn.Module):
    """Column, row, with biases; nothing between them, or GELU."""

    def __init__(self, gelu):
        super().__init__()
        self.fc1, self.fc2, self.gelu = nn.Linear(WIDTH, FFN), nn.Linear(FFN, WIDTH), gelu

    def forward(self, x):
        h = self.fc1(x)
        return self.fc2(F.gelu(h) if self.gelu else h)

    def plan(self, outside):
        return {
            "fc1": ColwiseParallel(input_layouts=outside),
            "fc2": RowwiseParallel(output_layouts=outside),
        }


class SwiGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, FFN, bias=False)
        self.up_proj = nn.Linear(WIDTH, FFN, bias=False)
        self.down_proj = nn.Linear(FFN, WIDTH, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    def plan(self, outside):
        return {
            # One gather for both.
            "": PrepareModuleInput(input_layouts=outside, desired_input_layouts=Replicate()),
            "gate_proj": ColwiseParallel(),
            "up_proj": ColwiseParallel(),
            "down_proj": RowwiseParallel(output_layouts=outside),
        }


class Attention(nn.Module):
    """Causal, one sequence, no positions; as many heads as the rank's part of q has."""

    def __init__(self, heads, kv_heads, size=8):
        super().__init__()
        self.size = size
        self.q_proj = nn.Linear(WIDTH, heads * size, bias=False)
        self.k_proj = nn.Linear(WIDTH, kv_heads * size, bias=False)
        self.v_proj = nn.Linear(WIDTH, kv_heads * size, bias=False)
        self.o_proj = nn.Linear(heads * size, WIDTH, bias=False)

    def forward(self, x):
        q, k, v = (
            part.view(1, SEQUENCE, -1, self.size).transpose(1, 2)
            for part in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(o.transpose(1, 2).reshape(1, SEQUENCE, -1))

    def plan(self, outside):
        return {
            "": PrepareModuleInput(input_layouts=outside, desired_input_layouts=Replicate()),
            "q_proj": ColwiseParallel(),
            "k_proj": ColwiseParallel(),
            "v_proj": ColwiseParallel(),
            "o_proj": RowwiseParallel(output_layouts=outside),
        }


class Norm(nn.Module):
    """A norm alone, whose rows are split; without sequence parallelism it is an ordinary one."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x)

    def plan(self, outside):
        return {"norm": SequenceParallel(use_local_output=True)} if outside == Shard(1) else {}


class Transformer(nn.Module):
    """A pre-norm layer of the Llama kind, without positions."""

    def __init__(self, heads, kv_heads):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(WIDTH, eps=EPS)
        self.self_attn = Attention(heads, kv_heads)
        self.post_attention_layernorm = nn.RMSNorm(WIDTH, eps=EPS)
        self.mlp = SwiGlu()

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))

    def plan(self, outside):
        norms = ("input_layernorm", "post_attention_layernorm") if outside == Shard(1) else ()
        plan = {name: SequenceParallel(use_local_output=True) for name in norms}
        for part in ("self_attn", "mlp"):
            own = getattr(self, part).plan(outside)
            plan |= {f"{part}.{name}".rstrip("."): style for name, style in own.items()}
        return plan


class Embedding(nn.Module):
    """Split along the vocabulary."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, ids):
        return self.embedding(ids)

    def plan(self, outside):
        return {"embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=outside)}


class Loss(nn.Module):
    """Logits that are split along the vocabulary, and the cross-entropy of each token, times dy, summed."""

    def __init__(self):
        super().__init__()
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, x):
        return self.lm_head(x)

    def plan(self, outside):
        return {"lm_head": ColwiseParallel(input_layouts=outside, output_layouts=Shard(-1), use_local_output=False)}


# Name: module, the numbers of processes, what else a reader has to know.
CASES = {
    "linear_pair": (lambda: Pair(gelu=False), (2, 4), {}),
    "mlp_gelu": (lambda: Pair(gelu=True), (2, 4), {}),
    "mlp_swiglu": (SwiGlu, (2, 4), {}),
    "rms_norm": (lambda: Norm(nn.RMSNorm(WIDTH, eps=EPS)), (2, 4), {"eps": EPS}),
    "layer_norm": (lambda: Norm(nn.LayerNorm(WIDTH, eps=EPS)), (2, 4), {"eps": EPS}),
    "embedding": (Embedding, (2, 4), {}),
    "cross_entropy": (Loss, (2, 4), {"ignored": IGNORED}),
    "attention": (lambda: Attention(8, 4), (2, 4), {"heads": 8, "kv_heads": 4}),
    "attention_odd": (lambda: Attention(6, 3), (3,), {"heads": 6, "kv_heads": 3}),
    "transformer": (lambda: Transformer(8, 4), (2, 4), {"heads": 8, "kv_heads": 4, "eps": EPS}),
}


def whole(name, dtype):
    """The module, its input and the gradient of its output, the same in every process."""
    torch.manual_seed(1 + list(CASES).index(name))
    module = CASES[name][0]()
    with torch.no_grad():
        for parameter_name, parameter in module.named_parameters():
            if "norm" in parameter_name and parameter_name.endswith("weight"):
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            else:
                scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() == 2 else 1.0
                parameter.copy_(scale * torch.randn_like(parameter))
    given = {}
    if name == "embedding":
        given["ids"] = torch.randint(VOCABULARY, (SEQUENCE,))
    else:
        given["x"] = torch.randn(SEQUENCE, WIDTH).to(dtype)
    if name == "cross_entropy":
        given["targets"] = torch.randint(VOCABULARY, (SEQUENCE,))
        given["targets"][5] = IGNORED
        given["dy"] = torch.randn(SEQUENCE)
    else:
        given["dy"] = torch.randn(SEQUENCE, WIDTH).to(dtype)
    return module.to(dtype), given


def full(tensor):
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return wait_tensor(tensor.detach()).clone()


def passes(module, given, outside, mesh):
    """Forward and backward; outputs and gradients, gathered."""
    split = mesh is not None and outside == Shard(1)

    def part(tensor):
        return tensor.chunk(mesh.size(), 1)[mesh.get_local_rank()].contiguous() if split else tensor

    def joined(tensor):
        return full(DTensor.from_local(tensor, mesh, [Shard(1)]) if split else tensor)

    results = {}
    if "x" in given:
        x = part(given["x"][None]).clone().requires_grad_(True)
    else:
        x = given["ids"][None]
    y = module(x)
    if "targets" in given:
        with loss_parallel() if mesh is not None else contextlib.nullcontext():
            losses = token_losses(y.flatten(0, 1), given["targets"], mesh)
            results["y"] = full(losses)
            (losses * given["dy"]).sum().backward()
    else:
        y.backward(part(given["dy"][None]))
        results["y"] = joined(y.detach())[0]
    if "x" in given:
        results["dx"] = joined(x.grad)[0]
    for name, parameter in module.named_parameters():
        results["d" + name] = full(parameter.grad)
    return results


def token_losses(logits, targets, mesh):
    """The cross-entropy of every token; under loss_parallel of logits that are split along the vocabulary."""
    if mesh is None:
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    targets = DTensor.from_local(targets, mesh, [Replicate()])
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    return losses.redistribute(mesh, [Replicate()]).to_local()


def work(rank, world, store, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    results = {}
    for name, (_, worlds, _) in CASES.items():
        if world not in worlds:
            continue
        for dtype in TOLERANCE:
            for sequence_parallel in (False, True):
                module, given = whole(name, dtype)
                outside = Shard(1) if sequence_parallel else Replicate()
                parallelize_module(module, mesh, module.plan(outside))
                results[name, dtype, sequence_parallel] = passes(module, given, outside, mesh)
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


def exact(name, dtype):
    """The unsplit module in f64, of the parameters and the input as rounded to the type."""
    module, given = whole(name, dtype)
    given = {key: value.double() if value.is_floating_point() else value for key, value in given.items()}
    return passes(module.double(), given, Replicate(), None)


def distance(results, wanted):
    assert results.keys() == wanted.keys(), (results.keys(), wanted.keys())
    far = 0.0
    for key, want in wanted.items():
        assert results[key].shape == want.shape, (key, results[key].shape, want.shape)
        far = max(far, ((results[key].double() - want).abs().max() / want.abs().max()).item())
    return far


def main():
    folder = Path(__file__).resolve().parents[2] / "tests" / "layers" / "goldens"
    folder.mkdir(parents=True, exist_ok=True)
    runs = {}
    for world in sorted({world for _, worlds, _ in CASES.values() for world in worlds}):
        with tempfile.TemporaryDirectory() as temporary:
            store, out = os.path.join(temporary, "store"), os.path.join(temporary, "out")
            multiprocessing.spawn(work, (world, store, out), nprocs=world)
            for (name, dtype, sequence_parallel), results in torch.load(out).items():
                runs[name, dtype, world, sequence_parallel] = results
    total = 0
    for name, (_, worlds, facts) in CASES.items():
        for dtype, tolerance in TOLERANCE.items():
            word = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
            wanted = exact(name, dtype)
            module, given = whole(name, dtype)
            tensors = dict(given) | {key: value.detach() for key, value in module.named_parameters()}
            metadata = {"torch": torch.__version__, "dtype": word} | {key: str(value) for key, value in facts.items()}
            for world in worlds:
                for sequence_parallel in (False, True):
                    results = runs[name, dtype, world, sequence_parallel]
                    far = distance(results, wanted)
                    print(f"{name:15} {word:4} P = {world} sequence parallel {sequence_parallel!s:5}: {far:.1e}")
                    if far > tolerance:
                        sys.exit(f"{name}: {far} of the largest magnitude away from f64, more than {tolerance}")
                    if sequence_parallel == (world == 4):
                        metadata[f"p{world}.distance"] = f"{far:.3e}"
                        tensors |= {f"p{world}.{key}": value for key, value in results.items()}
            file = folder / f"{name}.{word}.safetensors"
            save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata)
            total += file.stat().st_size
    print(f"{total / 1024:.0f} KiB in {folder}")


if __name__ == "__main__":
    main()
