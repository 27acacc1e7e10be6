"""How good is a reconstruction: identification, metrics, controls, quality."""

from recon_lib.scores.controls import bits, decode_unseen
from recon_lib.scores.deep import literature_scores, n_way_top_k
from recon_lib.scores.embeddings import ceilings, score_embeddings
from recon_lib.scores.haxby import score_blocks
from recon_lib.scores.hog_net import load_independent_classifier
from recon_lib.scores.identification import (
    n_way_hits, permutation_null, permutation_p, top_k, two_way, two_way_null_sd, two_way_within)
from recon_lib.scores.metrics import nearest_training_distance, pixel_correlation, ssim
from recon_lib.scores.quality import classifier_features, kid, memorised, quality_scores
from recon_lib.scores.report import (
    INDEPENDENT, METRICS, READ, Criteria, evaluation_space, format_report, load_classifiers, score,
    score_cross_validated, score_table)
