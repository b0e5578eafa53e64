"""Simple classifiers as PyTorch: what scikit-learn fitted (`clfa.training.probe`), in tensors that safetensors can hold."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn


class Probe(nn.Module):
    """Standardise, one hidden map, one linear map: z = scale (x - mean), 0 where x is missing; logits = W h(z) + b.

    h is z itself (logistic regression), the RBF kernel exp(-gamma |z - s_i|^2) to the support vectors s_i (SVM), or
    ReLU(V z + c) (MLP): what is there tells which. All of it in double precision: a distance is a small difference of large
    sums.

    Args:
        arrays: `mean`, `scale` (D), `weight` (C, H), `bias` (C), and `support` (S, D) with `gamma` (), or `hidden_weight`
            (H, D) with `hidden_bias` (H). Without them it is not fitted yet.
    """

    mean: Tensor
    scale: Tensor
    support: Tensor | None
    gamma: Tensor
    hidden_weight: Tensor | None
    hidden_bias: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, arrays: Mapping[str, Tensor] | None = None):
        super().__init__()
        for name in NAMES:
            self.register_buffer(name, None if arrays is None or name not in arrays else arrays[name].float())

    def forward(self, features: Float[Tensor, "posts features"]) -> Float[Tensor, "posts classes"]:
        """Logits of features as the encoders gave them, NaN where a post lacks a modality."""
        return (self.hidden(features) @ self.weight.double().T + self.bias.double()).float()

    def hidden(self, features: Float[Tensor, "posts features"]) -> Float[Tensor, "posts hidden"]:
        """h(z)."""
        standardised = ((features.double() - self.mean) * self.scale).nan_to_num(0.0)
        if self.support is not None:
            support = self.support.double()
            squares = (standardised**2).sum(1)[:, None] + (support**2).sum(1)[None]
            distances = squares - 2 * standardised @ support.T
            return (-self.gamma * distances.clamp(min=0)).exp()
        if self.hidden_weight is not None:
            return (standardised @ self.hidden_weight.double().T + self.hidden_bias).relu()
        return standardised


NAMES = ("mean", "scale", "support", "gamma", "hidden_weight", "hidden_bias", "weight", "bias")
"""Of its arrays."""
