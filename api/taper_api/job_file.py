"""A job's file: read, checked, its relative paths resolved."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from taper_api.base.job_error import JobError, Problem
from taper_api.base.violations import problems_of
from taper_api.base.yaml12 import Yaml12Loader
from taper_api.rlhfjob import RLHFJob

MODEL_PATH = "spec.model.path"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def load_job(path: str | os.PathLike[str]) -> RLHFJob:
    """The job in a YAML file, with its relative paths resolved against the file's folder.

    `JobError` for a file that cannot be read, is not YAML, or is not a valid job. `check_files` checks
    that the files that the job names exist.
    """
    file = Path(path)
    return resolve_paths(parse_job(_read(file), str(file)), file.absolute().parent)


def parse_job(text: str, source: str) -> RLHFJob:
    """The job in a YAML text; `source` names the text in messages about its syntax."""
    content = _content(text, source)
    try:
        return RLHFJob.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        raise JobError(problems_of(error, RLHFJob)) from None


def resolve_paths(job: RLHFJob, folder: Path) -> RLHFJob:
    """The same job with relative paths made absolute. A model that is no directory there is left as an id."""
    spec = job.spec
    data = spec.data.model_copy(
        update={
            "train": tuple(_absolute(name, folder) for name in spec.data.train),
            "validation": tuple(_absolute(name, folder) for name in spec.data.validation),
        }
    )
    reward = spec.reward
    if reward.file is not None:
        script, function = reward.file
        reward = reward.model_copy(update={"function": f"{_absolute(str(script), folder)}:{function}"})
    checkpoints = spec.training.checkpoints
    if checkpoints.directory is not None:
        checkpoints = checkpoints.model_copy(update={"directory": _absolute(checkpoints.directory, folder)})
    training = spec.training.model_copy(update={"checkpoints": checkpoints})
    model = spec.model
    if _is_path(model.path) or (folder / model.path).is_dir():
        model = model.model_copy(update={"path": _absolute(model.path, folder)})
    rollout = spec.rollout
    if rollout.profile is not None:
        rollout = rollout.model_copy(update={"profile": _absolute(rollout.profile, folder)})
    resolved = {"model": model, "data": data, "reward": reward, "training": training, "rollout": rollout}
    return job.model_copy(update={"spec": spec.model_copy(update=resolved)})


def check_files(job: RLHFJob) -> None:
    """`JobError` if a file or directory that the job names is not there. Reads nothing."""
    spec = job.spec
    wanted = [(f"spec.data.train[{i}]", name) for i, name in enumerate(spec.data.train)]
    wanted += [(f"spec.data.validation[{i}]", name) for i, name in enumerate(spec.data.validation)]
    if spec.reward.file is not None:
        wanted.append(("spec.reward.function", str(spec.reward.file[0])))
    if spec.rollout.profile is not None:
        wanted.append(("spec.rollout.profile", spec.rollout.profile))
    problems = [*_model_problems(spec.model.path)] if _is_path(spec.model.path) else []
    problems += [
        Problem(
            path=path, message=f"there is no file {name}", remedy="check the path; it is relative to the job"
        )
        for path, name in wanted
        if not Path(name).is_file()
    ]
    if problems:
        raise JobError(problems)


def _model_problems(directory: str) -> Iterator[Problem]:
    folder, remedy = Path(directory), "name a model directory in Hugging Face form, or a Hugging Face id"
    if not folder.is_dir():
        yield Problem(path=MODEL_PATH, message=f"there is no directory {directory}", remedy=remedy)
    elif not (folder / "config.json").is_file():
        yield Problem(path=MODEL_PATH, message=f"there is no config.json in {directory}", remedy=remedy)
    elif not any((folder / name).is_file() for name in TOKENIZER_FILES):
        remedy = f"save the model's tokenizer there too ({' or '.join(TOKENIZER_FILES)})"
        yield Problem(path=MODEL_PATH, message=f"there is no tokenizer in {directory}", remedy=remedy)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        problem = Problem(path=str(file), message="there is no such file", remedy="check the path of the job")
    except IsADirectoryError:
        problem = Problem(path=str(file), message="is a directory", remedy="name a YAML file in it")
    except UnicodeDecodeError:
        problem = Problem(path=str(file), message="is not UTF-8 text", remedy="name a YAML file")
    except OSError as error:
        problem = Problem(path=str(file), message=f"cannot be read ({error.strerror})")
    raise JobError([problem])


def _content(text: str, source: str) -> dict[Hashable, Any]:
    try:
        documents = list(yaml.load_all(text, Loader=Yaml12Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        problem = Problem(
            path=place, message=f"is not valid YAML: {error.problem}", remedy="fix the syntax there"
        )
        raise JobError([problem]) from None
    except yaml.YAMLError as error:
        message = f"is not valid YAML: {str(error).splitlines()[0]}"
        raise JobError([Problem(path=source, message=message)]) from None
    documents = [document for document in documents if document is not None]
    if len(documents) != 1 or not isinstance(documents[0], dict):
        what = "is empty" if not documents else "is not one mapping"
        remedy = "write one RLHFJob: apiVersion, kind, metadata, spec"
        raise JobError([Problem(path=source, message=what, remedy=remedy)])
    return documents[0]


def _is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~"))


def _absolute(name: str, folder: Path) -> str:
    return os.path.normpath(folder / Path(name).expanduser())
