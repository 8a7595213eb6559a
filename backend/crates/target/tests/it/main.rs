//! Tests against real stores.
