#!/bin/sh
# Fetches the vendored files again (`npm pack`, from the registry that npm is configured for) and compares each with the sha256 in VENDORED.md: fails when one differs,
# there or here. `vendor.sh --print` shows the sums of what was fetched, for a new version: set it in VENDORED.md, print, look at the files, set the sums, run again.
# Needs npm, tar, sed, awk and sha256sum. Builds nothing; no script of a package runs. What is here is replaced only when all sums are right.
set -eu
cd "$(dirname "$0")"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/new"

# The table of VENDORED.md as lines of: package version path-in-package file-here sha256
awk -F ' *\\| *' '$5 ~ /^`/ && $6 ~ /^`/ { gsub("`", ""); print $2, $3, $4, $5, $6 }' VENDORED.md >"$tmp/table"

while read -r package version path file _; do
    if [ ! -d "$tmp/$package" ]; then
        mkdir "$tmp/$package"
        tarball=$(cd "$tmp" && npm pack --silent --ignore-scripts "$package@$version" </dev/null)
        tar -xzf "$tmp/$tarball" -C "$tmp/$package" --strip-components=1
    fi
    cp "$tmp/$package/$path" "$tmp/new/$file"
done <"$tmp/table"

# vega-interpreter comes only as a module that imports "vega-util" by its bare name. A browser resolves that by an import map alone, which must stand inline in the page,
# which our Content-Security-Policy forbids. So its import and its export, and nothing else, become accesses to the global `vega`, which has all of vega-util.
sed -i -e "s|^import { ascending, isString, DisallowedObjectProperties } from 'vega-util';\$|const { ascending, isString, DisallowedObjectProperties } = globalThis.vega;|" \
    -e 's|^export { expression as expressionInterpreter };$|globalThis.vega.expressionInterpreter = expression;|' "$tmp/new/vega-interpreter.js"
if grep -nE '^(import|export) ' "$tmp/new/vega-interpreter.js"; then
    echo "vega-interpreter.js: an import or export that this script does not know" >&2
    exit 1
fi

if [ "${1:-}" = --print ]; then
    (cd "$tmp/new" && sha256sum -- *)
    exit
fi
while read -r _ _ _ file sum; do
    echo "$sum  $file"
done <"$tmp/table" >"$tmp/sums"
(cd "$tmp/new" && sha256sum --check --strict "$tmp/sums") || { echo "what the registry has is not what VENDORED.md says" >&2; exit 1; }
cp "$tmp"/new/* .
