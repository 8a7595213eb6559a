//! An address that leads nowhere.

use leptos::prelude::*;
use leptos_router::components::A;

use crate::components::feedback::Empty;
use crate::components::icon::Icon;
use crate::routes;

/// The page for unknown addresses.
#[component]
pub(crate) fn NotFound() -> impl IntoView {
    document().set_title("Not found – Holdfast");
    view! {
        <main class="alone">
            <Empty icon=Icon::Search title="This page does not exist" text="The address may be misspelt or old.">
                <A href=routes::NAMESPACES attr:class="button primary">"Go to namespaces"</A>
            </Empty>
        </main>
    }
}
