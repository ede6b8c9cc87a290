"""`diffcse embed --engine ray`: the same embeddings by actors of Ray Data, on this machine or a cluster.

The driver first numbers the rows (int64) and writes them as Parquet parts to DIR/_input. Ray reads these and writes
Parquet files to DIR. Its checkpoint keeps the ids of written rows in DIR/_checkpoint, so a run that ended early embeds
only the rest. Readers of Parquet folders skip names that begin with an underscore.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffcse.config import EncoderPooling, Precision, Store
from diffcse.encoder.encode import use_bf16
from diffcse.encoder.inputs import BLOCK, Sentences, batches
from diffcse.encoder.load import load
from diffcse.encoder.manifest import (
    ROWS_PER_PART,
    SCHEMA,
    Shard,
    agree,
    check_folder,
    create_plan,
    describe_inputs,
    part_name,
    read_plan,
)
from diffcse.encoder.outputs import Form
from diffcse.encoder.parts import settings_of
from diffcse.encoder.stream import adjusted
from diffcse.errors import InputError
from diffcse.files import staged_file

EXTRA_CPUS = 3
"""Ray Data reads, writes and filters finished ids beside the actors. With fewer CPUs it waits for ever."""
_LIMITS = {
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_gcs_server_request_timeout_seconds": "300",
}
"""On a busy machine Ray's agents start more slowly than its limits allow, and `ray.init` fails. These are higher."""


def embed_on_ray(
    model: str,
    sentences: Sentences,
    folder: str | Path,
    *,
    pooling: EncoderPooling | None = None,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    normalise: bool = False,
    store: Store = "float32",
    precision: Precision = "fp32",
    batch_tokens: int = 4096,
    actors: int = 1,
    address: str | None = None,
    rows_per_part: int = ROWS_PER_PART,
    note: Callable[[str], None] = lambda line: None,
) -> int:
    """Embed with `actors` processes of Ray; return the number of rows in `folder`.

    Args:
        model: what `load` takes; on a cluster every machine must find it.
        address: of a running cluster, such as "auto" or "ray://head:10001". None: Ray is started on this machine with
            a CPU for each actor and `EXTRA_CPUS` more.
        rows_per_part: rows of an input part and of a written file. A kill loses the parts in progress.
        note: called with a line on what Ray is given.

    Other arguments are as in `encoder.parts.embed_parts`.

    Raises:
        InputError: Ray is missing or does not start; or the folder was begun with another model, input or setting.
    """
    folder = Path(folder).resolve()
    if store == "int8":
        raise InputError("--store int8: its ranges need one process. Use --engine local, or store float32 or binary")
    check_folder(folder, sentences, rows_per_part, Shard(), overwrite=False, engine="ray")
    options = {"pooling": pooling, "prompt": prompt, "truncate_dim": truncate_dim, "batch_tokens": batch_tokens}
    encoder = adjusted(load(model, pooling=pooling), prompt, truncate_dim)
    form = Form(encoder.width, normalise, store)
    settings = settings_of(encoder, sentences, model, form, rows_per_part, bf16=use_bf16(precision)) | {"engine": "ray"}
    plan = read_plan(folder)
    inputs = describe_inputs(folder, sentences.sources, plan)
    plan = plan or create_plan(folder, {"schema": SCHEMA, "settings": settings, "ranges": None, "inputs": inputs})
    agree(folder, plan, {name: value for name, value in settings.items() if name != "model"})
    rows = _number(sentences, folder / "_input", rows_per_part)
    if rows == _rows_in(folder) == _rows_in(folder / "_checkpoint"):
        note("ray      not started: every row is there")
        return rows
    ray = _start(actors, address, note)
    arguments = (model, options, form, use_bf16(precision))
    _write(ray, folder, arguments, actors, rows_per_part, gpu=encoder.model.device.type == "cuda")
    return rows


