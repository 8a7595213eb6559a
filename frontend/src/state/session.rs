//! Who is signed in.

use holdfast_shared::Session;
use leptos::prelude::*;

/// What is known of the session.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SessionState {
    /// Not asked yet.
    Unknown,
    /// Nobody is signed in.
    SignedOut,
    /// Somebody was signed in here and the session is over.
    Ended,
    /// Somebody is signed in.
    SignedIn(Session),
}

/// The session, shared by everything.
#[derive(Clone, Copy)]
pub(crate) struct SessionStore(RwSignal<SessionState>);

impl SessionStore {
    pub(crate) fn new() -> Self {
        Self(RwSignal::new(SessionState::Unknown))
    }

    /// The state, tracked.
    pub(crate) fn get(self) -> SessionState {
        self.0.get()
    }

    /// The signed-in session, tracked.
    pub(crate) fn signed_in(self) -> Option<Session> {
        self.0.with(|state| match state {
            SessionState::SignedIn(session) => Some(session.clone()),
            _ => None,
        })
    }

    /// The namespace Holdfast is installed in; empty while nobody is signed in. Not tracked.
    pub(crate) fn install_namespace(self) -> String {
        untrack(|| self.signed_in())
            .map(|session| session.install_namespace)
            .unwrap_or_default()
    }

    pub(crate) fn set(self, state: SessionState) {
        self.0.set(state);
    }

    /// The server said that nobody is signed in.
    pub(crate) fn ended(self) {
        self.0.update(|state| match state {
            SessionState::SignedIn(_) => *state = SessionState::Ended,
            SessionState::Unknown => *state = SessionState::SignedOut,
            SessionState::SignedOut | SessionState::Ended => {}
        });
    }
}
