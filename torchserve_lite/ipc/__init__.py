"""The link between the front process and a worker: frames of bytes, typed messages, no pickle."""
