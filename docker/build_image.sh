#!/usr/bin/env bash
# Builds the image of the server, as TorchServe's script for KServe does, with the same flags.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: docker/build_image.sh [-g] [-d] [-t REPOSITORY/IMAGE:TAG] [-- ARGUMENTS OF docker build]

  -g, --gpu       with the torch for NVIDIA's GPUs; the tag ends in -gpu unless -t says otherwise
  -d, --dev       the image to develop in (Dockerfile.dev)
  -t, --tag TAG   the name of the image; default: torchserve-lite:VERSION
  -h, --help      this text

Another torch build: -- --build-arg TORCH_INDEX=URL of an index. Another base: -- --build-arg BASE_IMAGE=NAME.
An index of your own: -- --secret id=pip.conf,src=pip.conf. BUILDER=podman (or buildah) instead of docker.
END
}

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' torchserve_lite/__init__.py)
file=docker/Dockerfile tag="" suffix="" arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        -g | --gpu) suffix=-gpu arguments+=(--build-arg TORCH_INDEX=) ;;
        -d | --dev) file=docker/Dockerfile.dev ;;
        -t | --tag) tag=${2:?-t needs the name of the image}; shift ;;
        -h | --help) usage; exit 0 ;;
        --) shift; arguments+=("$@"); break ;;
        *) echo "build_image.sh: $1 is not a flag of it." >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[ "$file" = docker/Dockerfile ] || suffix=-dev$suffix
tag=${tag:-torchserve-lite:$version$suffix}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

DOCKER_BUILDKIT=1 "${BUILDER:-docker}" build --file "$file" --tag "$tag" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    --build-arg CREATED="$(date --utc +%Y-%m-%dT%H:%M:%SZ)" \
    ${arguments[@]+"${arguments[@]}"} .
echo "Built $tag"
