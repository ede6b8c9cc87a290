"""A model folder -> a repository of the Hugging Face hub.

Only the files of a model are uploaded, by their names. So a run's checkpoints, log, other encoders and text stay here.
"""

from __future__ import annotations

import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffcse.errors import InputError
from diffcse.network import is_unreachable, why_unreachable

CARD = "README.md"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_FILES = (
    *(CARD, "config.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model", "model*.safetensors", "model.safetensors.index.json"),
    *("export.json", "model.onnx", "model.xml", "model.bin"),
)
"""Files of a model."""
_MODULE = "[0-9]*_*"
"""Folders of a model's modules."""


def model_folder(source: str | Path) -> Path:
    """The folder of `source` that is a model: itself, or model/ of a run.

    Raises:
        InputError: it holds no model.
    """
    folder = Path(source)
    if (folder / "run.json").is_file():
        folder /= "model"
    if not any((folder / name).is_file() for name in ("config.json", "modules.json", "export.json")):
        raise InputError(f"{source}: no model folder. Give the folder of a finished run, of a model, or of an export")
    return folder


def files_of(folder: Path) -> list[str]:
    """The names of the model's files in `folder`, relative to it."""
    files = [path for path in folder.iterdir() if path.is_file()]
    files += [path for part in folder.glob(_MODULE) if part.is_dir() for path in part.iterdir() if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in files if any(fnmatch(path.name, kind) for kind in _FILES)]
    return sorted(names)


def forces_licence(name: Any) -> bool:
    """Whether weights learned from ones under this licence must be under it too."""
    return str(name).lower().startswith("cc-by-sa")


def check_name(name: str) -> None:
    """That `name` is OWNER/NAME.

    Raises:
        InputError: another form.
    """
    if not HUB_ID.fullmatch(name):
        raise InputError(f"{name}: write the repository as OWNER/NAME, such as anna/my-encoder")


def stated_licence(folder: Path) -> str | None:
    """The licence in the front matter of the card of `folder`, if it has one."""
    from huggingface_hub.repocard import metadata_load

    try:
        return (metadata_load(folder / CARD) or {}).get("license") if (folder / CARD).is_file() else None
    except Exception:  # YAML's errors are its own; a card that is none states nothing
        return None


def card_for(folder: Path, name: str, licence: str | None) -> str:
    """The card of `folder` for the repository `name`, with its licence.

    Raises:
        InputError: no licence is given or stated, or another is given than that of the start demands.
    """
    from huggingface_hub import ModelCard

    file = folder / CARD
    text = file.read_text(encoding="utf-8") if file.is_file() else f"# {name.partition('/')[2]}\n"
    stated = stated_licence(folder)
    if licence is None and stated is None:
        raise InputError(
            f"{folder}: no licence is stated. Give --license, such as apache-2.0, mit or cc-by-4.0. Look at the "
            "licences of the model that training started from, and of your text"
        )
    if forces_licence(stated) and licence not in (None, stated):
        raise InputError(
            f"--license {licence}: the model started from weights under {stated}, which this one must keep"
        )
    if not text.startswith("---"):
        text = f"---\nlibrary_name: sentence-transformers\n---\n\n{text}"
    card = ModelCard(text)
    card.data["license"] = licence or stated
    return str(card).replace('SentenceTransformer("this folder")', f'SentenceTransformer("{name}")')


def push(
    model: str | Path, name: str, *, licence: str | None = None, private: bool = False, update: bool = False
) -> str:
    """Upload the model in the folder `model` to the hub's repository `name`; return its address.

    Args:
        licence: of the weights, by the hub's name for it; that of the card if None.
        private: whether only its owner sees a new repository.
        update: whether the repository may exist; its files of the same names are replaced.

    Raises:
        InputError: no model folder, licence, token or network, a repository that exists (with `private`: one that is
            public), or a refusal of the hub.
    """
    check_name(name)
    folder = model_folder(model)
    card = card_for(folder, name, licence)
    token = _token()
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory(prefix="diffcse-") as staging:
        for file in files_of(folder):
            target = Path(staging) / file
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / file, target)
        (Path(staging) / CARD).write_text(card, encoding="utf-8")
        try:
            url = api.create_repo(name, private=private, exist_ok=update)
            if private and update and not api.repo_info(name).private:
                raise InputError(f"{name}: exists, and everyone can see it. Make it private there, or omit --private")
            api.upload_folder(repo_id=name, folder_path=staging, commit_message="Upload by diffcse push")
        except InputError:
            raise
        except Exception as error:
            raise _failure(error, name) from error
    return str(url)


def check_access() -> None:
    """That there is a token, and the hub answers.

    Raises:
        InputError: one of them is missing.
    """
    _token()
    if reason := why_unreachable():
        from huggingface_hub import constants

        raise InputError(f"{constants.ENDPOINT}: the hub cannot be reached ({reason}). Try again with a network")


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise InputError("no token of the hub: run hf auth login, or set HF_TOKEN to one that may write")
    return token


def _failure(error: Exception, name: str) -> InputError:
    """The error for the user, from an error of the hub's library."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if status == 409:
        return InputError(f"{name}: this repository exists. Give another name, or --update to replace its files")
    if status in (401, 403):
        return InputError(f"{name}: the hub refuses this token ({reason}). It must be allowed to write there")
    if status is None and is_unreachable(error):
        return InputError(f"{name}: the hub cannot be reached ({reason}). Try again with a network")
    return InputError(f"{name}: the upload failed: {reason}")
