//! Sign-in and session.

use serde::{Deserialize, Serialize};

/// Body of `POST /api/v1/session`.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "method", rename_all = "camelCase", deny_unknown_fields)]
pub enum SignIn {
    /// With a bearer token of the cluster, such as a ServiceAccount's.
    Token {
        /// The token.
        token: String,
    },
    /// With a kubeconfig: only an inline token or an inline client certificate and key are taken from it.
    Kubeconfig {
        /// The file's text.
        kubeconfig: String,
        /// Name of the context; the file's current one when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context: Option<String>,
    },
}

impl std::fmt::Debug for SignIn {
    /// Never prints a credential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token { .. } => "SignIn::Token(..)",
            Self::Kubeconfig { .. } => "SignIn::Kubeconfig(..)",
        })
    }
}

/// How a person signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum SignInMethod {
    /// A bearer token.
    Token,
    /// A kubeconfig.
    Kubeconfig,
}

/// Answer of `POST` and `GET /api/v1/session`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The user every request acts as, as the cluster named it.
    pub user: String,
    /// The groups every request acts with. `system:masters` shows as `holdfast:administrators`.
    pub groups: Vec<String>,
    /// How the person signed in.
    pub method: SignInMethod,
    /// Name of the cluster.
    pub cluster: String,
    /// Namespace Holdfast is installed in: only there may a restore name another namespace.
    pub install_namespace: String,
    /// When the session ends at the latest.
    pub expires_at: String,
}
