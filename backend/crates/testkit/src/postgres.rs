//! A PostgreSQL server with an empty database.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Environment variable with the address of an empty database on a server that runs already.
const URL: &str = "HOLDFAST_TEST_POSTGRES";
/// How long a start may take; 2 s on an idle machine.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// Initialises and runs a server until standard input closes. PostgreSQL refuses to run as root, so root steps down.
const SUPERVISOR: &str = r#"
trap '' INT TERM HUP
bin=$1 dir=$2 port=$3
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi; }
[ "$(id -u)" = 0 ] && chown postgres "$dir"
as "$bin/initdb" -D "$dir/data" -U holdfast -A trust --no-sync </dev/null &&
as "$bin/postgres" -D "$dir/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off </dev/null &
read -r _
[ -f "$dir/data/postmaster.pid" ] && kill -QUIT "$(head -n1 "$dir/data/postmaster.pid")"
wait
rm -rf "$dir"
"#;

/// A running server. Stopped and removed when dropped or when the process ends.
pub struct Postgres {
    url: String,
    supervisor: Option<Child>,
}

impl Postgres {
    /// Starts one from the distribution's package, or takes the address in `HOLDFAST_TEST_POSTGRES`.
    pub async fn start() -> anyhow::Result<Self> {
        if let Ok(url) = std::env::var(URL) {
            return Ok(Self {
                url,
                supervisor: None,
            });
        }
        let bin = programs()?;
        let folder = tempfile::Builder::new()
            .prefix("holdfast-testkit-")
            .tempdir()?
            .keep();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = folder.join("postgres.log");
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "holdfast-testkit"])
            .args([&bin, &folder])
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(&log)?)
            .stderr(std::fs::File::options().append(true).open(&log)?)
            .spawn()
            .context("starting sh")?;
        let url = format!("postgres://holdfast@127.0.0.1:{port}/postgres");
        let server = Self {
            url,
            supervisor: Some(supervisor),
        };
        server.wait_ready(&bin, port, &log).await?;
        Ok(server)
    }

    /// Address of an empty database.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn wait_ready(&self, bin: &Path, port: u16, log: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let ready = Command::new(bin.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .status()?;
            if ready.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "PostgreSQL is not ready:\n{}",
                    std::fs::read_to_string(log).unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            drop(supervisor.stdin.take());
            // It ends by itself; an error here leaves at worst a folder under the temporary directory.
            let _ = supervisor.wait();
        }
    }
}

/// The newest installed server's programs.
fn programs() -> anyhow::Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("no PostgreSQL server: install the package postgresql, or set {URL}"))
}
