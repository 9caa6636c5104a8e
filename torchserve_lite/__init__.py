"""torchserve-lite: serves TorchServe archives in pure Python.

Where to read first: ``core`` (the vocabulary), ``dataplane`` (what happens to a request), ``engine.pool`` and
``engine.queues.batches`` (how jobs become batches), ``worker.batch`` (how a batch meets a handler) and one module of
``protocols`` (how a wire request becomes an ``InferenceRequest``).
"""

__version__ = "0.1.0"
