//! A server that answers whatever a test wants, as a hostile or broken store would.
use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{Connection, S3Target, SecretKey};

/// What is answered to one request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This status and body.
    Body(u16, Vec<u8>),
    /// This status, and this text again and again until the client hangs up.
    Endless(u16, &'static str),
}

/// A server without any store behind it, whose bucket has no versions; ends with the value. Signatures are not looked at.
#[derive(Debug)]
pub struct ScriptedStore {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ScriptedStore {
    /// Listens on a port of its own. `script` sees the first line of a request without its version:
    /// `GET /backups?list-type=2&prefix=…`.
    pub async fn start(script: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let script = Arc::new(script);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let script = script.clone();
                // A client that hangs up is what ends an endless answer.
                tokio::spawn(async move { serve(client, &*script).await.ok() });
            }
        });
        Self { address, task }
    }

    /// How to reach it.
    pub fn connection(&self) -> Connection {
        Connection {
            url: Some(format!("http://{}", self.address)),
            region: "us-east-1".to_owned(),
            bucket: "backups".to_owned(),
            access_key: "anybody".to_owned(),
            secret_key: SecretKey::new("anything"),
            ca: None,
            skip_cert_verification: false,
        }
    }

    /// A client for it.
    pub fn target(&self) -> S3Target {
        S3Target::connect(&self.connection()).expect("the connection is valid")
    }
}

impl Drop for ScriptedStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(client: TcpStream, script: &(dyn Fn(&str) -> Answer + Send + Sync)) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        client.read_line(&mut first).await?;
        loop {
            let mut line = String::new();
            if client.read_line(&mut line).await? <= 2 {
                break;
            }
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or_default();
            }
        }
        client.read_exact(&mut vec![0; length]).await?;
        let Some((request, _)) = first.rsplit_once(' ') else {
            return Ok(());
        };
        // Whatever a test is about, it is not about versions.
        let answer = match request.contains("?versioning") {
            true => Answer::Body(200, b"<VersioningConfiguration/>".to_vec()),
            false => script(request),
        };
        match answer {
            Answer::Body(status, body) => {
                let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n", body.len());
                client.write_all(&[head.as_bytes(), &body].concat()).await?;
            }
            Answer::Endless(status, text) => {
                let head = format!("HTTP/1.1 {status} -\r\nconnection: close\r\n\r\n");
                client.write_all(head.as_bytes()).await?;
                let block = text.repeat(1 + (64 << 10) / text.len());
                loop {
                    client.write_all(block.as_bytes()).await?;
                }
            }
        }
    }
}
