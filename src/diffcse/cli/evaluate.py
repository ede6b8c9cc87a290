"""`diffcse evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from diffcse.config import EncoderPooling
from diffcse.errors import InputError
from diffcse.machine import tune

if TYPE_CHECKING:
    from diffcse.evaluation.data import Data, TextSet
    from diffcse.evaluation.suite import Candidate, Group

Tasks = Literal["sts", "transfer", "retrieval", "geometry", "all"]


@dataclass(frozen=True)
class Evaluate:
    """Measure encoders: graded pairs (STS), transfer to classification, retrieval, geometry."""

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...", help_behavior_hint="")]
    """Model folders, runs of `diffcse train`, hub ids, "mini"; or embeddings: x.npy (with x.txt), x.parquet."""
    data: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="DIR|hub:ID|pairs")] = ()
    """Folder with the sets: SentEval's downstream, *.tsv of graded pairs, BEIR collections; hub:mteb; or "pairs",
    which come along."""
    tasks: Tasks = "sts"
    """What to measure."""
    sets: UseAppendAction[tuple[str, ...]] = ()
    """Only this set, such as STS12 or MR."""
    text: UseAppendAction[tuple[Path, ...]] = ()
    """Also measure geometry, and conditional gain, on this file of one sentence a line."""
    pooling: EncoderPooling | None = None
    """Overrides what the folder says; needed for a plain checkpoint."""
    probe: Literal["logistic", "adam", "adam-fast"] = "logistic"
    """Classifier of the transfer tasks: SentEval's scikit-learn one, its Adam-trained one, or that one's fast mode."""
    allow_partial: bool = False
    """Accept well-known sets with pairs or subsets missing."""
    floors: bool = False
    """Add rows for TF-IDF and SIF-weighted static vectors (the first model's own): what words alone get."""
    floor_vectors: Path | None = None
    """With --floors: also SIF over this file of word vectors (GloVe's text format)."""
    floor_text: Path | None = None
    """With --floors: fit them on this text, one sentence a line, instead of on each set."""
    details: bool = False
    """Also print every subset and the other ways of adding them up."""
    json: Path | None = None
    """Also write everything to this file (docs/evaluation.md describes it)."""
    list_sentences: Path | None = None
    """Write the sentences these tasks need to this file, one a line, and stop: for embedding them elsewhere."""
    cache: bool = True
    """Keep results, and use those kept for exactly this encoder, set and code."""

    def __call__(self, console: Console) -> None:
        if not self.data and not self.text:
            raise InputError(
                "no data: give --data DIR, a folder in SentEval's, BEIR's or the *.tsv layout, --data hub:mteb, or "
                "--data pairs, graded pairs that come along"
            )
        if not self.models and not self.list_sentences:
            raise InputError("no model: give a model folder, e.g. diffcse evaluate out/model --data sts")
        if (self.floor_vectors or self.floor_text) and not self.floors:
            raise InputError("--floor-vectors and --floor-text change nothing without --floors")
        from diffcse.evaluation.cache import ResultCache, default_cache_dir
        from diffcse.evaluation.data import find_data
        from diffcse.evaluation.probes import PROBES
        from diffcse.evaluation.suite import GROUPS, jobs_of, report
        from diffcse.files import write_json, write_text
        from diffcse.terminal import say

        tune()
        groups: tuple[Group, ...] = GROUPS if self.tasks == "all" else (self.tasks,)
        if self.text and "geometry" not in groups:
            groups = (*groups, "geometry")
        self._check_choices(groups)
        data = find_data(self.data, groups=groups, only=self.sets, texts=self.text, allow_partial=self.allow_partial)
        if self.list_sentences:
            needed = list(dict.fromkeys(s for job in jobs_of(data, groups) for s in job.sentences))
            write_text(self.list_sentences, "".join(f"{sentence}\n" for sentence in needed))
            say(console, f"written  {self.list_sentences}  ({len(needed):,} sentences)")
            return
        candidates = self._candidates()
        view = _View(console)
        cache = ResultCache(default_cache_dir() if self.cache else None)
        try:
            found = report(candidates, data, groups=groups, probe=PROBES[self.probe], cache=cache, progress=view)
        finally:
            view.close()
        self._add_gains(found, data, groups)
        for source, result in zip(self.models, found["results"], strict=False):  # behind them come the floors
            encoder = result["encoder"]
            if "pooling" in encoder:
                why = f" ({encoder['pooling_note']})" if "pooling_note" in encoder else ""
                most = f"up to {encoder['max_tokens']} tokens"
                say(console, f"encoder  {source}: pooling {encoder['pooling']}{why}, {most}")
        for made in tables(found, details=self.details):
            _show(console, made)
        for note in found["notes"]:
            say(console, f"note     {note}")
        if cache.hits:
            say(console, f"cache    results kept from before: {cache.hits} (--no-cache measures anew)")
        if self.json:
            write_json(self.json, found)
            say(console, f"written  {self.json}")

    def _check_choices(self, groups: Sequence[Group]) -> None:
        """That no option was given which would change nothing."""
        if self.probe != "logistic" and "transfer" not in groups:
            raise InputError(f"--probe {self.probe} changes nothing without --tasks transfer or all")
        if self.details and not {"sts", "transfer"} & set(groups):
            raise InputError("--details shows subsets and dev accuracies, which these tasks have not")
        stored = [Path(model).suffix in (".npy", ".parquet") for model in self.models]
        if self.pooling is not None and stored and all(stored):
            raise InputError(f"--pooling {self.pooling} changes nothing: embeddings from a file are pooled already")

    def _candidates(self) -> list[Candidate]:
        from diffcse.encoder.encode import Encoder
        from diffcse.evaluation.data import read_texts
        from diffcse.evaluation.suite import floor_candidates, load_candidate

        candidates = [load_candidate(source, pooling=self.pooling) for source in self.models]
        if self.floors:
            loaded = ((c.name, e) for c in candidates if isinstance(e := c.fit([]), Encoder))
            text: TextSet | None = None if self.floor_text is None else read_texts(self.floor_text)
            candidates += floor_candidates(next(loaded, None), vectors=self.floor_vectors, text=text)
        return candidates

    def _add_gains(self, found: dict[str, Any], data: Data, groups: Sequence[Group]) -> None:
        """Conditional gain of those runs that kept their discriminator, on the first text there is."""
        shapes = list(data.shapes().values())
        if "geometry" not in groups or not shapes:
            return
        texts = list(data.texts.values()) or shapes[:1]
        for source, result in zip(self.models, found["results"], strict=False):
            try:
                gain = measure_gain(Path(source), texts[0])
            except NoGain as reason:
                found["notes"].append(f"{source}: no conditional gain: {reason}")
                continue
            if gain is not None:
                result["conditional_gain"] = gain


class NoGain(Exception):
    """Why conditional gain is not defined for a run."""


_AT_MOST = 2048  # sentences that the gain is measured on
_BATCH = 64


def measure_gain(run: Path, text: Any) -> dict[str, Any] | None:
    """Conditional gain of the run in the folder `run` on `text`, a set of pairs or sentences; None without parts.

    Over all the edits that D was trained on, each sentence drawing one as in training, and over each of them alone.

    Raises:
        NoGain: D judges no edits, is told nothing of the sentence or of another one, or the text is too short.
        InputError: the kept parts cannot be loaded.
    """
    from diffcse.training.run import PARTS

    if not (run / PARTS).is_file() or not (run / "recipe.toml").is_file():
        return None
    import dataclasses
    import random

    from diffcse.config import EDITS, load_recipe
    from diffcse.method.build import build
    from diffcse.method.inspect import conditional_gain
    from diffcse.training.checkpoints import load_weights
    from diffcse.training.collate import Collate

    config = load_recipe(str(run / "recipe.toml"))
    method = config.method
    if method.difference != "rtd":
        raise NoGain(f'it was trained with method.difference = "{method.difference}", where D judges no edits')
    if method.condition == "none":
        raise NoGain('it was trained with method.condition = "none", where D is told nothing of the sentence')
    if method.pairing == "next":
        raise NoGain('it was trained with method.pairing = "next", where D judges another sentence than the embedded')
    sentences = getattr(text, "sentences", None) or (*text.first, *text.second)
    distinct = list(dict.fromkeys(sentence for sentence in sentences if sentence))
    if len(distinct) < 2:
        raise NoGain(f"{text.name} holds fewer than 2 different sentences")
    # Neighbours in a file speak of the same thing; shuffled, another sentence's embedding says nothing of this one.
    random.Random(0).shuffle(distinct)
    distinct = distinct[: min(_AT_MOST, len(distinct) - (len(distinct) % _BATCH == 1))]  # none is a batch of its own
    model, tokenizer = build(method, seed=config.training.seed)
    load_weights(model, run / PARTS)
    collate = Collate(tokenizer, config.training.max_tokens)
    batches = [collate(distinct[i : i + _BATCH]) for i in range(0, len(distinct), _BATCH)]
    names = {"masked": Path(method.generator or method.model).name, "causal": Path(method.causal_generator or "").name}

    def gain_of(edits: tuple[Any, ...]) -> dict[str, Any]:
        model.choices = dataclasses.replace(method, edits=edits)
        gain = dataclasses.asdict(conditional_gain(model, batches))
        used = dict.fromkeys(names[kind] for edit in edits if (kind := EDITS[edit].generator) is not None)
        figures = {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in gain.items()}
        return {**figures, "generator": ", ".join(used) or None}

    whole = gain_of(method.edits)
    alone = {edit: gain_of((edit,)) if len(method.edits) > 1 else whole for edit in method.edits}
    return {"text": text.name, "n": len(distinct), **whole, "edits": list(method.edits), "by_edit": alone}


def tables(found: dict[str, Any], *, details: bool = False) -> list[Any]:
    """The report as tables for a terminal, one a group."""
    makers = (_sts_tables, _transfer_tables, _retrieval_tables, _geometry_tables, _gain_tables)
    return [made for maker in makers for made in maker(found["results"], details)]


def _show(console: Console, made: Any) -> None:
    """Print a table with its title above and its caption below, not folded to the width of its columns."""
    title, caption = made.title, made.caption
    made.title = made.caption = None
    console.print(f"\n{title}", style="bold", markup=False, highlight=False)
    console.print(made)
    if caption:
        console.print(caption, style="dim", markup=False, highlight=False)


def _of(result: dict[str, Any], group: str) -> dict[str, Any]:
    return {task["name"]: task for task in result["tasks"].values() if task["group"] == group}


def _names(results: list[dict[str, Any]], group: str) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in _of(result, group)))


