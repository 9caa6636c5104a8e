import helper_of_broken_import  # noqa: F401 -- fails


def handle(data, context):
    return data
