//! Starts an API server with our definitions by hand, for trying the server or the console without a sandbox:
//! prints the kubeconfig of an administrator and runs until standard input closes.

use std::io::Read as _;
use std::time::Duration;

use holdfast_testkit::ControlPlane;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let plane = ControlPlane::start().await?;
    plane.install_crds().await?;
    let admin =
        plane.client_certificate("test-admin", Some("system:masters"), Duration::from_secs(86_400))?;
    println!("{}", plane.kubeconfig(&admin));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
