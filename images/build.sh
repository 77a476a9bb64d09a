#!/bin/bash
# Builds the images tapeline-operator, tapeline-worker, tapeline-producer and tapeline-dashboard from the compiled binaries (make build), as archives in the cache, with
# Docker where its daemon answers, else with buildah, which needs none. Nothing is pulled.
#   build.sh             builds what changed                     build.sh --tag       prints the tag of the last build
#   build.sh --archives  prints the archives of the last build
# Each image has two tags: `dev`, and `dev-<hash of the content>`, which is what the demo and the tests deploy: a changed binary rolls the pods, and an
# unchanged one rolls nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/env.sh
out=$TAPELINE_CACHE/images binaries=$CARGO_TARGET_DIR/release names=(operator worker producer dashboard)
die() { echo "images/build.sh: $*" >&2; exit 1; }

case ${1:-} in
--tag) cat "$out/tag" 2>/dev/null || die "nothing is built yet"; exit ;;
--archives) [ -e "$out/tag" ] || die "nothing is built yet"; printf "$out/tapeline-%s.tar\n" "${names[@]}"; exit ;;
'') ;;
*) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac

for name in "${names[@]}"; do [ -x "$binaries/tapeline-$name" ] || die "no $binaries/tapeline-$name: make build"; done
mkdir -p "$out"; exec 9>"$out/.lock"; flock 9

# The quick look: the same files as at the last build?
inputs=$(stat -c '%n %s %y' "${names[@]/#/$binaries/tapeline-}" images/Dockerfile images/stage.sh examples/data/stocks.csv.gz /etc/ssl/certs/ca-certificates.crt)
tag=$(cat "$out/tag" 2>/dev/null || true)
if [ -n "$tag" ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$inputs" ]; then echo "images are up to date ($tag)"; exit; fi
# The thorough one: the same content?
staged=$out/staged; rm -rf "$staged"
images/stage.sh "$binaries" "$staged"
new=dev-$({ cat images/Dockerfile; cd "$staged"; find . -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-12)

# TARGET ARCHIVE: builds the image and saves it under both tags.
with_docker() {
  docker build -q -f images/Dockerfile --build-arg FILES=prebuilt --target "$1" -t "tapeline-$1:$new" -t "tapeline-$1:dev" "$staged" >/dev/null
  docker save -o "$2" "tapeline-$1:$new" "tapeline-$1:dev"
}
with_buildah() {
  local store=(--storage-driver vfs --root "$out/store" --runroot "$out/store-run") unpacked=$out/unpacked
  buildah "${store[@]}" bud --isolation chroot --pull=never -q -f images/Dockerfile --build-arg FILES=prebuilt --target "$1" -t "tapeline-$1:$new" "$staged" >/dev/null
  buildah "${store[@]}" push -q "tapeline-$1:$new" "docker-archive:$2.new:tapeline-$1:$new"
  # It writes one tag only; the other one is put into the archive's index.
  rm -rf "$unpacked"; mkdir "$unpacked"; tar -xf "$2.new" -C "$unpacked"; rm "$2.new"
  jq -c --arg a "tapeline-$1:$new" --arg b "tapeline-$1:dev" '.[0].RepoTags = [$a, $b]' "$unpacked/manifest.json" >"$out/manifest.json"
  mv "$out/manifest.json" "$unpacked/"; tar -cf "$2" -C "$unpacked" .
}
# Docker's old builder would build the stage that needs a registry, too.
if timeout 10 docker info >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1; then builder=with_docker
elif command -v buildah >/dev/null; then builder=with_buildah
else die "neither a Docker daemon with buildx nor buildah is here: apt-get install buildah"; fi

if [ "$new" != "$tag" ]; then
  rm -f "$out/tag" "$out/inputs"                                        # from here on until the end there is no valid build
  for name in "${names[@]}"; do
    archive=$out/tapeline-$name.tar; rm -f "$archive" "$archive.new"
    $builder "$name" "$archive"
    echo "built tapeline-$name:$new ($(du -h --apparent-size "$archive" | cut -f1)) in $archive"
  done
  rm -rf "$out/store" "$out/store-run" "$out/unpacked"
fi
rm -rf "$staged"
echo "$new" >"$out/tag"; echo "$inputs" >"$out/inputs"
