"""Closed forms learned from shapes, as a run meets them.

The transformer has 2 layers of width 64 and a head of 1,488 words, B sequences of T tokens.
Weights: 2 * 12*64*64 + 64*1488 = 193,536, each 6 FLOPs per token (forward, two gradients):
1,161,216*B*T. Attention: two products of 2*B*T*T*64 a layer, 3 times with gradients: 1,536*B*T*T.
"""

import random

from computemeter.closed_form import ClosedForm

FORMULA = "1536*B*T**2 + 1161216*B*T"


def transformer(b, t):
    return 1_536 * b * t**2 + 1_161_216 * b * t


def model(flops):
    return {"model": flops}


def learn(function, shapes, form=None):
    """Observe every shape."""
    form = form or ClosedForm()
    for sizes in shapes:
        form.observe(sizes, model(function(*sizes)))
    return form


def answer(form, *sizes):
    values = form.predict(sizes)
    return None if values is None else values["model"]


def walk(function, shapes, *, checking):
    """Meet shapes as a run does, counting those that cannot be predicted.

    Return the form, how many shapes were counted, and those predicted wrongly.
    """
    form, counted, wrong = ClosedForm(), 0, []
    for sizes in shapes:
        checked = checking and form.wants_check(sizes)
        predicted = None if checked else answer(form, *sizes)
        if predicted is None:
            counted += 1
            form.observe(sizes, model(function(*sizes)))
        elif predicted != function(*sizes):
            wrong.append(sizes)
    return form, counted, wrong


def chooser(seed):
    return random.Random(seed)


def pairs(seed, number):
    chosen = chooser(seed)
    return [(chosen.randint(1, 64), chosen.randint(1, 512)) for _ in range(number)]
