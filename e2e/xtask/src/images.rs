//! The images of the sandbox: what each is made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::cluster::{Cluster, write_if_changed};
use crate::image::{self, Image};
use crate::packages;
use crate::paths;
use crate::run::Run;
use crate::test;
use crate::tools::Tool;
use crate::ui;

pub(crate) const BUSYBOX: &str = "sandbox/busybox:1";
pub(crate) const COREDNS: &str = "sandbox/coredns:1";
pub(crate) const POSTGRES: &str = "sandbox/postgres:1";
pub(crate) const WEBAPP: &str = "sandbox/webapp:1";
pub(crate) const HOLDFAST: &str = "holdfast:dev";

/// The user the product's image runs as.
const HOLDFAST_USER: &str = "65532:65532";

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ends on the signals a pod is stopped with, and reaps what is left to process 1 of a shared process namespace.
const PAUSE_SOURCE: &str = r"#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop(int signal) { _exit(signal == SIGINT ? 1 : 0); }

static void reap(int signal) {
    (void)signal;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
}

int main(void) {
    struct sigaction on_stop = {.sa_handler = stop}, on_child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
    sigaction(SIGINT, &on_stop, NULL);
    sigaction(SIGTERM, &on_stop, NULL);
    sigaction(SIGCHLD, &on_child, NULL);
    for (;;)
        pause();
}
";

/// What a cluster needs before its first pod can start.
pub(crate) fn ensure_base(cluster: &Cluster) -> Result<()> {
    pause()?.ensure(cluster)?;
    busybox()?.ensure(cluster)?;
    coredns()?.ensure(cluster).map(drop)
}

/// What the sample applications run.
pub(crate) fn ensure_applications(cluster: &Cluster) -> Result<()> {
    postgres()?.ensure(cluster)?;
    webapp()?.ensure(cluster).map(drop)
}

fn pause() -> Result<Image> {
    let dir = paths::sandbox()?.join("images/pause");
    fs::create_dir_all(&dir)?;
    let (source, program) = (dir.join("pause.c"), dir.join("pause"));
    if write_if_changed(&source, PAUSE_SOURCE)? || !program.exists() {
        Run::new("gcc")
            .args(["-Os", "-static", "-s", "-Wall", "-Werror", "-o"])
            .arg(&program)
            .arg(&source)
            .ok()?;
    }
    Ok(Image::new(
        image::PAUSE,
        json!({"Entrypoint": ["/pause"], "User": "65535:65535"}),
    )
    .file("/pause", program, 0o755))
}

fn busybox_program() -> Result<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|p| p.is_file())
        .context("busybox-static put no busybox into /bin")
}

fn busybox() -> Result<Image> {
    let program = busybox_program()?;
    let mut image = Image::new(BUSYBOX, json!({"Cmd": ["sh"], "Env": [PATH]}))
        .dir("/tmp", 0o1777)
        .dir("/root", 0o700)
        .dir("/var/run", 0o755)
        .text(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
            0o644,
        )
        .text("/etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)
        .file("/bin/busybox", &program, 0o755);
    for applet in Run::new(&program)
        .arg("--list")
        .output()?
        .lines()
        .filter(|a| *a != "busybox")
    {
        image = image.link(&format!("/bin/{applet}"), "busybox");
    }
    Ok(image)
}

fn coredns() -> Result<Image> {
    let program = Tool::Coredns.program("coredns")?;
    Ok(Image::new(COREDNS, json!({"Entrypoint": ["/coredns"]}))
        .dir("/tmp", 0o1777)
        .file("/coredns", program, 0o755))
}

fn postgres() -> Result<Image> {
    let root = debian_root(
        "postgres",
        &["postgresql-15", "busybox-static"],
        POSTGRES_LEFT_OUT,
    )?;
    Ok(Image::new(
        POSTGRES,
        json!({
            "Env": ["PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "PGDATA=/data/pgdata"],
            "User": "999:999",
        }),
    )
    .tree(root.path, &root.fingerprint)
    .dir("/tmp", 0o1777)
    .dir("/var/run/postgresql", 0o1777)
    .text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999:postgres:/data:/bin/sh\n", 0o644)
    .text("/etc/group", "root:x:0:\npostgres:x:999:\n", 0o644))
}

fn webapp() -> Result<Image> {
    let root = debian_root(
        "webapp",
        &["nginx", "busybox-static"],
        &["perl", "debconf", "iproute2"],
    )?;
    Ok(Image::new(
        WEBAPP,
        json!({"Entrypoint": ["nginx", "-g", "daemon off;"], "Env": [PATH], "User": "101:101"}),
    )
    .tree(root.path, &root.fingerprint)
    .dir("/tmp", 0o1777)
    .text(
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:101:nginx:/:/bin/sh\n",
        0o644,
    )
    .text("/etc/group", "root:x:0:\nnginx:x:101:\n", 0o644))
}

/// Packages of the server's closure that a container without compilation and without Debian's cluster scripts does not load.
const POSTGRES_LEFT_OUT: &[&str] = &[
    "perl",
    "libperl",
    "libllvm",
    "debconf",
    "postgresql-common",
    "ssl-cert",
    "openssl",
    "adduser",
    "passwd",
    "locales",
    "gcc-",
    "dpkg",
];

/// Part of the fingerprint of every such root; to be raised when the way they are made changes.
const DEBIAN_ROOT: &str = "2";

/// A root file system made of distribution packages.
struct DebianRoot {
    path: PathBuf,
    fingerprint: String,
}

/// Unpacks packages with all they depend on, without running their scripts.
fn debian_root(name: &str, packages: &[&str], left_out: &[&str]) -> Result<DebianRoot> {
    let dir = paths::sandbox()?.join("images").join(name);
    let fingerprint = format!("{DEBIAN_ROOT} {packages:?} {left_out:?}");
    let (root, stamp) = (dir.join("root"), dir.join("stamp"));
    if fs::read_to_string(&stamp).is_ok_and(|old| old == fingerprint) && root.is_dir() {
        return Ok(DebianRoot {
            path: root,
            fingerprint,
        });
    }
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let archives = dir.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    download(&dir, &archives, packages)?;
    for link in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(link))?;
        std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link))?;
    }
    for file in fs::read_dir(&archives)?.flatten() {
        let package = file.file_name().to_string_lossy().into_owned();
        if package.ends_with(".deb") && !left_out.iter().any(|prefix| package.starts_with(prefix)) {
            unpack(&file.path(), &root)?;
        }
    }
    for useless in [
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/info",
        "usr/lib/postgresql/15/lib/bitcode",
    ] {
        if root.join(useless).exists() {
            fs::remove_dir_all(root.join(useless))?;
        }
    }
    link_applets(&root)?;
    fs::remove_dir_all(&archives)?;
    fs::write(stamp, &fingerprint)?;
    Ok(DebianRoot {
        path: root,
        fingerprint,
    })
}

