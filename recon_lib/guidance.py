"""Guidance without a brain: a network moves away from a worse version of itself.

What two networks of one kind disagree about is what the worse one has not learnt yet. Going further
in that direction, away from the worse and past the better one, mends much of what the better one
still does wrong in the same way (*autoguidance*, Karras et al. 2024, arXiv 2406.02507).
"""

from recon_lib.diffusion import check_guidance, inside


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
