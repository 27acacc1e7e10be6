"""Guidance without a brain: a network moves away from a worse version of itself.

What two networks of one kind disagree about is what the worse one has not learnt yet. Going further
in that direction, away from the worse and past the better one, mends much of what the better one
still does wrong in the same way (*autoguidance*, Karras et al. 2024, arXiv 2406.02507).
"""

import torch

from recon_lib.diffusion import check_guidance, inside, levels


def autoguided(denoise, worse, alpha_bar, scale=2.0, interval=None):
    """A denoiser that moves away from a worse one.

    The estimate is w + scale (d - w), from the better d and the worse w: the formula of
    classifier-free guidance, with a network that knows less in place of one that is told less.

    Parameters
    ----------
    denoise, worse : function (x_t, t) -> Tensor (b, C, H, W)
        See `diffusion.denoiser`. The worse one: trained on the same pictures for the same
        question, but smaller and for a shorter time.
    alpha_bar : Tensor (steps,)
    scale : float
        Guidance scale: 1 is the better network alone.
    interval : (float, float), optional
        Guide only where the noise amplitude s lies between these two, low < high; elsewhere the
        worse network is not asked.

    Returns
    -------
    function (x_t (b, C, H, W), t LongTensor (b,)) -> Tensor (b, C, H, W)
        Estimates in [-1, 1].

    Raises
    ------
    DataError
        If the scale is not finite, or the interval is empty.
    """
    check_guidance(scale, interval)

    def guided(x_t, t):
        x0 = denoise(x_t, t)
        if scale == 1 or not inside(interval, t, alpha_bar):
            return x0
        w = worse(x_t, t)
        return (w + scale * (x0 - w)).clamp(-1, 1)

    return guided


def evidence(decoder, latent, vectors):
    """Build log p(vector | picture), up to a constant, as a differentiable function of pictures.

    A picture has the latent f, and a brain vector of that picture is N(f gain, covariance /
    repeats): see `decoder.BrainDecoder`.

    Parameters
    ----------
    decoder : BrainDecoder
    latent : ImageLatent
    vectors : Tensor (b, d + 1)
        Brain vectors, see `BrainDecoder.vector`.

    Returns
    -------
    function pictures (b, C, H, W) in [-1, 1] -> Tensor (b,)
        Vector i is held against picture i.
    """
    def tensor(array):
        return torch.as_tensor(array, dtype=torch.float32, device=vectors.device)

    channel = decoder.channel
    gain, x_mean, y_mean = map(tensor, (channel.weights, channel.x_mean, channel.y_mean))
    root = tensor(decoder.root)
    level = vectors[:, -1]  # (b,) 1 / √repeats
    latent = latent.on(vectors.device)

    def log_likelihood(pictures):
        with torch.autocast(vectors.device.type, enabled=False):  # its gradient needs all digits
            expected = (latent.encode(pictures) - x_mean) @ gain + y_mean  # (b, d)
            error = (vectors[:, :-1] - expected).T  # (d, b)
            white = torch.linalg.solve_triangular(root, error, upper=False)
        return -white.square().sum(0) / (2 * level.square())

    return log_likelihood


def steer(denoise, log_likelihood, alpha_bar, strength=1.0, interval=None, largest=0.3):
    """A denoiser that leans towards pictures that explain the brain vector.

    By Tweedie's formula the best estimate of x0 from x_t and y is the one from x_t alone plus
    (s² / a) ∇ log p(y | x_t), the gradient with respect to x_t; p(y | x_t) is taken at the
    estimate of x0 (Chung et al. 2023, arXiv 2209.14687). The gradient runs back through the
    network, so it only ever asks for changes that the network believes in.

    Parameters
    ----------
    denoise : function (x_t, t) -> Tensor (b, C, H, W)
    log_likelihood : function (b, C, H, W) -> Tensor (b,)
        See `evidence`.
    alpha_bar : Tensor (steps,)
    strength : float
        1 is Bayes' rule; 0 does nothing.
    interval : (float, float), optional
        Steer only where the noise amplitude s lies in this interval: what a picture is of is
        decided while there is much noise, and a step without a gradient costs a third.
    largest : float
        A step's root-mean-square change at most, before `strength`: the estimate of x0 is poor
        while there is much noise, and its gradient can be huge.

    Returns
    -------
    function (x_t, t) -> Tensor (b, C, H, W)

    Raises
    ------
    DataError
        If the strength is not finite, or the interval is empty.
    """
    check_guidance(strength, interval, "strength")

    def steered(x_t, t):
        if not inside(interval, t, alpha_bar):
            return denoise(x_t, t)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            x0 = denoise(x, t)
            gradient, = torch.autograd.grad(log_likelihood(x0).sum(), x)
        a, s = levels(t, alpha_bar)
        change = s.square() / a.clamp(min=0.05) * gradient
        size = change.square().mean((1, 2, 3), keepdim=True).sqrt()
        change = change * (largest / size.clamp(min=1e-12)).clamp(max=1)
        return (x0.detach() + strength * change).clamp(-1, 1)

    return steered
