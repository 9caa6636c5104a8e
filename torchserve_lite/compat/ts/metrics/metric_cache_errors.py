"""What can go wrong with metrics. Each error is also the built-in one that handlers may already catch."""

import yaml


class GeneralMetricsCacheError(Exception):
    pass


class MetricsCacheIOError(IOError):
    pass


class MetricsCachePyYamlError(yaml.YAMLError):
    pass


class MetricsCacheTypeError(TypeError):
    pass


class MetricsCacheValueError(ValueError):
    pass


class MetricsCacheKeyError(KeyError):
    pass
