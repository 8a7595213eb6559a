//! The root: what is shared, and which page an address shows.

use leptos::prelude::*;
use leptos::task::spawn_local;
use leptos_router::components::{ParentRoute, Redirect, Route, Router, Routes};
use leptos_router::path;

use crate::api::Api;
use crate::components::shell::Protected;
use crate::components::toaster::Toaster;
use crate::pages::{backups, namespaces, not_found, plans, restores, sign_in, targets};
use crate::routes;
use crate::state::clock::Clock;
use crate::state::scope::Scope;
use crate::state::session::{SessionState, SessionStore};
use crate::state::theme::ThemeStore;
use crate::state::toast::Toasts;

/// The console.
#[component]
pub(crate) fn App() -> impl IntoView {
    let session = SessionStore::new();
    let api = Api::new(session);
    provide_context(session);
    provide_context(api);
    provide_context(Clock::start());
    provide_context(Scope::load());
    provide_context(ThemeStore::load());
    provide_context(Toasts::new());

    spawn_local(async move {
        match api.session().await {
            Ok(found) => session.set(SessionState::SignedIn(found)),
            // Without an answer nobody is known to be signed in; the sign-in page shows the server's trouble.
            Err(_) => session.ended(),
        }
    });

    view! {
        <Router>
            <Routes fallback=not_found::NotFound>
                <Route path=path!("/sign-in") view=sign_in::SignInPage />
                <ParentRoute path=path!("") view=Protected>
                    <Route path=path!("/") view=|| view! { <Redirect path=routes::NAMESPACES /> } />
                    <Route path=path!("/namespaces") view=|| view! { <namespaces::Namespaces /> }.into_any() />
                    <Route path=path!("/targets") view=|| view! { <targets::list::Targets /> }.into_any() />
                    <Route path=path!("/targets/new") view=|| view! { <targets::create::NewTarget /> }.into_any() />
                    <Route
                        path=path!("/targets/:namespace/:name")
                        view=|| view! { <targets::detail::TargetPage /> }.into_any()
                    />
                    <Route path=path!("/backupplans") view=|| view! { <plans::list::Plans /> }.into_any() />
                    <Route path=path!("/backupplans/new") view=|| view! { <plans::create::NewPlan /> }.into_any() />
                    <Route
                        path=path!("/backupplans/:namespace/:name")
                        view=|| view! { <plans::detail::PlanPage /> }.into_any()
                    />
                    <Route path=path!("/backups") view=|| view! { <backups::list::Backups /> }.into_any() />
                    <Route
                        path=path!("/backups/:namespace/:name")
                        view=|| view! { <backups::detail::BackupPage /> }.into_any()
                    />
                    <Route path=path!("/restores") view=|| view! { <restores::list::Restores /> }.into_any() />
                    <Route
                        path=path!("/restores/:namespace/:name")
                        view=|| view! { <restores::detail::RestorePage /> }.into_any()
                    />
                </ParentRoute>
            </Routes>
            <Toaster />
        </Router>
    }
}
