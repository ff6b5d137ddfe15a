"""Gates' thresholds, shifted together until a figure that falls with them is on its target."""

import dataclasses

import numpy as np
from keras import ops

from keras_adavit.errors import InputError

GATE_KINDS = ("tokens", "heads", "blocks")
FAR = 20.0  # a shift of the logits that closes, or opens, every gate


@dataclasses.dataclass(frozen=True)
class Target:
    """What a figure is to be.

    Attributes:
        name: The argument that asks for it.
        value: The figure, positive.
        unit: The words behind a figure.
        tolerance: How far off it may be, as a share of `value`.
    """

    name: str
    value: float
    unit: str
    tolerance: float

    def error(self, found):
        """How far off a figure is, as a share of the target."""
        return abs(found - self.value) / self.value

    def is_met_by(self, found):
        """Whether a figure is within the tolerance."""
        return self.error(found) <= self.tolerance


class Thresholds:
    """The thresholds of some of a model's gates, which move together on the scale of the gates' logits.

    All move by the same amount; in a model whose gates follow the budget each moves at the rate that it learned.

    Args:
        model: An `AdaViTClassifier`.
        names: Which gates: some of `GATE_KINDS`.

    Raises:
        InputError: If the model has no gates of a kind.
    """

    def __init__(self, model, names):
        gates = find_gates(model, names)
        self.variables = [gate.threshold for gate in gates]
        self.rates = learned_rates(gates)
        self.start = [float(ops.convert_to_numpy(variable)) for variable in self.variables]

    def shift(self, shift):
        """Moves them from where they began; more closes gates."""
        for variable, start, rate in zip(self.variables, self.start, self.rates, strict=True):
            variable.assign(1 / (1 + np.exp(-(logit(start) + shift * rate))))

    def restore(self):
        """Puts them back to where they began, to the last bit."""
        for variable, start in zip(self.variables, self.start, strict=True):
            variable.assign(start)


def gate_kinds(model):
    """Which kinds of gates a model has: some of `GATE_KINDS`."""
    return [kind for kind in GATE_KINDS if any(gates_of(model, kind))]


def find_thresholds(model, names):
    """The threshold variables of gates of these kinds; raises `InputError` if there is none of a kind."""
    return [gate.threshold for gate in find_gates(model, names)]


def find_gates(model, names):
    """The gates of these kinds, a list; raises `InputError` if there is none of a kind."""
    found = []
    for name in names:
        gates = gates_of(model, name)
        if not any(gates):
            raise InputError(f"`gates` must be such as the model has. Received: {name!r}, of which it has none")
        found += [gate for gate in gates if gate]
    return found


def learned_rates(gates):
    """How far the threshold of each gate moves, as a share of the mean: 1 for all unless they follow the budget."""
    rates = [
        float(ops.convert_to_numpy(ops.softplus(gate.budget_rate))) if gate.follow_budget else 1.0 for gate in gates
    ]
    return np.divide(rates, np.mean(rates))


def gates_of(model, name):
    """The gate of a kind of each block, `None` where there is none."""
    kinds = {"tokens": "token_gate", "heads": "head_gate", "blocks": "block_gate"}
    return [getattr(block, kinds[name]) for block in model.backbone.blocks]


def find_reach(figure_at, target):
    """The figures with all gates open and with all shut, by shift.

    Raises:
        InputError: If the target lies outside them.
    """
    reach = {shift: figure_at(shift) for shift in (-FAR, FAR)}
    most, least = reach.values()
    if not least * (1 - target.tolerance) <= target.value <= most * (1 + target.tolerance):
        raise InputError(
            f"`{target.name}` must be within the reach of these gates, {least:.4f} to {most:.4f} {target.unit}. "
            f"Received: {target.value:.4f}"
        )
    return reach


def bisect(figure_at, target, reach, precision, steps):
    """The shift whose figure is nearest to the target, and that figure.

    Args:
        figure_at: Function from a shift to a figure, which falls with it.
        target: A `Target`.
        reach: Figures of the smallest and the largest shift, see `find_reach`.
        precision: An error, as a share of the target, that ends the search.
        steps: Most figures that are looked at.
    """
    tried = dict(reach)
    low, high = tried
    while len(tried) < steps and min(map(target.error, tried.values())) > precision:
        middle = (low + high) / 2
        tried[middle] = figure_at(middle)
        low, high = (middle, high) if tried[middle] > target.value else (low, middle)
    return nearest(tried, target)


def nearest(figures, target):
    """Of figures by shift, the shift and the figure nearest to the target."""
    return min(figures.items(), key=lambda item: target.error(item[1]))


def logit(probability):
    """The logit of a probability; beyond ±20, where float32 knows only 0 and 1, ±20."""
    probability = min(max(probability, 1e-9), 1 - 1e-9)
    return float(np.log(probability / (1 - probability)))
