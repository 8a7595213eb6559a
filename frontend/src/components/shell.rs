//! The frame around every page: navigation, connection, theme, person.

use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::components::{A, Outlet};
use leptos_router::hooks::{use_location, use_navigate};

use super::icon::{Glyph, Icon};
use super::keyboard::Keyboard;
use crate::api::Api;
use crate::state::clock::Clock;
use crate::state::live::{Link, Live};
use crate::state::scope::Scope;
use crate::state::session::{SessionState, SessionStore};
use crate::state::theme::{Theme, ThemeStore};
use crate::{format, routes};

/// How long before its end a session is shown as ending, in milliseconds.
const ENDING_MS: i64 = 10 * 60 * 1000;

const PAGES: [(&str, &str, Icon); 5] = [
    (routes::NAMESPACES, "Namespaces", Icon::Shield),
    (routes::TARGETS, "Targets", Icon::Bucket),
    (routes::PLANS, "Plans", Icon::Plan),
    (routes::BACKUPS, "Backups", Icon::Archive),
    (routes::RESTORES, "Restores", Icon::Restore),
];

/// Pages for a signed-in person; anybody else is sent to the sign-in page, which remembers the way.
#[component]
pub(crate) fn Protected() -> impl IntoView {
    let session = expect_context::<SessionStore>();
    let location = use_location();
    let navigate = use_navigate();
    let inside = Memo::new(move |_| matches!(session.get(), SessionState::SignedIn(_)));
    Effect::new(move |_| {
        if !matches!(session.get(), SessionState::SignedOut | SessionState::Ended) {
            return;
        }
        let here = format!(
            "{}{}",
            location.pathname.get_untracked(),
            query(&location.search.get_untracked())
        );
        let next = String::from(js_sys::encode_uri_component(&here));
        navigate(&format!("{}?next={next}", routes::SIGN_IN), Default::default());
    });
    view! {
        <Show when=move || inside.get() fallback=|| view! { <p class="start" role="status">"Loading…"</p> }>
            <Frame />
        </Show>
    }
}

fn query(search: &str) -> String {
    let search = search.trim_start_matches('?');
    if search.is_empty() {
        String::new()
    } else {
        format!("?{search}")
    }
}

#[component]
fn Frame() -> impl IntoView {
    let live = Live::start(expect_context::<Api>(), expect_context::<Scope>());
    provide_context(live);
    view! {
        <a class="skip-link" href="#content" rel="external" on:click=move |event| {
            event.prevent_default();
            if let Some(content) = document().get_element_by_id("content") {
                let _ = wasm_bindgen::JsCast::unchecked_into::<web_sys::HtmlElement>(content).focus();
            }
        }>"Skip to content"</a>
        <div class="shell">
            <aside class="side">
                <A href=routes::NAMESPACES attr:class="brand">
                    <Mark />
                    <span>"Holdfast"</span>
                </A>
                <nav aria-label="Main">
                    {PAGES
                        .iter()
                        .map(|(href, label, icon)| {
                            view! {
                                <A href=*href>
                                    <Glyph icon=*icon />
                                    <span>{*label}</span>
                                </A>
                            }
                        })
                        .collect_view()}
                </nav>
                <div class="side-foot">
                    <OneNamespace />
                    <Connection />
                    <ThemeSwitch />
                    <Person />
                </div>
            </aside>
            <main id="content" tabindex="-1">
                <LostBar />
                <Outlet />
            </main>
        </div>
        <Keyboard />
    }
}

/// The product's mark.
#[component]
pub(crate) fn Mark() -> impl IntoView {
    view! {
        <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
            <rect width="32" height="32" rx="7" />
            <path d="M9 7v18M23 7v18M9 16h14" />
            <circle cx="16" cy="16" r="3.6" />
        </svg>
    }
}

/// Says that only one namespace is looked at, with the way back.
#[component]
fn OneNamespace() -> impl IntoView {
    let scope = expect_context::<Scope>();
    move || {
        scope.get().map(|namespace| {
            view! {
                <p class="one-namespace">
                    <span class="faint">"Only namespace"</span>
                    <strong>{namespace}</strong>
                    <button
                        type="button"
                        class="icon-button"
                        aria-label="Look at every namespace"
                        title="Look at every namespace"
                        on:click=move |_| scope.set(None)
                    >
                        <Glyph icon=Icon::Close />
                    </button>
                </p>
            }
        })
    }
}

