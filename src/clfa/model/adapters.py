"""Low-rank adapters in the layers of a transformer, by `peft`; merged into its weights once they are trained."""

from torch import nn

from clfa.errors import UserError
from clfa.model.layers import layers

ALPHA = 2
"""Scale of an adapter over its rank."""
DROPOUT = 0.05


def add_adapters(backbone: nn.Module, rank: int, last: int | None = None) -> None:
    """Freeze a backbone, and put an adapter beside each linear map of its layers, or of the `last` ones:

        W x + 2 B A x,   A (rank, in) drawn, B (out, rank) = 0, so that nothing is changed at first.

    Source: LoRA (Hu et al. 2021).

    Raises:
        UserError: `peft` is not installed, or the backbone has no list of layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("lora needs peft: pip install 'clfa[tune]', or leave lora out") from None
    chosen = list(layers(backbone))[-last:] if last else list(layers(backbone))
    inside = {id(module) for layer in chosen for module in layer.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in backbone.named_modules() if id(module) in inside]
    backbone.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=ALPHA * rank, lora_dropout=DROPOUT, target_modules=names)
    inject_adapter_in_model(settings, backbone)


def merge_adapters(backbone: nn.Module) -> None:
    """Add the adapters to the weights beside them, and take them out: the backbone is again what it was built as."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            place, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(place), name, module.get_base_layer())
