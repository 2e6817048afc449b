"""References in float64 from models that cast to float32 on the way."""

import torch
from torch.overrides import TorchFunctionMode


class StayDouble(TorchFunctionMode):
    """Casts to float32 on the way, in a norm, a softmax or TRL's kernel, are to float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.float:
            return args[0].double()
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*[torch.float64 if a is torch.float32 else a for a in args], **kwargs)
