"""Lion: every weight moves by the same step, in the direction that momentum and gradient vote for.

    optimizer = Lion(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.5)

Chen et al., "Symbolic Discovery of Optimization Algorithms" (arXiv 2302.06675), algorithm 2. It keeps one tensor for
each parameter, where AdamW keeps two. The step has size `lr` whatever the gradient, so that its rate is 3 to 10 times
smaller than AdamW's and its weight decay as many times larger (section 5 there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pipeline.training.optim_state import local, local_gradients, run_closure


class Lion(torch.optim.Optimizer):
    """theta <- (1 - lr * decay) theta - lr * sign(beta1 m + (1 - beta1) g), then m <- beta2 m + (1 - beta2) g."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = run_closure(closure)
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in trained:
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            if not trained:
                continue
            weights = [local(parameter) for parameter in trained]
            gradients = local_gradients(trained)
            momenta = [local(self.state[parameter]["exp_avg"]) for parameter in trained]
            (beta1, beta2), rate = group["betas"], group["lr"]
            votes = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(votes)
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
            torch._foreach_add_(weights, votes, alpha=-rate)
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)
        return loss
