"""The speed benchmarks at tiny shapes: what they count, what they compare, what they leave behind."""

import copy
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import encode, measure, render, scaling, startup, step, work
from benchmarks.speed.plain import Plain
from diffcse.errors import InputError
from diffcse.method import heads
from diffcse.method.build import build
from diffcse.method.loading import MINI, load_tokenizer
from diffcse.training.collate import Collate
from tests.cli.runs import command
from tests.models import SENTENCES

# ---- counting --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MINI)


def tiny(tokenizer):
    """(our module, the plain step) with equal weights."""
    torch.manual_seed(0)
    encoder, generator, method = step.networks("tiny", len(tokenizer))
    module, _ = build(method, encoder=encoder, generator=generator, tokenizer=tokenizer)
    parts = (module.encoder, module.generator, module.discriminator, module.projector, module.head)
    return module, Plain(*copy.deepcopy(parts), tokenizer, method)


def test_counted_work_is_what_torch_counts(tokenizer):
    """On sentences of equal length, with the head at every position, nothing is left out: the counts must agree."""
    _, plain = tiny(tokenizer)
    for network in (plain.encoder, plain.discriminator, plain.generator):
        network.set_attn_implementation("eager")
    x_RT = torch.randint(10, 1000, (6, 9))
    with FlopCounterMode(display=False) as counter:
        plain(x_RT, torch.ones_like(x_RT)).backward()
    counted = work.step_flops(plain.encoder.config, plain.generator.config, [9, 9, 9], masked=6 * 9)
    assert counter.get_total_flops() == counted


def test_padding_counts_as_nothing(tokenizer):
    config = step.networks("tiny", len(tokenizer))[0].config
    assert work.encoder_flops(config, [5]) + work.encoder_flops(config, [9]) == work.encoder_flops(config, [5, 9])
    assert work.encoder_flops(config, [5, 9]) < work.encoder_flops(config, [9, 9])


def test_peak_is_that_of_the_fastest_shape():
    peak = work.gemm_peak(torch.float32, torch.device("cpu"), [(2, 2, 2), (256, 256, 256)], repeats=2)
    assert peak["shape"] == [256, 256, 256]
    assert peak["flops_per_s"] > 1e8


def test_peaks_are_those_of_the_precisions_used_and_only_rise(tokenizer):
    config = step.networks("tiny", len(tokenizer))[0].config
    before = {"fp32": {"flops_per_s": 1e18, "shape": [1, 2, 3], "library": "none"}}
    found = work.gemm_peaks(["ours, fp32", "OpenVINO, int8"], config, 8, torch.device("cpu"), 1, before)
    assert found == before
    assert work.said(found) == {"GEMM peak fp32": "1000000000 GFLOP/s (1 x 2 x 3, none)"}


# ---- one loss --------------------------------------------------------------------------------------------------------


def test_ours_and_the_plain_step_are_one_loss(tokenizer):
    module, plain = tiny(tokenizer)
    batch = Collate(tokenizer, 32)(SENTENCES[:6])
    found = step.check(module, plain, batch)
    assert found["loss, ours"] == pytest.approx(found["loss, plain"], abs=1e-5)
    assert found["loss, ours"] > 0.5  # and none that is near zero whatever one computes
    assert module.choices == plain.method
    with torch.no_grad():
        plain.head.bias[1] += 0.01
    with pytest.raises(RuntimeError, match="not the same loss"):
        step.check(module, plain, batch)


def test_the_plain_step_edits_words_only(tokenizer):
    _, plain = tiny(tokenizer)
    x_RT, attention_RT = plain.tokens(SENTENCES[:40], 32)
    edited_RT = plain.edit(x_RT, attention_RT)
    words_RT = ~torch.isin(x_RT, torch.tensor(tokenizer.all_special_ids))
    assert torch.equal(edited_RT[~words_RT], x_RT[~words_RT])
    assert 0.25 < (edited_RT != x_RT)[words_RT].float().mean() < 0.35  # a random generator hits no word


def test_mean_pooling_is_ours():
    hidden, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]])
    own = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    assert torch.allclose(own, heads.pool((hidden,), mask, "mean"))


# ---- turns -----------------------------------------------------------------------------------------------------------


def test_turns_alternate_and_stop_in_time():
    order = []
    contestants = {name: lambda number, name=name: order.append((number, name)) for name in "ab"}
    samples = measure.interleave(contestants, rounds=3, seconds=60)
    assert order == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]
    assert [len(own) for own in samples.values()] == [3, 3]
    assert len(measure.interleave(contestants, rounds=9, seconds=0)["a"]) == 2


