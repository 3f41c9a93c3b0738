#!/bin/sh
# Downloads MODEL_FILES of a model into the folder DSSD_MODEL. Each file appears whole or not at all, and none is
# loaded twice, so several pods may fill one volume at once. MODEL_TOKEN, if set, is sent to the hub.
set -eu

source=$MODEL_HUB/$MODEL_REPOSITORY/resolve/$MODEL_REVISION
mkdir -p "$DSSD_MODEL"

fetch() {
  if [ -e "$DSSD_MODEL/$1" ]; then
    return
  fi
  part=$DSSD_MODEL/.$1.$(hostname)
  curl --fail --silent --show-error --location --retry 5 --retry-connrefused \
    ${MODEL_TOKEN:+--oauth2-bearer "$MODEL_TOKEN"} --output "$part" "$source/$1"
  mv "$part" "$DSSD_MODEL/$1"
  echo "$1"
}

for file in $MODEL_FILES; do
  fetch "$file"
  case $file in
  *.index.json)
    for shard in $(grep -o '"[^"/]*\.safetensors"' "$DSSD_MODEL/$file" | tr -d '"' | sort -u); do
      fetch "$shard"
    done
    ;;
  esac
done
