"""gRPC: TorchServe's services, KServe's, health and reflection, over the same data plane as HTTP."""