def test_ratios_are_taken_round_by_round():
    walls = {"ref": [1.0, 10.0, 4.0], "ours": [0.5, 2.0, 4.0]}
    samples = measure.interleave(
        {name: lambda n, own=own: {"wall": own[n], "cpu": 1.0, "printed": "x"} for name, own in walls.items()},
        rounds=3,
        seconds=60,
    )
    group = measure.Group("g", ["ref"])
    group.add(samples, lambda name, own: {"n": len(own)})
    ours = group.rows[1]
    assert ours["ratio"] == {"ref": 2.0}  # of 2, 5 and 1
    assert ours["ratio_range"] == {"ref": [1.0, 5.0]}
    assert ours["wall_s"] == 2.0
    assert "printed" not in ours["samples"][0]


def test_parts_add_up():
    counted = {
        "data": 1.0,
        "encoder": 2.0,
        "generator": 3.0,
        "forward": 7.0,
        "step": 12.0,
        "clip": 0.5,
        "optimiser": 1.5,
    }
    found = step.parts(counted)
    assert sum(found.values()) == 15.0
    assert (found["rest of forward"], found["backward"], found["discriminator"]) == (2.0, 5.0, 0.0)


def test_a_process_is_measured_alone():
    # From a small process, as the benchmarks are: this one, full of torch, would be counted in.
    child = [sys.executable, "-c", "x = bytearray(300_000_000); print('done')"]
    code = f"import json; from benchmarks.speed import measure; print(json.dumps(measure.child({child})))"
    sample = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 300 < sample["peak_mb"] < 450
    assert sample["printed"] == "done\n"
    with pytest.raises(RuntimeError, match="exit 3"):
        measure.child([sys.executable, "-c", "raise SystemExit(3)"])


# ---- each runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "sentences.txt"
    file.write_text("\n".join(SENTENCES), encoding="utf-8")
    return file


def test_step_runs(text, tmp_path):
    file = step.main([str(text), "--quick", "--rounds", "2", "--results", str(tmp_path), "--device", "cpu"])
    result = measure.read(file)
    assert result["command"].startswith("python -m benchmarks.speed.step sentences.txt --quick")
    (group,) = result["groups"]
    names = {row["name"] for row in group["rows"]} | set(group["missing"])
    assert {"ours, bf16", "ours, fp32", "plain, eager, fp32", "plain, sdpa, bf16"} < names
    for row in group["rows"]:
        assert len(row["samples"]) == 2
        assert 0 < row["figures"]["% of GEMM peak"] < 100
        for sample in row["samples"]:
            assert sum(sample["parts"].values()) == pytest.approx(sample["wall"], rel=0.3)
            assert min(sample["parts"].values()) >= 0
            assert min(sample["parts"][name] for name in ("encoder", "generator", "discriminator", "backward")) > 0


def test_encode_runs(text, tmp_path):
    result = measure.read(encode.main([str(text), "--quick", "--rounds", "1", "--results", str(tmp_path)]))
    (group,) = result["groups"]
    rows = {row["name"]: row for row in group["rows"]}
    assert {encode.REFERENCE, "ours, fp32"} <= set(rows)
    assert rows["ours, fp32"]["figures"]["least cosine"] > 0.99999
    assert {"OpenVINO, int8", "ONNX Runtime, fp32"} <= set(rows) | set(group["missing"])


def test_engines_pool_and_order_as_we_do(tmp_path, tokenizer):
    folder, _ = encode.folder_of("tiny", 0, tmp_path)
    encoder = encode.load(folder)

    def run(ids, mask):
        with torch.no_grad():
            return encoder.model(torch.tensor(ids), torch.tensor(mask)).last_hidden_state.numpy()

    found = encode.engine(encoder, run)(SENTENCES)
    assert encode.cosines(found, encoder(SENTENCES)).min() > 0.99999


def test_corpora_are_as_asked(tmp_path):
    files = scaling.corpus(SENTENCES, 101, tmp_path / "c", split=2)
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert [len(file.read_text(encoding="utf-8").splitlines()) for file in files] == [50, 51]
    assert len(set(lines)) == 101
    (file,) = scaling.corpus(SENTENCES, 20, tmp_path / "w", words=7)
    assert {len(line.split()) for line in file.read_text(encoding="utf-8").splitlines()} == {7}


def test_scaling_reads_the_rate_that_embed_prints(text, tmp_path, capsys):
    code, printed, _ = command(capsys, "embed", "mini", text, "--output", tmp_path / "rows.npy", "--pooling=mean")
    assert code == 0
    assert 1 < scaling.rate_in(printed) < 1e6
    assert scaling.rate_in("written  x.npy  (1,500 rows of 256 float32; 1,672 sentences/s)") == 1672
    with pytest.raises(RuntimeError, match="nothing of the kind"):
        scaling.rate_in("nothing of the kind")


