import pytest

from taper_api import JobError
from taper_rollout.job.field_overrides import load_job_with, parsed_setting, set_field

JOB = """
apiVersion: taper.dev/v1alpha1
kind: RLHFJob
metadata: {name: first}
spec:
  model: {path: ./model}
  data: {train: [a.parquet, b.parquet]}
  reward: {function: exact-match}
  training: {steps: 10, batchPrompts: 4, ranks: 2}
  rollout: {footprint: 2, samplesPerPrompt: 2, responseTokens: 8}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def test_fields_are_set_with_yaml_values(file):
    settings = [
        "spec.training.steps=3",
        "spec.rollout.mode=off",
        "spec.data.train[1]=c.parquet",
        "spec.rollout.policy={name: schedule, schedule: [{tokens: 4, degree: 2}]}",
        "spec.training.checkpoints.everySteps=2",
        "spec.algorithm.learningRate=1e-3",
        "spec.verl.actor_rollout_ref.actor.optim.weight_decay=0.1",
        "metadata.name=other",
    ]
    job = load_job_with(file, [parsed_setting(setting) for setting in settings])
    assert job.spec.training.steps == 3
    assert job.spec.rollout.mode == "off"
    assert job.spec.data.train == (str(file.parent / "a.parquet"), str(file.parent / "c.parquet"))
    assert job.spec.rollout.policy.schedule[0].degree == 2
    assert job.spec.training.checkpoints.every_steps == 2
    assert job.spec.algorithm.learning_rate == 1e-3
    assert job.spec.verl == {"actor_rollout_ref.actor.optim.weight_decay": 0.1}
    assert job.metadata.name == "other"
    assert job.spec.model.path == str(file.parent / "model")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("spec.training.steps", "--set spec.training.steps: has no value"),
        ("=3", "--set =3: has no value"),
        ("spec.training.steps=[", "--set spec.training.steps: '[' is not a YAML value"),
        ("spec..steps=3", "spec..steps: is not the path of a field"),
        ("spec.data.train[7]=x.parquet", "spec.data.train[7]: there is no 7 to set"),
        ("spec.data.train[7].x=1", "spec.data.train[7].x: there is no 7 to set it in"),
        ("metadata.name.first=x", "metadata.name.first: there is no 'first' to set"),
        ("spec.training.step=3", "spec.training.step: "),
        ("spec.training.steps=many", "spec.training.steps: "),
    ],
)
def test_a_setting_that_cannot_be_is_refused(file, setting, message):
    with pytest.raises(JobError) as refused:
        load_job_with(file, [parsed_setting(setting)])
    assert message in str(refused.value)


def test_the_files_own_mistakes_are_named_as_without_settings(tmp_path):
    with pytest.raises(JobError, match="there is no such file"):
        load_job_with(tmp_path / "none.yaml", [("spec.training.steps", 3)])
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(JobError, match="is not valid YAML"):
        load_job_with(tmp_path / "bad.yaml", [("spec.training.steps", 3)])


def test_a_field_below_an_empty_one(tmp_path):
    with pytest.raises(JobError, match=r"spec\.training\.steps: is below a field that is empty"):
        set_field({"spec": {"training": None}}, "spec.training.steps", 3)
