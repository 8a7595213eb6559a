//! Tabs of a page, kept in the address so that a link leads to the same tab.

use leptos::prelude::*;
use leptos_router::hooks::{use_location, use_query_map};

/// The tab the address names, or the first.
pub(crate) fn current_tab(tabs: &'static [(&'static str, &'static str)]) -> Memo<&'static str> {
    let query = use_query_map();
    Memo::new(move |_| {
        let wanted = query.with(|query| query.get("tab"));
        tabs.iter()
            .map(|(tab, _)| *tab)
            .find(|tab| wanted.as_deref() == Some(*tab))
            .unwrap_or(tabs[0].0)
    })
}

/// Links to the tabs of this page: name in the address and label of each.
#[component]
pub(crate) fn Tabs(tabs: &'static [(&'static str, &'static str)]) -> impl IntoView {
    let current = current_tab(tabs);
    let path = use_location().pathname;
    view! {
        <nav class="tabs" aria-label="Views of this page">
            {tabs
                .iter()
                .map(|(tab, label)| {
                    view! {
                        <a
                            href=move || format!("{}?tab={tab}", path.get())
                            aria-current=move || (current.get() == *tab).then_some("page")
                        >
                            {*label}
                        </a>
                    }
                })
                .collect_view()}
        </nav>
    }
}
