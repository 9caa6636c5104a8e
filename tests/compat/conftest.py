"""Here `import ts` is ours, as in a worker."""

from torchserve_lite import compat

compat.install()
