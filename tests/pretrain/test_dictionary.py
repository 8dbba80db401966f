"""The dictionary against a Python list as queue."""

import math

import pytest
import torch
import torch.nn.functional as F

from pretrain.dictionary import Dictionary, effective_rank


@pytest.mark.parametrize("count", [2, 4, 6])  # 4 does not divide 6
def test_it_holds_what_a_list_as_queue_would_hold(count):
    dictionary = Dictionary(6, {"g": 4, "z": 3})
    queue = {name: list(dictionary[name].clone()) for name in ("g", "z")}
    for step in range(7):
        rows = {"g": torch.randn(count, 4), "z": torch.randn(count, 3)}
        dictionary.enqueue(rows)
        for name, values in rows.items():
            for offset, row in enumerate(values):
                queue[name][(count * step + offset) % 6] = row / math.sqrt(
                    sum(x * x for x in row.tolist())
                )
    for name in ("g", "z"):
        torch.testing.assert_close(dictionary[name], torch.stack(queue[name]))


def test_rows_are_normalised_from_the_start_and_after_an_enqueue():
    dictionary = Dictionary(4, {"z": 3})
    dictionary.enqueue({"z": torch.full((2, 3), 7.0)})
    torch.testing.assert_close(dictionary["z"].norm(dim=1), torch.ones(4))


def test_the_state_dict_brings_the_position_back():
    one, other = Dictionary(4, {"z": 2}), Dictionary(4, {"z": 2})
    one.enqueue({"z": torch.randn(2, 2)})
    other.load_state_dict(one.state_dict())
    rows = torch.randn(2, 2)
    one.enqueue({"z": rows})
    other.enqueue({"z": rows})
    torch.testing.assert_close(one["z"], other["z"])


def test_enqueue_takes_no_gradient_along():
    dictionary = Dictionary(2, {"z": 2})
    dictionary.enqueue({"z": torch.randn(2, 2, requires_grad=True)})
    assert not dictionary["z"].requires_grad


@pytest.mark.parametrize("count", [0, 5])
def test_a_batch_that_does_not_fit_into_the_dictionary_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} rows do not fit into the dictionary of 4"):
        Dictionary(4, {"z": 2}).enqueue({"z": torch.randn(count, 2)})


def test_missing_and_uneven_tables_are_refused():
    dictionary = Dictionary(4, {"g": 2, "z": 2})
    with pytest.raises(ValueError, match="expected equally many rows"):
        dictionary.enqueue({"z": torch.randn(2, 2)})
    with pytest.raises(ValueError, match="expected equally many rows"):
        dictionary.enqueue({"z": torch.randn(2, 2), "g": torch.randn(4, 2)})


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_effective_rank_of_equal_orthogonal_directions_is_their_number(rank):
    rows = F.one_hot(torch.arange(30) % rank, 5).double()
    assert effective_rank(rows).item() == pytest.approx(rank)


def test_the_effective_rank_of_two_unequal_directions_follows_from_their_entropy():
    rows = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(rows).item() == pytest.approx(math.exp(entropy))
