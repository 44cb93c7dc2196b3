"""The same models in PyTorch: torch.compile, scaled_dot_product_attention, fused AdamW, autocast to bfloat16."""

import statistics
import time
from typing import Any

import sizes
import torch
from torch import nn
from torch.nn import functional

RECIPE = sizes.Recipe()
STEPS, WARM = 20, 3


class Attention(nn.Module):
    def __init__(self, size: sizes.Size) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.rotary = size.heads, size.kv_heads or size.heads, size.kv_heads is not None
        K = size.width // size.heads
        self.qkv = nn.Linear(size.width, (self.heads + 2 * self.kv_heads) * K, bias=False)
        self.out = nn.Linear(size.width, size.width, bias=False)
        turns_K = 500_000.0 ** -(torch.arange(0, K, 2, dtype=torch.float32) / K)
        angles_TK = torch.outer(torch.arange(size.length, dtype=torch.float32), turns_K)
        self.register_buffer('cos', torch.cat([angles_TK.cos()] * 2, dim=-1), persistent=False)
        self.register_buffer('sin', torch.cat([angles_TK.sin()] * 2, dim=-1), persistent=False)

    def turned(self, x_BHTK: torch.Tensor) -> torch.Tensor:
        left, right = x_BHTK.float().chunk(2, dim=-1)
        swapped_BHTK = torch.cat([-right, left], dim=-1)
        return (x_BHTK * self.cos + swapped_BHTK * self.sin).to(x_BHTK.dtype)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        B, T, D = x_BTD.shape
        K = D // self.heads
        parts = self.qkv(x_BTD).split([self.heads * K, self.kv_heads * K, self.kv_heads * K], dim=-1)
        q_BHTK, k_BHTK, v_BHTK = (part.view(B, T, -1, K).transpose(1, 2) for part in parts)
        if self.rotary:
            q_BHTK, k_BHTK = self.turned(q_BHTK), self.turned(k_BHTK)
        y_BHTK = functional.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, is_causal=True, enable_gqa=self.kv_heads < self.heads
        )
        return self.out(y_BHTK.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    def __init__(self, size: sizes.Size) -> None:
        super().__init__()
        self.gated = size.kv_heads is not None
        self.up = nn.Linear(size.width, size.hidden * (2 if self.gated else 1), bias=False)
        self.down = nn.Linear(size.hidden, size.width, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        h_BTF = self.up(x_BTD)
        if self.gated:
            gate_BTF, linear_BTF = h_BTF.chunk(2, dim=-1)
            return self.down(functional.silu(gate_BTF) * linear_BTF)
        return self.down(functional.gelu(h_BTF, approximate='tanh'))


def norm(size: sizes.Size) -> nn.Module:
    return nn.LayerNorm(size.width, bias=False) if size.kv_heads is None else nn.RMSNorm(size.width, eps=1e-5)


class Block(nn.Module):
    def __init__(self, size: sizes.Size) -> None:
        super().__init__()
        self.attention_norm, self.attention = norm(size), Attention(size)
        self.ffn_norm, self.ffn = norm(size), FeedForward(size)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class Decoder(nn.Module):
    """Tokens [B, T] to the mean cross-entropy."""

    def __init__(self, size: sizes.Size) -> None:
        super().__init__()
        self.table = nn.Embedding(size.vocab, size.width)
        self.positions = nn.Embedding(size.length, size.width) if size.kv_heads is None else None
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = norm(size)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = self.table(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions.weight[: tokens_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = functional.linear(self.norm(x_BTD), self.table.weight)
        return functional.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT.flatten())


def training(name: str, dry: bool) -> dict[str, Any]:
    """Tokens per second of a training step, its memory, and the seconds to the first step."""
    size = sizes.SIZES[name].toy if dry else sizes.SIZES[name]
    device = 'cpu' if dry else 'cuda'
    torch.set_float32_matmul_precision('high')
    began = time.perf_counter()
    model = Decoder(size).to(device)
    compiled = model if dry else torch.compile(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), RECIPE.rate, betas=(RECIPE.b1, RECIPE.b2), weight_decay=RECIPE.decay, fused=not dry
    )
    tokens_BT = torch.from_numpy(sizes.tokens(size)).long().to(device)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = compiled(tokens_BT)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
        optimizer.step()

    def finish() -> None:
        if not dry:
            torch.cuda.synchronize()

    update()
    finish()
    first = time.perf_counter() - began
    for _ in range(WARM):
        update()
    finish()
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        update()
        finish()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    found = {'ms': 1e3 * median, 'least_ms': 1e3 * min(times), 'tokens_per_s': size.tokens / median, 'first_s': first}
    parameters = sum(each.numel() for each in model.parameters())
    return found | {'parameters': parameters, 'peak_gib': 0.0 if dry else torch.cuda.max_memory_allocated() / 2**30}