/// The shell and the small tools: packages need not depend on them, since no Debian system lacks them.
fn link_applets(root: &Path) -> Result<()> {
    let bin = root.join("usr/bin");
    for applet in Run::new(busybox_program()?).arg("--list").output()?.lines() {
        if !bin.join(applet).exists() && !root.join("usr/sbin").join(applet).exists() {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
    }
    Ok(())
}

fn download(dir: &Path, archives: &Path, packages: &[&str]) -> Result<()> {
    // With an empty list of installed packages apt resolves the whole closure.
    let status = dir.join("status");
    fs::write(&status, "")?;
    let apt = || {
        Run::new("apt-get")
            .args(["-q", "-y", "--no-install-recommends", "--download-only"])
            .args(["-o", &format!("Dir::State::status={}", status.display())])
            .args(["-o", &format!("Dir::Cache::archives={}", archives.display())])
            .args(["-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=root"])
            .arg("install")
            .args(packages)
            .within(Duration::from_secs(900))
            .heartbeat("downloading packages")
    };
    if !apt().status()? {
        Run::new("apt-get")
            .args(["-q", "update"])
            .within(Duration::from_secs(300))
            .ok()?;
        apt().ok()?;
    }
    Ok(())
}

fn unpack(package: &Path, root: &Path) -> Result<()> {
    // `dpkg-deb --extract` would replace the merged-/usr links by folders.
    Run::new("sh")
        .args([
            "-c",
            "dpkg-deb --fsys-tarfile \"$0\" | tar --extract --keep-directory-symlink --directory \"$1\"",
        ])
        .arg(package)
        .arg(root)
        .ok()
}

/// Builds the product with its console and makes its image from the binary, the libraries it loads and the
/// certificate bundle. Returns what the content is known by.
pub(crate) fn build_holdfast_image(cluster: &Cluster) -> Result<String> {
    packages::ensure(packages::BUILD_AND_TEST)?;
    test::bundle_console()?;
    ui::note("cargo build --package holdfast");
    Run::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--bin", "holdfast", "--quiet"])
        .args(test::HOST)
        .dir(&paths::repo())
        .within(Duration::from_secs(3600))
        .heartbeat("building holdfast")
        .ok()?;
    let built = paths::target_dir().join("debug/holdfast");
    let dir = paths::sandbox()?.join("images/holdfast");
    fs::create_dir_all(&dir)?;
    let program = dir.join("holdfast");
    if is_newer(&built, &program)? {
        // Debug information is most of the file and of no use in a pod.
        Run::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(&program)
            .arg(&built)
            .ok()?;
    }
    Image::new(
        HOLDFAST,
        json!({"Entrypoint": ["/holdfast"], "User": HOLDFAST_USER, "WorkingDir": "/", "Env": [PATH]}),
    )
    .dir("/tmp", 0o1777)
    .text(
        "/etc/passwd",
        "root:x:0:0:root:/:/\nholdfast:x:65532:65532:holdfast:/:/\n",
        0o644,
    )
    .text("/etc/group", "root:x:0:\nholdfast:x:65532:\n", 0o644)
    .file(
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/ssl/certs/ca-certificates.crt",
        0o644,
    )
    .program("/holdfast", &program)?
    .ensure(cluster)
}

fn is_newer(source: &Path, than: &Path) -> Result<bool> {
    let source_time = fs::metadata(source)
        .with_context(|| source.display().to_string())?
        .modified()?;
    Ok(fs::metadata(than)
        .and_then(|m| m.modified())
        .map_or(true, |time| source_time > time))
}
