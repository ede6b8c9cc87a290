"""The curve of speed against similarity: every way has a point, and the picture is XML."""

import json
import xml.etree.ElementTree as ElementTree

from benchmarks import export_curve
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.evaluation.sts import OWN_PAIRS
from tests.models import save_tiny


def test_every_way_has_a_point(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_curve, "TARGETS", {"static": "static", "sentence-transformers": "library"})
    save(load(save_tiny(tmp_path / "tiny", "bert"), pooling="mean"), tmp_path / "model", "")
    output = tmp_path / "curve"
    options = ["--output", str(output), "--sentences", "20", "--rounds", "1", "--name", "a < b"]
    export_curve.main([str(tmp_path / "model"), str(OWN_PAIRS), *options])
    rows = json.loads(output.with_suffix(".json").read_text())["rows"]
    names = [row["way"] for row in rows]
    assert {"diffcse embed, fp32", "static", "library"} <= set(names)
    assert next(row for row in rows if row["way"] == "library")["least"] > 0.99999
    circles = ElementTree.parse(output.with_suffix(".svg")).findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(rows)
    assert capsys.readouterr().out.splitlines()[0].startswith("| way ")
