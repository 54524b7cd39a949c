"""The trainer's settings mirror trainer.proto and name every fault at once."""

import dataclasses

import pytest

from services.errors import FieldErrors
from services.trainer.__main__ import TrainerSettings
from services.trainer.optimizers import learning_rate
from services.trainer.settings import OptimizerSettings, PpoSettings, RewardModelSettings, SftSettings
from services.trainer.wire import settings_from_pb
from tests.trainer.wiring import OPTIMIZER, PPO
from trueline.v1 import trainer_pb2 as pb

PAIRS = [
    (OptimizerSettings, pb.OptimizerSettings),
    (SftSettings, pb.SftSettings),
    (RewardModelSettings, pb.RewardModelSettings),
    (PpoSettings, pb.PpoSettings),
]


@pytest.mark.parametrize(("kind", "message"), PAIRS)
def test_settings_have_exactly_the_fields_of_their_message(kind, message):
    assert [field.name for field in dataclasses.fields(kind)] == [f.name for f in message.DESCRIPTOR.fields]


def test_all_faults_are_named_at_once_with_value_and_limit():
    settings = settings_from_pb(
        PpoSettings, pb.PpoSettings(kl_budget_soft=9, kl_budget_hard=4, gamma=1.5, dual_clip=0.5)
    )
    with pytest.raises(FieldErrors) as caught:
        settings.check("ppo")
    faults = {fault.field: str(fault) for fault in caught.value.errors}
    assert {
        "ppo.policy_optimizer.learning_rate",
        "ppo.critic_optimizer.schedule",
        "ppo.total_rounds",
        "ppo.epochs",
        "ppo.gamma",
        "ppo.dual_clip",
        "ppo.kl_estimator",
        "ppo.kl_budget_soft",
    } <= faults.keys()
    assert faults["ppo.gamma"] == "ppo.gamma: must be from 0 to 1 (got 1.5)"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_a_fault(value):
    settings = settings_from_pb(PpoSettings, pb.PpoSettings(**{**PPO, "kl_coefficient": value}))
    with pytest.raises(FieldErrors, match="ppo.kl_coefficient: must be a finite number"):
        settings.check("ppo")


def test_good_settings_have_no_fault():
    settings_from_pb(PpoSettings, pb.PpoSettings(**PPO)).check("ppo")


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0.5, 1, 1, 0.8535533905932737, 0.5, 0.1464466094067262, 0, 0]),
    ],
)
def test_the_rate_rises_over_the_warm_up_and_falls_to_0_at_the_last_update(schedule, rates):
    settings = OptimizerSettings(
        **{**OPTIMIZER, "learning_rate": 1.0, "warmup_updates": 2, "schedule": schedule}
    )
    assert [learning_rate(settings, update, 6) for update in range(8)] == pytest.approx(rates, abs=1e-12)


@pytest.mark.parametrize(
    ("device", "fault"), [("tpu", "must be auto, cpu, cuda or cuda:N"), ("", "must be auto")]
)
def test_an_unknown_device_is_a_fault_of_the_settings(device, fault):
    assert TrainerSettings(device="cpu").faults() == []
    assert fault in TrainerSettings(device=device).faults()[0]
