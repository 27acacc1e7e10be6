"""Muon for the convolutions inside a network; all other weights keep AdamW."""

import torch


class Muon(torch.optim.AdamW):
    """AdamW, but Muon for all convolutions of a `UNet` except its first and its last.

    Let G be the gradient of a convolution's weights W as a matrix (out, in k k). Muon (Jordan et
    al. 2024, kellerjordan.github.io/posts/muon) averages it into M and steps along the nearest
    orthogonal matrix, which moves as far in every direction:

        M ← .95 M + .05 G,    W ← W − .2 r √max(out, in k k) orthogonal(.95 M + .05 G),

    after AdamW's decay of W; r is `times` the learning rate. At `times` = 1 the factor makes a step
    as long as AdamW's usual one (Liu et al. 2025, arXiv 2502.16982); 2 trained better.
    `torch.optim.Muon` takes no convolutions, and computes in bfloat16, which most CPUs do slowly.

    Parameters
    ----------
    model : UNet
    lr : float
        AdamW's learning rate.
    times : float
        Muon's rate r is so many times AdamW's.
    fused : bool
        As for `torch.optim.AdamW`.
    """

    def __init__(self, model, lr, times=2.0, fused=True):
        hidden = hidden_convolutions(model)
        others = [w for w in model.parameters() if all(w is not one for one in hidden)]
        super().__init__([dict(params=hidden, times=times), dict(params=others)], lr,
                         betas=(0.9, 0.99), fused=fused)
        self._step_supports_amp_scaling = False  # where float16 overflows, both are left out

    @torch.no_grad()
    def step(self, closure=None):
        """One step of both; AdamW passes over weights whose gradient is gone."""
        group = self.param_groups[0]
        rate = group["times"] * group["lr"]
        for weight in group["params"]:
            if weight.grad is None:  # not trained now: AdamW passes over it, too
                continue
            gradient, weight.grad = weight.grad.flatten(1), None
            state = self.state[weight]
            state.setdefault("step", torch.zeros(()))  # AdamW looks for it when it is loaded
            mean = state.setdefault("mean", torch.zeros_like(gradient))
            mean.lerp_(gradient, 0.05)
            way = orthogonal(gradient.lerp(mean, 0.95))
            weight.mul_(1 - rate * group["weight_decay"])
            weight.sub_(way.view(weight.shape), alpha=0.2 * rate * max(way.shape) ** 0.5)
        return super().step(closure)


def hidden_convolutions(model):
    """The weights of all convolutions of a `UNet` but the first and the last."""
    return [w for name, w in model.named_parameters()
            if w.ndim == 4 and not name.startswith(("conv_in.", "conv_out."))]


def orthogonal(matrix, rounds=5):
    """About the orthogonal matrix that is nearest to a matrix (n, m): U Vᵀ of its U S Vᵀ.

    Muon's Newton-Schulz iteration: in each round every singular value s, at most 1 at first,
    becomes 3.4445 s - 4.775 s³ + 2.0315 s⁵, which brings all but the smallest to .7 to 1.2. It is
    done on the smaller of both Gram matrices, which is cheaper.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    whole = factor = _factor(gram)
    for _ in range(rounds - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        whole = factor @ whole
    return whole @ wide if len(matrix) <= matrix.shape[1] else (whole @ wide).T


def _factor(gram):
    """By what a round multiplies a matrix of Gram matrix G: 3.4445 - 4.775 G + 2.0315 G²."""
    factor = torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
    factor.diagonal().add_(3.4445)
    return factor
