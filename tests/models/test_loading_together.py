"""Models that load in several threads at once, as a reward service's do, and under changed classes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from services.models import LoadedCausal, describe_causal, load_causal, load_scalar
from services.weights import WeightsError
from tests.tiny_models import FAMILIES, write_tiny_model

THREADS = 4
LOADS = 40


@pytest.fixture(autouse=True)
def transformers_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failing test leaves of transformers' patches does not reach the next one."""
    monkeypatch.setattr(PreTrainedModel, "tie_weights", PreTrainedModel.tie_weights)


def is_tied(loaded: LoadedCausal) -> bool:
    output, inputs = loaded.model.get_output_embeddings(), loaded.model.get_input_embeddings()
    return output.weight is inputs.weight


@pytest.mark.parametrize("family", FAMILIES)
def test_models_loaded_by_several_threads_are_those_of_one(tmp_path: Path, family: str) -> None:
    path = write_tiny_model(tmp_path / "m", family, tie=True)
    alone = load_causal(path).model.state_dict()

    def load(turn: int) -> LoadedCausal:
        if turn % 4 == 3:
            load_scalar(path, initialise_head=True, seed=turn)
            describe_causal(path)
        return load_causal(path)

    with ThreadPoolExecutor(THREADS) as pool:
        loaded = list(pool.map(load, range(LOADS)))
    for each in [*loaded, load_causal(path)]:
        assert is_tied(each)
        found = each.model.state_dict()
        assert all(found[name].equal(weight) for name, weight in alone.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_output_that_was_left_random_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    tied = write_tiny_model(tmp_path / "tied", family, tie=True)
    apart = write_tiny_model(tmp_path / "apart", family, tie=False)
    monkeypatch.setattr(PreTrainedModel, "tie_weights", lambda *_, **__: None)
    with pytest.raises(WeightsError, match="lacks weights of a causal language model: lm_head.weight"):
        load_causal(tied)
    load_causal(apart)
