//! One way to send a request: with a deadline, the header that writes need, and one shape of error.

use gloo_net::http::{Method, RequestBuilder, Response};
use holdfast_shared::{CSRF_HEADER, CSRF_HEADER_VALUE, ErrorDetail, ErrorEnvelope};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state::session::SessionStore;

/// Root of the API.
pub(crate) const BASE: &str = "/api/v1";
/// Milliseconds until a request without an answer is given up.
const DEADLINE_MS: u32 = 30_000;

/// Why a request did not succeed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// HTTP status; 0 when no answer came.
    pub(crate) status: u16,
    /// The server's word for programs; empty when no answer came.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// Fields at fault.
    pub(crate) details: Vec<ErrorDetail>,
    /// Finds the request in the server's log; may be empty.
    pub(crate) request_id: String,
}

impl ApiError {
    fn no_answer(cause: &str) -> Self {
        let message = if cause.contains("TimeoutError") || cause.contains("timed out") {
            format!("The server did not answer within {} seconds.", DEADLINE_MS / 1000)
        } else {
            "The server cannot be reached.".to_owned()
        };
        Self {
            message,
            ..Self::default()
        }
    }

    fn unreadable(status: u16, cause: &str) -> Self {
        Self {
            status,
            message: format!("The server's answer could not be read: {cause}"),
            ..Self::default()
        }
    }

    /// What the person can do about it, where there is something.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        match self.status {
            0 => Some("Check the connection, then try again."),
            403 => Some("The cluster's access rules decide this. Ask for the right that the message names."),
            404 => Some("It may have been deleted meanwhile. Go back to the list."),
            409 => {
                Some("Something with this name exists or has changed meanwhile. Look at it, then try again.")
            }
            429 => Some("Too many requests. Wait a minute, then try again."),
            500.. => Some("Try again. If it stays, give the request number to whoever runs Holdfast."),
            _ => None,
        }
    }

    /// What is wrong with this field, if the server named it.
    pub(crate) fn field(&self, field: &str) -> Option<String> {
        self.details
            .iter()
            .find(|detail| detail.field == field)
            .map(|detail| detail.message.clone())
    }
}

/// Sends requests for the signed-in person.
#[derive(Clone, Copy)]
pub(crate) struct Api {
    session: SessionStore,
}

impl Api {
    pub(crate) fn new(session: SessionStore) -> Self {
        Self { session }
    }

    /// Reads JSON.
    pub(crate) async fn get<T: DeserializeOwned>(self, path: &str) -> Result<T, ApiError> {
        let response = self.send(request(Method::GET, path), None::<&()>).await?;
        json(response).await
    }

    /// Reads text.
    pub(crate) async fn text(self, path: &str) -> Result<String, ApiError> {
        let response = self.send(request(Method::GET, path), None::<&()>).await?;
        response
            .text()
            .await
            .map_err(|e| ApiError::unreadable(response.status(), &e.to_string()))
    }

    /// Writes JSON and reads JSON.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        self,
        path: &str,
        body: &B,
    ) -> Result<T, ApiError> {
        let response = self.send(request(Method::POST, path), Some(body)).await?;
        json(response).await
    }

    /// Writes without a body; whatever comes back is not read.
    pub(crate) async fn command(self, method: Method, path: &str) -> Result<(), ApiError> {
        self.send(request(method, path), None::<&()>).await.map(drop)
    }

    async fn send<B: Serialize>(
        self,
        builder: RequestBuilder,
        body: Option<&B>,
    ) -> Result<Response, ApiError> {
        let request = match body {
            Some(body) => builder.json(body),
            None => builder.build(),
        };
        let request = request.map_err(|e| ApiError::no_answer(&e.to_string()))?;
        let response = request
            .send()
            .await
            .map_err(|e| ApiError::no_answer(&e.to_string()))?;
        if response.ok() {
            return Ok(response);
        }
        let status = response.status();
        if status == 401 {
            self.session.ended();
        }
        Err(match response.json::<ErrorEnvelope>().await {
            Ok(ErrorEnvelope { error }) => ApiError {
                status,
                code: error.code,
                message: error.message,
                details: error.details,
                request_id: error.request_id,
            },
            // A proxy in between answers in its own words.
            Err(_) => ApiError {
                status,
                message: format!("The server answered {status} {}.", response.status_text()),
                ..ApiError::default()
            },
        })
    }
}

fn request(method: Method, path: &str) -> RequestBuilder {
    let writes = method != Method::GET;
    let builder = RequestBuilder::new(&format!("{BASE}{path}"))
        .method(method)
        .abort_signal(Some(&web_sys::AbortSignal::timeout_with_u32(DEADLINE_MS)));
    if writes {
        builder.header(CSRF_HEADER, CSRF_HEADER_VALUE)
    } else {
        builder
    }
}

async fn json<T: DeserializeOwned>(response: Response) -> Result<T, ApiError> {
    response
        .json()
        .await
        .map_err(|e| ApiError::unreadable(response.status(), &e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_says_what_to_do() {
        let error = ApiError::no_answer("TypeError: Failed to fetch");
        assert_eq!(error.message, "The server cannot be reached.");
        assert!(error.advice().is_some());
        assert!(
            ApiError::no_answer("TimeoutError: signal timed out")
                .message
                .contains("30 seconds")
        );
    }

    #[test]
    fn fields_at_fault_are_found_by_path() {
        let details = vec![ErrorDetail {
            field: "name".into(),
            message: "too long".into(),
        }];
        let error = ApiError {
            details,
            ..ApiError::default()
        };
        assert_eq!(error.field("name").as_deref(), Some("too long"));
        assert_eq!(error.field("spec.url"), None);
    }
}
