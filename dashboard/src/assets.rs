//! Files that pages need, in the program itself: nothing is fetched from anywhere else. They are packed once, and kept by browsers for as long as they are the same.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::extract::{Path, Query};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// Browsers may keep a file for a year: its address changes with its content.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

macro_rules! files {
    ($($name:literal: $kind:literal),* $(,)?) => {
        [$(($name, $kind, include_bytes!(concat!("../assets/", $name)).as_slice())),*]
    };
}

static ASSETS: LazyLock<BTreeMap<&'static str, Asset>> = LazyLock::new(|| {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    const STYLE: &str = "text/css; charset=utf-8";
    const IMAGE: &str = "image/svg+xml";
    let files = files! {
        "icon.svg": "svg",
        "app.css": "css",
        "app.js": "js",
        "theme.js": "js",
        "charts.js": "js",
        "queries.js": "js",
        "vendor/idiomorph.min.js": "js",
        "vendor/uPlot.iife.min.js": "js",
        "vendor/uPlot.min.css": "css",
        "vendor/vega.min.js": "js",
        "vendor/vega-lite.min.js": "js",
        "vendor/vega-interpreter.js": "js",
    };
    let content_type = |kind: &str| match kind {
        "css" => STYLE,
        "svg" => IMAGE,
        _ => SCRIPT,
    };
    files.into_iter().map(|(name, kind, content)| (name, Asset::new(content_type(kind), content))).collect()
});

struct Asset {
    content_type: &'static str,
    version: String,
    plain: Bytes,
    packed: Bytes,
}

impl Asset {
    fn new(content_type: &'static str, content: &'static [u8]) -> Self {
        let version = Sha256::digest(content).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let packed = encoder.write_all(content).and_then(|()| encoder.finish()).map_or_else(|_| Bytes::new(), Bytes::from);
        Self { content_type, version, plain: Bytes::from_static(content), packed }
    }
}

/// What makes the address of a file change with its content; empty for no file.
#[must_use]
pub fn version(file: &str) -> &'static str {
    ASSETS.get(file).map_or("", |asset| asset.version.as_str())
}

/// Packs all files, so that the first page does not wait for it.
pub fn pack() {
    LazyLock::force(&ASSETS);
}

/// What a file's `Cache-Control` says when version `asked` was asked for. Another one than this program has: during a rollout a new page asks an old pod, whose file must not
/// be kept under the new address.
fn kept(asset: &Asset, asked: Option<&str>) -> &'static str {
    if asked == Some(asset.version.as_str()) { FOR_EVER } else { "no-cache" }
}

/// `GET /assets/{file}`.
pub(crate) async fn asset(Path(file): Path<String>, Query(query): Query<Vec<(String, String)>>, request: HeaderMap) -> Response {
    let Some(asset) = ASSETS.get(file.as_str()) else { return StatusCode::NOT_FOUND.into_response() };
    let takes_gzip = request.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("gzip"));
    let asked = query.iter().find(|(key, _)| key == "v").map(|(_, version)| version.as_str());
    let packs = takes_gzip && !asset.packed.is_empty();
    let mut response = if packs { asset.packed.clone() } else { asset.plain.clone() }.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept(asset, asked)));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if packs {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_kept_for_ever_under_the_address_of_its_version_only() {
        let asset = &ASSETS["app.js"];
        let kept = |asked| kept(asset, asked);
        assert_eq!([Some(version("app.js")), Some("0123456789ab"), None].map(kept), [FOR_EVER, "no-cache", "no-cache"]);
    }

    #[test]
    fn packed_files_are_what_they_were() {
        use std::io::Read as _;
        for (name, asset) in ASSETS.iter() {
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(asset.packed.as_ref()).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, asset.plain, "{name}");
            assert_eq!(version(name).len(), 12);
        }
        assert_eq!(version("elsewhere.js"), "");
    }
}
