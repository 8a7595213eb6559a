//! A real S3 server (versitygw with versioning) as a child process.
use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{Connection, S3Target, SecretKey};

const ACCESS_KEY: &str = "holdfast-test";
const SECRET_KEY: &str = "holdfast-test-secret";
const BUCKET: &str = "backups";

/// How a gateway is to run.
#[derive(Clone, Debug, Default)]
pub struct GatewayOptions {
    /// Serve TLS with a certificate of an authority made for this gateway.
    pub tls: bool,
    /// Folder whose sub-folders are the buckets; absent: a temporary one.
    pub data: Option<PathBuf>,
    /// Address to listen on; absent: the loopback interface. A certificate is for that one only.
    pub host: Option<IpAddr>,
}

/// A running gateway with the bucket `backups`; ends with the value.
#[derive(Debug)]
pub struct Gateway {
    child: Option<Child>,
    /// Kills the gateway when this process ends without having done so: its standard input closes then.
    guard: Option<Child>,
    port: u16,
    options: GatewayOptions,
    data: PathBuf,
    folder: TempDir,
}

impl Gateway {
    /// Starts one with plain HTTP and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(GatewayOptions::default())
    }

    /// Starts one and waits until it answers.
    pub fn start_with(options: GatewayOptions) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-gateway-")
            .tempdir()
            .expect("a temporary folder");
        let data = options.data.clone().unwrap_or_else(|| folder.path().join("data"));
        fs::create_dir_all(data.join(BUCKET)).expect("the bucket's folder");
        fs::create_dir_all(folder.path().join("versions")).expect("the folder for versions");
        if options.tls {
            make_certificate(folder.path());
        }
        let mut gateway = Self {
            child: None,
            guard: None,
            port: free_port(),
            options,
            data,
            folder,
        };
        gateway.run();
        gateway
    }

    fn run(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let log = File::create(path("gateway.log")).expect("the log file");
        let mut command = Command::new(binary());
        command
            .env("ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("ROOT_SECRET_KEY", SECRET_KEY);
        command.args(["--quiet", "--keep-alive", "--port", &self.address().to_string()]);
        if self.options.tls {
            command
                .arg("--cert")
                .arg(path("cert.pem"))
                .arg("--key")
                .arg(path("key.pem"));
        }
        command
            .arg("posix")
            .arg("--versioning-dir")
            .arg(path("versions"))
            .arg(&self.data);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file again"))
            .stderr(log);
        let child = command.spawn().expect("the gateway starts");
        let watch = format!("read -r _; kill -9 {}", child.id());
        let guard = Command::new("sh")
            .args(["-c", &watch])
            .stdin(Stdio::piped())
            .spawn();
        (self.child, self.guard) = (Some(child), Some(guard.expect("the guard starts")));
        let deadline = Instant::now() + Duration::from_secs(15);
        while TcpStream::connect(self.address()).is_err() {
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            let log = || fs::read_to_string(path("gateway.log")).unwrap_or_default();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the gateway does not answer: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let host = self.options.host.unwrap_or(Ipv4Addr::LOCALHOST.into());
        SocketAddr::new(host, self.port)
    }

    /// How to reach it.
    pub fn connection(&self) -> Connection {
        let scheme = if self.options.tls { "https" } else { "http" };
        let ca = self.options.tls.then(|| {
            fs::read_to_string(self.folder.path().join("ca.pem")).expect("the authority's certificate")
        });
        Connection {
            url: Some(format!("{scheme}://{}", self.address())),
            region: "us-east-1".to_owned(),
            bucket: BUCKET.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SecretKey::new(SECRET_KEY),
            ca,
            skip_cert_verification: false,
        }
    }

    /// A client for it.
    pub fn target(&self) -> S3Target {
        S3Target::connect(&self.connection()).expect("the gateway's own connection is valid")
    }

    /// Folder that holds the objects of the bucket as plain files.
    pub fn bucket_folder(&self) -> PathBuf {
        self.data.join(BUCKET)
    }

    /// Folder that holds what versioning keeps.
    pub fn versions_folder(&self) -> PathBuf {
        self.folder.path().join("versions")
    }

    /// A client for another bucket, which need not be there.
    pub fn bucket(&self, name: &str) -> S3Target {
        let connection = Connection {
            bucket: name.to_owned(),
            ..self.connection()
        };
        S3Target::connect(&connection).expect("the gateway's own connection is valid")
    }

    /// Turns versioning of the bucket `backups` on.
    pub async fn enable_versioning(&self) {
        self.target().enable_versioning().await;
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        // The guard first, so that it never kills a process that got the number later.
        for mut child in [self.guard.take(), self.child.take()].into_iter().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same address and data.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The gateway's program: `HOLDFAST_VERSITYGW`, or what the sandbox has built into its cache.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HOLDFAST_VERSITYGW") {
        return PathBuf::from(path);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .expect("HOME or XDG_CACHE_HOME is set");
    let tools = cache.join("holdfast/sandbox/tools");
    let built = fs::read_dir(&tools)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let found = built
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("versitygw-"))
        })
        .map(|path| path.join("versitygw"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "these tests need a real S3 server: set HOLDFAST_VERSITYGW to a versitygw program, or run `cargo xtask up` \
             once, which builds it into {}",
            tools.display()
        )
    })
}

pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// An authority and a certificate for 127.0.0.1, by openssl.
fn make_certificate(folder: &Path) {
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl")
            .args(args)
            .current_dir(folder)
            .output()
            .expect("openssl runs");
        assert!(
            output.status.success(),
            "openssl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = [
        "req",
        "-x509",
        "-subj",
        "/CN=holdfast test authority",
        "-days",
        "2",
    ];
    openssl(&[&authority[..], &key, &["-keyout", "ca.key", "-out", "ca.pem"]].concat());
    let request = ["req", "-new", "-subj", "/CN=127.0.0.1"];
    openssl(&[&request[..], &key, &["-keyout", "key.pem", "-out", "cert.csr"]].concat());
    fs::write(folder.join("san.cnf"), "subjectAltName=IP:127.0.0.1\n").expect("the extension file");
    let sign = [
        "x509",
        "-req",
        "-in",
        "cert.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
    ];
    openssl(
        &[
            &sign[..],
            &["-days", "2", "-extfile", "san.cnf", "-out", "cert.pem"],
        ]
        .concat(),
    );
}
