"""Unsupervised SimCSE: two dropout views of a sentence are a positive pair (section 4.4).

Legend: K sentences, Z width of an embedding.
"""

from torch import Tensor

from trainable.losses.ranking import Similarity, ranking


def simcse(view1: Tensor, view2: Tensor, similarity: Similarity, temperature: float) -> Tensor:
    """`ranking` between two views [K, Z] of the same K sentences.

    The paper uses the plain dot product; with `cosine` the similarity is divided by `temperature`,
    as in the original SimCSE.
    """
    return ranking(view1, view2, similarity, 1.0 if similarity == "dot" else 1.0 / temperature)
