//! A resource as YAML, with keys, comments and plain values told apart.

use leptos::prelude::*;
use wasm_bindgen::{JsCast, JsValue};

use super::clipboard::CopyButton;
use super::feedback::{Skeleton, Trouble};
use crate::api::{Api, Collection};

/// Kind of a piece of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Space,
    Mark,
    Key,
    Value,
    Text,
    Comment,
}

impl Piece {
    fn class(self) -> &'static str {
        match self {
            Self::Space => "y-space",
            Self::Mark => "y-mark",
            Self::Key => "y-key",
            Self::Value => "y-value",
            Self::Text => "y-text",
            Self::Comment => "y-comment",
        }
    }
}

/// Cuts a line into pieces. A line-wise reading is enough to colour what the server writes; nothing is dropped:
/// the pieces together are the line.
fn pieces(line: &str) -> Vec<(Piece, &str)> {
    let mut parts = Vec::new();
    let body = line.trim_start_matches(' ');
    let mut rest = body;
    if body.len() < line.len() {
        parts.push((Piece::Space, &line[..line.len() - body.len()]));
    }
    while let Some(after) = rest.strip_prefix("- ") {
        parts.push((Piece::Mark, &rest[..2]));
        rest = after;
    }
    if rest.starts_with('#') {
        parts.push((Piece::Comment, rest));
        return parts;
    }
    let key_end = rest.find(": ").or_else(|| rest.strip_suffix(':').map(str::len));
    if let Some(end) = key_end.filter(|_| !rest.starts_with(['"', '\''])) {
        parts.push((Piece::Key, &rest[..end]));
        parts.push((Piece::Mark, &rest[end..end + 1]));
        rest = &rest[end + 1..];
    }
    if !rest.is_empty() {
        let value = rest.trim();
        let plain = value.parse::<f64>().is_ok() || matches!(value, "true" | "false" | "null" | "{}" | "[]");
        parts.push((if plain { Piece::Value } else { Piece::Text }, rest));
    }
    parts
}

/// Loads a resource's YAML and shows it.
#[component]
pub(crate) fn YamlView(collection: Collection, #[prop(into)] key: Signal<(String, String)>) -> impl IntoView {
    let api = expect_context::<Api>();
    let again = RwSignal::new(0_u32);
    let text = LocalResource::new(move || {
        again.track();
        let (namespace, name) = key.get();
        async move { api.yaml(collection, &namespace, &name).await }
    });
    view! {
        {move || match text.get() {
            None => view! { <Skeleton rows=8 /> }.into_any(),
            Some(Err(error)) => view! { <Trouble title="The YAML could not be read" error=error /> }.into_any(),
            Some(Ok(text)) => {
                let file = format!("{}.yaml", key.get_untracked().1);
                view! {
                    <Yaml text=text file=file reload=move || again.update(|n| *n += 1) />
                }
                    .into_any()
            }
        }}
    }
}

#[component]
fn Yaml(text: String, file: String, reload: impl Fn() + Copy + 'static) -> impl IntoView {
    let lines = text
        .lines()
        .map(|line| {
            let parts = pieces(line)
                .into_iter()
                .map(|(piece, text)| view! { <span class=piece.class()>{text.to_owned()}</span> })
                .collect_view();
            view! { <span class="y-line">{parts}"\n"</span> }
        })
        .collect_view();
    let all = text.clone();
    let download = move |_| save(&text, &file);
    view! {
        <div class="yaml">
            <div class="yaml-actions">
                <CopyButton text=all what="YAML" />
                <button type="button" class="button small" on:click=move |_| reload()>"Reload"</button>
                <button type="button" class="button small" on:click=download>"Download"</button>
            </div>
            <pre tabindex="0" aria-label="YAML"><code>{lines}</code></pre>
        </div>
    }
}

/// Hands text to the browser as a file to save. Without the browser's help nothing is saved, and it says so itself.
fn save(text: &str, file: &str) {
    let attempt = || -> Result<(), JsValue> {
        let parts = js_sys::Array::of1(&JsValue::from_str(text));
        let url = web_sys::Url::create_object_url_with_blob(&web_sys::Blob::new_with_str_sequence(&parts)?)?;
        let link = document().create_element("a")?;
        link.set_attribute("href", &url)?;
        link.set_attribute("download", file)?;
        link.unchecked_into::<web_sys::HtmlElement>().click();
        web_sys::Url::revoke_object_url(&url)
    };
    let _ = attempt();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_together_are_the_line() {
        for line in [
            "",
            "apiVersion: holdfast.dev/v1",
            "  - name: data",
            "spec:",
            "  - - deep: 1",
            "# a comment",
            "url: https://s3.example.com:9000",
            "\"quoted: key\": x",
            "- plain",
        ] {
            let joined: String = pieces(line).into_iter().map(|(_, text)| text).collect();
            assert_eq!(joined, line);
        }
    }

    #[test]
    fn keys_and_values_are_told_apart() {
        assert_eq!(
            pieces("  size: 42"),
            [
                (Piece::Space, "  "),
                (Piece::Key, "size"),
                (Piece::Mark, ":"),
                (Piece::Value, " 42")
            ]
        );
        assert_eq!(pieces("url: https://a:1")[2], (Piece::Text, " https://a:1"));
    }
}
