"""What a model is on disk: manifest, model config, safe unpacking, the model store, dependencies and the builder."""
