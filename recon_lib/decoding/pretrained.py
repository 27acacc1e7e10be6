"""A diffusion model of photographs that others trained, told what was decoded from a brain.

The decoder of Kandinsky 2.2 (Razzhigaev et al. 2023, arXiv:2310.03502; Apache-2.0) draws from an
image embedding alone, no text has a part. Two things are read from the betas: the embedding, which
says what was seen, and a coarse picture, which says where: an image-to-image run starts from it, as
in Brain-Diffuser (Ozcelik & VanRullen 2023, arXiv:2303.05334).

Needs the extra `pretrained`. Everything here is tested on networks of the same build, tiny and with
random weights (`untrained`), on a processor. **It has not been run with the real weights, nor on a
GPU.** Those of the decoder are 5 GB as the host lists them, half of that in half precision.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recon_lib.brain.encoders import CLIP
from recon_lib.brain.ridge import fit_ridge
from recon_lib.common.errors import DataError, check, enough_memory, reason
from recon_lib.data.pictures import squared, uint8_pictures
from recon_lib.decoding.baselines import Training, ridge_to_pixels
from recon_lib.samplers import noise_generators

DECODER = "kandinsky-community/kandinsky-2-2-decoder"
PRIOR = "kandinsky-community/kandinsky-2-2-prior"  # holds the encoder of pictures: CLIP ViT-bigG/14


@dataclass(frozen=True)
class PretrainedSampling:
    """How a pretrained model draws. The defaults are customary, nothing here has chosen them.

    Attributes
    ----------
    steps : int
    scale : float
        Guidance scale; 1 is none.
    strength : float
        Above 0, up to 1: how much noise is put onto the coarse picture. At 1 little of it is left.
    size : int
        Side in pixels, a multiple of 64.
    batch_size : int
        Pictures at a time: lower it where the memory does not do.

    Raises
    ------
    DataError
        If a number means nothing.
    """

    steps: int = 50
    scale: float = 4.0
    strength: float = 0.75
    size: int = 512
    batch_size: int = 4

    def __post_init__(self):
        fits = {"steps": self.steps >= 1, "scale": 1 <= self.scale < np.inf,
                "strength": 0 < self.strength <= 1 and self.steps * self.strength >= 1,
                "size": self.size >= 64 and self.size % 64 == 0, "batch_size": self.batch_size >= 1}
        for name, fit in fits.items():
            if not fit:
                raise DataError(f"{name} is {getattr(self, name)}; expected steps, batch_size and "
                                "scale of 1 or more, a strength up to 1 that leaves one step, a "
                                "size that 64 divides")


@dataclass
class Pretrained:
    """A pretrained decoder of embeddings; used in a `with` block, it frees its memory at the end.

    Attributes
    ----------
    draw, redraw : pipelines of diffusers
        From an embedding; from an embedding and a coarse picture. They share their networks.
    nothing : (d,) array
        The embedding of a picture of one colour: guidance leads away from it.
    device : str
        Where it computes.
    """

    draw: Any
    redraw: Any
    nothing: np.ndarray
    device: str = "cpu"

    @property
    def width(self):
        """How many numbers an embedding has."""
        return self.draw.unet.config.encoder_hid_dim

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.draw = self.redraw = None
        free()


def half_on_gpu(device):
    """float16 on any CUDA GPU (a T4 has no bfloat16), float32 elsewhere."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def free():
    """Give memory that nothing refers to back to the machine, and to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def package(name):
    """Import diffusers or transformers, or say what to install."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(f"the package {name} is not installed; `pip install "
                        '"recon-lib[pretrained]"`, restart and run again') from error


