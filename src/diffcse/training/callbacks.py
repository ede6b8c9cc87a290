"""`TrainerCallback`s of transformers, and through them experiment trackers, called from a loop that is no `Trainer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from diffcse.config import check_tracker
from diffcse.errors import InputError

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Callbacks:
    """Calls `on_train_begin`, `on_step_begin`, `on_step_end`, `on_log`, `on_evaluate`, `on_save` and `on_train_end`.

    A callback can ask for a log entry, an evaluation, a checkpoint, or an early end, by its `TrainerControl`.
    An early end completes the run with the steps made so far.

    Args:
        folder: `output_dir` of the `TrainingArguments` that callbacks get. Trackers write there by default.
    """

    def __init__(self, callbacks: Sequence[TrainerCallback] = (), folder: Path = Path()) -> None:
        self._callbacks, self._folder = list(callbacks), folder
        self._control: Any = None

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def begin(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, log: list[dict[str, Any]], step: int, **arguments: Any
    ) -> None:
        """Call `on_train_begin` at `step`, with `log` so far and with fields of `TrainingArguments`."""
        if not self._callbacks:
            return
        from transformers import TrainingArguments
        from transformers.trainer_callback import TrainerControl, TrainerState

        self._facts = {"model": model, "optimizer": optimizer}
        self._arguments = TrainingArguments(
            output_dir=str(self._folder),
            run_name=self._folder.name,
            learning_rate=optimizer.param_groups[0]["lr"],
            **arguments,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        self._state = TrainerState(global_step=step, max_steps=self._arguments.max_steps, log_history=log)
        self._state.compute_steps(self._arguments, self._arguments.max_steps)
        self._control = TrainerControl()
        self.tell("on_train_begin")

    def tell(self, event: str, *, step: int | None = None, epoch: float = 0.0, **facts: Any) -> None:
        """Call `event` of every callback; `step` and `epoch` are where training now is."""
        if self._control is None:
            return
        if step is not None:
            self._state.global_step, self._state.epoch = step, epoch
        if event == "on_step_begin":
            self._control._new_step()
        for callback in self._callbacks:
            answer = getattr(callback, event)(self._arguments, self._state, self._control, **self._facts, **facts)
            self._control = answer or self._control

    def ask(self, what: Literal["log", "evaluate", "save"]) -> bool:
        """Whether a callback asked for `what` after this step."""
        return self._control is not None and bool(getattr(self._control, f"should_{what}"))

    @property
    def stopping(self) -> bool:
        """Whether a callback asked for the end of training."""
        return self._control is not None and bool(self._control.should_training_stop)


def trackers(report_to: str) -> list[TrainerCallback]:
    """The callback of the tracker `training.report_to`; none for "none".

    Raises:
        InputError: its package is not installed.
    """
    check_tracker(report_to)
    if report_to == "none":
        return []
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        return [callback() for callback in get_reporting_integration_callbacks(report_to)]
    except (RuntimeError, ImportError) as error:
        raise InputError(
            f'training.report_to = "{report_to}": {report_to} is not installed: pip install {report_to}'
        ) from error
