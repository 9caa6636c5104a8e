"""Marks stages as BaseHandler does, also while it loads."""


class Handler:
    def initialize(self, context):
        context.mark_stage("postprocess", -1)

    def handle(self, data, context):
        for stage in data[0]["body"].decode().split():
            context.mark_stage(stage, -1)
        return [b""] * len(data)
