//! A network that loses answers: requests arrive, what the server says does not.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Passes connections on to a server and cuts them when an answer is to be lost. Ends with the value.
#[derive(Debug)]
pub struct LossyProxy {
    address: SocketAddr,
    lose: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl LossyProxy {
    /// Listens on a port of its own.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let lose = Arc::new(AtomicU32::new(0));
        let left = lose.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, left.clone()));
            }
        });
        Self { address, lose, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loses the next `answers` answers, each with its connection.
    pub fn lose(&self, answers: u32) {
        self.lose.store(answers, Ordering::SeqCst);
    }

    /// Answers that are still to be lost.
    pub fn left(&self) -> u32 {
        self.lose.load(Ordering::SeqCst)
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: SocketAddr, lose: Arc<AtomicU32>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        let take = |left: u32| left.checked_sub(1);
        if lose
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_ok()
        {
            break;
        }
        if to_client.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    requests.abort();
}
