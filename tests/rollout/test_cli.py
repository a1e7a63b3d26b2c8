"""The command: exit codes, messages and files. The training itself is replaced."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from taper_api import JobError, Problem
from taper_api.status.termination_message import MARK
from taper_rollout import cli
from taper_rollout.job.training_failed import TrainingFailed

from .report.stage_builder import make_stage, make_step


@pytest.fixture
def job_file(tiny_sample):
    return tiny_sample("qwen3") / "job.yaml"


@pytest.fixture
def training(monkeypatch):
    """Replaces the training: `training(f)` makes `f(on_events)` the run."""

    def replace(run):
        monkeypatch.setattr("taper_rollout.training.check_job", lambda job, output: {})
        monkeypatch.setattr(
            "taper_rollout.training.run_job", lambda job, output, on_events, *, verbose: run(on_events)
        )

    return replace


def message_in(line):
    """The content of a termination message."""
    assert line.startswith(MARK), line
    return json.loads(line.removeprefix(MARK))


def one_step(on_events):
    on_events([make_stage(), make_step(1, 0.25)])


def taper(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys\n"
        "from taper_rollout import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'verl', 'sglang', 'ray', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for arguments in (
        ["--help"],
        ["run", "--help"],
        ["profile", "--help"],
        ["simulate", "--help"],
        ["--version"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert "taper" in done.stdout


@pytest.mark.parametrize("command", ["run", "profile", "simulate", "explain", "replay"])
def test_the_help_of_every_command_has_examples(capsys, command):
    with pytest.raises(SystemExit):
        taper("--help")
    assert f"\n  taper {command} " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        taper(command, "--help")
    assert f"examples:\n  taper {command} " in capsys.readouterr().out


def test_a_completed_run_prints_and_writes_its_summary(training, job_file, tmp_path, capsys):
    training(one_step)
    assert taper("run", "-f", job_file, "--output", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "reward 0.250" in text and "measured gain over staying" in text and "+1.50 s" in text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["outcome"], summary["steps"], summary["switches"]) == ("completed", 1, 1)
    assert (tmp_path / "out" / "stages.png").is_file()


def test_a_run_that_only_advised_ends_with_what_it_would_have_saved(training, job_file, tmp_path, capsys):
    advised = {"advised": {"gain_seconds": 3.0, "half_width_seconds": 0.25}}
    review = {"executed_seconds": 9.0, "best_seconds": 9.0, "static_seconds": {"1": 9.0}, "regret": 0.0}
    stage = make_stage(review=review | advised | {"model_error": 0.0})
    training(lambda on_events: on_events([stage, make_step(1, 0.25)]))
    assert taper("run", "-f", job_file, "--output", tmp_path) == 0
    *_, line, last = capsys.readouterr().out.splitlines()
    assert line == "following the advice would have saved 3.00 ± 0.25 s of generation"
    assert last.startswith("written to ")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["advised_gain_seconds"], summary["advised_gain_half_width_seconds"]) == (3.0, 0.25)


def test_the_output_is_named_after_the_job(training, job_file, tmp_path, monkeypatch):
    training(one_step)
    monkeypatch.chdir(tmp_path)
    assert taper("run", "-f", job_file, "--set", "metadata.name=other") == 0
    assert (tmp_path / "runs" / "other" / "metrics.jsonl").is_file()


def test_without_a_job_file_the_sample_is_trained(training, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(
        "taper_rollout.sample.make.make_model", lambda directory, *_, **__: made.append(directory)
    )
    training(one_step)
    assert taper("run", "--output", tmp_path) == 0
    assert made == [tmp_path / "sample" / "model"]
    assert "creating the packaged sample in" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["foo", "spec..steps=3", "spec.training.steps=["])
def test_what_is_no_setting_is_refused_before_the_sample_is_made(tmp_path, capsys, setting):
    assert taper("run", "--output", tmp_path / "out", "--set", setting) == 2
    assert setting.rstrip("=[3") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_dry_run_prints_verls_configuration_and_writes_no_output(job_file, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["run", "-f", job_file, "--output", out, "--dry-run", "--set", "spec.training.steps=3"]
    assert taper(*arguments) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["actor_rollout_ref"]["rollout"]["name"] == "taper"
    assert config["trainer"]["total_training_steps"] == 3
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("spec.rollout.degrees=[1, 3]", "taper: spec.rollout.degrees[1]: 3 is not a power of two"),
        ("spec.rollout.colour=red", "taper: spec.rollout.colour: "),
        ("spec.model.path=./nothing", "taper: spec.model.path: there is no directory"),
        ("spec.data.train=[no.parquet]", "taper: spec.data.train[0]: there is no file"),
        ("spec.verl.no.such.setting.there=!x", "taper: --set spec.verl.no.such.setting.there: "),
        ("spec.verl.trainer.device=${no.such.setting}", "taper: spec.verl: "),
        (
            "spec.verl.a=" + "[" * 1100 + "]" * 1100,
            "taper: spec.verl: is nested too deep; use at most 32 levels",
        ),
        ("spec.verl.a=&a [*a]", "job.yaml: has a mapping or list that contains itself; remove that alias"),
    ],
)
def test_bad_input_names_the_field_and_exits_with_2(
    job_file, tmp_path, capsys, monkeypatch, setting, message
):
    monkeypatch.setattr("taper_rollout.training.run_job", lambda *_, **__: pytest.fail("trained"))
    assert taper("run", "-f", job_file, "--output", tmp_path / "out", "--set", setting) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("field", ["verl", "reward.settings"])
def test_a_file_that_is_nested_too_deep_is_named_and_exits_with_2(job_file, tmp_path, capsys, field):
    content = yaml.safe_load(job_file.read_text())
    block = content["spec"] if field == "verl" else content["spec"]["reward"]
    block[field.rpartition(".")[2]] = "DEEP"
    job_file.write_text(yaml.safe_dump(content).replace("DEEP", "{a: " * 1100 + "1" + "}" * 1100))
    assert taper("run", "-f", job_file, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"taper: spec.{field}: is nested too deep; use at most 32 levels of mappings and lists" in error
    assert "Traceback" not in error


def test_more_ranks_than_kv_heads_are_refused(job_file, tmp_path, capsys):
    settings = ["--set", "spec.rollout.footprint=8", "--set", "spec.training.ranks=8"]
    settings += ["--set", "spec.rollout.degrees=[1, 8]"]
    assert taper("run", "-f", job_file, "--output", tmp_path, *settings) == 2
    assert (
        "taper: spec.rollout.footprint: 8 ranks are more than the model's 4 KV heads"
        in capsys.readouterr().err
    )


def test_each_problem_has_a_line(training, job_file, tmp_path, capsys):
    def refuse(_):
        raise JobError([Problem(path="spec.a", message="is bad"), Problem(path="spec.b", message="is worse")])

    training(refuse)
    assert taper("run", "-f", job_file, "--output", tmp_path) == 2
    *problems, last = capsys.readouterr().err.splitlines()
    assert problems == ["taper: spec.a: is bad", "taper: spec.b: is worse"]
    assert message_in(last) == {"reason": "InvalidJob", "message": "is bad (and 1 more)", "field": "spec.a"}


def test_a_failed_run_prints_its_cause_and_keeps_its_files(training, job_file, tmp_path, capsys):
    def fail(on_events):
        one_step(on_events)
        raise TrainingFailed("the reward reward.py:f failed: ValueError: no")

    training(fail)
    assert taper("run", "-f", job_file, "--output", tmp_path) == 1
    error, last = capsys.readouterr().err.splitlines()
    cause = "the reward reward.py:f failed: ValueError: no"
    assert error == f"taper: {cause}"
    assert message_in(last) == {"reason": "TrainingFailed", "message": cause}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["outcome"], summary["steps"]) == ("failed", 1)


@pytest.mark.parametrize("verbose", [False, True])
def test_tracebacks_are_shown_with_verbose_only(training, job_file, tmp_path, capsys, caplog, verbose):
    def fail(_):
        raise ZeroDivisionError("an error of ours")

    training(fail)
    assert taper("run", "-f", job_file, "--output", tmp_path, *(["-v"] if verbose else [])) == 1
    assert "ZeroDivisionError: an error of ours" in capsys.readouterr().err
    assert any(record.exc_info for record in caplog.records) == verbose


def test_a_signal_inside_an_error_of_ray_is_still_a_signal(training, job_file, tmp_path, capsys):
    def wrapped(_):
        try:
            sys.exit(signal.SIGTERM)
        except SystemExit as error:
            raise SystemError("returned a result with an exception set") from error

    training(wrapped)
    assert taper("run", "-f", job_file, "--output", tmp_path) == 143
    assert capsys.readouterr().err.splitlines()[0] == "taper: terminated"
    assert json.loads((tmp_path / "summary.json").read_text())["outcome"] == "interrupted"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_during_a_step_ends_the_run_with_its_summary(
    training, job_file, tmp_path, capsys, number, code, word
):
    def interrupted(on_events):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
        one_step(on_events)
        os.kill(os.getpid(), number)
        time.sleep(10)
        raise AssertionError("the signal did not end the run")

    training(interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert taper("run", "-f", job_file, "--output", tmp_path) == code
    error, last = capsys.readouterr().err.splitlines()
    assert error == f"taper: {word}"
    assert message_in(last)["reason"] == word.capitalize()
    assert json.loads((tmp_path / "summary.json").read_text())["outcome"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_output_that_is_not_writable_is_refused_before_the_training(training, job_file, tmp_path, capsys):
    training(lambda _: pytest.fail("trained"))
    (tmp_path / "out").write_text("")
    assert taper("run", "-f", job_file, "--output", tmp_path / "out") == 2
    assert "taper: --output: " in capsys.readouterr().err


def test_a_full_disk_ends_the_run_with_one_line(training, job_file, small_disk, capsys):
    def train(on_events):
        for step in range(1, 100):
            on_events([make_stage(step=step), make_step(step)])

    training(train)
    assert taper("run", "-f", job_file, "--output", small_disk) == 2
    error, last = capsys.readouterr().err.splitlines()
    assert "cannot be written: No space left on device" in error
    assert (message_in(last)["reason"], message_in(last)["field"]) == ("OutputNotWritable", "--output")


def test_a_completed_run_has_no_termination_message(training, job_file, tmp_path, capsys):
    training(one_step)
    taper("run", "-f", job_file, "--output", tmp_path)
    text = capsys.readouterr()
    assert "TAPER_ERROR" not in text.out + text.err


def test_the_termination_message_is_the_last_line_of_the_log(job_file, tmp_path):
    """Stdout and stderr in one file, as Ray keeps them."""
    code = "import sys; from taper_rollout import cli; print('printed before'); sys.exit(cli.main())"
    command = [sys.executable, "-c", code, "run", "-f", job_file, "--set", "spec.rollout.degrees=[3]"]
    with (tmp_path / "log").open("w") as log:
        assert subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode == 2
    first, *_, last = (tmp_path / "log").read_text().splitlines()
    assert first == "printed before"
    assert message_in(last)["field"] == "spec.rollout.degrees[0]"


def test_on_a_terminal_there_is_no_termination_message(training, job_file, tmp_path, capsys, monkeypatch):
    training(lambda _: (_ for _ in ()).throw(TrainingFailed("no")))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert taper("run", "-f", job_file, "--output", tmp_path) == 1
    assert capsys.readouterr().err == "taper: no\n"


def test_bad_arguments_have_a_termination_message(capsys):
    with pytest.raises(SystemExit):
        taper("run", "--colour", "red")
    assert message_in(capsys.readouterr().err.splitlines()[-1])["reason"] == "BadArguments"


def test_secrets_are_hidden_in_errors(training, job_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("PLAIN", "taken-from-a-secret")
    training(lambda _: (_ for _ in ()).throw(TrainingFailed("no hf_abcdefgh for taken-from-a-secret")))
    secret = 'spec.env=[{"name": "PLAIN", "secret": {"name": "a", "key": "b"}}]'
    assert taper("run", "-f", job_file, "--output", tmp_path, "--set", secret) == 1
    error, last = capsys.readouterr().err.splitlines()
    assert error == "taper: no [hidden] for [hidden]"
    assert message_in(last)["message"] == "no [hidden] for [hidden]"


def test_without_an_operator_nothing_is_posted(training, job_file, tmp_path, monkeypatch):
    monkeypatch.delenv("TAPER_REPORT_URL", raising=False)
    monkeypatch.setattr("taper_rollout.report.report_sender.post", lambda *_: pytest.fail("posted"))
    training(one_step)
    assert taper("run", "-f", job_file, "--output", tmp_path) == 0


def test_an_attempt_reports_its_progress_and_its_end_to_the_operator(
    training, job_file, tmp_path, monkeypatch
):
    posted = []

    def post(target, report):
        posted.append((target.url, report))
        return 202, "accepted"

    def fail(on_events):
        one_step(on_events)
        raise TrainingFailed("no")

    monkeypatch.setattr("taper_rollout.report.report_sender.post", post)
    for name, value in {"URL": "https://a:1/x", "CA": "/ca", "TOKEN": "/token"}.items():
        monkeypatch.setenv(f"TAPER_REPORT_{name}", value)
    monkeypatch.setenv("TAPER_ATTEMPT", "4")
    training(fail)
    assert taper("run", "-f", job_file, "--output", tmp_path) == 1
    url, last = posted[-1]
    assert (url, last.attempt, last.is_last) == ("https://a:1/x", 4, True)
    assert (last.training.step, last.training.reward, last.rollout.switches) == (1, 0.25, 1)
