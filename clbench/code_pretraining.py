"""Language models of code, and their pretraining on code that calls no domain of a stream."""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.code_tokens import END, blocks
from clbench.datasets import root
from clbench.errors import Mistake
from clbench.prepare import progress

HELD_OUT = 0.02
"""share of the pool that pretraining is judged by, its end"""


def transformers() -> Any:
    """The package, imported.

    Raises:
        Mistake: it is not installed.
    """
    if find_spec("transformers") is None:
        raise Mistake("Language models of code need the package transformers: pip install 'clbench[code]'.")
    from clbench.vision import torchvision

    torchvision()  # transformers imports it, where it is there
    import transformers

    return transformers


class Hidden(nn.Module):
    """What a transformer makes of tokens: B x T x width, of token numbers B x T."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(input_ids=x.long(), use_cache=False).last_hidden_state


class ClassesFirst(nn.Module):
    """B x T x classes as B x classes x T, as a loss of sequences takes them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def predictor(net: nn.Module, head: nn.Module) -> nn.Sequential:
    """The next token's logits at each place, B x classes x T, of token numbers B x T."""
    return nn.Sequential(OrderedDict(body=Hidden(net), head=head, order=ClassesFirst()))


def gpt(layers: int, heads: int, width: int, length: int, tokens: int) -> nn.Sequential:
    """A GPT-2 without dropout and with a head of its own."""
    library = transformers()
    config = library.GPT2Config(
        vocab_size=tokens, n_positions=length, n_embd=width, n_layer=layers, n_head=heads,
        bos_token_id=END, eos_token_id=END, attn_implementation="eager", resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0,
    )  # fmt: skip
    head = nn.Linear(width, tokens, bias=False)
    nn.init.normal_(head.weight, std=0.02)
    return predictor(library.GPT2Model(config), head)


def published(name: str, tokens: int) -> nn.Sequential:
    """A causal language model of Hugging Face, its head cut or padded to the stream's tokens."""
    try:
        whole = transformers().AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager")
    except (OSError, ValueError) as error:
        raise Mistake(f"The model '{name}' can't be had: {str(error).splitlines()[0]}") from None
    whole.resize_token_embeddings(tokens)
    head = nn.Linear(whole.config.hidden_size, tokens, bias=False)
    head.weight.data.copy_(whole.get_output_embeddings().weight.data)
    return predictor(whole.base_model, head)


def pretrained(options: Mapping[str, Any], source: Path) -> Path:
    """The weights of a GPT pretrained on a pool, learned where they are not in the cache.

    Args:
        options: of `clbench.code_models.GPT`
        source: folder of a pool (clbench.code_tokens)
    """
    file = root() / ".cache" / f"gpt-{content(options, source)[:16]}.safetensors"
    if not file.exists():
        from safetensors.torch import save_file

        model, losses = pretrain(options, np.load(source / "pool.npy"))
        facts = {"options": json.dumps(dict(options)), "losses": json.dumps(losses)}
        temporary = file.with_suffix(".part")
        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, temporary, facts)
        temporary.replace(file)
    return file


def content(options: Mapping[str, Any], source: Path) -> str:
    """SHA-256 over all that decides the weights: what they are learned from and how, but not on which machine."""
    card = json.loads((source / "dataset.json").read_text("utf-8"))
    return hashlib.sha256(json.dumps([dict(options), card["sha256"]], sort_keys=True).encode()).hexdigest()


@torch.enable_grad()
def pretrain(options: Mapping[str, Any], pool: np.ndarray) -> tuple[nn.Module, list[tuple[int, float]]]:
    """A GPT that has learned a pool's next tokens, and its loss on the pool's end after so many steps: ten looks.

    AdamW without weight decay; blocks in a random order, again and again.
    """
    steps, size = int(options["steps"]), int(options["batch"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = gpt(*(options[name] for name in ("layers", "heads", "width", "context", "vocabulary")))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, y = (torch.from_numpy(part.astype(np.int64)).to(device) for part in blocks(pool, options["context"]))
    held = max(int(HELD_OUT * len(x)), 1)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), options["lr"], weight_decay=0.0)
    warm = max(steps // 20, 1)
    rate = lambda step: min((step + 1) / warm, (1 + math.cos(math.pi * step / steps)) / 2)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    rng, losses, order = np.random.default_rng(0), [], np.empty(0, np.int64)
    with progress("pretraining", steps) as advance:
        for step in range(1, steps + 1):
            if len(order) < size:
                order = np.concatenate([order, rng.permutation(len(x) - held)])
            rows, order = torch.from_numpy(order[:size]).to(device), order[size:]
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % max(steps // 10, 1) == 0:
                losses.append((step, judged(model, x[-held:], y[-held:])))
            advance(1)
    return model.cpu(), losses


@torch.no_grad()
def judged(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The mean loss over blocks, of which 256 at the most are asked."""
    x, y = x[:256], y[:256]
    parts = [float(F.cross_entropy(model(a), b)) * len(a) for a, b in zip(x.split(16), y.split(16), strict=True)]
    return sum(parts) / len(x)
