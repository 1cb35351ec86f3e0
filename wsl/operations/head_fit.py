"""Head fit: last layers fitted convexly to given targets on given images, to convergence.

The features that a last layer reads are computed once, by the stack of all models, and multinomial logistic regression with an L2
penalty on its weights does the rest (`wsl.operations.softmax_regression`). No gradient of the whole model is taken. The old last
layer does not matter: the optimum is the only one. Of an MLP head only the last layer is fitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wsl.operations.models import (
    Advance,
    Cost,
    Outcome,
    State,
    check_images,
    check_states,
    on_all_cores,
    positive,
    shapes_of,
    size_of,
    slices,
    whole,
)
from wsl.operations.softmax_regression import Regression, fit
from wsl.operations.targets import Targets
from zoo_gen.architecture import outline, skeleton
from zoo_gen.errors import InputError
from zoo_gen.evaluate import images_at_once
from zoo_gen.stack import ModelStack, stack_of
from zoo_gen.wording import counted

SCORES, ENTRIES = 6, 8
"""Arrays of the size of all scores that a fit holds, and how many of its entries weigh as much as a weight (memory)."""


@dataclass(frozen=True, kw_only=True)
class HeadFit:
    """Last layers that minimise the mean cross-entropy to targets, plus half the penalty times their squared weights.

    Attributes:
        penalty: λ of the weights, more than 0; biases are not penalised. It is 1 / (C · images) of scikit-learn.
        tolerance: norm of the gradient at which a fit is done.
        steps: most Newton steps; some ten suffice.
    """

    penalty: float
    tolerance: float
    steps: int

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be fitted with."""
        positive("a head fit", penalty=self.penalty, tolerance=self.tolerance)
        whole("a head fit", steps=self.steps)

    def __call__(
        self,
        architecture: Mapping[str, Any],
        models: Sequence[State],
        pixels: Float[Tensor, "N C H W"],
        targets: Targets,
        *,
        advance: Advance = lambda done: None,
    ) -> Outcome:
        """Fits the last layer of each model.

        Args:
            architecture: of all models.
            models: K state dicts; all but their last layers is kept.
            pixels: images, which the features are of.
            targets: of these models on these images.
            advance: is called with the number of models that are done.

        Returns:
            The models, and as figures the `loss` with its penalty and the `gradient_norm` at the end, more than the tolerance where
            the steps did not suffice.

        Raises:
            InputError: there are no images, models are of other shapes, not finite or without a last layer, or the targets are of
                others.
        """
        name = last_layer(architecture)
        shapes = shapes_of(architecture)
        check_states(models, shapes)
        check_images(pixels, models)
        targets.check(len(models), len(pixels), shapes[f"{name}.weight"][0])

        def work(some: slice) -> Regression:
            read = features(stack_of(skeleton(architecture), models[some]), name, pixels).double()
            penalised = torch.full(read.shape[-1:], self.penalty, dtype=torch.float64)
            if f"{name}.bias" in shapes:
                read, penalised = functional.pad(read, (0, 1), value=1.0), functional.pad(penalised, (0, 1))
            found = fit(read, targets.of(some).double(), penalised=penalised, tolerance=self.tolerance, steps=self.steps)
            advance(some.stop - some.start)
            return found

        classes, width = shapes[f"{name}.weight"]
        entries = len(pixels) * (width + SCORES * classes)  # in float64, for each model
        found = [*on_all_cores(work, slices(len(models), max(size_of(models[0]), entries // ENTRIES)))]
        layers = torch.cat([one.coefficients for one in found]).float()
        states = []
        for state, layer in zip(models, layers, strict=True):
            new = {f"{name}.weight": layer[:, :width].clone()}
            if f"{name}.bias" in shapes:
                new[f"{name}.bias"] = layer[:, width].clone()
            states.append({key: tensor.float() for key, tensor in state.items()} | new)
        cost = Cost(forward_images=len(pixels), head_gradients=float(torch.cat([one.evaluations for one in found]).mean()))
        figures = {key: torch.cat([getattr(one, key) for one in found]) for key in ("loss", "gradient_norm")}
        return Outcome(states, cost, figures)


def last_layer(architecture: Mapping[str, Any]) -> str:
    """Returns the name of the linear layer whose outputs are the logits. Raises `InputError` where there is none."""
    model = cast(Any, outline(architecture))
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    layers = (
        [module for module in classifier.modules() if isinstance(module, nn.Linear)] if isinstance(classifier, nn.Module) else []
    )
    if not layers or layers[-1].out_features != architecture.get("num_classes"):
        raise InputError(
            f"{architecture.get('architecture')} with {counted(architecture.get('num_classes') or 0, 'class')} has no last linear "
            "layer that could be fitted; pass fine-tuned models, not roots"
        )
    return next(name for name, module in model.named_modules() if module is layers[-1])


@torch.no_grad()
def features(stack: ModelStack, layer: str, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "K N F"]:
    """Returns what a linear layer of each model of a stack reads on images."""
    stack.eval()
    found: list[Tensor] = []
    hook = stack.model.get_submodule(layer).register_forward_pre_hook(lambda _, read: found.append(read[0]))
    try:
        for piece in torch.arange(len(pixels)).split(images_at_once(stack)):
            stack(repeat(torch.as_tensor(pixels[piece]), "b ... -> k b ...", k=stack.size))
    finally:
        hook.remove()
    return torch.cat([read.reshape(stack.size, -1, read.shape[-1]) for read in found], dim=1)
