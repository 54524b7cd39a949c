"""Seeds and the prompt cursor."""

from orchestrator.seeds import derive, prompts_at


def test_a_seed_depends_on_every_name_and_on_nothing_else() -> None:
    assert derive(0, "ppo", 1) == derive(0, "ppo", 1)
    assert len({derive(0, "ppo", 1), derive(1, "ppo", 1), derive(0, "ppo", 2), derive(0, "sft", 1)}) == 4
    assert 0 <= derive(0, "ppo", 1) < 2**63


def test_names_do_not_run_into_each_other() -> None:
    assert derive(0, "a", 11) != derive(0, "a1", 1)


def test_every_prompt_is_used_once_before_any_is_used_twice() -> None:
    places = prompts_at(0, 15, available=5, seed=3)
    for epoch in range(3):
        assert sorted(places[5 * epoch : 5 * epoch + 5]) == [(index, epoch) for index in range(5)]


def test_epochs_have_orders_of_their_own() -> None:
    first, second = prompts_at(0, 50, 50, seed=3), prompts_at(50, 50, 50, seed=3)
    assert [index for index, _ in first] != [index for index, _ in second]


def test_no_place_of_the_cursor_has_the_prompt_and_epoch_of_another() -> None:
    places = prompts_at(3, 40, available=7, seed=2)
    assert len(set(places)) == 40


def test_rounds_cut_from_the_cursor_are_the_cursor() -> None:
    whole = prompts_at(0, 30, available=7, seed=1)
    assert whole == [i for start in range(0, 30, 6) for i in prompts_at(start, 6, available=7, seed=1)]
