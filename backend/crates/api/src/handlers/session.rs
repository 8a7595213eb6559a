//! Signing in and out.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use holdfast_auth::{Credential, kubeconfig};
use holdfast_db::SessionRecord;
use holdfast_shared::{ErrorEnvelope, Session, SignIn, SignInMethod};
use jiff::Timestamp;

use crate::error::{ApiError, Result};
use crate::extract::{AuditNotes, Caller};
use crate::middleware::{cookie_name, peer};
use crate::state::App;

/// Largest body of a sign-in: a kubeconfig, escaped as JSON.
const MAX_BODY: usize = 2 * kubeconfig::MAX_SIZE;

/// Signs in. The credential is presented once to the registered cluster, to learn who its holder is, and not kept.
#[utoipa::path(
    post, path = "/api/v1/session", operation_id = "signIn", tag = "session", request_body = SignIn, security(()),
    responses(
        (status = 201, description = "Signed in; the cookie is the session.", body = Session),
        (status = 401, description = "The cluster does not accept the credential.", body = ErrorEnvelope),
        (status = 422, description = "A field is not taken; the message names it.", body = ErrorEnvelope),
        (status = 429, description = "Too many tries.", body = ErrorEnvelope),
        (status = 502, description = "The cluster could not be asked.", body = ErrorEnvelope)
    )
)]
pub(crate) async fn sign_in(
    State(app): State<App>,
    before: Option<Caller>,
    notes: AuditNotes,
    request: Request,
) -> Result<Response> {
    let outcome = try_sign_in(&app, &notes, request).await;
    let label = match &outcome {
        Ok(_) => "ok",
        Err(error) => error.code(),
    };
    app.metrics().sign_ins.with_label_values(&[label]).inc();
    let (response, _) = outcome?;
    // Who signs in again does not want the session of before; a stolen cookie ends with it.
    if let Some(before) = before {
        app.sessions().end(&before.session).await?;
    }
    Ok(response)
}

async fn try_sign_in(app: &App, notes: &AuditNotes, request: Request) -> Result<(Response, SessionRecord)> {
    let address = peer(&request).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    app.limiter().check(address).map_err(|wait| {
        ApiError::too_many(
            "too many sign-ins from this address; wait a little",
            wait.as_secs() + 1,
        )
    })?;
    let (credential, method) = read(request).await?;
    let now = Timestamp::now();
    let (user, ends) = app.cluster().identify(&credential, now).await?;
    drop(credential);
    notes.user(user.name.clone());
    let (cookie, session) = app.sessions().start(user, method, ends, now).await?;
    let seconds = session.expires_at.duration_since(now).as_secs().max(0);
    let mut response = (StatusCode::CREATED, axum::Json(describe(app, &session))).into_response();
    set_cookie(app, response.headers_mut(), cookie.expose(), seconds)?;
    Ok((response, session))
}

/// Reads the body by hand: the messages of a JSON parser quote what they do not like, and here that may be a secret.
async fn read(request: Request) -> Result<(Credential, &'static str)> {
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|_| {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "tooLarge",
                format!("the body is larger than {MAX_BODY} bytes"),
            )
        })?;
    let sign_in: SignIn = serde_json::from_slice(&body).map_err(|_| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "send {\"method\":\"token\",\"token\":…} or {\"method\":\"kubeconfig\",\"kubeconfig\":…,\"context\":…}",
        )
    })?;
    Ok(match sign_in {
        SignIn::Token { token } => (Credential::token(&token, "token")?, "token"),
        SignIn::Kubeconfig { kubeconfig, context } => {
            let context = context.filter(|context| !context.is_empty());
            (
                kubeconfig::credential(&kubeconfig, context.as_deref())?,
                "kubeconfig",
            )
        }
    })
}

/// The session of this cookie.
#[utoipa::path(
    get, path = "/api/v1/session", operation_id = "getSession", tag = "session",
    responses(
        (status = 200, description = "Signed in.", body = Session),
        (status = 401, description = "Not signed in, or the session is over.", body = ErrorEnvelope)
    )
)]
pub(crate) async fn get_session(State(app): State<App>, caller: Caller) -> axum::Json<Session> {
    axum::Json(describe(&app, &caller.session))
}

/// Signs out. Doing so twice is no error.
#[utoipa::path(
    delete, path = "/api/v1/session", operation_id = "signOut", tag = "session",
    responses((status = 204, description = "There is no session any more."))
)]
pub(crate) async fn sign_out(State(app): State<App>, caller: Option<Caller>) -> Result<Response> {
    if let Some(caller) = caller {
        app.sessions().end(&caller.session).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&app, response.headers_mut(), "", 0)?;
    Ok(response)
}

fn set_cookie(app: &App, headers: &mut HeaderMap, value: &str, seconds: i64) -> Result<()> {
    let secure = app.settings().secure_cookies;
    let name = cookie_name(secure);
    let end = if secure { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{end}");
    let cookie = HeaderValue::from_str(&cookie).map_err(|error| ApiError::internal(&error))?;
    headers.append(header::SET_COOKIE, cookie);
    Ok(())
}

fn describe(app: &App, session: &SessionRecord) -> Session {
    Session {
        user: session.user.name.clone(),
        groups: session.user.groups.clone(),
        method: if session.method == "kubeconfig" {
            SignInMethod::Kubeconfig
        } else {
            SignInMethod::Token
        },
        cluster: app.cluster().name().to_owned(),
        install_namespace: app.settings().install_namespace.clone(),
        expires_at: session.expires_at.to_string(),
    }
}
