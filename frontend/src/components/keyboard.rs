//! Keys that work everywhere: search, moving through rows, going to a page, help.

use leptos::ev;
use leptos::prelude::*;
use leptos_router::hooks::use_navigate;
use wasm_bindgen::JsCast;

use super::dialog::Dialog;
use crate::routes;

/// Keys after `g` and where they lead.
const GO: [(&str, &str, &str); 5] = [
    ("n", routes::NAMESPACES, "Namespaces"),
    ("t", routes::TARGETS, "Targets"),
    ("p", routes::PLANS, "Plans"),
    ("b", routes::BACKUPS, "Backups"),
    ("r", routes::RESTORES, "Restores"),
];

/// Listens for keys and shows the list of them on `?`.
#[component]
pub(crate) fn Keyboard() -> impl IntoView {
    let help = RwSignal::new(false);
    let after_g = StoredValue::new(false);
    let navigate = use_navigate();
    let listener = window_event_listener(ev::keydown, move |event| {
        if event.ctrl_key() || event.meta_key() || event.alt_key() || is_typing(&event) || in_dialog() {
            return;
        }
        let key = event.key();
        let go = after_g.get_value();
        after_g.set_value(key == "g" && !go);
        if go && let Some((_, path, _)) = GO.iter().find(|(letter, _, _)| *letter == key) {
            navigate(path, Default::default());
            return;
        }
        match key.as_str() {
            "/" => focus("[data-search]"),
            "j" => step(1),
            "k" => step(-1),
            "?" => help.set(true),
            _ => return,
        }
        event.prevent_default();
    });
    on_cleanup(move || listener.remove());
    view! {
        <Dialog open=help title="Keyboard">
            <div class="dialog-body">
                <dl class="keys">
                    <Key keys="/" what="Search this list" />
                    <Key keys="j  k" what="Next and previous row" />
                    <Key keys="Enter" what="Open the row" />
                    {GO.iter().map(|(key, _, label)| view! { <Key keys=format!("g  {key}") what=*label /> }).collect_view()}
                    <Key keys="Esc" what="Close the dialog" />
                    <Key keys="?" what="This list" />
                </dl>
            </div>
        </Dialog>
    }
}

#[component]
fn Key(#[prop(into)] keys: String, what: &'static str) -> impl IntoView {
    view! {
        <div>
            <dt>{keys.split_whitespace().map(|key| view! { <kbd>{key.to_owned()}</kbd> }).collect_view()}</dt>
            <dd>{what}</dd>
        </div>
    }
}

fn is_typing(event: &web_sys::KeyboardEvent) -> bool {
    event
        .target()
        .and_then(|target| target.dyn_into::<web_sys::Element>().ok())
        .is_some_and(|element| matches!(element.tag_name().as_str(), "INPUT" | "TEXTAREA" | "SELECT"))
}

fn in_dialog() -> bool {
    document().query_selector("dialog[open]").ok().flatten().is_some()
}

fn focus(selector: &str) {
    if let Some(element) = document().query_selector(selector).ok().flatten() {
        let _ = element.unchecked_into::<web_sys::HtmlElement>().focus();
    }
}

/// Moves the focus by rows; each row's main link is marked `data-row`.
fn step(by: i64) {
    let Ok(rows) = document().query_selector_all("[data-row]") else {
        return;
    };
    let active = document().active_element();
    let count = i64::from(rows.length());
    let at = (0..count).find(|&i| {
        let row = rows
            .get(i as u32)
            .map(|row| row.unchecked_into::<web_sys::Element>());
        row.is_some() && row == active
    });
    let next = match at {
        Some(at) => (at + by).clamp(0, count - 1),
        None => 0,
    };
    if let Some(row) = rows.get(next as u32) {
        let _ = row.unchecked_into::<web_sys::HtmlElement>().focus();
    }
}
