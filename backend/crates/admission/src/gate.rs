//! How much is answered at once. Pods of the whole cluster can reach the port, and the API server shows no certificate
//! unless it is configured to; so no caller may take all of the memory, the time or the places of the others.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Largest review: the object and its older self, 1.5 MiB each as etcd stores them, and what JSON adds.
pub(crate) const MAX_BODY: usize = 8 << 20;
/// Reviews up to this size need no permit to be received; nearly all are a tenth of it.
const SMALL: usize = 256 << 10;
/// Larger ones that are received or decided about at the same time.
const LARGE: usize = 2;
/// Reviews from everywhere at the same time.
const TOTAL: usize = 256;
/// Reviews from one address at the same time.
const FROM_ONE: usize = 64;
/// JSON values of all reviews at the same time. One takes up to 300 bytes while it is parsed.
const VALUES: u32 = 500_000;
/// Time until a review has arrived.
const ARRIVAL: Duration = Duration::from_secs(3);
/// Time for everything; a second less than the API server waits.
const WHOLE: Duration = Duration::from_secs(9);

/// Counts what is under way.
#[derive(Debug)]
pub(crate) struct Gate {
    places: Mutex<HashMap<IpAddr, usize>>,
    large: Semaphore,
    values: Semaphore,
    arrival: Duration,
}

/// A place that is given back when dropped.
struct Place<'a> {
    gate: &'a Gate,
    address: IpAddr,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self::with_arrival(ARRIVAL)
    }

    fn with_arrival(arrival: Duration) -> Self {
        Self {
            arrival,
            places: Mutex::default(),
            large: Semaphore::new(LARGE),
            values: Semaphore::new(VALUES as usize),
        }
    }

    /// `None` when this address, or all together, have as many reviews under way as they may.
    fn enter(&self, address: IpAddr) -> Option<Place<'_>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.values().sum::<usize>() >= TOTAL {
            return None;
        }
        let mine = places.entry(address).or_default();
        if *mine >= FROM_ONE {
            return None;
        }
        *mine += 1;
        Some(Place { gate: self, address })
    }

    async fn answer(&self, request: Request, next: Next) -> Response {
        let (parts, body) = request.into_parts();
        let announced = parts.headers.get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let is_small = announced.is_some_and(|length| length <= SMALL);
        let _large = match is_small {
            true => None,
            false => self.large.acquire().await.ok(),
        };
        let max = if is_small { SMALL } else { MAX_BODY };
        let body: Bytes = match timeout(self.arrival, to_bytes(body, max)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                return refuse(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the review is too large, or broke off",
                );
            }
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the review took too long to arrive"),
        };
        let Some(values) = u32::try_from(values(&body)).ok().filter(|n| *n <= VALUES) else {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the review has too many values");
        };
        let _values = self.values.acquire_many(values).await.ok();
        next.run(Request::from_parts(parts, Body::from(body))).await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.gate.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = places.get_mut(&self.address) {
            *mine -= 1;
            if *mine == 0 {
                places.remove(&self.address);
            }
        }
    }
}

/// Lets a review in, or refuses it at once.
pub(crate) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = peer.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(peer)| peer.ip());
    let Some(_place) = gate.enter(address) else {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many reviews at once; try again",
        );
    };
    timeout(WHOLE, gate.answer(request, next))
        .await
        .unwrap_or_else(|_| {
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "admission is too busy; try again",
            )
        })
}

fn refuse(status: StatusCode, why: &'static str) -> Response {
    (status, why).into_response()
}