def test_startup_sees_heavy_imports():
    assert startup.heavy(["-c", "import scipy"]) == ["scipy"]
    assert startup.heavy(startup.COMMANDS["diffcse train --help"]) == []


# ---- the page --------------------------------------------------------------------------------------------------------


def result(**changes):
    row = {"wall_s": 0.5, "cpu_s": 0.75, "samples": [{"wall": 0.5, "cpu": 0.75}] * 3}
    ratio = {"ratio": {"plain": 4.0}, "ratio_range": {"plain": [3.9, 4.25]}}
    parts = {"encoder": 0.125, "backward": 0.375}
    plain = {"ratio": {"plain": 1.0}, "ratio_range": {"plain": [1.0, 1.0]}}
    group = {
        "name": "Training step, made up",
        "references": ["plain"],
        "facts": {"tokens": 1234},
        "missing": {"OpenVINO": "openvino is not installed"},
        "chart": None,
        "rows": [
            {"name": "ours, <bf16>", **row, **ratio, "figures": {"sentences/s": 128.0}, "parts": parts},
            {"name": "plain", **row, **plain, "figures": {"mean cosine": 0.99987}, "parts": parts},
        ],
    }
    return {
        "schema": measure.SCHEMA,
        "benchmark": "step",
        "created": "2026-11-20T12:00:00+00:00",
        "command": "python -m benchmarks.speed.step",
        "commit": "abc123",
        "busy_percent": 1.5,
        "environment": {"OMP_PROC_BIND": "true"},
        "versions": {"torch": "9.9"},
        "seed": 7,
        "machine": {"processor": "A Processor", "cores": 2, "memory_gib": 16, "threads": 2},
        "groups": [group],
        **changes,
    }


def test_the_page_says_what_the_results_say():
    files = render.render([result()])
    page = files[render.PAGE]
    assert "    OMP_PROC_BIND=true python -m benchmarks.speed.step\n" in page
    for said in (
        "A Processor",
        "2 % busy",
        "seed 7",
        "abc123",
        "torch 9.9",
        "tokens: 1234",
        "OpenVINO: openvino is not installed",
    ):
        assert said in page
    assert "| ours, <bf16> | 3 | 0.500 | 0.750 | **4.00** (3.90–4.25) | 128 | – |" in page
    assert "| plain | 3 | 0.500 | 0.750 | 1 | – | 0.99987 |" in page
    pictures = re.findall(r"\]\((.*?\.svg)\)", page)
    assert sorted(pictures) == sorted(set(files) - {render.PAGE})
    assert len(pictures) == 2


def test_ours_leaves_out_what_the_page_says_it_is_credited_with(tokenizer):
    module, _ = tiny(tokenizer)
    x_RT = torch.randint(10, 1000, (3, 9))
    x_RT[:, 0], x_RT[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    batch = {"input_ids": x_RT, "attention_mask": torch.ones_like(x_RT)}
    module(batch, step=0)  # the first call tries out what the model can do
    layers, rows = module.encoder.encoder.layer, []
    for layer in (layers[0], layers[-1]):
        layer.intermediate.dense.register_forward_pre_hook(lambda _, given: rows.append(given[0].numel() // 64))
    module(batch, step=0)
    assert rows == [2 * 3 * 9, 2 * 3]
    assert "work that it skips: with [CLS]" in render.render([])[render.PAGE]


def test_bars_are_as_long_as_their_values():
    picture = ElementTree.fromstring(render.bars("t & u", {"ours": {"": 4.0}, "<plain>": {"": 1.0}}))
    lengths = [float(rect.get("width")) for rect in picture.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert lengths[0] == 4 * lengths[1]
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["t & u", "ours", "4.00", "<plain>", "1.00"]


def test_half_a_result_is_refused(tmp_path):
    file = tmp_path / "step.json"
    whole = result()
    file.write_text(json.dumps(whole), encoding="utf-8")
    assert measure.read(file) == whole
    for key in ("commit", "machine"):
        file.write_text(json.dumps({k: v for k, v in whole.items() if k != key}), encoding="utf-8")
        with pytest.raises(InputError, match=key):
            measure.read(file)
    del whole["groups"][0]["rows"][0]["cpu_s"]
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(InputError, match="cpu_s"):
        measure.read(file)


def test_the_page_is_that_of_the_results_in_the_repository():
    results = render.read_results(measure.RESULTS)
    page = measure.ROOT / "docs" / render.PAGE
    assert page.exists() == bool(results)
    if results:
        for path, said in render.render(results, render.read_search(measure.RESULTS)).items():
            assert (measure.ROOT / "docs" / path).read_text(encoding="utf-8") == said
