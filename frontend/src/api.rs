//! Requests to `/api/v1`: one method per endpoint, typed by `holdfast-shared`.

mod endpoints;
mod http;

pub(crate) use endpoints::Collection;
pub(crate) use http::{Api, ApiError};