/// Upper bound of the values in a JSON text: every one but the first follows one of these characters.
fn values(json: &[u8]) -> usize {
    1 + json
        .iter()
        .filter(|b| matches!(b, b'[' | b'{' | b',' | b':'))
        .count()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use tower::ServiceExt;

    use super::*;

    /// Answers with the length of what it got.
    fn router(gate: &Arc<Gate>) -> Router {
        let handler = |body: Bytes| async move { body.len().to_string() };
        Router::new()
            .route("/", post(handler))
            .layer(axum::middleware::from_fn_with_state(gate.clone(), pass))
            .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
    }

    fn request(from: u8, length: Option<usize>, body: Body) -> Request {
        let mut request = Request::post("/").body(body).unwrap();
        let peer = SocketAddr::from(([10, 0, 0, from], 1));
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(length) = length {
            request
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
        }
        request
    }

    async fn status(gate: &Arc<Gate>, request: Request) -> StatusCode {
        router(gate).oneshot(request).await.unwrap().status()
    }

    /// A body that never comes.
    fn silence() -> Body {
        Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>())
    }

    #[tokio::test]
    async fn one_caller_does_not_take_the_places_of_another() {
        let gate = Arc::new(Gate::with_arrival(Duration::from_millis(500)));
        let slow: Vec<_> = (0..FROM_ONE)
            .map(|_| tokio::spawn(router(&gate).oneshot(request(1, Some(10), silence()))))
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let full = status(&gate, request(1, Some(2), "{}".into())).await;
        assert_eq!(full, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            status(&gate, request(2, Some(2), "{}".into())).await,
            StatusCode::OK
        );
        for answer in slow {
            assert_eq!(
                answer.await.unwrap().unwrap().status(),
                StatusCode::REQUEST_TIMEOUT
            );
        }
        assert_eq!(
            status(&gate, request(1, Some(2), "{}".into())).await,
            StatusCode::OK
        );
        assert!(gate.places.lock().unwrap().is_empty(), "places are given back");
    }

    #[tokio::test]
    async fn all_together_have_a_bound_too() {
        let gate = Arc::new(Gate::with_arrival(Duration::from_millis(500)));
        let places: Vec<_> = (0..TOTAL)
            .map(|n| {
                gate.enter(IpAddr::from([10, 1, 0, u8::try_from(n / FROM_ONE).unwrap()]))
                    .unwrap()
            })
            .collect();
        let refused = status(&gate, request(2, Some(2), "{}".into())).await;
        assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
        drop(places);
        assert_eq!(
            status(&gate, request(2, Some(2), "{}".into())).await,
            StatusCode::OK
        );
    }

    #[tokio::test]
    async fn large_reviews_wait_for_each_other_and_small_ones_do_not() {
        let gate = Arc::new(Gate::with_arrival(Duration::from_millis(500)));
        let slow: Vec<_> = (0..LARGE)
            .map(|_| tokio::spawn(router(&gate).oneshot(request(1, None, silence()))))
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = tokio::time::Instant::now();
        assert_eq!(
            status(&gate, request(2, Some(2), "{}".into())).await,
            StatusCode::OK
        );
        assert!(begun.elapsed() < Duration::from_millis(300));
        let large = vec![b' '; MAX_BODY];
        let length = Some(large.len());
        assert_eq!(
            status(&gate, request(2, length, large.into())).await,
            StatusCode::OK
        );
        assert!(begun.elapsed() > Duration::from_millis(300), "it had to wait");
        for answer in slow {
            answer.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_review_that_would_fill_the_memory_is_not_parsed() {
        let gate = Arc::new(Gate::with_arrival(Duration::from_millis(500)));
        let bomb = format!("[{}]", vec![r#"{"":0}"#; VALUES as usize / 3 + 10].join(","));
        let refused = status(&gate, request(1, Some(bomb.len()), bomb.clone().into())).await;
        assert_eq!(refused, StatusCode::PAYLOAD_TOO_LARGE);
        let longer = vec![b' '; MAX_BODY + 1];
        let refused = status(&gate, request(1, Some(longer.len()), longer.into())).await;
        assert_eq!(refused, StatusCode::PAYLOAD_TOO_LARGE);
        let lie = status(&gate, request(1, Some(2), vec![b' '; SMALL + 1].into())).await;
        assert_eq!(lie, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
