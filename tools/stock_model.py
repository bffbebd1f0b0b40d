"""Llama4ForConditionalGeneration of transformers, called in parts: tower, projector and decoder apart.

Its own forward() cannot be relied on as an oracle: in transformers 5.24.0 it reads `image_outputs` from the decoder's
result, which has none, and every call and every generate() of the whole model ends in an AttributeError. The parts hold
all the numbers; forward() itself only puts the features in the places of the patch tokens, as is done here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """[tiles * tokens per tile, hidden]: what replaces the embeddings of patch tokens. pixels: [tiles, 3, S, S]."""
    hidden = model.vision_model(pixels).last_hidden_state
    return model.multi_modal_projector(hidden.flatten(0, 1))


def embeddings(model: Any, ids: Tensor, pixels: Tensor | None = None) -> Tensor:
    """[batch, tokens, hidden]: what the decoder reads, for ids [batch, tokens] int64 and pixels [tiles, 3, S, S].

    The tiles are those of all rows in reading order. Raises ValueError unless they fill the patch tokens exactly.
    """
    embedded: Tensor = model.get_input_embeddings()(ids)
    if pixels is None:
        return embedded
    features = image_features(model, pixels).to(embedded.dtype)
    places = ids == model.config.image_token_id
    patches = int(places.sum())
    if patches != len(features):
        raise ValueError(f"{len(features)} features for {patches} patch tokens; expected one for each")
    return embedded.masked_scatter(places[..., None], features)


def logits(model: Any, ids: Tensor, pixels: Tensor | None = None) -> Tensor:
    """[batch, tokens, vocab]: one forward pass over whole prompts, without padding and without a cache."""
    result = model.language_model(inputs_embeds=embeddings(model, ids, pixels), use_cache=False)
    return result.logits
