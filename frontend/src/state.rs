//! What the whole console shares: session, live resources, clock, theme, notices.

pub(crate) mod clock;
pub(crate) mod live;
pub(crate) mod rate;
pub(crate) mod scope;
pub(crate) mod session;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod submission;
pub(crate) mod theme;
pub(crate) mod toast;
