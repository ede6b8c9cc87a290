"""What a user has on disk, without training it, and the command as a user runs it."""

import shutil

from diffcse.cli import main
from diffcse.config import load_recipe, to_dict, to_toml
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.record import Record
from tests.models import save_tiny


def command(capsys, *arguments):
    """(exit code, stdout, stderr) of the command."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def make_run(folder, seed, *, difference="rtd", best=60.0, last=59.0, weights=None, dev=True, **method):
    """A folder as `diffcse train` leaves it: run.json, recipe.toml, model/ and last/, of random tiny encoders."""
    import dataclasses

    base = load_recipe("mini_cpu")
    config = dataclasses.replace(
        base,
        method=dataclasses.replace(base.method, difference=difference, pooling="mean", **method),
        training=dataclasses.replace(base.training, seed=seed, dev="some/pets.tsv" if dev else None),
    )
    folder.mkdir(parents=True)
    for number, name in enumerate(("model", "last") if dev else ("model",)):
        start = save_tiny(folder / "start", "bert", seed=(seed if weights is None else weights) + number)
        save(load(start, pooling="mean"), folder / name, "# A model\n")
        shutil.rmtree(start)
    record = Record(
        kind="train", config=to_dict(config), seed=seed, data={"sha256": "ab", "dev_sha256": "cd"}, status="complete"
    )
    if dev:
        record.scores["dev"] = {"file": "some/pets.tsv", "start": 50.0, "best": best, "best_step": 2, "last": last}
    record.write(folder / "run.json")
    (folder / "recipe.toml").write_text(to_toml(config))
    return folder