def embed_pictures(images: np.ndarray, device: str = "cpu", source: str = PRIOR,
                   batch_size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder that Kandinsky was trained with makes of pictures. Not run with its weights.

    Parameters
    ----------
    images : (n, H, W, 3) uint8 array
    device : str
    source : str
        Name on the Hugging Face hub, or a folder, with a folder `image_encoder`.
    batch_size : int

    Returns
    -------
    embeddings : (n, d) float32 array
    nothing : (d,) float32 array
        Of a picture of CLIP's mean colour, see `Pretrained`.
    """
    encoder = fetched(package("transformers").CLIPVisionModelWithProjection, source,
                      subfolder="image_encoder")
    half = half_on_gpu(device)
    encoder, side = encoder.eval().to(device, half), encoder.config.image_size
    mean, spread = torch.tensor(CLIP).view(2, 3, 1, 1)
    pictures, made = squared(uint8_pictures(images), side, 3), []
    with torch.inference_mode(), enough_memory("`batch_size`"):
        for first in range(0, len(pictures), batch_size):
            x = torch.from_numpy(pictures[first : first + batch_size]).permute(0, 3, 1, 2) / 255
            made.append(encoder(((x - mean) / spread).to(device, half)).image_embeds)
        made.append(encoder(torch.zeros(1, 3, side, side).to(device, half)).image_embeds)
        made = torch.cat(made).float().cpu().numpy()
    del encoder
    free()
    return made[:-1], made[-1]


def fetched(kind, source, **options):
    """`kind.from_pretrained(source)`, or one line."""
    try:
        return kind.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise DataError(f"the weights of {source} cannot be had ({reason(error)}); connect to the "
                        "network once, or name a folder that holds them") from error


def load_pretrained(nothing: np.ndarray, device: str = "cpu", source: str = DECODER,
                    offload: bool = False) -> Pretrained:
    """Read Kandinsky 2.2's decoder. Not run with its weights.

    Parameters
    ----------
    nothing : (d,) array
        From `embed_pictures`.
    device : str
        On a CUDA GPU ("cuda", "cuda:0") it works in half precision.
    source : str
        Name on the Hugging Face hub, or a folder.
    offload : bool
        Keep the networks in the machine's memory, and each layer on the GPU only while it works:
        slow, and fits a GPU that the whole does not fit.
    """
    pipe = fetched(package("diffusers").KandinskyV22Pipeline, source)
    pipe.to(dtype=half_on_gpu(device))
    if offload:
        pipe.enable_sequential_cpu_offload()
    else:
        pipe.to(device)
    return of_pipeline(pipe, nothing, device)


def of_pipeline(pipe, nothing, device="cpu"):
    """A `Pretrained` of a pipeline that draws, and its twin that starts from a picture."""
    redraw = package("diffusers").KandinskyV22Img2ImgPipeline(**pipe.components)
    for one in (pipe, redraw):
        one.set_progress_bar_config(disable=True)
    net = Pretrained(pipe, redraw, np.zeros(0), device)
    net.nothing = check(nothing, (net.width,), what="the embedding of nothing").astype(np.float32)
    return net


def untrained(width: int, seed: int = 0) -> Pretrained:
    """A tiny decoder of the same build with random weights: it shows the machinery, and no picture.

    Parameters
    ----------
    width : int
        Of the embeddings.
    seed : int
    """
    diffusers = package("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            in_channels=4, out_channels=8, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            encoder_hid_dim=width, encoder_hid_dim_type="image_proj", addition_embed_type="image",
            cross_attention_dim=16, attention_head_dim=8, norm_num_groups=8,
            resnet_time_scale_shift="scale_shift")
        movq = diffusers.VQModel(
            block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            num_vq_embeddings=16, vq_embed_dim=4, norm_num_groups=8, norm_type="spatial")
    scheduler = diffusers.DDPMScheduler(beta_start=8.5e-4, beta_end=0.012, clip_sample=False)
    pipe = diffusers.KandinskyV22Pipeline(unet.eval(), scheduler, movq.eval())
    return of_pipeline(pipe, np.zeros(width))


def like_embeddings(decoded: np.ndarray, out_of_fold: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Bring decoded embeddings to the mean and the norm of embeddings of pictures.

    Ridge shrinks towards the mean, and a network drawn from shrunken embeddings draws the same for
    all. So what is left of the difference from the mean is stretched by one number, the same for
    all, and each is given the mean norm of real ones. Nothing is taken from test trials.

    Parameters
    ----------
    decoded : (n, d) array
    out_of_fold : (m, d) array
        Ridge's predictions for training trials that the fit had not seen: they set the stretch.
    known : (m, d) array
        Embeddings of the training pictures.

    Returns
    -------
    (n, d) float32 array
    """
    known = check(known, ("m", "d"), what="the embeddings of the training pictures")
    decoded, out_of_fold = (check(x, ("n", known.shape[1]), what="the decoded embeddings")
                            for x in (decoded, out_of_fold))
    mean, norm = known.mean(0), np.linalg.norm(known, axis=1).mean()
    spread = [np.square(x - mean).mean() ** 0.5 for x in (out_of_fold, known)]
    told = mean + (decoded - mean) * (spread[1] / max(spread[0], 1e-12))
    return (told * norm / np.linalg.norm(told, axis=1, keepdims=True)).astype(np.float32)


def sample_embeddings(net: Pretrained, embeddings: np.ndarray, seed: int = 0,
                      sampling: PretrainedSampling | None = None,
                      start: np.ndarray | None = None) -> np.ndarray:
    """Draw a picture for each embedding.

    Parameters
    ----------
    net : Pretrained
    embeddings : (n, d) array
        Of the network's own encoder; see `like_embeddings` for decoded ones.
    seed : int
        Picture i depends on (seed, i), its embedding and its start, on no other picture.
    sampling : PretrainedSampling, optional
    start : (n, H, W, C) uint8 array, optional
        Coarse pictures to start from.

    Returns
    -------
    (n, size, size, 3) uint8 array

    Raises
    ------
    DataError
        If embeddings are of another width than the network's, or not finite.
    """
    how = sampling or PretrainedSampling()
    told = check(embeddings, ("n", net.width), what="the array of embeddings, of the network's own "
                 "encoder,")
    if start is not None:
        start = squared(uint8_pictures(start), how.size, 3)
        check(start, (len(told), how.size, how.size, 3), what="the array of pictures to start from")
    pictures = []
    for first in tqdm(range(0, len(told), how.batch_size), "draw", disable=None, leave=False):
        rows = slice(first, first + how.batch_size)
        some = torch.from_numpy(told[rows].astype(np.float32)).to(net.device, net.draw.unet.dtype)
        inputs = {"image_embeds": some, "guidance_scale": how.scale, "height": how.size,
                  "negative_image_embeds": torch.from_numpy(net.nothing).to(some).expand_as(some),
                  "width": how.size, "num_inference_steps": how.steps, "output_type": "np",
                  "generator": noise_generators(len(some), seed, first)}
        if start is not None:
            image = torch.from_numpy(start[rows]).permute(0, 3, 1, 2) / 255
            inputs |= {"image": image, "strength": how.strength}
        with enough_memory("`batch_size` or `size` of the sampling"):
            pictures.append((net.draw if start is None else net.redraw)(**inputs).images)
    return (np.concatenate(pictures).clip(0, 1) * 255).round().astype(np.uint8)


def fit_pretrained(net: Pretrained, embeddings: np.ndarray, training: Training,
                   sampling: PretrainedSampling | None = None, coarse: bool = True) -> Callable:
    """A decoder by a pretrained model: fitted to training trials, it draws for others.

    Parameters
    ----------
    net : Pretrained
    embeddings : (pictures, d) array
        A row for each number in `training.image`; no other row is looked at.
    training : baselines.Training
    sampling : PretrainedSampling, optional
    coarse : bool
        Start from ridge to pixels; else from noise alone.

    Returns
    -------
    function trials -> uint8 (n, H, W, C)
        Pictures of the size of the training pictures.
    """
    known = check(embeddings, ("pictures", net.width), False, "the array of embeddings")
    known = check(known[training.image], what="embeddings of training pictures").astype(np.float32)
    betas = np.asarray(training.betas, np.float32)
    ridge = fit_ridge(betas, known, training.image, seed=training.seed)
    tell = partial(like_embeddings, out_of_fold=ridge.out_of_fold, known=known)
    low = ridge_to_pixels(betas, training.pictures, training.image, seed=training.seed)

    def draw(trials):
        start = low(trials.betas) if coarse else None
        told = tell(ridge.predict(trials.betas))
        drawn = sample_embeddings(net, told, training.seed, sampling, start)
        return squared(drawn, *training.pictures.shape[2:])

    return draw
