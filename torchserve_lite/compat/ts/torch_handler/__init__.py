"""The handlers that come with the server. ``compat.install()`` adds the folder of the default ones to this package."""
