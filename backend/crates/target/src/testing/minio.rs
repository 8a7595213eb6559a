//! MinIO as a child process: the other S3 server, whose words for the same things differ.
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::gateway::free_port;
use crate::{Connection, S3Target, SecretKey};

const ACCESS_KEY: &str = "holdfast-test";
const SECRET_KEY: &str = "holdfast-test-secret";

/// A running server without buckets; ends with the value.
#[derive(Debug)]
pub struct Minio {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Minio {
    /// Starts the program that `HOLDFAST_MINIO` names, and waits until it answers.
    pub fn start() -> Self {
        let program = std::env::var_os("HOLDFAST_MINIO").expect("HOLDFAST_MINIO names a minio program");
        let folder = tempfile::Builder::new()
            .prefix("holdfast-minio-")
            .tempdir()
            .expect("a temporary folder");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let child = Command::new(program)
            .args(["server", "--quiet", "--address", &address.to_string()])
            .arg(folder.path().join("data"))
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("minio starts");
        let minio = Self {
            child,
            address,
            _folder: folder,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_ready(address) {
            assert!(Instant::now() < deadline, "minio does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        minio
    }

    /// A client for a bucket of this name, which need not be there.
    pub fn target(&self, bucket: &str) -> S3Target {
        let connection = Connection {
            url: Some(format!("http://{}", self.address)),
            region: "us-east-1".to_owned(),
            bucket: bucket.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SecretKey::new(SECRET_KEY),
            ca: None,
            skip_cert_verification: false,
        };
        S3Target::connect(&connection).expect("the connection is valid")
    }
}

/// Whether it can store: it listens some time before.
fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut answer = [0; 12];
    let asked =
        stream.write_all(b"GET /minio/health/cluster HTTP/1.1\r\nHost: minio\r\nConnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer.ends_with(b" 200")
}

impl Drop for Minio {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
