"""Published answers A1 to A8: learning a reward from comparisons."""

from itertools import combinations

import pytest
import torch

from services.trainer.bradley_terry import group_loss, ordered_right, pair_loss


def all_pairs(k):
    return torch.tensor(list(combinations(range(k), 2))).T


@pytest.mark.known_answer("A1")
def test_a_pair_has_the_published_loss_and_its_gradients_cancel(tensor, close):
    rewards = tensor([1.2, 0.4]).requires_grad_()
    loss = pair_loss(rewards[0] - rewards[1])
    loss.backward()
    close(loss.detach(), 0.37110066594777774)
    close((-loss.detach()).exp(), 0.6899744811276125)
    close(rewards.grad, [-0.3100255188723875, 0.3100255188723875])
    assert rewards.grad.sum() == 0


@pytest.mark.known_answer("A1")
@pytest.mark.parametrize("shift", [-64.0, 0.5, 1024.0])
def test_adding_a_constant_to_both_rewards_changes_nothing(tensor, shift):
    """1.25 and 0.5 stay exact under these shifts."""
    assert pair_loss(tensor(1.25 + shift) - tensor(0.5 + shift)) == pair_loss(tensor(0.75))


@pytest.mark.known_answer("A2")
def test_the_loss_stays_exact_where_a_naive_log_of_a_sigmoid_is_infinite(tensor):
    delta = tensor([-800.0, -40.0, 0.0, 40.0, 800.0])
    expected = tensor([800.0, 40.0, 0.6931471805599453, 4.248354255291589e-18, 0.0])
    torch.testing.assert_close(pair_loss(delta), expected, rtol=1e-6, atol=0)


@pytest.mark.known_answer("A5")
def test_a_ranking_of_four_is_the_mean_of_its_six_pairs(tensor, close):
    rewards = tensor([2.0, 1.0, 0.0, -1.0])
    first, second = all_pairs(4)
    assert torch.stack([first, second], 1).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    expected = [
        0.31326168751822286,
        0.1269280110429725,
        0.04858735157374206,
        0.31326168751822286,
        0.1269280110429725,
        0.31326168751822286,
    ]
    close(pair_loss(rewards[first] - rewards[second]), expected)
    close(group_loss(rewards, first, second), 0.2070380727023926)


@pytest.mark.known_answer("A5")
def test_a_prompt_weighs_the_same_however_many_of_its_pairs_were_compared(tensor, close):
    """K = 9 has 36 pairs and K = 2 has 1; with all rewards equal both losses are ln 2."""
    for k in range(2, 10):
        close(group_loss(tensor([0.7] * k), *all_pairs(k)), 0.6931471805599453)


@pytest.mark.known_answer("A6")
def test_centering_adds_the_squared_sum_of_a_pairs_rewards(tensor, close):
    rewards = tensor([1.0, 0.5, 0.2, -0.1])
    chosen, rejected = torch.tensor([0, 1]), torch.tensor([2, 3])
    close(group_loss(rewards, chosen, rejected), 0.40429430821683165)
    close(group_loss(rewards, chosen, rejected, centering_coefficient=0.01), 0.41229430821683166)


@pytest.mark.known_answer("A7")
def test_a_margin_has_to_be_won_by(tensor, close):
    margins = tensor([1.0, 0.6666666666666666, 0.3333333333333333, 0.0])
    expected = [0.7981388693815918, 0.6287010919732595, 0.48679258105450585, 0.3711006659477777]
    close(pair_loss(tensor([0.8] * 4), margin_P=margins), expected)


@pytest.mark.known_answer("A8")
def test_a_soft_label_gives_the_published_cross_entropy(tensor, close):
    delta = tensor(0.8).requires_grad_()
    loss = pair_loss(delta, 0.7)
    loss.backward()
    close(loss.detach(), 0.6111006659477778)
    close(delta.grad, -0.010025518872387451)


@pytest.mark.known_answer("A8")
def test_a_soft_label_is_met_best_at_its_log_odds(tensor, close):
    delta = tensor(0.8472978603872034).requires_grad_()
    loss = pair_loss(delta, 0.7)
    loss.backward()
    close(loss.detach(), 0.6108643020548935)
    close(delta.grad, 0.0)


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_exchanging_the_sides_and_the_label_changes_nothing(tensor, close, probability, margin):
    delta = tensor([-1.3, 0.0, 2.1])
    close(pair_loss(delta, probability, margin), pair_loss(-delta, 1 - probability, margin))


def test_order_is_counted_over_comparisons_that_have_a_better_side():
    delta = torch.tensor([1.0, -1.0, 0.0, 3.0, -2.0])
    probability = torch.tensor([1.0, 0.8, 1.0, 0.5, 0.0])
    assert ordered_right(delta, probability) == (2.5, 4)
