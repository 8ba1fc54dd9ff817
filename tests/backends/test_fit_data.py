"""The forms in which a Keras fit takes its data: each is counted exactly."""

import keras
import numpy as np
import pytest
from keras import layers
from keras_fits import BATCH, PER_EXAMPLE, ROWS, X, Y, assert_counted, batches, meter, metered


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)


def loader():
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return torch.utils.data.DataLoader(rows, BATCH)


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (lambda: (X, Y), {"batch_size": BATCH}),
        (lambda: (batches(4, 4, 2),), {}),
        (lambda: (dataset(),), {}),
        (lambda: (Batches(),), {}),
        (lambda: (loader(),), {}),
        (lambda: (X, Y), {"batch_size": BATCH, "sample_weight": np.ones(ROWS)}),
        (lambda: (X, Y), {"batch_size": BATCH, "class_weight": {0: 1.0, 1: 2.0}}),
    ],
    ids=["arrays", "generator", "tf.data", "PyDataset", "DataLoader", "samples", "classes"],
)
def test_forms_of_data(shared, data, how):
    watching = meter()
    shared.fit(*data(), **how, callbacks=[watching], verbose=0)
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 3, ROWS)


def test_dictionaries_in_and_out():
    """Two first layers, 3 -> 4 and 5 -> 4, of two products; then 4 -> 2 and 4 -> 1 of three."""
    ends = {"a": keras.Input((3,)), "b": keras.Input((5,))}
    inner = layers.Dense(4)(ends["a"]) + layers.Dense(4)(ends["b"])
    heads = {"p": layers.Dense(2, name="p")(inner), "q": layers.Dense(1, name="q")(inner)}
    model = keras.Model(ends, heads)
    model.compile("sgd", {"p": "mse", "q": "mae"})
    x = {"a": X, "b": np.ones((ROWS, 5), "float32")}
    y = {"p": Y, "q": np.ones((ROWS, 1), "float32")}
    per_example = 2 * 2 * (3 * 4 + 5 * 4) + 3 * 2 * (4 * 2 + 4 * 1)
    assert_counted(metered(model, x, y, epochs=2), 2 * ROWS * per_example, 6, 2 * ROWS)


def test_batches_of_different_lengths():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(7, 3),
            layers.Dense(4),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    model.compile("sgd", "mse")
    shapes = [(4, 5), (4, 6), (2, 5), (4, 5)]
    data = ((np.ones(shape, "int32"), np.ones((shape[0], 2), "float32")) for shape in shapes)
    # Looking up is no product; its gradient needs that of the Dense layer's input.
    flops = sum(3 * 2 * rows * (length * 3 * 4 + 4 * 2) for rows, length in shapes)
    assert_counted(metered(model, data, batch_size=None), flops, 4, 14)


def test_steps_per_epoch(shared):
    data = batches(*[4, 3] * 3)
    summary = metered(shared, data, batch_size=None, epochs=2, steps_per_epoch=2)
    assert_counted(summary, 2 * (4 + 3) * PER_EXAMPLE, 4, 14)


def test_data_that_ends_early(shared):
    """Three batches, where the user promised four."""
    data = batches(4, 4, 2)
    with pytest.warns(UserWarning, match="ran out of data"):
        summary = metered(shared, data, batch_size=None, steps_per_epoch=4)
    assert_counted(summary, ROWS * PER_EXAMPLE, 3, ROWS)
