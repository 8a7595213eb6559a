//! The files of the console, compiled into the binary.

use std::path::Path;

use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

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
        return answer(path, &file, &headers);
    }
    // A missing script answered with a page would only confuse the browser.
    if Path::new(path).extension().is_some() {
        return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
    }
    match Dist::get(INDEX) {
        Some(page) => answer(INDEX, &page, &headers),
        None => (StatusCode::NOT_FOUND, NOT_BUILT).into_response(),
    }
}

fn answer(path: &str, file: &EmbeddedFile, request: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", hex::encode(file.metadata.sha256_hash()));
    let caching = if is_hashed(path) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let known = request
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let fresh = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, caching.to_owned()),
    ];
    // A weak tag is what compression leaves of ours.
    if known.is_some_and(|known| {
        known
            .split(',')
            .any(|one| one.trim().trim_start_matches("W/") == tag)
    }) {
        return (StatusCode::NOT_MODIFIED, fresh).into_response();
    }
    (
        fresh,
        [(header::CONTENT_TYPE, content_type(path))],
        file.data.clone(),
    )
        .into_response()
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