class _Embedder:
    """An actor: loads the encoder once, then adds the column embedding to each Arrow table."""

    def __init__(self, model: str, options: dict[str, Any], form: Form, bf16: bool) -> None:
        self.batch_tokens = options["batch_tokens"]
        encoder = load(model, pooling=options["pooling"])
        self.encoder = adjusted(encoder, options["prompt"], options["truncate_dim"])
        self.form, self.bf16 = form, bf16

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        texts = table["text"].to_pylist()
        rows = self.encoder(texts, batch_tokens=self.batch_tokens, bf16=self.bf16)
        stored = self.form.stored(rows)
        kind = pa.list_(pa.from_numpy_dtype(self.form.dtype), self.form.columns)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), type=kind)
        return table.append_column("embedding", vectors)


def _number(sentences: Sentences, folder: Path, part_rows: int) -> int:
    """Write the rows with their numbers as Parquet parts, those that are missing; return the number of rows."""
    import pyarrow as pa
    from pyarrow import parquet

    if "id" in sentences.keep:
        raise InputError("--keep id: with --engine ray, id is the row's number. Rename the column in the input")
    schema = pa.schema([("id", pa.int64()), *sentences.kept_schema, ("text", pa.string())])
    rows = 0
    tables: list[Any] = []

    def flush() -> None:
        target = folder / part_name((rows - 1) // part_rows)
        if tables and not target.exists():
            with staged_file(target) as staging:
                parquet.write_table(pa.concat_tables(tables), staging)
        tables.clear()

    for batch in batches(sentences.chunks(), part_rows):
        numbers = pa.array(range(batch.first, batch.first + len(batch.texts)), pa.int64())
        kept = [] if batch.kept is None else batch.kept.columns
        tables.append(pa.Table.from_arrays([numbers, *kept, pa.array(batch.texts, pa.string())], schema=schema))
        rows += len(batch.texts)
        if rows % part_rows == 0:
            flush()
    flush()
    return rows


def _rows_in(folder: Path) -> int | None:
    """The rows of the Parquet files in `folder`; None if one is damaged, which Ray then replaces."""
    from pyarrow import parquet

    try:
        return sum(parquet.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
    except (OSError, ValueError):
        return None


def _start(actors: int, address: str | None, note: Callable[[str], None]) -> Any:
    """Ray, connected to `address`, or started here.

    Raises:
        InputError: Ray is missing or does not start.
    """
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, value)  # Ray reads them when it is imported and when its processes start
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError('--engine ray: needs Ray: pip install "diffcse[ray]"') from error
    try:
        if not ray.is_initialized():
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if address is None:
                options |= {"num_cpus": actors + EXTRA_CPUS, "include_dashboard": False}
            ray.init(address=address or "local", **options)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"--engine ray: Ray does not start: {reason}") from error
    cpus = int(ray.cluster_resources().get("CPU", 0))
    note(f"ray      {actors} actors on {cpus} CPUs; Ray Data needs {EXTRA_CPUS} more CPUs than actors")
    if cpus < actors + EXTRA_CPUS:
        ray.shutdown()
        raise InputError(
            f"--workers {actors}: with {cpus} CPUs Ray Data would wait for ever. It needs {EXTRA_CPUS} more CPUs than "
            f"actors: give at most --workers {max(1, cpus - EXTRA_CPUS)}, or add machines"
        )
    return ray


def _write(ray: Any, folder: Path, arguments: tuple[Any, ...], actors: int, part_rows: int, *, gpu: bool) -> None:
    from ray.data.checkpoint import CheckpointConfig

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.use_datasource_v2 = False  # it joins small parts, and a kill would lose the joined rows
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    parts = len([*(folder / "_input").iterdir()])
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(folder / "_checkpoint"), delete_checkpoint_on_success=False
    )
    try:
        ray.data.read_parquet(str(folder / "_input"), override_num_blocks=parts).map_batches(
            _Embedder, fn_constructor_args=arguments, batch_format="pyarrow", batch_size=min(BLOCK, part_rows),
            compute=ray.data.ActorPoolStrategy(size=actors), num_cpus=1, num_gpus=1 if gpu else None,
        ).write_parquet(str(folder))  # fmt: skip
    finally:
        ray.shutdown()