def _points(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _grid(
    title: str,
    results: list[dict[str, Any]],
    group: str,
    cell: Any,
    *,
    average: str = "",
    caption: str = "",
    names: Sequence[str] | None = None,
) -> Any:
    """Encoders x sets; `cell(task)` is a figure's text. `average` heads one more column if any encoder has it."""
    from diffcse.terminal import table

    names = _names(results, group) if names is None else names
    averages = [result["averages"].get(group, {}).get("value") for result in results]
    with_average = bool(average) and any(value is not None for value in averages)
    rows = []
    for result, mean in zip(results, averages, strict=True):
        tasks = _of(result, group)
        cells = [cell(tasks[name]) if name in tasks else "–" for name in names]
        rows.append([result["encoder"]["name"], *cells, *([_points(mean)] if with_average else [])])
    return table(title, ["encoder", *names, *([average] if with_average else [])], rows, caption=caption)


def _sts_tables(results: list[dict[str, Any]], details: bool) -> list[Any]:
    names = _names(results, "sts")
    if not names:
        return []
    variants = {task["data"]["text_variant"] for result in results for task in _of(result, "sts").values()}
    made = [
        _grid(
            "STS: Spearman of cosine with human scores, points. Aggregation: all (a set's pairs put together)",
            results,
            "sts",
            lambda task: _points(task["value"]),
            average="average of 7",
            caption=f"text: {'; '.join(sorted(variants))}. {_splits(results, 'sts')}",
        )
    ]
    if not details:
        return made
    from diffcse.terminal import table

    for result in results:
        rows = []
        for name, task in _of(result, "sts").items():
            for how, words in _AGGREGATIONS.items():
                rows.append(_correlation_row(f"{name}  {how}: {words}", task["aggregations"][how]))
            if len(task["subsets"]) > 1:
                rows += [_correlation_row(f"    {subset}", score) for subset, score in task["subsets"].items()]
        made.append(
            table(f"{result['encoder']['name']}, points", ["set or subset", "pairs", "Spearman", "Pearson"], rows)
        )
    return made


_AGGREGATIONS = {
    "all": "pairs of all subsets put together",
    "mean": "mean of the subsets",
    "wmean": "mean of the subsets, weighted by pairs",
}


def _correlation_row(label: str, score: dict[str, Any] | None) -> list[str]:
    if score is None:
        return [label, "–", "–", "–"]
    return [label, f"{score['n']:,}", _points(score["spearman"]), _points(score["pearson"])]


def _splits(results: list[dict[str, Any]], group: str) -> str:
    """Which sets are dev splits: those figures are for choosing, not for quoting."""
    dev = {name for result in results for name, task in _of(result, group).items() if task["split"] == "dev"}
    return f"Dev splits, to choose by and not to quote as test: {', '.join(sorted(dev))}." if dev else ""


def _transfer_tables(results: list[dict[str, Any]], details: bool) -> list[Any]:
    if not _names(results, "transfer"):
        return []
    tasks = [task for result in results for task in _of(result, "transfer").values()]
    probe, split = tasks[0]["probe"], tasks[0]["split"]

    def cell(task: dict[str, Any]) -> str:
        return _points(task["value"]) + (f" / F1 {_points(task['f1'])}" if task["f1"] is not None else "")

    made = [
        _grid(
            f"Transfer: {split} accuracy of a linear probe ({probe}) on frozen embeddings, points",
            results,
            "transfer",
            cell,
            average="average of 7",
            caption=_majorities(results),
        )
    ]
    other = "test" if split == "dev" else "dev"
    if details:
        made.append(
            _grid(
                f"Transfer: {other} accuracy, points",
                results,
                "transfer",
                lambda task: _points(task[f"{other}_accuracy"]),
                caption="dev: on the examples by which the probe's strength was chosen; not to be quoted as test.",
            )
        )
    return made


def _majorities(results: list[dict[str, Any]]) -> str:
    shares = {name: task["majority"] for result in results for name, task in _of(result, "transfer").items()}
    return "Always answering the commonest class: " + ", ".join(f"{n} {v:.1f}" for n, v in shares.items()) + "."


def _retrieval_tables(results: list[dict[str, Any]], details: bool) -> list[Any]:
    from diffcse.terminal import table

    made = []
    for name in _names(results, "retrieval"):
        tasks = [(r["encoder"]["name"], t) for r in results if (t := _of(r, "retrieval").get(name)) is not None]
        first = tasks[0][1]
        columns = list(first["values"])
        if first["metric"] == "recall@1":
            what = "each sentence of a pair graded 5 must find the other"
            columns = [column for column in columns if column.startswith("recall")]
        else:
            what = "BEIR layout, test judgements"
        made.append(
            table(
                f"Retrieval on {name}: {what}; {first['n']:,} queries, {first['documents']:,} documents, points",
                ["encoder", *columns],
                [[label, *(_points(task["values"][column]) for column in columns)] for label, task in tasks],
            )
        )
    return made


def _geometry_tables(results: list[dict[str, Any]], details: bool) -> list[Any]:
    from diffcse.terminal import table

    made = []
    columns = ["alignment ↓", "uniformity ↓", "mean cosine", "effective rank", "directions for 90 %", "first share"]
    for name in _names(results, "geometry"):
        tasks = [(r["encoder"]["name"], t) for r in results if (t := _of(r, "geometry").get(name)) is not None]
        first = tasks[0][1]
        pairs = (
            f"alignment over the {first['positive_pairs']:,} pairs graded above 4" if first["positive_pairs"] else ""
        )
        rows = [
            [
                label,
                _points(task["alignment"], ".3f"),
                _points(task["uniformity"], ".3f"),
                _points(task["mean_cosine"], ".3f"),
                f"{task['effective_rank']:.1f} of {task['width']:,}",
                f"{task['directions_90']:,}",
                f"{task['spectrum'][0]:.0%}" if task["spectrum"] else "–",
            ]
            for label, task in tasks
        ]
        made.append(
            table(
                f"Geometry on {name}: {first['n']:,} distinct sentences" + (f", {pairs}" if pairs else ""),
                ["encoder", *columns],
                rows,
                caption="first share: of the squared length of unit embeddings in one direction; 100 % is a collapse.",
            )
        )
    return made


def _gain_tables(results: list[dict[str, Any]], details: bool) -> list[Any]:
    from diffcse.terminal import table

    having = [result for result in results if "conditional_gain" in result]
    if not having:
        return []
    gains = [(result["encoder"]["name"], result["conditional_gain"]) for result in having]
    rows = []
    for name, gain in gains:
        together = gain["edits"][0] if len(gain["edits"]) == 1 else f"all {len(gain['edits'])}, one a sentence"
        rows.append([name, together, *_gain_cells(gain)])
        if len(gain["edits"]) > 1:
            rows += [["", f"{edit} alone", *_gain_cells(part)] for edit, part in gain["by_edit"].items()]
    first = gains[0][1]
    return [
        table(
            f"Conditional gain on {first['text']}, {first['n']:,} sentences, nats a token: does its embedding tell D "
            "what was edited?",
            ["encoder", "edits", "generator", "gain", "own embedding", "another's", "judged rightly (majority)"],
            rows,
            caption="gain: log-loss given another sentence's embedding minus given its own; 0: it tells nothing.",
        )
    ]


def _gain_cells(gain: dict[str, Any]) -> list[str]:
    return [
        gain["generator"] or "–",
        f"{gain['gain']:+.4f} ± {gain['standard_error']:.4f}",
        f"{gain['own']:.4f}",
        f"{gain['shuffled']:.4f}",
        f"{gain['accuracy']:.1%} ({gain['majority']:.1%})",
    ]


class _View:
    """Progress: one line that is rewritten on a terminal, and nothing elsewhere."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[shown]}"),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("", shown="", total=None)

    def __call__(self, encoder: str, what: str, done: int, total: int) -> None:
        if self._bar:
            from rich.markup import escape

            shown = f"{done:,} of {total:,} sentences" if total else what
            self._bar.update(
                self._task, description=escape(f"{encoder}  {what}"), completed=done, total=total or None, shown=shown
            )

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
