"""LoRA: the encoder's own weights stay fixed, and small matrices beside them are trained.

PEFT puts those matrices into a model's layers, which is all that `DiffCSE` sees. What ships is a plain model with the
matrices multiplied into the weights. The discriminator gets no adapters, because it is discarded after training.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

from transformers import PreTrainedModel

from diffcse.errors import InputError
from diffcse.method.heads import fresh


def add_lora(model: PreTrainedModel, rank: int, seed: int) -> PreTrainedModel:
    """`model` with matrices of rank `rank` beside every linear layer, scaled by 2, and its own weights frozen.

    `seed` decides their random start; their product starts at 0.

    Raises:
        InputError: PEFT is not installed, or cannot adapt this architecture.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError(f'method.lora_rank = {rank} needs the package peft: pip install "diffcse[peft]"') from error
    settings = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    try:
        with warnings.catch_warnings():  # peft asks transformers by names that transformers is about to drop
            warnings.simplefilter("ignore", FutureWarning)
            wrapped: Any = fresh(lambda: peft.get_peft_model(model, settings), seed)
            return wrapped.get_base_model()
    except ValueError as error:
        raise InputError(f"method.lora_rank = {rank}: {type(model).__name__} cannot be adapted: {error}") from error


def unwrap(model: Any) -> Any:
    """The transformers model inside a `PeftModel`, with the adapter in its layers; anything else as it is.

    Raises:
        InputError: its adapter was loaded for use, not for training.
    """
    peft = sys.modules.get("peft")
    if peft is None or not isinstance(model, peft.PeftModel):
        return model
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("the PeftModel has nothing to train. Load its adapter with is_trainable=True")
    return model.get_base_model()


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A plain copy of `model` with its adapters multiplied into the weights; without adapters, `model` itself."""
    peft = sys.modules.get("peft")
    if peft is None:  # not imported, so there are no adapters
        return model
    layers = {
        name for name, layer in model.named_modules() if isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer)
    }
    if not layers:
        return model
    twin: Any = copy.deepcopy(model)
    for name in sorted(layers):
        parent, _, own = name.rpartition(".")
        layer = twin.get_submodule(name)
        layer.merge()
        setattr(twin.get_submodule(parent), own, layer.get_base_layer())
    twin._hf_peft_config_loaded = False  # else transformers saves the adapter alone
    return twin.requires_grad_(True)
