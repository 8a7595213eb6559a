//! The files of the console, compiled into the binary.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::error::ApiError;

/// What the bundler wrote; empty when the server was compiled before the console.
#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/../../../frontend/dist"]
struct Dist;

const INDEX: &str = "index.html";

/// A file's name holds a hash of its content from this many hexadecimal digits on.
const HASH_DIGITS: usize = 8;

const NOT_BUILT: &str = "The console is not part of this build. Build it with `cargo run -p holdfast-bundler` and then \
    the server again. The REST API under /api/v1 and kubectl work without it.\n";

/// Serves a file, or the page for every other address: the console finds its way from the path.
pub(crate) async fn serve(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let path = uri.path().trim_start_matches('/');
    if let Some(file) = Dist::get(path).filter(|_| path != INDEX) {
        return answer(path, file, &headers).await;
    }
    // A missing script answered with a page would only confuse the browser.
    if Path::new(path).extension().is_some() {
        return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
    }
    match Dist::get(INDEX) {
        Some(page) => answer(INDEX, page, &headers).await,
        None => (StatusCode::NOT_FOUND, NOT_BUILT).into_response(),
    }
}

async fn answer(path: &str, file: EmbeddedFile, request: &HeaderMap) -> Response {
    let compress = accepts_gzip(request) && is_text_or_wasm(path);
    let end = if compress { "-gzip" } else { "" };
    let tag = format!("\"{}{end}\"", hex::encode(file.metadata.sha256_hash()));
    let caching = if is_hashed(path) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let fresh = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, caching.to_owned()),
        (header::VARY, "accept-encoding".to_owned()),
    ];
    let known = request
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| {
        known
            .split(',')
            .any(|one| one.trim().trim_start_matches("W/") == tag)
    }) {
        return (StatusCode::NOT_MODIFIED, fresh).into_response();
    }
    let kind = [(header::CONTENT_TYPE, content_type(path))];
    if !compress {
        return (fresh, kind, file.data).into_response();
    }
    match gzipped(path, file).await {
        Ok(bytes) => (fresh, kind, [(header::CONTENT_ENCODING, "gzip")], bytes).into_response(),
        Err(error) => ApiError::internal(&error).into_response(),
    }
}

/// The file compressed, once per process: the module has megabytes, and compressing it for every browser costs seconds.
async fn gzipped(path: &str, file: EmbeddedFile) -> Result<Bytes, std::io::Error> {
    static DONE: Mutex<BTreeMap<String, Bytes>> = Mutex::new(BTreeMap::new());
    let done = || DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = done().get(path) {
        return Ok(bytes.clone());
    }
    let work = move || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&file.data)?;
        encoder.finish()
    };
    let bytes = Bytes::from(
        tokio::task::spawn_blocking(work)
            .await
            .map_err(std::io::Error::other)??,
    );
    done().insert(path.to_owned(), bytes.clone());
    Ok(bytes)
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let accepted = request
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    let mut offers = accepted
        .unwrap_or_default()
        .split(',')
        .map(|offer| offer.split(';').map(str::trim));
    offers.any(|mut offer| offer.next() == Some("gzip") && !matches!(offer.next(), Some("q=0" | "q=0.0")))
}

fn is_text_or_wasm(path: &str) -> bool {
    !matches!(path.rsplit('.').next(), Some("png" | "woff2"))
}

/// Whether the name changes with the content, as in `console-0123456789abcdef.wasm`.
fn is_hashed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split('.').next().unwrap_or(name);
    let hash = stem.rsplit_once('-').map(|(_, hash)| hash).unwrap_or_default();
    hash.len() >= HASH_DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "json" | "webmanifest" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_what_the_browser_asks_for() {
        let accepts = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static(value));
            accepts_gzip(&headers)
        };
        assert!(accepts("gzip") && accepts("deflate, gzip;q=0.5, br"));
        assert!(!accepts("br") && !accepts("gzip;q=0") && !accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn only_names_with_a_hash_are_kept_for_ever() {
        assert!(is_hashed("console-0123456789abcdef.wasm"));
        assert!(is_hashed("snippets/console-0123abcd.js"));
        for other in [
            "index.html",
            "console.js",
            "a-b.css",
            "start-now12345.js",
            "icon-012345.svg",
        ] {
            assert!(!is_hashed(other), "{other}");
        }
    }
}
