#!/usr/bin/env python
"""For docker's HEALTHCHECK: whether the server in this container is healthy, as its /ping has it.

HEALTHCHECK_URL names another address than the two that are tried.
"""

import os
import sys
import urllib.request

urls = [os.environ["HEALTHCHECK_URL"]] if "HEALTHCHECK_URL" in os.environ else []
for url in urls or ["http://127.0.0.1:8085/ping", "http://127.0.0.1:8080/ping"]:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            sys.exit(0 if answer.status == 200 else 1)
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
sys.exit(1)
