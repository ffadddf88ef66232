"""fp64 all the way, where transformers goes down to fp32 for its own sake."""

import torch
from torch.overrides import TorchFunctionMode


class KeptWide(TorchFunctionMode):
    """Computes in fp64 what transformers computes in fp32 for its own sake, as in norms and recurrences: fp32 would hide what
    fp64 shows."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
        return func(*args, **kwargs)
