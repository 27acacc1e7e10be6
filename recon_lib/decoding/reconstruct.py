"""The main job: betas of test trials in; pictures, controls and scores out."""

import numpy as np

from recon_lib.brain.decoder import fit_decoder
from recon_lib.brain.encoding import fit_encoding_model
from recon_lib.common.errors import DataError
from recon_lib.decoding.baselines import (
    ideal_observer,
    mean_image,
    retrieval,
    ridge_to_pixels,
    shuffled_brain,
)
from recon_lib.decoding.retrieval_prior import aids, refuse_remembered, remembered
from recon_lib.decoding.sampling import (
    MODEL,
    SAMPLING,
    load_conditional,
    load_guide,
    sample_pictures,
)


def refuse_other_split(path, info, experiment):
    """Stop if a model was trained on another split: it may have seen the pictures to be tested."""
    trained, held = info.get("split", "repeated"), info.get("held", [])
    if trained != experiment.split or not set(experiment.held) <= set(held):
        what = [f"{name} split" + (f" (held out: {', '.join(gone)})" if gone else "")
                for name, gone in ((trained, held), (experiment.split, experiment.held))]
        raise DataError(
            f"{path} was trained with the {what[0]}, so it may have seen the test pictures of the "
            f"{what[1]}; train it again with --split {experiment.split}"
        )


def reconstruct(experiment, model_path=MODEL, seed=0, sampling=SAMPLING, device="cpu", say=print):
    """Reconstruct every test trial, and the average over trials of every test picture.

    Everything is fitted on training trials; test pictures are used for nothing but scores.

    Parameters
    ----------
    experiment : Experiment
    model_path : path
        A conditional model; its latent lies beside it, and its guide, if it has one.
    seed : int
    sampling : dict
        Options of `sample_pictures`. The likelihood is that of the brain decoder, the memory that
        of the model.
    device : str
    say : function
        Told what is being done.

    Returns
    -------
    dict
        For "single_trial" and "averaged" a dict with `target`, `pictures` (decoder -> uint8
        array) and `rankings` (decoder -> (trials, candidates) array).
    """
    x = experiment
    model, info, latent = load_conditional(model_path, device, x.images.shape[1])
    refuse_other_split(model_path, info, x)
    refuse_remembered(latent, x.images[x.test_index])
    train = ~x.test
    train_latents = latent.transform(x.images)[x.image[train]]
    say("fitting the brain decoder on the training trials")
    decoder = fit_decoder(x.betas[train], train_latents, x.image[train], seed)
    say("fitting the baselines: ridge to pixels, encoding model")
    ridge = ridge_to_pixels(x.betas[train], x.train_pictures, x.image[train], seed=seed)
    encoding = fit_encoding_model(train_latents, x.betas[train], x.image[train], seed=seed)
    known = latent.transform(x.images[x.test_index])
    observers = {
        "brain_vector": lambda betas: decoder.log_likelihood(decoder.vector(betas), known),
        "encoding_model": lambda betas: encoding.rank(betas, known),
    }
    ideal = None if x.truth is None else ideal_observer(x)
    if ideal is not None:
        observers["ideal_observer"] = ideal
    elif x.truth is not None:
        say("voxels were dropped: the ideal observer is left out")

    sampling = {"worse": load_guide(model_path, model, info)} | sampling
    options = aids(decoder, latent) | sampling
    if latent.memory is None:
        say(f"{model_path} has no memory: it does without")

    def sample(vectors, seed, label):
        return sample_pictures(model, info, vectors, seed=seed, label=label, **options)

    averaged, counts = x.averaged()
    free = sample_pictures(model, info, n=len(x.test_index), seed=seed + 1000,
                           steps=sampling["steps"], label="unconditional")
    unaided = sampling | dict(strength=0.0, candidates=1)
    results = {}
    for name, betas, repeats, target in (
        ("single_trial", x.betas[x.test], 1, x.target),
        ("averaged", averaged, counts, np.arange(len(averaged))),
    ):
        say(f"reconstructing {len(betas)} {name.replace('_', '-')} responses")
        vectors = decoder.vector(betas, repeats)
        order = shuffled_brain(target, seed)
        n = len(betas)
        results[name] = {
            "target": target,
            "pictures": {
                "diffusion": sample(vectors, seed, "diffusion"),
                "conditional": sample_pictures(model, info, vectors, seed=seed,
                                               label="network alone", **unaided),
                "ridge": ridge(betas),
                "retrieval": retrieval(vectors[:, :-1], train_latents, x.train_pictures),
                "mean_image": mean_image(x.train_pictures, n),
                "unconditional": np.resize(free, (n, *free.shape[1:])),
                "shuffled_brain": sample(vectors[order], seed, "shuffled brain"),
            },
            "rankings": {key: observer(betas) for key, observer in observers.items()},
        }
        memories = remembered(x, decoder, latent, vectors)
        if memories is not None:
            results[name]["pictures"]["remembered"] = memories
        elif latent.memory is not None:
            say("the memory is not of this experiment alone: what it recalls cannot be shown")
    for extra in (1, 2):  # for the eye only: the scores are of the first seed
        results["averaged"]["pictures"][f"diffusion_seed_{extra}"] = sample(
            decoder.vector(averaged, counts), seed + extra, f"seed {extra}"
        )
    return results
