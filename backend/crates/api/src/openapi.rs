//! The description of the API, made from the handlers.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = "Backup and recovery of Kubernetes applications. Every request acts as the signed-in person: \
            Kubernetes RBAC decides. Writes carry the header `x-holdfast-request: 1`. Errors have one shape; see \
            docs/API-DESIGN.md.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    security(("session" = [])),
    modifiers(&SessionCookie)
)]
pub(crate) struct Document;

struct SessionCookie;

impl Modify for SessionCookie {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let description = "Set by POST /api/v1/session; named `holdfast` where the server is not behind TLS.";
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description("__Host-holdfast", description));
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    }
}

/// The whole description as YAML, the content of `openapi.yaml`.
///
/// # Errors
/// Never in practice: the description is plain data.
pub fn yaml() -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    Ok(crate::router::described().into_openapi().to_yaml()?)
}
