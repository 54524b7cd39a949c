"""The command line: wrong words are answered in one line and change nothing."""

import json
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.drive import only_one
from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger, open_engine, sqlite_url
from orchestrator.run import RunError
from orchestrator.schema import runs

DEMO = str(REPOSITORY / "recipes" / "helpdesk-ppo.yaml")


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "no-such.yaml"], "no-such.yaml"),
        (["run", str(REPOSITORY / "recipes")], "cannot be read"),
        (["run", DEMO, "--name", "../x"], "a run's name holds letters"),
        (["run", DEMO, "--name", "."], "a run's name holds letters"),
        (["run", DEMO, "--set", "stages.ppo.roundz=3"], "did you mean rounds?"),
        (["run", DEMO, "--set", "stages.ppo.sampling.temperature=-1"], "stages.ppo.sampling.temperature"),
        (["resume", "nobody"], "holds no run"),
        (["report", "nobody"], "holds no run"),
        (["status", "nobody"], "holds no run"),
        (["export", "nobody", "somewhere"], "holds no run"),
    ],
)
def test_a_wrong_word_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main([*words, "--runs", str(tmp_path / "runs")]) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_run_without_a_name_has_its_recipes_and_not_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "my third try.yaml"
    recipe.write_text(Path(DEMO).read_text())
    command = 'prepare.command=["no-such-program"]'
    assert main(["run", str(recipe), "--set", command, "--runs", str(tmp_path / "runs")]) == 1
    assert "cannot run no-such-program" in capsys.readouterr().err
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["helpdesk-ppo"]


def test_runs_that_cannot_be_written_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", DEMO, "--runs", str(tmp_path / "file")]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_prepare_command_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = 'prepare.command=["no-such-program"]'
    assert main(["run", DEMO, "--name", "a", "--set", command, "--runs", str(tmp_path)]) == 1
    assert "prepare: cannot run no-such-program" in capsys.readouterr().err


def test_status_and_report_tell_of_a_run_that_has_just_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    ledger = Ledger(open_engine(sqlite_url(tmp_path / "a")), "a")
    ledger.create(seed=3, recipe={"stages": {}}, recipe_sha256="r", code_sha256="c")
    assert main(["status", "--runs", str(tmp_path)]) == 0
    assert "a: new, nothing begun" in capsys.readouterr().out
    assert main(["report", "a", "--json", "--runs", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3
    assert main(["export", "a", str(tmp_path / "out"), "--runs", str(tmp_path)]) == 1
    assert "has published no model yet" in capsys.readouterr().err


def test_status_names_the_stage_that_runs_and_not_a_refresh_that_ended_within_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    ledger = Ledger(open_engine(sqlite_url(tmp_path / "a")), "a")
    ledger.create(seed=3, recipe={"stages": {}}, recipe_sha256="r", code_sha256="c")
    ledger.take_lease()
    for stage, kind in (("ppo", "ppo"), ("ppo-refresh-000002", "collect")):
        ledger.begin_stage(stage, kind, 1)
    ledger.finish_stage("ppo-refresh-000002", {})
    ledger.begin_round("ppo", 1, 4)
    assert main(["status", "--runs", str(tmp_path)]) == 0
    assert "stage ppo (running), round 1" in capsys.readouterr().out


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("alpha", "gamma"):
        (tmp_path / name).mkdir()
        ledger = Ledger(open_engine(sqlite_url(tmp_path / name)), name)
        ledger.create(seed=3, recipe={"stages": {}}, recipe_sha256="r", code_sha256="c")
    (tmp_path / "beta").mkdir()
    (tmp_path / "beta" / "ledger.db").write_text(
        "this is no database, and long enough to be told from one" * 9
    )
    assert main(["status", "--runs", str(tmp_path)]) == 1
    alpha, beta, gamma = capsys.readouterr().out.splitlines()
    assert alpha.startswith("alpha: new") and gamma.startswith("gamma: new")
    assert beta.startswith("beta: cannot be read: ") and "not a database" in beta


def test_a_second_orchestrator_on_this_machine_is_refused_before_it_takes_the_lease(tmp_path: Path) -> None:
    with (
        only_one(tmp_path),
        pytest.raises(RunError, match="driven by another orchestrator"),
        only_one(tmp_path),
    ):
        pass
    with only_one(tmp_path):
        pass


def test_or_resume_goes_on_with_the_run_that_is_there_where_its_recipe_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The prepare command ends the run as soon as it begins: it is new, then there, then of another recipe.
    words = ["run", DEMO, "--name", "a", "--or-resume", "--runs", str(tmp_path)]
    no_prepare = ["--set", 'prepare.command=["no-such-program"]']
    for _ in range(2):
        assert main([*words, *no_prepare]) == 1
        assert "prepare: cannot run no-such-program" in capsys.readouterr().err
    ledger = Ledger(open_engine(sqlite_url(tmp_path / "a")), "a")
    assert ledger.info()["epoch"] == 2
    assert main([*words, *no_prepare, "--seed", "7"]) == 1
    assert "another recipe" in capsys.readouterr().err
    assert main([*words[:4], *no_prepare, "--runs", str(tmp_path)]) == 1
    assert "resume it, or choose another name" in capsys.readouterr().err
    goes_on = ([*words, *no_prepare], [*words[:4], *no_prepare, *words[5:]], ["resume", "a", *words[5:]])
    for each in goes_on:
        with ledger.database.engine.begin() as connection:  # as if its first process had died before the row
            connection.execute(runs.delete())
        assert main(each) == 1
        assert "prepare: cannot run no-such-program" in capsys.readouterr().err
        assert ledger.info()["epoch"] == 1
    moved = ["--set", "services.policy.addresses=[policy-0.policy:50051]"]
    assert main([*words, *no_prepare, *moved]) == 1
    kept = json.loads((tmp_path / "a" / "recipe.yaml").read_text())
    assert kept["services"]["policy"]["addresses"] == ["policy-0.policy:50051"]
