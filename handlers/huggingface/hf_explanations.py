"""How much each token of a text speaks for an answer, by captum's integrated gradients over the word embeddings."""

from __future__ import annotations

from typing import Any

import torch
from hf_batches import Batch
from hf_models import PretrainedModel, TracedModel, outputs_of
from hf_tasks import Task
from torch import Tensor
from torch.nn import functional


def explanation(model: PretrainedModel | TracedModel, task: Task, batch: Batch, pad_id: int) -> dict[str, Any]:
    """``words``, their ``importances`` (a vector of length one) and ``delta``, by how much their sum is off.

    ``batch`` holds one example. What is compared with is the same text with each word replaced by padding.
    """
    from captum.attr import LayerIntegratedGradients  # only explanations need it

    encoding = batch.encodings[0]
    target = encoding.example.target
    if target is None:
        with torch.inference_mode():
            target = task.predicted(model.outputs(batch.inputs), encoding)
    names = list(batch.inputs)

    def score(*tensors: Tensor) -> Tensor:
        return task.scores(outputs_of(model.network(**dict(zip(names, tensors, strict=True)))), target)

    ids, *others = batch.inputs.values()
    attributions, delta = LayerIntegratedGradients(score, model.network.get_input_embeddings()).attribute(
        ids,
        baselines=ids.masked_fill(~_special(batch, ids), pad_id),
        additional_forward_args=tuple(others),
        return_convergence_delta=True,
    )
    return {
        "words": task.tokenizer.convert_ids_to_tokens(list(encoding.ids)),
        "importances": functional.normalize(attributions.sum(-1)[0], dim=0).tolist(),
        "delta": delta.item(),
    }


def _special(batch: Batch, ids: Tensor) -> Tensor:
    return torch.tensor([batch.encodings[0].special], dtype=torch.bool, device=ids.device)
