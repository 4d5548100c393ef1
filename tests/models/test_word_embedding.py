"""The embedding layer: words and numbers by hand, a mean without padding, the size of the notebook's network."""

import pytest
import torch

from models.word_embedding import WordClassifier, common_words, numbered, split_words

TEXTS = ["The cat, the CAT!", "a cat's dog", ""]


def test_words_by_hand() -> None:
    assert split_words("The cat, the\tCAT!  isn't") == ["the", "cat", "the", "cat", "isnt"]
    assert common_words(TEXTS, 10) == ["cat", "the", "a", "cats", "dog"]
    assert common_words(TEXTS, 2) == ["cat", "the"]


def test_numbers_by_hand() -> None:
    assert numbered(TEXTS, ["cat", "the"], 3).tolist() == [[3, 2, 3], [1, 1, 1], [0, 0, 0]]
    assert numbered(["cat"], ["cat", "the"], 3).tolist() == [[2, 0, 0]]


def test_padding_does_not_count() -> None:
    model = WordClassifier(words=5, classes=3, width=4)
    short, long = torch.tensor([[2, 3]]), torch.tensor([[2, 3, 0, 0, 0, 0]])
    torch.testing.assert_close(model(short), model(long))
    assert bool(model(torch.zeros(1, 4, dtype=torch.int64)).isfinite().all())
    expected = model.dense((model.embedding.weight[2] + model.embedding.weight[3]) / 2)
    torch.testing.assert_close(model(short)[0], expected)


def test_it_has_the_notebooks_size() -> None:
    model = WordClassifier(words=9998, classes=2)
    assert sum(weight.numel() for weight in model.parameters()) == 160_289
    assert model.matrix.shape == (9999, 16)
    assert torch.equal(model.matrix[1], model.embedding.weight[2])


@pytest.mark.parametrize("classes", [2, 3])
def test_loss_and_classes_agree_with_the_outputs(classes: int) -> None:
    torch.manual_seed(1)
    model = WordClassifier(words=20, classes=classes, width=8)
    words, label = torch.randint(1, 22, (40, 6)), torch.randint(classes, (40,))
    logits = model(words)
    if classes == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    expected = -logits.log_softmax(1)[torch.arange(40), label].mean()
    torch.testing.assert_close(model.loss(words, label), expected)
    assert torch.equal(model.classes(words), logits.argmax(1))
