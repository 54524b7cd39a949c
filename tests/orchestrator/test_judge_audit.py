"""The audit of verdicts, a person at the terminal, and verdicts asked for again."""

import asyncio
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.__main__ import main
from orchestrator.drive import new_run, recorded_recipe
from orchestrator.judge_audit import audit, disagreements, names_of_judges, undecided
from orchestrator.judge_commands import label_all
from orchestrator.labelling import Pair, as_answer, ask_again, label_pairs
from orchestrator.ledger import Ledger, open_engine, sqlite_url
from orchestrator.mending import Stopped
from orchestrator.metrics import RunMetrics, judge_samples
from orchestrator.recipe import Recipe
from orchestrator.recipe_labels import PersonLabel
from orchestrator.replaying import Replay, beside, compare, question_of, replay
from orchestrator.report_feedback import feedback_of, feedback_tables
from orchestrator.run import Run, RunError
from services.judge.labels import is_tie, orders_disagree
from tests.judge.hosting import TINY_CONSTITUTION, write_constitution
from tests.judge.scripted_endpoint import Reply, logs, says, slots
from tests.orchestrator.test_labelling import good_wins, judged_run, label, pairs
from tests.orchestrator.written_run import RunWriter


async def judged(run: Run, count: int) -> list[dict[str, Any]]:
    await label_pairs(run, "collect", 1, pairs(count), label(), seed=3)
    return run.ledger.all_labels()


def unsteady(told: str, before: int) -> Any:
    """Of pairs 0 to 9: the first slot for 0 and 1, no answer for 2, the good one for all others."""
    number = int(slots(told)[0].split()[-1])
    if number == 2:
        return says("")
    if number < 2:
        return says("A", logs(A=0.9, B=0.1))
    good_first = slots(told)[0].startswith("good")
    return says("A", logs(A=0.85, B=0.15) if good_first else logs(A=0.15, B=0.85))


async def test_an_audit_counts_flips_abstentions_and_agreement(tmp_path: Path) -> None:
    async with judged_run(tmp_path, unsteady) as (run, _):
        rows = await judged(run, 10)
        for number, row in enumerate(rows):  # gold prefers the good one, but for pairs 8 and 9
            row["gold_margin"] = -1.0 if number > 7 else 0.0 if number == 7 else 1.0
        found = audit(rows)
    assert found["verdicts"] == 10 and found["abstentions"] == {"empty_answer": 1, "orders_disagree": 2}
    assert found["position_flips"]["mean"] == pytest.approx(2 / 9)
    # Slots: 0.9 - 0.5 for two pairs, 0 for those that name the good one wherever it stands.
    assert found["first_slot_bias"]["mean"] == pytest.approx(0.8 / 9)
    gold = found["gold"]
    assert gold["n"] == 6 and gold["agreement"] == pytest.approx(4 / 6)
    assert gold["calibration_error"] == pytest.approx(0.85 - 4 / 6)
    assert found["parse_failures"]["mean"] == pytest.approx(0.1)
    assert sum(each["verdicts"] for each in found["principles"].values()) == 10
    wrong = disagreements(rows)
    assert [each["item"] for each in wrong] == ["p8/0-1", "p9/0-1"]
    assert wrong[0]["other"] == "gold" and wrong[0]["other_prefers"] == "second"


def by_two_minds(told: str, before: int) -> Any:
    """The good one where honesty is asked for; the first slot for kindness, or of pair 0 nothing readable."""
    first = slots(told)[0]
    if "honest" not in told:
        return says("who knows") if first.endswith(" 0") else says("A", logs(A=0.7, B=0.3))
    return says("A", logs(A=0.9, B=0.1) if first.startswith("good") else logs(A=0.1, B=0.9))


async def test_each_principle_of_an_ensemble_has_its_own_figures(tmp_path: Path) -> None:
    async with judged_run(tmp_path, by_two_minds) as (run, _):
        await label_pairs(run, "collect", 1, pairs(10), label(choice="ensemble"), seed=3)
        rows = run.ledger.all_labels()
        for number, name in enumerate(("honest", "kind"), start=1):
            await label_pairs(run, "collect", 1 + number, pairs(10), label(principles=[name]), seed=3)
        alone = {name: run.ledger.labels_of("collect", n) for n, name in ((2, "honest"), (3, "kind"))}
    for row in [*rows, *alone["honest"], *alone["kind"]]:
        row["gold_margin"] = 1.0
    found = audit(rows)["principles"]
    assert found["honest"]["position_flips"]["mean"] == found["honest"]["parse_failures"]["mean"] == 0.0
    assert found["honest"]["first_slot_bias"]["mean"] == pytest.approx(0.0)
    assert found["honest"]["abstentions"] == {} and found["honest"]["gold"]["agreement"] == 1.0
    assert found["kind"]["position_flips"]["mean"] == 1.0
    assert found["kind"]["first_slot_bias"]["mean"] == pytest.approx(0.2)
    assert found["kind"]["parse_failures"]["mean"] == pytest.approx(0.1)
    assert found["kind"]["abstentions"] == {"orders_disagree": 9, "unparsable": 1}
    for name, own in alone.items():
        assert found[name] == audit(own)["principles"][name], "as where it judges alone"


