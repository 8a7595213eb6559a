//! What handlers take from a request.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use holdfast_db::SessionRecord;
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, Result};
use crate::state::App;

/// A JSON body whose errors are ours.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub(crate) struct Json<T>(pub(crate) T);

/// A query whose errors are ours.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(crate) struct Query<T>(pub(crate) T);

/// The signed-in person.
pub(crate) struct Caller {
    /// The session.
    pub(crate) session: SessionRecord,
    /// Acts as the person.
    pub(crate) client: Client,
    /// What the audit will say.
    pub(crate) notes: AuditNotes,
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let session = parts
            .extensions
            .get::<Arc<SessionRecord>>()
            .ok_or_else(|| ApiError::unauthenticated("sign in first: there is no session, or it is over"))?;
        Ok(Self {
            session: session.as_ref().clone(),
            client: app.cluster().client_for(&session.user)?,
            notes: parts.extensions.get::<AuditNotes>().cloned().unwrap_or_default(),
        })
    }
}

impl OptionalFromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Option<Self>> {
        if parts.extensions.get::<Arc<SessionRecord>>().is_none() {
            return Ok(None);
        }
        <Self as FromRequestParts<App>>::from_request_parts(parts, app)
            .await
            .map(Some)
    }
}

/// What a handler of a write tells the audit beside method, route and outcome.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditNotes(Arc<Mutex<Notes>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// What is acted on.
    pub(crate) subject: String,
    /// Who acts, where there is no session yet.
    pub(crate) user: Option<String>,
}

impl AuditNotes {
    pub(crate) fn subject(&self, subject: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).subject = subject.into();
    }

    pub(crate) fn user(&self, user: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).user = Some(user.into());
    }

    pub(crate) fn read(&self) -> Notes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AuditNotes {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// `{namespace}/{name}` in a path. Checked, because both become part of a path at the API server.
#[derive(Clone, Debug)]
pub(crate) struct ObjectPath {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl<S: Send + Sync> FromRequestParts<S> for ObjectPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        #[derive(Deserialize)]
        struct Raw {
            namespace: String,
            name: String,
        }
        let raw: Raw = path(parts, state).await?;
        Ok(Self {
            namespace: checked(raw.namespace)?,
            name: checked(raw.name)?,
        })
    }
}

/// `{name}` of a cluster-scoped object in a path.
#[derive(Clone, Debug)]
pub(crate) struct NamePath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for NamePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        #[derive(Deserialize)]
        struct Raw {
            name: String,
        }
        let raw: Raw = path(parts, state).await?;
        Ok(Self(checked(raw.name)?))
    }
}

async fn path<T: DeserializeOwned + Send, S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<T> {
    let axum::extract::Path(raw) =
        <axum::extract::Path<T> as FromRequestParts<S>>::from_request_parts(parts, state).await?;
    Ok(raw)
}

fn checked(name: String) -> Result<String> {
    if is_name(&name) {
        Ok(name)
    } else {
        Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "notFound",
            "there is no object of this name: it is no Kubernetes name",
        ))
    }
}

/// Whether the API server could have an object of this name (RFC 1123 subdomain).
pub(crate) fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        edge(label.as_bytes().first())
            && edge(label.as_bytes().last())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_change_the_path_are_none() {
        for good in ["a", "a-b", "a.b-c", "0"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "..",
            "a/b",
            "a?b",
            "A",
            "-a",
            "a-",
            "a..b",
            "a%2fb",
            "a b",
            "ä",
            &"a".repeat(254),
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
