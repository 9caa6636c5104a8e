"""Answers with the metrics it finds."""


def handle(data, context):
    return data and [" ".join(sorted(context.metrics.cache_keys()))] * len(data)
