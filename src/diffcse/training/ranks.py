"""Several processes train one model: their group, what they tell each other, and one clear error when one of them ends.

Process 0 locks the output, reads the text first, judges, saves and prints. All others follow it. Gradients are averaged
once an update, after the last backward pass, and not by DistributedDataParallel: an update here has several backward
passes, some processes have weights without a gradient, and the order of sums must not depend on time.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import groupby
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffcse.errors import InputError
from diffcse.machine import processes
from diffcse.method.gather import ALONE, Ranks, exchange

_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others. The first may read a large text or judge; a dead process is seen at once."""
_BUCKET = 1 << 23
"""Numbers that are summed over the processes in one message: 32 MiB in float32."""
_NAMES = "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"

T = TypeVar("T")


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """This process among those that a launcher such as torchrun started; `ALONE` if there is one.

    A group that the caller has opened is used and stays open.

    Raises:
        InputError: the launcher's environment variables are incomplete, or there are fewer GPUs than processes.
        LostProcess: another process does not come, or ends.
    """
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    if processes() == 1:
        yield ALONE
        return
    _join()
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    except BaseException as error:
        if isinstance(error, Exception) or dist.get_rank() == 0:
            speaks()  # before the others see that this process has gone
        raise
    finally:
        dist.destroy_process_group()


def _join() -> None:
    missing = [name for name in _NAMES if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE = {processes()}: several processes, but {', '.join(missing)} is not set. Start them by "
            "torchrun --nproc-per-node N --no-python diffcse train ..."
        )
    gpus, place = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if gpus:
        if place >= gpus:
            raise InputError(f"LOCAL_RANK = {place}: this computer has {gpus} GPUs. Give --nproc-per-node {gpus}")
        torch.cuda.set_device(place)
    with exchange():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)


@cache
def speaks() -> bool:
    """Whether this process is the first of its run to report an error: the others then end without a message.

    The launcher's store decides. It outlives each process, and it is asked when the process group may be broken.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return bool(store.add(f"diffcse/errors/{attempt}", 1) == 1)
    except (KeyError, ValueError, RuntimeError):  # no such store: rather say it twice than never
        return True


# ---- what processes tell each other ----------------------------------------------------------------------------------


def from_first(ranks: Ranks, make: Callable[[], T]) -> T:
    """What `make` returns on process 0, which alone calls it; the value must be JSON."""
    value: Any = make() if ranks.first else None
    return value if ranks.count == 1 else _from_each(ranks, value)[0]


def in_turn(ranks: Ranks, make: Callable[[], T]) -> T:
    """`make()` on every process, on process 0 first: the others find in the cache what it has read."""
    if not ranks.first:
        from_first(ranks, lambda: None)
    value = make()
    if ranks.first:
        from_first(ranks, lambda: None)
    return value


def anywhere(ranks: Ranks, flag: bool) -> bool:
    """Whether `flag` is set on any process."""
    return bool(ranks.largest(int(flag)))


def check_same_settings(ranks: Ranks, config: Mapping[str, Any]) -> None:
    """Check that every process has the configuration `config`.

    Raises:
        InputError: one has another; the message names the first field.
    """
    _check_same(ranks, _fields(config), "Start all with the same options")


def check_same_data(ranks: Ranks, data: Mapping[str, Any], resolved: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Check that every process has read the same text and models.

    Args:
        data: hashes of the text, of the graded pairs and of the models, as in `Record.data`.
        resolved: settings that were left to us.

    Raises:
        InputError: one has others; the message says which.
    """
    hashes = {name: data.get(key) for name, key in _HASHES.items()}
    facts = {**hashes, **_fields(data.get("models_sha256", {}), "the model "), **_fields(resolved, "method.")}
    _check_same(ranks, facts, "Give all the same files, on a shared disk or as copies")


_HASHES = {
    "the text": "sha256",
    "the order of documents": "following_sha256",
    "training.dev": "dev_sha256",
}


def _fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names -> values, as JSON would return them."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(dict(config))).items():
        flat |= _fields(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _check_same(ranks: Ranks, facts: Mapping[str, Any], remedy: str) -> None:
    """Compare `facts` with those of process 0."""
    if ranks.count == 1:
        return
    (first, home), *others = _from_each(ranks, [dict(facts), socket.gethostname()])
    for rank, (theirs, host) in enumerate(others, start=1):
        for name in first:
            if first[name] != theirs.get(name):
                raise InputError(f"{name}: process {rank} on {host} has another than process 0 on {home}. {remedy}")


def _from_each(ranks: Ranks, value: Any) -> list[Any]:
    """The JSON value of every process, by rank."""
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(ranks.count)]
    with exchange():
        dist.all_gather(sizes, torch.tensor([len(data)]))
        width = max(int(size) for size in sizes)
        rows = [torch.empty(width, dtype=torch.uint8) for _ in range(ranks.count)]
        dist.all_gather(rows, nn.functional.pad(data, (0, width - len(data))))
    return [json.loads(bytes(row[: int(size)].tolist())) for row, size in zip(rows, sizes, strict=True)]


# ---- tensors ---------------------------------------------------------------------------------------------------------


def take_from_first(ranks: Ranks, values: Iterable[Tensor]) -> None:
    """Overwrite `values`, in place, with those of process 0."""
    if ranks.count > 1:
        with torch.no_grad(), exchange():
            for value in values:
                sent = value.contiguous()
                dist.broadcast(sent, 0)
                value.copy_(sent)


def array_from_first(ranks: Ranks, make: Callable[[], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """What `make` returns on process 0, which alone calls it."""
    made = torch.from_numpy(make()) if ranks.first else torch.empty(0)
    shape = from_first(ranks, lambda: list(made.shape))
    values = made if ranks.first else torch.empty(shape)
    take_from_first(ranks, [values])
    array: npt.NDArray[np.float32] = values.numpy()
    return array


def average_gradients(ranks: Ranks, model: nn.Module) -> None:
    """The gradient of every weight becomes the mean over the processes; a missing one counts as 0.

    A weight without a gradient on any process stays without, so that the optimiser leaves it alone.
    """
    if ranks.count == 1:
        return
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    present = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
    with exchange():
        dist.all_reduce(present, dist.ReduceOp.MAX)
    for bucket in _buckets(
        [weight for weight, is_present in zip(weights, present.tolist(), strict=True) if is_present]
    ):
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in bucket]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with exchange():
            dist.all_reduce(flat)
        flat /= ranks.count
        for weight, part in zip(bucket, flat.split([w.numel() for w in bucket]), strict=True):
            weight.grad = part.view_as(weight)


def _buckets(weights: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Consecutive weights of one dtype, about `_BUCKET` numbers together."""
    for _, same in groupby(weights, key=lambda weight: weight.dtype):
        bucket: list[nn.Parameter] = []
        for weight in same:
            bucket.append(weight)
            if sum(w.numel() for w in bucket) >= _BUCKET:
                yield bucket
                bucket = []
        if bucket:
            yield bucket


def merged(
    ranks: Ranks, values: Mapping[str, Tensor | float | int], means: Iterable[str]
) -> Mapping[str, Tensor | float | int]:
    """The values of the whole update: sums over the processes, and means for the names in `means`."""
    if ranks.count == 1:
        return values
    total = torch.stack([torch.as_tensor(value).detach().double().cpu() for value in values.values()])
    with exchange():
        dist.all_reduce(total)
    parts = {name: ranks.count if name in means else 1 for name in values}
    return {name: value / part for value, (name, part) in zip(total, parts.items(), strict=True)}
