"""Commands that ask a running server, or change what it serves, by its management API.

One module a command, with ``add_arguments(parser)`` and ``run(arguments)``. Beside them: ``connection`` (which server,
which key), ``client`` (what is sent and answered), ``calling`` (exit codes and messages) and ``tables``.
"""
