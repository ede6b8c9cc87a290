"""The baseline: DiffCSE written directly from the paper.

Every batch is padded to its longest sentence, every token goes through every layer, the generator computes logits at
every position, and nothing is fused. The networks are those of transformers. The caller chooses the attention and
whether autocast is on.

Shape suffixes: R rows (both views of the batch), T positions, H hidden size, V vocabulary, M masked positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.measure import Stopwatch
from diffcse.config import Method


class Plain(nn.Module):
    """The two losses of one batch of sentences, and one update by them.

    Args:
        encoder, discriminator, projector, head: what is trained, in fp32.
        generator: a masked language model.
        method: temperature, λ, mask ratio and pooling are read from it.
    """

    def __init__(
        self,
        encoder: Any,
        generator: Any,
        discriminator: Any,
        projector: Any,
        head: Any,
        tokenizer: Any,
        method: Method,
    ) -> None:
        super().__init__()
        self.encoder, self.discriminator, self.projector, self.head = encoder, discriminator, projector, head
        self.generator = generator.requires_grad_(False)
        self.tokenizer, self.method = tokenizer, method
        self.train()
        self.optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=7e-6)

    def tokens(self, sentences: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """(ids, attention), both views: (R, T)."""
        batch = self.tokenizer(
            list(sentences), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        )
        device = self.head.weight.device
        return batch["input_ids"].repeat(2, 1).to(device), batch["attention_mask"].repeat(2, 1).to(device)

    def forward(self, x_RT: Tensor, attention_RT: Tensor, edited_RT: Tensor | None = None) -> Tensor:
        """L = L_contrast + λ L_rtd; `edited_RT` takes the place of the generator's edits."""
        hidden_RTH = self.encoder(input_ids=x_RT, attention_mask=attention_RT).last_hidden_state
        if self.method.pooling in (None, "cls"):  # unset is [CLS] where the folder states nothing
            h_RH = hidden_RTH[:, 0]
        else:
            h_RH = (hidden_RTH * attention_RT[:, :, None]).sum(1) / attention_RT.sum(1, keepdim=True)
        z_RH = self.projector(h_RH)
        first, second = F.normalize(z_RH.float(), dim=-1).chunk(2)
        cosines = first @ second.T
        contrastive = F.cross_entropy(cosines / self.method.temperature, torch.arange(len(first), device=x_RT.device))
        if edited_RT is None:
            edited_RT = self.edit(x_RT, attention_RT)
        labels_RT = (edited_RT != x_RT).long()
        swap = self.discriminator.embeddings.register_forward_hook(
            lambda _, __, output: torch.cat([z_RH[:, None].to(output.dtype), output[:, 1:]], dim=1)
        )
        judged_RTH = self.discriminator(input_ids=edited_RT, attention_mask=attention_RT).last_hidden_state
        swap.remove()
        real_RT = attention_RT.bool()
        difference = F.cross_entropy(self.head(judged_RTH).float()[real_RT], labels_RT[real_RT])
        return contrastive + self.method.rtd_weight * difference

    @torch.no_grad()
    def edit(self, x_RT: Tensor, attention_RT: Tensor) -> Tensor:
        """x″: 30 % of the words masked (of these 80 % by [MASK], 10 % by any token), and filled by the generator."""
        special = torch.tensor(self.tokenizer.all_special_ids, device=x_RT.device)
        share_RT = torch.full(x_RT.shape, self.method.mask_ratio, device=x_RT.device)
        share_RT.masked_fill_(torch.isin(x_RT, special) | (attention_RT == 0), 0.0)
        chosen_RT = torch.bernoulli(share_RT).bool()
        kind_RT = torch.rand_like(share_RT)
        masked_RT = x_RT.masked_fill(chosen_RT & (kind_RT < 0.8), self.tokenizer.mask_token_id)
        random_RT = torch.randint_like(x_RT, len(self.tokenizer))
        masked_RT = torch.where(chosen_RT & (kind_RT >= 0.9), random_RT, masked_RT)
        self.generator.eval()
        logits_RTV = self.generator(input_ids=masked_RT, attention_mask=attention_RT).logits
        edited_RT = x_RT.clone()
        edited_RT[chosen_RT] = torch.multinomial(logits_RTV[chosen_RT].float().softmax(-1), 1).squeeze(1)
        return edited_RT

    def update(
        self, sentences: Sequence[str], watch: Stopwatch, *, max_tokens: int, attention: str, bf16: bool
    ) -> None:
        """Forward, backward, clip, AdamW."""
        for network in (self.encoder, self.discriminator, self.generator):
            network.set_attn_implementation(attention)
        with watch("data"):
            x_RT, attention_RT = self.tokens(sentences, max_tokens)
        with watch("step"):
            with watch("forward"), torch.autocast(x_RT.device.type, torch.bfloat16) if bf16 else nullcontext():
                loss = self(x_RT, attention_RT)
            loss.backward()
        with watch("clip"):
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        with watch("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()