#[component]
fn Connection() -> impl IntoView {
    let live = expect_context::<Live>();
    let text = move || match live.link() {
        Link::Connecting => ("Connecting", "link connecting"),
        Link::Live => ("Live", "link live"),
        Link::Lost { .. } => ("Connection lost", "link lost"),
    };
    view! {
        <p class=move || text().1 role="status" title="Whether this page follows the cluster">
            <span class="link-dot" aria-hidden="true"></span>
            <span>{move || text().0}</span>
        </p>
    }
}

/// Says that what is shown may be old.
#[component]
fn LostBar() -> impl IntoView {
    let live = expect_context::<Live>();
    let clock = expect_context::<Clock>();
    let since = Memo::new(move |_| match live.link() {
        Link::Lost { since_ms } => Some(since_ms),
        _ => None,
    });
    view! {
        {move || {
            since
                .get()
                .map(|since| {
                    view! {
                        <div class="lost-bar" role="alert">
                            <Glyph icon=Icon::Warning />
                            <span>
                                "Connection lost "
                                {move || format::ago(since, clock.get())}
                                ". What you see may be old. Connecting again…"
                            </span>
                            <button type="button" class="button small" on:click=move |_| live.retry_now()>
                                "Connect now"
                            </button>
                        </div>
                    }
                })
        }}
    }
}

/// Light, dark or as the system says.
#[component]
pub(crate) fn ThemeSwitch() -> impl IntoView {
    let theme = expect_context::<ThemeStore>();
    let choices = [
        (Theme::System, Icon::System),
        (Theme::Light, Icon::Sun),
        (Theme::Dark, Icon::Moon),
    ];
    view! {
        <div class="segments icons" role="group" aria-label="Theme">
            {choices
                .into_iter()
                .map(|(choice, icon)| {
                    view! {
                        <button
                            type="button"
                            title=choice.label()
                            aria-label=format!("{} theme", choice.label())
                            aria-pressed=move || if theme.get() == choice { "true" } else { "false" }
                            on:click=move |_| theme.set(choice)
                        >
                            <Glyph icon=icon />
                        </button>
                    }
                })
                .collect_view()}
        </div>
    }
}

#[component]
fn Person() -> impl IntoView {
    let session = expect_context::<SessionStore>();
    let api = expect_context::<Api>();
    let clock = expect_context::<Clock>();
    let busy = RwSignal::new(false);
    let sign_out = move |_| {
        busy.set(true);
        spawn_local(async move {
            // Whatever the server says, this page forgets the person.
            let _ = api.sign_out().await;
            session.set(SessionState::SignedOut);
        });
    };
    let ends = Memo::new(move |_| {
        let left = format::parse_time(&session.signed_in()?.expires_at)? - clock.get();
        Some((format::duration(left / 60_000 * 60_000), left < ENDING_MS))
    });
    let name = Signal::derive(move || {
        session
            .signed_in()
            .map(|session| session.user)
            .unwrap_or_default()
    });
    let cluster = Signal::derive(move || {
        session
            .signed_in()
            .map(|session| session.cluster)
            .unwrap_or_default()
    });
    view! {
        <div class="person">
            <div class="person-name">
                <strong title=name>{move || short_user(&name.get()).to_owned()}</strong>
                <span class="faint">{cluster}</span>
                {move || {
                    ends.get()
                        .map(|(left, soon)| {
                            view! { <span class="faint" class:ending=soon>"Ends in "{left}</span> }
                        })
                }}
            </div>
            <button
                type="button"
                class="icon-button"
                aria-label="Sign out"
                title="Sign out"
                disabled=busy
                on:click=sign_out
            >
                <Glyph icon=Icon::SignOut />
            </button>
        </div>
    }
}

/// The end of a ServiceAccount's name; other names as they are.
fn short_user(user: &str) -> &str {
    user.strip_prefix("system:serviceaccount:").unwrap_or(user)
}