@pytest.mark.parametrize(
    ("orders", "tolerance", "band"),
    [
        ((0.9, 0.8), 0.0, 0.0),
        ((0.6, 0.4), 0.0, 0.0),
        ((0.6, 0.4), 0.5, 0.0),
        ((0.7, 0.4), 0.5, 0.0),
        ((0.6, 0.5), 0.0, 0.05),
        ((0.7, 0.5), 0.0, 0.05),
        ((0.5, 0.5), 0.0, 0.0),
    ],
)
def test_two_orders_are_read_as_the_judge_service_reads_them(
    orders: tuple[float, float], tolerance: float, band: float
) -> None:
    expected = "tie" if is_tie(sum(orders) / 2, band) else ""
    expected = "orders_disagree" if orders_disagree(*orders, tolerance) else expected
    assert undecided(*orders, tolerance, band) == expected


async def test_the_report_says_who_labelled_and_how_well_the_judge_agrees(tmp_path: Path) -> None:
    async with judged_run(tmp_path, good_wins) as (run, _):
        await judged(run, 4)
        feedback = feedback_of(run.ledger)
    assert feedback["labels"] == {"collect": {"judge": 4}}
    tables = feedback_tables({"feedback": feedback})
    assert [table.title for table in tables] == ["Who said which response is better", "The judge"]
    assert feedback_tables({}) == []


async def test_a_person_labels_blind_with_sides_shuffled_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with judged_run(tmp_path, good_wins) as (run, _):
        person = PersonLabel(kind="person")
        with pytest.raises(Stopped):
            await label_pairs(run, "collect", 1, pairs(6), person, seed=3)
        ledger = run.ledger
        answers = iter(["?", "1", "2", "s", "q"])
        monkeypatch.setattr("builtins.input", lambda _: next(answers))
        assert label_all(ledger, ledger.waiting_labels(), "ann") == 3
        shown = capsys.readouterr().out
        assert "good 0" in shown and "judge" not in shown and "collect" not in shown
        first = [shown.index("good 0") < shown.index("bad 0"), shown.index("good 1") < shown.index("bad 1")]
        kept = ledger.labels_of("collect", 1)
        assert [row["probability"] for row in kept[:3]] == [float(first[0]), float(not first[1]), None]
        assert kept[2]["reason"] == "skipped" and kept[0]["annotator"] == "ann"
        assert len(ledger.waiting_labels()) == 3
        monkeypatch.setattr("builtins.input", lambda _: "t")
        assert label_all(ledger, ledger.waiting_labels(), "bob") == 3
        outcomes = await label_pairs(run, "collect", 1, pairs(6), person, seed=3)
    assert [each.reason for each in outcomes[2:]] == ["skipped", "tie", "tie", "tie"]


