#!/bin/sh
# The words of TorchServe's image: "serve" starts with the configuration of the image, flags alone are those of torchserve,
# anything else is a command. It stays in the foreground and takes this process's place, so that signals reach it.
set -e
if [ $# -eq 0 ] || [ "$1" = serve ]; then
    [ $# -eq 0 ] || shift
    set -- torchserve --start --ts-config /home/model-server/config.properties "$@"
fi
case "$1" in
    -*) set -- torchserve "$@" ;;
    *[\;\&\|]*) set -- sh -c "$*" ;;  # a script in one argument, as TorchServe's image takes it
    "torchserve "*) eval "set -- $*" ;;
esac
if [ "$1" = torchserve ]; then
    exec "$@" --foreground
fi
exec "$@"
