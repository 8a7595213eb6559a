//! A network that loses answers: requests arrive, what the server says does not.
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What a client is told instead of an answer.
const OUT_OF_ORDER: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What becomes of an answer; its connection ends in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoil {
    Lose,
    Refuse,
    Truncate,
}

/// Answers to be spoilt.
#[derive(Debug)]
struct Plan(Mutex<(u32, Spoil)>);

impl Plan {
    fn get(&self) -> MutexGuard<'_, (u32, Spoil)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Spoil> {
        let mut plan = self.get();
        plan.0 = plan.0.checked_sub(1)?;
        Some(plan.1)
    }
}

/// Passes connections on to a server and cuts them when an answer is to be lost. Ends with the value.
#[derive(Debug)]
pub struct LossyProxy {
    address: SocketAddr,
    plan: Arc<Plan>,
    task: JoinHandle<()>,
}

impl LossyProxy {
    /// Listens on a port of its own.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let plan = Arc::new(Plan(Mutex::new((0, Spoil::Lose))));
        let all = plan.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, all.clone()));
            }
        });
        Self { address, plan, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loses the next `answers` answers, each with its connection.
    pub fn lose(&self, answers: u32) {
        *self.plan.get() = (answers, Spoil::Lose);
    }

    /// Says 503 instead of the next `answers` answers: what was asked for may be done nevertheless.
    pub fn refuse(&self, answers: u32) {
        *self.plan.get() = (answers, Spoil::Refuse);
    }

    /// Passes on the first half of the next `answers` answers.
    pub fn truncate(&self, answers: u32) {
        *self.plan.get() = (answers, Spoil::Truncate);
    }

    /// Answers that are still to be spoilt.
    pub fn left(&self) -> u32 {
        self.plan.get().0
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: SocketAddr, plan: Arc<Plan>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        if let Some(spoil) = plan.take() {
            let instead = match spoil {
                Spoil::Lose => &[][..],
                Spoil::Refuse => OUT_OF_ORDER,
                Spoil::Truncate => &buffer[..read / 2],
            };
            // A client that is gone does not mind.
            let _ = to_client.write_all(instead).await;
            break;
        }
        if to_client.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    requests.abort();
}