def test_label_and_audit_are_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def write() -> None:
        async with judged_run(tmp_path, good_wins) as (run, _):
            await judged(run, 5)

    asyncio.run(write())
    runs = ["--runs", str(tmp_path)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n2\n"))
    assert main(["label", "run", "--check", "3", *runs]) == 0
    assert "3 pairs wait" in (said := capsys.readouterr().out) and "2 answered, 1 wait" in said
    listed = tmp_path / "wrong.jsonl"
    assert main(["audit-judge", "run", "--json", "--disagreements", str(listed), *runs]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["people"]["n"] == 2
    wrong = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len(wrong) == round(2 * (1 - found["people"]["agreement"]))
    assert main(["audit-judge", "run", *runs]) == 0
    assert "against people (2 pairs)" in capsys.readouterr().out
    ledger = Ledger(open_engine(sqlite_url(tmp_path / "run")), "run")
    assert len(ledger.all_labels("judge")) == 5, "checks never count as labels"


def test_a_scorer_of_the_reward_service_is_held_against_the_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule counts words, and says otherwise than the judge of every third pair."""
    asked = [
        replace(pair, first=f"good one {n}", second=f"bad{more} {n}")
        for n, (pair, more) in enumerate(zip(pairs(9), (" and more", "", "") * 3, strict=True))
    ]

    async def write() -> None:
        async with judged_run(tmp_path, good_wins) as (run, _):
            await label_pairs(run, "collect", 1, asked, label(), seed=3)

    asyncio.run(write())
    listed, runs = tmp_path / "wrong.jsonl", ["--runs", str(tmp_path)]
    words = ["audit-judge", "run", "--scorer", "rule", "--disagreements", str(listed), *runs]
    assert main(words) == 0
    assert "against scorer (9 pairs): agreement 66.7%" in capsys.readouterr().out
    wrong = [json.loads(line) for line in listed.read_text().splitlines()]
    assert sorted(each["item"] for each in wrong) == ["p0/0-1", "p3/0-1", "p6/0-1"]
    assert {(each["other"], each["other_prefers"]) for each in wrong} == {("scorer", "second")}
    assert main(["audit-judge", "run", "--scorer", "nobody", *runs]) == 1
    assert "hosts no scorer 'nobody', only rule" in capsys.readouterr().err


async def test_stored_verdicts_come_out_the_same(tmp_path: Path) -> None:
    async with judged_run(tmp_path, unsteady) as (run, served):
        rows = await judged(run, 10)
        found = Replay()
        before = len(served.bodies)
        for row in rows:  # as replay() does, one judge and one question at a time
            reply = await run.peers.judge.compare(question_of([row], None))
            compare(found, row, as_answer(reply.verdicts[0]))
        assert len(served.bodies) == before + 20
    assert (found.same, found.to_the_bit, found.others) == (10, 10, [])
    compare(found, rows[5], {"probability": 0.3})
    compare(found, rows[0], {"reason": "tie"})
    assert found.same == 10 and "is 0.3" in found.others[0][1] and "is tie" in found.others[1][1]


def test_a_run_whose_outage_was_mended_replays_what_the_judge_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down = [True]

    def breaks(told: str, before: int) -> Any:
        number, honest = int(slots(told)[0].split()[-1]), "honest" in told
        if down[0] and (number in (3, 7) or number == 5 and honest):  # 5 has a verdict, by kindness alone
            return Reply(status=404, body={"error": {"message": "no such model"}})
        return good_wins(told, before)

    async def write() -> None:
        async with judged_run(tmp_path, breaks) as (run, _):
            ensemble = label(choice="ensemble")
            outcomes = await label_pairs(run, "collect", 1, pairs(10), ensemble, seed=3)
            assert [each.reason for each in outcomes if each.failed] == ["endpoint_refused"] * 2
            ask_again(run, "collect", 1, pairs(10), outcomes)
            down[0] = False
            await label_pairs(run, "collect", 1, pairs(10), ensemble, seed=3)
            down[0] = True
            await label_pairs(run, "collect", 2, pairs(4), ensemble, seed=3)

    asked: list[dict[str, Any]] = []

    async def all_the_same(recipe: Recipe, directory: Path, ledger: Ledger, rows: Any) -> Replay:
        asked.extend(rows)
        return Replay(same=len(rows), to_the_bit=len(rows))

    asyncio.run(write())
    monkeypatch.setattr("orchestrator.judge_commands.replay", all_the_same)
    assert main(["replay-verdicts", "run", "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "12 of 12 verdicts came out the same" in said and "4 were left out" in said
    places = {(row["round"], int(row["item"].removeprefix("p").partition("/")[0])) for row in asked}
    assert places == {(1, n) for n in range(10) if n != 5} | {(2, n) for n in range(3)}


def with_judges(tmp_path: Path, **models: Path) -> tuple[Recipe, Path, Ledger]:
    """A run, just begun, whose judges are model directories: the first, and the others in rotation."""
    recipe = json.loads(RunWriter(tmp_path).recipe.model_dump_json())
    recipe["models"].update({name: str(place) for name, place in models.items()})
    first, *others = models
    constitution = str(write_constitution(tmp_path, TINY_CONSTITUTION))
    recipe["services"]["judge"] = {"constitution": constitution, "model": first, "rotation": others}
    collect = {"kind": "collect", "policy": "start", "prompts": str(tmp_path / "prompts.jsonl")}
    collect |= {"sampling": {"max_new_tokens": 8}, "output": "pairs", "label": {"kind": "judge"}}
    recipe["stages"]["collect"] = collect
    (tmp_path / "judged.yaml").write_text(json.dumps(recipe))
    directory = tmp_path / "judged"
    ledger = new_run(tmp_path / "judged.yaml", directory, [], None)
    ledger.take_lease()
    return recorded_recipe(directory, ledger), directory, ledger


def tiny_pairs(count: int) -> list[Pair]:
    return [
        Pair(f"p{n}/0-1", {"prompt_id": f"p{n}", "text": f"w{n}"}, f"w{n + 1}", f"w{n + 2}", (n,))
        for n in range(count)
    ]


@pytest.mark.slow  # three judge processes, each of which imports torch
async def test_a_judge_named_by_directory_is_replayed_while_its_content_is_what_judged(
    tmp_path: Path,
) -> None:
    from tests.tiny_models import write_tiny_model  # here: the other tests need no torch

    judge = write_tiny_model(tmp_path / "tiny-judge", seed=1, context=128)
    loaded, directory, ledger = with_judges(tmp_path, judge=judge)
    async with beside(loaded, directory, ledger, "judge") as run:
        await run.serve_judge()
        await label_pairs(run, "collect", 1, tiny_pairs(6), label(min_option_mass=0.0), seed=3)
    verdicts = ledger.all_labels("judge")
    assert (await replay(loaded, directory, ledger, verdicts)).same == 6
    write_tiny_model(judge, seed=2, context=128)
    with pytest.raises(RunError, match="its content has changed"):
        await replay(loaded, directory, ledger, verdicts)


@pytest.mark.slow  # two judge processes, each of which imports torch
async def test_judges_in_rotation_judge_their_shares_or_their_turns_and_are_replayed(tmp_path: Path) -> None:
    from tests.tiny_models import write_tiny_model  # here: the other tests need no torch

    one, two = (write_tiny_model(tmp_path / f"judge-{n}", seed=n, context=128) for n in (1, 2))
    loaded, directory, ledger = with_judges(tmp_path, one=one, two=two)
    settings = label(min_option_mass=0.0, pairs_per_call=4)
    async with beside(loaded, directory, ledger, "judge") as run:
        await label_pairs(run, "collect", 1, tiny_pairs(12), settings, seed=3)
        for number in (1, 2):
            await label_pairs(run, "dpo", number, tiny_pairs(12), settings, seed=3, turn=number - 1)
    by_whom: dict[str, set[str]] = {}
    for row in ledger.all_labels("judge"):
        digest = row["verdict"]["judge"]["version"]["sha256"]
        by_whom.setdefault(f"{row['stage']} {row['round']}", set()).add(digest)
    assert len(by_whom["collect 1"]) == 2, "each judge has its share"
    first, second = by_whom["dpo 1"], by_whom["dpo 2"]
    assert len(first) == len(second) == 1 and first != second, "each judge has its turn"
    found = audit(ledger.all_labels())
    assert len(found["judges"]) == 2
    assert sum(each["verdicts"] for each in found["judges"].values()) == found["verdicts"] == 36
    assert (await replay(loaded, directory, ledger, ledger.all_labels("judge"))).same == 36


async def test_what_a_rounds_verdicts_are_worth_is_a_metric(tmp_path: Path) -> None:
    def by_number(told: str, before: int) -> Any:
        first, odd = slots(told)[0].startswith("good"), int(slots(told)[0].split()[-1]) % 2
        return says("A", logs(A=0.8, B=0.2) if first != bool(odd) else logs(A=0.2, B=0.8))

    async with judged_run(tmp_path, by_number) as (run, _):
        run.ledger.begin_stage("dpo", "dpo", 1)
        run.ledger.begin_round("dpo", 1, 20)
        await label_pairs(run, "dpo", 1, pairs(20), label(), seed=3)
        rows = run.ledger.labels_of("dpo", 1)
        metrics = RunMetrics(run.ledger, run.recipe)
    shown = {sample.name for family in metrics.collect() for sample in family.samples}
    assert "trueline_judge_kappa" not in shown, "nobody else has said anything"
    for row in rows:  # gold prefers the first where the judge does, but for pairs 0 and 1
        number = int(row["item"].removeprefix("p").split("/")[0])
        row["gold_margin"] = 1.0 if (number % 2 == 0) == (number > 1) else -1.0
    found = {(name, labels[1:]): value for name, labels, value in judge_samples("dpo", rows)}
    assert found["trueline_judge_agreement_ratio", ("gold",)] == pytest.approx(0.9)
    assert found["trueline_judge_kappa", ("gold",)] == pytest.approx(0.8)
    assert found["trueline_judge_calibration_error", ("gold",)] == pytest.approx(0.1)
    assert judge_samples("dpo", [row for row in rows if row["source"] == "person"]) == []


def test_judges_of_one_name_and_other_weights_are_told_apart() -> None:
    def row(sha256: str, number: int = 0) -> dict[str, Any]:
        version = {"model": "model", "number": number, "sha256": sha256}
        return {"verdict": {"judge": {"model": "model", "version": version}}}

    rows = [row("a" * 64), row("b" * 64), row("c" * 64, number=2)]
    name_of = names_of_judges(rows)
    assert [name_of(each) for each in rows] == ["model@0 (aaaaaaaa)", "model@0 (bbbbbbbb)", "model@2"]
    endpoint = {"verdict": {"judge": {"model": "oracle"}}}
    assert names_of_judges([endpoint])(endpoint) == "oracle"
